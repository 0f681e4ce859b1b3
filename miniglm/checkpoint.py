"""A checkpoint's form, on disk and in memory: out_dir/ckpt.pt, config.json and the tokenizer.

They are enough to move and use out_dir alone. Beside the newest, ckpt.pt, lie best.pt, the one with the lowest
validation loss, and where they are wanted the last few, ckpt-00000250.pt and so on. No code in them is ever run:
torch.load reads them with weights_only=True.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import pickletools
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from miniglm.conversion import Joined, Weights
from miniglm.errors import UserError, refuse
from miniglm.families import HEAD, VALUE_HEAD, is_linear
from miniglm.files import is_plain_name, link_whole, write_json, write_whole
from miniglm.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, NF4Linear, checked, save_adapter
from miniglm.typed import Normalisation
from miniglm.vocabulary import AnyTokenizer
from model import GLMConfig, MiniGLM

CHECKPOINT, BEST, NUMBERED = "ckpt.pt", "best.pt", "ckpt-{:08d}.pt"
# All that the pickle in a checkpoint of ours calls. weights_only=True allows more: bytearray(3 << 30), for one.
CALLED = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


@dataclass
class State:
    """Where a run stands. The random states and the place in the data follow from the step and the seed."""

    step: int = 0  # steps taken
    tokens: int = 0  # read in them, over all devices
    seconds: float = 0.0  # that they took
    step_seconds: float = 0.0  # of these in the steps alone, without evaluation and saving
    planned: int = 0  # steps in all, once --fit_minutes has told them
    best_val_loss: float = math.inf
    rate: float = 1.0  # the part of the scheduled learning rate that is used
    skipped: list[int] = field(default_factory=list)  # steps whose gradient was not finite


@dataclass
class Checkpoint:
    """A model, and all that resuming its training needs."""

    weights: Weights  # of the whole model; empty where an adapter alone is kept
    shape: dict  # the fields of GLMConfig
    settings: dict  # of the training; empty for a model from elsewhere
    chat: bool  # whether it was trained on conversations
    fingerprint: str  # of its tokenizer
    searches: bool = False  # whether it has learnt to call the search tool
    normalisation: Normalisation | None = None  # of the questions that it was trained on; stands in config.json alone
    state: State = field(default_factory=State)
    optimizers: list[dict] = field(default_factory=list)
    scaler: dict = field(default_factory=dict)
    adapter: Adapter | None = None
    base: str = ""  # where the model is that the adapter was folded into, once it was
    family: str = ""  # the title of the family of others that the model came from, see families.py

    def to_file(self) -> dict:
        """What is written: nested dicts and lists of tensors, numbers and texts, which weights_only=True opens."""
        content = {
            "model": self.weights,
            "model_args": self.shape,
            "settings": self.settings,
            "chat": self.chat,
            "searches": self.searches,
            "tokenizer": self.fingerprint,
            "family": self.family,
            "optimizers": self.optimizers,
            "scaler": self.scaler,
            "iter_num": self.state.step,
            **{key: value for key, value in vars(self.state).items() if key != "step"},
        }
        return content if self.adapter is None else content | {"lora": vars(self.adapter)}

    @classmethod
    def from_file(cls, content: dict) -> Checkpoint:
        """The checkpoint that was written so. Raises ValueError, TypeError or KeyError where it is none.

        Older ones have neither rate nor skipped steps. The adapter is looked at where it is used, see adapter_of.
        """
        kinds: dict[str, type] = dict.fromkeys(("model", "model_args", "settings"), dict)
        kinds |= {"chat": bool, "tokenizer": str, "optimizers": list, "iter_num": int}
        wrong = [key for key, kind in kinds.items() if not isinstance(content[key], kind)]
        if wrong or not is_plain_settings(content["settings"]) or not 0 <= content["iter_num"] < 1 << 62:
            raise ValueError(f"{wrong} of the wrong type")
        state = State(
            step=content["iter_num"],
            tokens=int(content.get("tokens", 0)),
            seconds=float(content.get("seconds", 0.0)),
            step_seconds=float(content.get("step_seconds", 0.0)),
            planned=int(content.get("planned", 0)),
            best_val_loss=float(content.get("best_val_loss", math.inf)),
            rate=min(1.0, float(content.get("rate", 1.0))),
            skipped=list(content.get("skipped", ())),
        )
        return cls(
            weights=content["model"],
            shape=content["model_args"],
            settings=content["settings"],
            chat=content["chat"],
            fingerprint=content["tokenizer"],
            searches=bool(content.get("searches")),
            family=str(content.get("family", "")),
            state=state,
            optimizers=content["optimizers"],
            scaler=content.get("scaler") or {},
            adapter=Adapter(**content["lora"]) if content.get("lora") else None,
        )


def save_checkpoint(out_dir, checkpoint: Checkpoint, tokenizer: AnyTokenizer, best: bool = False, keep_last: int = 1):
    """Write the checkpoint whole, and beside it config.json, the tokenizer and the adapter, if there is one.

    best: it becomes best.pt, too. keep_last: how many of the newest stay; more than one also have a number.
    """
    folder, step = Path(out_dir), checkpoint.state.step
    if checkpoint.adapter:
        save_adapter(folder, checkpoint.adapter, GLMConfig(**checkpoint.shape), checkpoint.family)
    names = [CHECKPOINT]  # last: a run that is killed in between takes these steps again, and writes the others again
    if keep_last > 1:
        names.insert(0, NUMBERED.format(step))
    if best:
        names.insert(0, BEST)
    with write_whole(folder / names[0], "wb") as file:
        try:
            torch.save(checkpoint.to_file(), file)
        except RuntimeError as error:  # torch's word for a write that failed; the system's own is better
            raise (error.__context__ or error) from None
    for name in names[1:]:
        link_whole(folder / names[0], folder / name)
    if keep_last > 1:
        kept = [path for path in numbered(folder) if path.name <= NUMBERED.format(step)][-keep_last:]
        for path in set(numbered(folder)) - set(kept):
            path.unlink()
    tokenizer.save(out_dir)
    about = {
        "model": checkpoint.shape,
        "chat": checkpoint.chat,
        "searches": checkpoint.searches,
        "normalisation": checkpoint.normalisation and checkpoint.normalisation.to_json(),
        "tokenizer": tokenizer.name,
        "iter_num": step,
        "settings": checkpoint.settings,
    }
    write_json(folder / "config.json", about)


def numbered(folder) -> list[Path]:
    """The checkpoints of a directory that have their step in their name, in order."""
    return sorted(Path(folder).glob(f"ckpt-{'[0-9]' * 8}.pt"))


def set_aside(out_dir):
    """Make room for a run that replaces the one in `out_dir`: its ckpt.pt becomes replaced.pt, its others go."""
    newest = Path(out_dir, CHECKPOINT)
    names = itertools.chain(["replaced.pt"], (f"replaced-{number}.pt" for number in itertools.count(2)))
    aside = next(path for path in map(newest.with_name, names) if not path.exists())
    os.replace(newest, aside)
    adapter = [newest.with_name(name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]  # it is in replaced.pt, too
    for path in (newest.with_name(BEST), *numbered(out_dir), *adapter):
        path.unlink(missing_ok=True)
    print(f"the checkpoint that was in {out_dir} is {aside.name} now")


def locate(place) -> tuple[Path, Path]:
    """(directory, checkpoint) of a trained model's directory, or of one of the .pt files in it."""
    path = Path(place)
    return (path.parent, path) if path.suffix == ".pt" else (path, path / CHECKPOINT)


