"""Lesson 1, a model is a function: prints the numbers of 01_function.md, draws its pictures into lessons/out/.

python lessons/01_function.py                    # scikit-learn's digits of 8 x 8 points, no network
python lessons/01_function.py --mnist=FOLDER     # MNIST's four files of 28 x 28 points; those not there are fetched
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from configurator import Bounds, FilePath, Positive, Share, configure
from lessons.digits import digits
from lessons.drawing import keep, words

# -----------------------------------------------------------------------------
mnist: FilePath = ""  # a folder with MNIST's four .gz files instead of scikit-learn's digits
epochs: Positive = 15  # passes over the digits
batch_size: Positive = 16  # digits a step
learning_rate: Annotated[float, Bounds(0, 10)] = 0.1
dropout: Share = 0.2  # of the neurons that are left out at each step
# -----------------------------------------------------------------------------


def network(*widths, activation=nn.ReLU, left_out=0.0):
    """Linear layers of these widths, behind each but the last an activation and dropout."""
    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:]):
        layers += [nn.Linear(inputs, outputs), activation(), nn.Dropout(left_out)]
    return nn.Sequential(*layers[:-2])


def learn(model, optimizer, inputs, labels, size):
    """One pass over the inputs, `size` of them a step, in random order."""
    for chosen in torch.randperm(len(inputs)).split(size):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()


@torch.no_grad()
def guesses(model, inputs):
    """The likeliest label of each input, nothing left out."""
    model.eval()
    found = model(inputs).argmax(1)
    model.train()
    return found


configure(globals())
torch.manual_seed(42)

# one neuron
x, w, b = torch.tensor([1.0, 0.2, 0.3]), torch.tensor([0.5, -1.0, 2.0]), -0.4
total = w @ x + b
print(f"one neuron: {total:.2f}; after ReLU {F.relu(total):.2f}, GELU {F.gelu(total):.2f}, Swish {F.silu(total):.2f}")

# activations and their slopes
z = torch.linspace(-4, 4, 401, requires_grad=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
for name, function in {"ReLU": F.relu, "GELU": F.gelu, "Swish": F.silu}.items():
    (slope,) = torch.autograd.grad(function(z).sum(), z)
    left.plot(z.detach(), function(z).detach(), label=name)
    right.plot(z.detach(), slope, label=name)
left.set_title(words("激活函数", "activation"))
right.set_title(words("它的斜率", "its slope"))
left.legend()
keep(figure, "01_activations")

# without an activation many layers are one: three matrices multiplied are a matrix
points = 4 * torch.rand(1000, 2) - 2
stacked = network(2, 16, 16, 2, activation=nn.Identity)
weight, bias = torch.eye(2), torch.zeros(2)
for layer in stacked[::3]:
    weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
same = torch.allclose(stacked(points), points @ weight.T + bias, atol=1e-5)
print(f"three layers without an activation are one linear layer: {same}")

# which points lie within a circle
inside = (points.norm(dim=1) < 1.2).long()
grid = torch.cartesian_prod(torch.linspace(-2, 2, 100), torch.linspace(-2, 2, 100))
figure, panels = plt.subplots(1, 2, figsize=(7, 3.4))
for axes, (activation, name) in zip(panels, [(nn.Identity, words("没有激活函数", "no activation")), (nn.ReLU, "ReLU")]):
    model = network(2, 16, 16, 2, activation=activation)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        learn(model, optimizer, points, inside, len(points))
    right = (guesses(model, points) == inside).float().mean()
    print(f"within the circle or not, {activation.__name__}: {right:.0%} right")
    axes.imshow(guesses(model, grid).view(100, 100).T, extent=(-2, 2, -2, 2), origin="lower", alpha=0.3)
    axes.scatter(*points[:300].T, c=inside[:300], s=6)
    axes.set_title(f"{name}: {right:.0%}")
keep(figure, "01_circle")

# handwritten digits
train_images, test_images, train_labels, test_labels = digits(mnist)
mean, spread = train_images.mean(), train_images.std()  # what a model reads is best around 0, and about 1 away from it
model = network(train_images.shape[1], 256, 128, 64, 10, left_out=dropout)
print(f"{len(train_images):,} digits to learn from, {len(test_images):,} to be tested on")
print(f"{train_images.shape[1]} points an image, {sum(each.numel() for each in model.parameters()):,} parameters")
optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
for _ in range(epochs):
    learn(model, optimizer, (train_images - mean) / spread, train_labels, batch_size)
found = guesses(model, (test_images - mean) / spread)
wrong = (found != test_labels).nonzero()[:, 0]
print(f"after {epochs} epochs {1 - len(wrong) / len(found):.1%} of the test digits are right")
figure, panels = plt.subplots(1, 8, figsize=(8, 1.5))
for axes, number in zip(panels, wrong.tolist()):
    axes.imshow(test_images[number].view(round(test_images.shape[1] ** 0.5), -1), cmap="gray_r")
    axes.set_title(f"{test_labels[number]} → {found[number]}")
for axes in panels:
    axes.axis("off")
keep(figure, "01_wrong")
