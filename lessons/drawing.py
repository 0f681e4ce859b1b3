"""What the lessons share: words that a font at hand can draw, and where their pictures go."""

from pathlib import Path

import matplotlib

from miniglm.plots import has_chinese_font, save

OUT = Path(__file__).parent / "out"
CHINESE = has_chinese_font()
matplotlib.rcParams.update({"figure.dpi": 110, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9})


def words(chinese: str, english: str) -> str:
    """What a picture says: in Chinese where a font has it, else in English."""
    return chinese if CHINESE else english


def keep(figure, name: str):
    """Write a figure to lessons/out/NAME.png and print the path."""
    figure.tight_layout()
    save(figure, OUT / f"{name}.png")