def load_checkpoint(place, mmap: bool = False) -> Checkpoint:
    """The checkpoint in a directory, or the .pt file that is named, on the CPU. Runs no code from the file.

    mmap: keep in memory only what is used, for a checkpoint that is not to be written again meanwhile.
    Raises UserError.
    """
    _, path = locate(place)
    refuse(not path.is_file(), f"no checkpoint {path}", "train first, or check --out_dir")
    try:
        refuse_bombs(path)
        content = unpickled(path, mmap)
        checkpoint = Checkpoint.from_file(content)
        weights = [*checkpoint.weights.values(), *(checkpoint.adapter.weights.values() if checkpoint.adapter else ())]
        if sum(weight.nbytes for weight in weights) > 2 * path.stat().st_size:  # the tied embedding stands twice
            raise ValueError("weights that claim more than the file holds")
    except Exception as error:  # torch raises many kinds for a damaged file
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.EACCES, errno.EIO):
            raise  # the file may well be whole
        raise UserError(
            f"{path} is cut off, damaged or no checkpoint of MiniGLM", "train again, or copy the file again"
        ) from error
    return checkpoint


def unpickled(path, mmap: bool = True):
    """The content of a file of torch's, on the CPU; runs no code from it. mmap: see load_checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def refuse_bombs(path):
    """Raise ValueError for a file that is no zip of torch's, is damaged, unpacks to more than it is, or calls code."""
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        if file.seek(0) or file.read(4) != b"PK\x03\x04":
            raise ValueError("a zip behind something else")
        names = [name.lower() for name in archive.namelist()]  # torch finds DATA.PKL, too
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if len(names) != len(set(names)) or unpacked > path.stat().st_size or archive.testzip():
            raise ValueError("a bomb, or bytes that have changed")
        for name in archive.namelist():
            if name.lower().endswith(".pkl"):
                for opcode, argument, _ in pickletools.genops(archive.read(name)):
                    if "GLOBAL" in opcode.name and not CALLED.fullmatch(str(argument)):
                        raise ValueError(f"a pickle that calls {argument}")


