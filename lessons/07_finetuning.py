"""Lesson 7, fine-tuning: prints the numbers of 07_finetuning.md, draws its pictures into lessons/out/.

python lessons/07_finetuning.py      # it looks at the demo (make demo), and at make reviews
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from configurator import Natural, Positive, configure
from data_utils import open_data
from lessons.drawing import keep, words
from lessons.trained import CHAT, PRETRAINED, trained
from miniglm.metrics import read_questions
from miniglm.plots import column, read_log

# -----------------------------------------------------------------------------
steps: Positive = 60  # of each fine-tuning that is tried here
freeze: Natural = 2  # blocks that stay as they are in one of them
reviews: Positive = 1000  # that the new head learns from, and as many that it is tested on
# -----------------------------------------------------------------------------


def finetuned(name, *options):
    """The last validation loss and the seconds a step of a short fine-tuning of the demo's model."""
    recipe = ["config/demo_chat.py", "--fit_minutes=0", f"--max_iters={steps}", f"--eval_interval={steps}"]
    places = [f"--out_dir=lessons/out/{name}", f"--ckpt_dir={PRETRAINED}", "--init_from=finetune", "--overwrite=True"]
    subprocess.run([sys.executable, "train.py", *recipe, *places, *options], check=True, capture_output=True)
    log = read_log(f"lessons/out/{name}")
    return column(log["val"], "loss")[1][-1], log["val"][-1]["step_seconds"] / steps


def low_rank(change, rank):
    """How much of a change of weights the best matrix of a rank holds."""
    values = torch.linalg.svdvals(change) ** 2
    return values[:rank].sum() / values.sum()


configure(globals())
torch.manual_seed(42)

# LoRA: a change of low rank beside a matrix
rows, columns, rank = 704, 256, 8
print(f"a matrix {rows} x {columns}: {rows * columns:,} numbers; B A of rank {rank}: {rank * (rows + columns):,}")
figure, axes = plt.subplots(figsize=(8, 3))
shapes = {"W": (0, rows, columns), "+": (300, 0, 0), "B": (360, rows, 30), "A": (420, 30, columns)}
for name, (left, height, width) in shapes.items():
    axes.add_patch(plt.Rectangle((left, -height / 2), width, height, color="lightgray" if name == "W" else "C1"))
    axes.text(left + width / 2, 0, name, ha="center", va="center", fontsize=14)
axes.set(xlim=(-10, 700), ylim=(-360, 360), title=words("灰的不动，橙的要学", "gray stays, orange is learnt"))
axes.axis("off")
keep(figure, "07_lora")

before, after = trained(PRETRAINED), trained(CHAT)
if not before or not after:
    raise SystemExit
names = {"attn.c_attn": "attention", "mlp.c_fc": "MLP"}
old, new = before.model.state_dict(), after.model.state_dict()
for part, title in names.items():
    changes = [new[name] - old[name] for name in old if name.endswith(f"{part}.weight")]
    held = [sum(low_rank(change, rank) for change in changes) / len(changes) for rank in (1, 8, 32, 128)]
    print(f"what fine-tuning changed in {title}: ranks 1, 8, 32, 128 hold {', '.join(f'{each:.0%}' for each in held)}")

# packing: several questions in a row, each sees only itself
data = open_data(after.settings["dataset"])
samples, masks = data.samples["train"], data.masks["train"]
count = data.meta["splits"]["train"]["samples"]
filled = 1 - sum(int((row == row[-1]).sum()) for row in samples) / samples.size
alone = filled * len(samples) / count
print(f"{count:,} questions in {len(samples):,} rows of {data.row_length}: {filled:.0%} full, one a row {alone:.1%}")
print(f"the loss counts {masks.mean():.0%} of the tokens")

# freezing: the lower blocks stay as they are
for name, options in {"all": [], "frozen": [f"--freeze={freeze}"]}.items():
    loss, seconds = finetuned(name, *options)
    print(f"{steps} steps, {name}: validation loss {loss:.2f}")
    print(f"{steps} steps, {name}: {seconds:.2f} seconds each")

# a new head: good or bad reviews
body = trained("out/reviews-pretrain", "make reviews")
if not body:
    raise SystemExit
records = read_questions("data/reviews/train.jsonl")[: 2 * reviews]
ids = [torch.tensor(body.tokenizer.encode(each["Question"])[-100:]) for each in records]
labels = torch.tensor([int("正面" in each["Answer"]) for each in records])
with torch.no_grad():  # what the frozen model makes of each review: the mean over its tokens
    read = torch.stack([body.model.hidden(each[None])[0].mean(0) for each in ids])
head = nn.Linear(read.shape[1], 2)
optimizer = torch.optim.AdamW(head.parameters(), 0.01)
for _ in range(200):
    optimizer.zero_grad()
    F.cross_entropy(head(read[:reviews]), labels[:reviews]).backward()
    optimizer.step()
right = (head(read[reviews:]).argmax(1) == labels[reviews:]).float().mean()
print(f"a new head on a frozen model: {sum(each.numel() for each in head.parameters())} parameters, {right:.1%} right")
