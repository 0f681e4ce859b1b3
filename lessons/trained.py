"""The models that the demo trains, for the lessons that look into one."""

from pathlib import Path

from miniglm import origin
from miniglm.origin import Loaded

PRETRAINED, CHAT = "out/demo-pretrain", "out/demo-chat"


def trained(place: str, command: str = "make demo", lookup: bool = False) -> Loaded | None:
    """The model in a directory, in float32 on the CPU; None, and a line that says what makes it, where there is none.

    lookup: with the book that it looks into. Raises UserError where it is damaged.
    """
    if not Path(place, "ckpt.pt").is_file():
        print(f"skipped, there is no {place} yet: it comes from {command}")
        return None
    return origin.load(place, "cpu", "float32", lookup=lookup)
