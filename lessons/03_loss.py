"""Lesson 3, what is minimised: prints the numbers of 03_loss.md, draws its pictures into lessons/out/.

python lessons/03_loss.py            # its last part needs the demo's model: make demo
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from configurator import Bounds, Positive, Share, configure
from data_utils import open_data
from lessons.digits import digits
from lessons.drawing import keep, words
from lessons.trained import PRETRAINED, trained
from miniglm.conversation import encode_conversation
from miniglm.tokenizer import Tokenizer
from model import GLMConfig, MiniGLM

# -----------------------------------------------------------------------------
softness: Annotated[float, Bounds(0.1, 100)] = 2.0  # the temperature at which teacher and student are compared
from_teacher: Share = 0.9  # of the loss, the rest is from the labels
steps: Positive = 100  # of the small models
# -----------------------------------------------------------------------------


def distilled(logits, labels, teacher_logits, share):
    """The sum of two losses of logits (N, V): against the labels, and against what a teacher finds how likely."""
    hard = F.cross_entropy(logits, labels)
    soft, target = (logits / softness).log_softmax(-1), (teacher_logits / softness).softmax(-1)
    return (1 - share) * hard + share * softness**2 * F.kl_div(soft, target, reduction="batchmean")


configure(globals())
torch.manual_seed(42)

# cross-entropy and its gradient, by hand and by PyTorch
logits, y = torch.tensor([2.0, 1.0, -1.0], requires_grad=True), torch.tensor([1.0, 0.0, 0.0])
p = logits.exp() / logits.exp().sum()
(gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
print(f"probabilities {p[0]:.3f} {p[1]:.3f} {p[2]:.3f}, cross-entropy {-p[0].log():.3f}")
by_hand = (p - y).detach()
print(f"gradient by hand {by_hand[0]:.3f} {by_hand[1]:.3f} {by_hand[2]:.3f}, the same: {by_hand.allclose(gradient)}")

# beside the squared error
z = torch.linspace(-8, 8, 161, requires_grad=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
for name, loss in {"cross-entropy": -F.logsigmoid(z), "squared error": (1 - z.sigmoid()) ** 2}.items():
    (slope,) = torch.autograd.grad(loss.sum(), z)
    print(f"{name}, wrong and sure of it: loss {loss[20]:.3f}, slope {slope[20]:.4f}")
    left.plot(z.detach(), loss.detach(), label=name)
    right.plot(z.detach(), slope, label=name)
left.set(title=words("损失", "loss"), xlabel=words("对的比错的高出多少", "how far the right one is ahead"))
right.set_title(words("它的斜率", "its slope"))
left.legend()
keep(figure, "03_losses")

# distances: the nearest digit, and when the pen presses half as hard
train_images, test_images, train_labels, test_labels = digits()
for name, pressed in {"as written": 1.0, "half as dark": 0.5}.items():
    found, cosine = pressed * test_images, F.normalize(pressed * test_images) @ F.normalize(train_images).T
    distances = [torch.cdist(found, train_images, 1.0), torch.cdist(found, train_images), -cosine]
    shares = [(train_labels[each.argmin(1)] == test_labels).float().mean() for each in distances]
    print(f"{name}: nearest by sum {shares[0]:.1%}, by length {shares[1]:.1%}, by angle {shares[2]:.1%} right")

# the loss mask: what is asked is read, what is answered is learnt
tokenizer = Tokenizer.gpt2()
talk = [{"role": "user", "content": "张飞字什么？"}, {"role": "assistant", "content": "张飞字翼德。"}]
ids, mask = encode_conversation(tokenizer, talk)
print(f"{len(ids)} tokens, the loss counts {sum(mask)} of them")
model = MiniGLM(GLMConfig(block_size=64, n_layer=1, n_head=2, n_embd=32)).eval()
idx, targets, counts = torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]), torch.tensor([mask[1:]]).float()
each = F.cross_entropy(model(idx)[0][0], targets[0], reduction="none")
print(f"mean over what counts {(each * counts[0]).sum() / counts.sum():.3f}")
print(f"what model.py says, given the mask: {model(idx, targets, counts)[1]:.3f}")

# distillation: a small language model learns from the book alone, and from the demo's model, too
loaded = trained(PRETRAINED)
if loaded is None:
    raise SystemExit
data, teacher = open_data(loaded.settings["dataset"]), loaded.model
small = replace(teacher.config, n_layer=2, n_embd=128, dropout=0.0)
held_out = [data.batch("val", 8, 256, index) for index in range(4)]
for share in (0.0, from_teacher):
    torch.manual_seed(42)
    student = MiniGLM(small)
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    for step in range(steps):
        batch = data.batch("train", 8, 256, step)
        with torch.no_grad():
            teaching = teacher(batch.ids)[0].flatten(0, 1)
        optimizer.zero_grad()
        distilled(student(batch.ids)[0].flatten(0, 1), batch.targets.flatten(), teaching, share).backward()
        optimizer.step()
    with torch.no_grad():
        losses = [student(batch.ids, batch.targets)[1] for batch in held_out]
    print(f"{student.num_parameters():,} parameters, {share:.0%} of the loss from the teacher: {sum(losses) / 4:.3f}")
