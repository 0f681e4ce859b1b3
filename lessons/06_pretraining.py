"""Lesson 6, pretraining: prints the numbers of 06_pretraining.md, draws its pictures into lessons/out/.

python lessons/06_pretraining.py     # it looks at the demo's pretraining: make demo
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch

from configurator import Bounds, Positive, configure
from data_utils import open_data
from lessons.drawing import keep, words
from lessons.trained import PRETRAINED, trained
from miniglm.files import read_json
from miniglm.plots import column, read_log
from model import MiniGLM

# -----------------------------------------------------------------------------
share: Annotated[float, Bounds(0.01, 1)] = 0.1  # of the book, that a small model reads again and again
passes: Positive = 16  # as often
batch_size: Positive = 8  # rows a step
length: Positive = 256  # tokens a row
# -----------------------------------------------------------------------------


def rows_of(ids):
    """The rows of a piece of a book, (N, length + 1) int64."""
    count = (len(ids) - 1) // length
    return torch.stack([torch.from_numpy(ids[i * length : (i + 1) * length + 1].astype("int64")) for i in range(count)])


@torch.no_grad()
def loss_on(model, rows):
    """The mean loss on rows, in nats a token."""
    return model(rows[:, :-1], rows[:, 1:])[1].item()


configure(globals())
loaded = trained(PRETRAINED)
if loaded is None:
    raise SystemExit
torch.manual_seed(42)
data = open_data(loaded.settings["dataset"])

# what one step of the training saw: a row, and the same row a token later
batch = data.batch("train", 1, 8, 0)
print("reads   " + " ".join(loaded.tokenizer.show(each) for each in batch.ids[0].tolist()))
print("learns  " + " ".join(loaded.tokenizer.show(each) for each in batch.targets[0].tolist()))

# the loss, in nats a token, in tokens to choose from, and in bits a character
measured = read_json(Path(PRETRAINED, "metrics.json"), "run make demo")
held_out = data.ids["val"]
characters = len(loaded.tokenizer.decode(held_out.tolist())) / len(held_out)
bits = measured["loss"] / math.log(2) / characters
print(f"a guess at random: {math.log(loaded.tokenizer.vocab_size):.2f} nats a token")
print(f"the trained one: {measured['loss']:.2f} nats, as if it had {math.exp(measured['loss']):.0f} to choose from")
print(f"{characters:.2f} characters a token: {bits:.2f} bits a character")
print(f"beside it a trigram {measured['trigram_bits_per_char']:.2f}, PPMd {measured['ppmd_bits_per_char']:.2f} bits")

# the curves of the run
log = read_log(PRETRAINED)
figure, axes = plt.subplots(figsize=(7, 3))
names = {"train": ("训练", "training"), "val": ("留出的一成", "held out")}
for split, name in names.items():
    axes.plot(*column(log[split], "loss"), label=words(*name), linewidth=0.8 if split == "train" else 2)
axes.set(xlabel=words("步", "step"), ylabel=words("损失", "loss"))
axes.legend()
keep(figure, "06_curve")

# a tenth of the book, read again and again
ids = data.ids["train"]
reading, unseen = rows_of(ids[: round(share * len(ids))]), rows_of(held_out[: 64 * length])
model = MiniGLM(replace(loaded.model.config, n_layer=2, n_embd=128, dropout=0.0))
optimizer, losses = torch.optim.AdamW(model.parameters(), 2e-3), {}
for number in range(1, passes + 1):
    for chosen in torch.randperm(len(reading)).split(batch_size):
        optimizer.zero_grad()
        model(reading[chosen, :-1], reading[chosen, 1:])[1].backward()
        optimizer.step()
    losses[number] = loss_on(model, reading), loss_on(model, unseen)
    if number & (number - 1) == 0:
        print(f"after {number} passes: {losses[number][0]:.2f} on what it reads, {losses[number][1]:.2f} on the rest")
best = min(losses, key=lambda number: losses[number][1])
print(f"the best for the rest are {best} passes")
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(list(losses), [each for each, _ in losses.values()], label=words("在读的", "what it reads"))
axes.plot(list(losses), [each for _, each in losses.values()], label=words("没读过的", "the rest"))
axes.axvline(best, color="gray", linestyle="--")
axes.set(xlabel=words("读了几遍", "passes"), ylabel=words("损失", "loss"))
axes.legend()
keep(figure, "06_passes")
