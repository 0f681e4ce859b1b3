"""What the lessons share: words that a font at hand can draw, and where their pictures go."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from miniglm.files import write_whole
from miniglm.origin import Loaded
from miniglm.plots import drawable, has_chinese_font, save

OUT = Path(__file__).parent / "out"
CHINESE = has_chinese_font()
matplotlib.rcParams |= {
    "figure.dpi": 110,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "text.parse_math": True,
}


def words(chinese: str, english: str) -> str:
    """What a picture says: in Chinese where a font has it, else in English."""
    return chinese if CHINESE else english


def name_of(loaded: Loaded, token: int) -> str:
    """A token of a model's as a picture can show it."""
    return drawable(loaded.tokenizer.show(token)).replace("\n", "⏎")


def keep(figure, name: str):
    """Write a figure to lessons/out/NAME.png and print the path."""
    figure.tight_layout()
    save(figure, OUT / f"{name}.png")


def keep_animation(figure, frames: Iterable, name: str):
    """Write what the figure shows after each of frames to lessons/out/NAME.gif, and print the path."""
    images = []
    for _ in frames:
        figure.canvas.draw()
        images.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("P"))
    path = OUT / f"{name}.gif"
    with write_whole(path, "wb") as file:
        images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=700, loop=0)
    print(path)
