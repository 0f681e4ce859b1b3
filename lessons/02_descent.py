"""Lesson 2, training is descent: prints the numbers of 02_descent.md, draws its pictures into lessons/out/.

python lessons/02_descent.py
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from configurator import Bounds, Positive, configure
from lessons.digits import digits
from lessons.drawing import keep, words
from lessons.surfaces import descend, draw_surface, hills, valley
from miniglm.optimizers import Schedule

# -----------------------------------------------------------------------------
steps: Positive = 100  # of each optimizer
batch_size: Positive = 16  # digits a step, where a step does not read them all
learning_rate: Annotated[float, Bounds(0, 100)] = 10.0  # of those steps, at its highest
# -----------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "AdaGrad": torch.optim.Adagrad,
    "AdaDelta": torch.optim.Adadelta,
    "Rprop": torch.optim.Rprop,
    "RMSprop": torch.optim.RMSprop,
    "Adam": torch.optim.Adam,
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.01),
    "L-BFGS": partial(torch.optim.LBFGS, max_iter=1),
    "Muon": partial(torch.optim.Muon, weight_decay=0.0),
}
RATES = [0.03, 0.1, 0.3, 1, 3, 10]  # which are tried; the best one counts


def look(weights, part):
    """How wrong one layer is about some of the digits; the gradient is left in weights.grad."""
    weights.grad = None
    loss = F.cross_entropy(images[part] @ weights.T, labels[part])
    loss.backward()
    return loss


def learn(optimizer_of, rates, parts):
    """The loss over all digits after each step; a step has a rate and reads a part of the digits."""
    weights = torch.zeros(10, images.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer, losses = optimizer_of([weights], lr=rates[0]), []
    for rate, part in zip(rates, parts):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step(partial(look, weights, part))
        losses.append(look(weights, everything).item())
    return losses


configure(globals())
torch.manual_seed(42)

# the rate: too small, right, too large
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
paths = {rate: descend(valley, [-4.5, 1.0], rate) for rate in (0.01, 0.15, 0.21)}
for rate, points in paths.items():
    print(f"learning rate {rate}: from {valley(points[0]):.2f} to {valley(points[-1]):.4f} in 40 steps")
draw_surface(left, valley, paths, words("凸：一个谷", "convex: one valley"))

# not convex: where one ends depends on where one begins
paths = {str(start): descend(hills, start, 0.1) for start in ([4.5, 3.5], [1.2, -1.0], [-4.0, 0.8])}
for start, points in paths.items():
    print(f"from {start} to a valley of height {hills(points[-1]):.2f}")
draw_surface(right, hills, paths, words("不凸：许多谷", "not convex: many valleys"))
keep(figure, "02_surfaces")

# batches: a few digits tell the direction roughly
images, _, labels, _ = digits()
images, everything, weights = images.double(), slice(None), torch.zeros(10, 64, dtype=torch.float64, requires_grad=True)
look(weights, everything)
whole, lengths = weights.grad, {}
for size in (1, 16, 256):
    errors = []
    for _ in range(200):
        look(weights, torch.randint(len(images), (size,)))
        errors.append((weights.grad - whole).norm() / whole.norm())
    print(f"batches of {size}: the gradient is {sum(errors) / 200:.2f} times its length off")

# the same problem for every optimizer, each with its best rate
figure, axes = plt.subplots(figsize=(8, 4))
for name, optimizer_of in OPTIMIZERS.items():
    runs = {rate: learn(optimizer_of, [rate] * steps, [everything] * steps) for rate in RATES}
    rate, losses = min(runs.items(), key=lambda run: torch.tensor(run[1][-10:]).mean().nan_to_num(torch.inf))
    print(f"{name}: {losses[9]:.3f} after 10 steps, {sum(losses[-10:]) / 10:.3f} at the end, with a rate of {rate}")
    axes.semilogy(losses, label=name)
axes.set(xlabel=words("步", "step"), ylabel=words("损失", "loss"))
axes.legend(ncols=2, fontsize=8)
keep(figure, "02_optimizers")

# how the rate changes: warm up, then fall along a cosine
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
parts = [part for _ in range(5) for part in torch.randperm(len(images)).split(batch_size)]
falling = Schedule(learning_rate, learning_rate / 100, len(parts) // 20, len(parts))
for name, schedule in {"constant": replace(falling, decays=False), "warm-up and cosine": falling}.items():
    rates = [schedule.at(step) for step in range(len(parts))]
    losses = learn(torch.optim.SGD, rates, parts)
    print(f"rate {name}: {sum(losses[-20:]) / 20:.1g} over the last 20 of {len(parts)} steps")
    left.plot(rates)
    right.semilogy(losses, linewidth=0.8, label=name)
left.set_title(words("学习率", "learning rate"))
right.set_title(words("全部数字上的损失", "loss over all digits"))
right.legend()
keep(figure, "02_schedule")
