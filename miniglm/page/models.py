"""The models that the page offers: the one it opens with, its adapters, and those beside it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from miniglm import origin
from miniglm.checkpoint import CHECKPOINT, locate
from miniglm.errors import UserError
from miniglm.files import read_json
from miniglm.origin import Loaded
from miniglm.page.visitors import Visitors
from miniglm.page.words import TEXTS, Trouble, say

KEPT = 4  # models that stay open


class Models:
    """Models by their directories; each is opened when it is first asked for, and some are kept."""

    def __init__(self, visitors: Visitors, out_dir: str, lora: list[str], device: str, dtype: str, lookup: bool):
        """See the settings of sample_gradio.py. Opens out_dir's model with every adapter; raises UserError."""
        self.visitors, self.out_dir, self.lora = visitors, out_dir, lora

        self.device, self.dtype, self.lookup = device, dtype, lookup
        self.opened: dict[str, Loaded] = {}  # the last KEPT, the latest asked for behind
        given = [*lora, out_dir]
        opened = {name: visitors.submit(self.load, name).result() for name in given}
        self.others = {name for name, loaded in opened.items() if loaded.family and not loaded.settings}
        self.first = opened[given[0]]  # the model that the page opens with
        beside = sorted(str(path.parent) for path in locate(out_dir)[0].parent.glob(f"*/{CHECKPOINT}"))
        origin_of_first = locate(str(self.first.settings.get("ckpt_dir")))[0]
        beside.sort(key=lambda name: Path(name) != origin_of_first)  # what it was fine-tuned from comes first
        known = {Path(name) for name in given}
        chats = {name: loaded.chat for name, loaded in opened.items()}
        chats |= {name: is_chat(name) for name in beside if Path(name) not in known}
        self.chat = {name: chat for name, chat in chats.items() if chat is not None}  # whether each has learnt to talk
        self.names = list(self.chat)
        self.novel = next((name for name in self.names if not self.chat[name]), self.names[0])

    def load(self, name: str) -> Loaded:
        """A model, with a batch for all who ask it. Raises UserError."""
        if name not in self.opened:
            place, lora = (self.out_dir, name) if name in self.lora else (name, "")
            loaded = origin.load(place, self.device, self.dtype, lora, self.lookup)
            self.opened[name] = replace(loaded, batch=self.visitors.batch_of(loaded.model))
        self.opened[name] = self.opened.pop(name)
        while len(self.opened) > KEPT:
            self.opened.pop(next(iter(self.opened)))
        return self.opened[name]

    async def open(self, name: str) -> Loaded:
        """A model, opened where it is not open yet. Raises Trouble."""
        if loaded := self.opened.get(name):
            self.visitors.submit(self.load, name)  # it stays open longer
            return loaded
        try:
            return await self.visitors.compute(self.load, name)
        except UserError as error:
            raise Trouble("not_opened", error.what) from error

    def called(self, name: str, language: int | None = None):
        """What a model is called: what it is, and its directory's name where others are that, too.

        An adapter and a model of others are called as their directories are.
        language: 0 Chinese, 1 English; None: the browser's.
        """
        if name in self.lora or name in self.others:
            return Path(name).name
        key = "answers" if self.chat[name] else "novel"
        kind = say(key) if language is None else TEXTS[key][language]
        alike = Counter(self.chat[each] for each in self.names if each not in self.lora)
        return f"{kind} · {Path(name).name}" if alike[self.chat[name]] > 1 else kind

    @property
    def choices(self) -> list[tuple]:
        """(what it is called, its name) of each."""
        return [(self.called(name), name) for name in self.names]

    @property
    def paths(self) -> dict[str, str]:
        """The directory of each by what it is called, in both languages."""
        return {self.called(name, language): name for name in self.names for language in (0, 1)}


def is_chat(name: str) -> bool | None:
    """Whether the model in a directory was fine-tuned on conversations; None where it is none that writes.

    That is a reward model, and one whose config.json cannot be read.
    """
    try:
        about = read_json(locate(name)[0] / "config.json", "train it again")
    except UserError:
        return None
    settings = about.get("settings")
    return None if isinstance(settings, dict) and settings.get("objective") == "reward" else bool(about.get("chat"))
