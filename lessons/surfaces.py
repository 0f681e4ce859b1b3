"""Surfaces that one can see, as functions of two weights, and the way down them."""

import torch


def valley(w):
    """Convex: one valley, ten times as steep across as along. w (..., 2)."""
    return 0.5 * (w[..., 0] ** 2 + 10 * w[..., 1] ** 2)


def hills(w):
    """Not convex: a bowl with waves, so many valleys; the deepest is at (0, 0). w (..., 2)."""
    return 0.1 * (w**2).sum(-1) + (1 - torch.cos(2 * w)).sum(-1)


def descend(surface, start, rate, count=40):
    """The points of `count` steps down a surface, (count + 1, 2)."""
    points = [torch.tensor(start)]
    for _ in range(count):
        w = points[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(surface(w), w)
        points.append(points[-1] - rate * gradient)
    return torch.stack(points)


def draw_surface(axes, surface, paths: dict, title: str):
    """Lines of equal height of a surface, and on them paths, {name: points (n, 2)}."""
    across, up = torch.linspace(-5, 5, 200), torch.linspace(-4, 4, 200)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)
    axes.contour(across, up, surface(grid), 20, linewidths=0.5)
    for name, points in paths.items():
        axes.plot(*points.T, marker=".", markersize=4, linewidth=1, label=name)
    axes.legend(fontsize=7, loc="lower right")
    axes.set(xlim=(-5, 5), ylim=(-4, 4), title=title)