def is_plain_settings(settings) -> bool:
    """Whether settings that were read from a file are what train.py writes: plain values, a data set within data/."""
    plain = isinstance(settings, dict) and all(type(value) in (bool, int, float, str) for value in settings.values())
    return plain and is_plain_name(str(settings.get("dataset", "none")))


def adapter_of(checkpoint: Checkpoint, place) -> Adapter:
    """The adapter in a checkpoint that was loaded from `place`. Raises UserError for none and for a damaged one."""
    refuse(not checkpoint.adapter, f"{place} holds no adapter", "choose one that was trained with --lora_rank")
    return checked(vars(checkpoint.adapter), place)


def shape_in(checkpoint: Checkpoint, place) -> GLMConfig:
    """The shape that a checkpoint tells; `place` names it in messages. Raises UserError where it is none."""
    try:
        return GLMConfig(**checkpoint.shape)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} holds a model of no shape", "train again, or copy the file again") from error


def build_model(
    checkpoint: Checkpoint, dtype: torch.dtype | None = torch.float32, quantize: str = "none", **changes
) -> MiniGLM:
    """The model of a checkpoint, with copies of its weights, which are read one after the other.

    dtype: of the weights. None: as they are stored; those of a folder of others stay in its files, mapped, where they
    can. quantize: "nf4" keeps the blocks' linear layers in 4 bits, each from the moment it is read (see lora.py).
    changes: fields of GLMConfig to override: dropout, and value_head, of which a new one begins from zero and one that
    is not wanted is left out. Raises UserError where the weights do not fit the shape.
    """
    try:
        config, weights = GLMConfig(**{**checkpoint.shape, **changes}), checkpoint.weights
        if config.n_layer > len(weights):
            raise ValueError("more blocks than weights")
        model = MiniGLM.outline(config)
        sizes = {name: weight.shape for name, weight in model.state_dict().items()}
        heads = {name for name in [*sizes, *weights] if name.startswith(VALUE_HEAD)}
        if sizes.keys() - heads != set(weights) - heads:
            raise ValueError("other weights")
        mapped = weights.mapped if dtype is None and isinstance(weights, Joined) else None
        # The largest come first: what reading one takes beside it is least when memory is fullest.
        own = [name for name in sizes if name != HEAD or not config.tied]
        for name in sorted(own, key=lambda name: sizes[name].numel(), reverse=True):
            new = name in heads and name not in weights
            weight = torch.zeros(sizes[name]) if new else mapped(name) if mapped else weights[name]
            if weight.shape != sizes[name] or not weight.is_contiguous():
                raise ValueError(f"{name} is of another shape")
            if not mapped and not all(map(math.isfinite, extremes(weight))):
                raise ValueError(f"{name} holds what is no number")
            dtype = dtype or weight.dtype
            weight = weight.to(dtype, copy=not isinstance(weights, Joined))
            module, _, part = name.rpartition(".")
            setattr(model.get_submodule(module), part, torch.nn.Parameter(weight))
            if quantize == "nf4" and part == "weight" and is_linear(module):
                model.set_submodule(module, NF4Linear(model.get_submodule(module)))
        model.tie()
    except UserError:
        raise
    except Exception as error:  # shapes of odd types fail in as many ways
        raise UserError(
            "the checkpoint's weights do not fit its own shape", "train again, or copy the file again"
        ) from error
    return model


def extremes(weight: torch.Tensor) -> list[float]:
    """The least and the largest number of a tensor; nan where there is one."""
    return [each.item() for each in weight.aminmax()] if weight.numel() else []
