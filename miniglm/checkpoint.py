"""A trained model on disk: out_dir/ckpt.pt, config.json and the tokenizer, enough to move and use out_dir alone.

Beside the newest, ckpt.pt, lie best.pt, the one with the lowest validation loss, and where they are wanted the last
few, ckpt-00000250.pt and so on. Whoever reads a model can name one of them in place of out_dir. No code in them is
ever run: torch.load reads them with weights_only=True.
"""

import dataclasses
import errno
import hashlib
import itertools
import os
import pickletools
import re
import zipfile
from pathlib import Path

import torch

from miniglm.errors import UserError, refuse
from miniglm.files import is_plain_name, link_whole, read_json, write_json, write_whole
from miniglm.hf import is_hf, read_hf
from miniglm.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, checked, merged, merged_state, read_adapter, save_adapter
from miniglm.machine import cast_weights, pick_device
from miniglm.tokenizer import Tokenizer
from model import GLMConfig, MiniGLM

CHECKPOINT, BEST, NUMBERED = "ckpt.pt", "best.pt", "ckpt-{:08d}.pt"
# All that the pickle in a checkpoint of ours calls. weights_only=True allows more: bytearray(3 << 30), for one.
CALLED = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


def fingerprint(tokenizer):
    """A digest of a tokenizer's ranks, to tell whether data and checkpoint speak of the same ids."""
    lines = b"\n".join(token + b" %d" % rank for token, rank in tokenizer.ranks.items())
    return hashlib.sha256(lines + tokenizer.options.encode()).hexdigest()


def save_checkpoint(
    out_dir, model, tokenizer, settings, chat, state, best=False, keep_last=1, adapter=None, merge=False
):
    """Write the checkpoint whole: the weights, the model's shape, `state` (what resuming needs) and the settings.

    state: a dict of tensors, numbers, texts, lists and dicts, so that it opens with weights_only=True.
    best: it becomes best.pt, too. keep_last: how many of the newest stay; more than one also have a number.
    adapter: the one that the model has, see lora.py: it alone is written, and the model's weights with it folded in
    where `merge` says so.
    """
    folder, step = Path(out_dir), state["iter_num"]
    shape = dataclasses.asdict(model.config)
    weights = model.state_dict() if adapter is None else merged_state(model, adapter) if merge else {}
    checkpoint = {"model": weights, "model_args": shape, "settings": settings, "chat": chat}
    if adapter:
        adapter = adapter.of(model)
        checkpoint["lora"] = vars(adapter)
        save_adapter(folder, adapter)
    # ckpt.pt last: a run that is killed in between takes these steps again, and writes the others again.
    first, *others = [BEST] * best + [NUMBERED.format(step)] * (keep_last > 1) + [CHECKPOINT]
    with write_whole(folder / first, "wb") as file:
        try:
            torch.save(checkpoint | state | {"tokenizer": fingerprint(tokenizer)}, file)
        except RuntimeError as error:  # torch's word for a write that failed; the system's own is better
            raise (error.__context__ or error) from None
    for name in others:
        link_whole(folder / first, folder / name)
    if keep_last > 1:
        kept = [path for path in numbered(folder) if path.name <= NUMBERED.format(step)][-keep_last:]
        for path in set(numbered(folder)) - set(kept):
            path.unlink()
    tokenizer.save(out_dir)
    write_json(
        Path(out_dir, "config.json"),
        {
            "model": shape,
            "chat": chat,
            "searches": state.get("searches", False),
            "tokenizer": tokenizer.name,
            "iter_num": state["iter_num"],
            "settings": settings,
        },
    )


def numbered(folder):
    """The checkpoints of a directory that have their step in their name, a sorted list of paths."""
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


def locate(out_dir):
    """(directory, checkpoint) that `out_dir` names: a trained model's directory, or one of the .pt files in it."""
    path = Path(out_dir)
    return (path.parent, path) if path.suffix == ".pt" else (path, path / CHECKPOINT)


def load_checkpoint(out_dir, mmap=False):
    """The checkpoint in `out_dir`, a dict of tensors on the CPU and plain values. Runs no code from the file.

    mmap: keep in memory only what is used, for a checkpoint that is not to be written again meanwhile.
    Raises UserError.
    """
    _, path = locate(out_dir)
    refuse(not path.is_file(), f"no checkpoint {path}", "train first, or check --out_dir")
    size = path.stat().st_size
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if file.seek(0) or file.read(4) != b"PK\x03\x04":
                raise ValueError("a zip behind something else")
            names = [name.lower() for name in archive.namelist()]  # torch finds DATA.PKL, too
            if (
                len(names) != len(set(names))
                or sum(entry.file_size for entry in archive.infolist()) > size
                or archive.testzip()
            ):
                raise ValueError("a bomb, or bytes that have changed")
            for name in archive.namelist():
                pickled = archive.read(name) if name.lower().endswith(".pkl") else b"."
                for opcode, argument, _ in pickletools.genops(pickled):
                    if "GLOBAL" in opcode.name and not CALLED.fullmatch(str(argument)):
                        raise ValueError(f"a pickle that calls {argument}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(checkpoint, dict):
            raise ValueError("no dict")
        needed = {
            "model": dict,
            "model_args": dict,
            "settings": dict,
            "chat": bool,
            "iter_num": int,
            "tokenizer": str,
            "optimizers": list,
        }
        wrong = [key for key, kind in needed.items() if not isinstance(checkpoint[key], kind)]
        wrong += ["settings"] * (not is_plain_settings(checkpoint["settings"]))
        if wrong or not 0 <= checkpoint["iter_num"] < 1 << 62:
            raise ValueError(f"{wrong} of the wrong type")
        adapter = checkpoint.get("lora", {"weights": {}})["weights"]
        weights = [*checkpoint["model"].values(), *adapter.values()]
        if sum(weight.nbytes for weight in weights) > 2 * size:  # the tied embedding stands twice
            raise ValueError("weights that claim more than the file holds")
    except Exception as error:  # torch raises many kinds for a damaged file
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.EACCES, errno.EIO):
            raise  # the file may well be whole
        raise UserError(
            f"{path} is cut off, damaged or no checkpoint of MiniGLM", "train again, or copy the file again"
        ) from error
    return checkpoint


def build_model(checkpoint, **changes):
    """The MiniGLM of a checkpoint, with its weights. changes: fields of GLMConfig to override (dropout)."""
    try:
        config, weights = GLMConfig(**{**checkpoint["model_args"], **changes}), checkpoint["model"]
        sizes = config.block_size, config.vocab_size, config.n_layer, config.n_head, config.n_embd
        proper = all(type(size) is int and size > 0 for size in sizes) and 0 <= config.dropout < 1
        if not proper or config.n_layer > len(weights) or config.n_embd % config.n_head:
            raise ValueError("no such shape")
        with torch.device("meta"):  # takes no memory, whatever shape a file claims
            shapes = {name: weight.shape for name, weight in MiniGLM(config).state_dict().items()}
        if shapes != {name: weight.shape for name, weight in weights.items() if weight.is_contiguous()}:
            raise ValueError("other weights")
        if not all(weight.isfinite().all() for weight in weights.values()):
            raise ValueError("weights that are no numbers")
        model = MiniGLM(config)
        model.load_state_dict(weights)
    except Exception as error:  # shapes of odd types fail in as many ways
        raise UserError(
            "the checkpoint's weights do not fit its own shape", "train again, or copy the file again"
        ) from error
    return model


def restore_optimizer(optimizer, state):
    """Give an optimizer the state that it had in a checkpoint, but the settings of now. Raises where it does not fit.

    load_state_dict looks at no shapes, and a fused step would write beyond a tensor that is too small.
    """
    kept = ("params", "lr")  # the rate is set anew at each step
    present = [{key: value for key, value in group.items() if key not in kept} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, present, strict=True):
        group.update(values)
    needed = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum_buffer"}}[type(optimizer).__name__]
    for parameter, values in optimizer.state.items():
        if values.keys() != needed:
            raise ValueError("a state of another optimizer")
        for key, value in values.items():
            shape = () if key == "step" else parameter.shape
            if value.shape != shape or not value.is_contiguous() or not value.isfinite().all():
                raise ValueError(f"{key} does not fit")


def open_stored(place):
    """(checkpoint, tokenizer) as they stand at `place`: a trained model of ours, or a Hugging Face folder."""
    folder, path = locate(place)
    if not path.exists() and is_hf(folder):
        checkpoint, tokenizer = read_hf(folder)
        return checkpoint | {"tokenizer": fingerprint(tokenizer)}, tokenizer
    checkpoint = load_checkpoint(place, mmap=True)
    tokenizer = Tokenizer.load(folder)
    refuse(
        fingerprint(tokenizer) != checkpoint["tokenizer"],
        f"the tokenizer in {folder} is not the one the model was trained with",
        "copy the whole directory again",
    )
    return checkpoint, tokenizer


def open_model(place, lora=""):
    """(checkpoint, tokenizer) of a model with all its weights; an adapter that a training run has left stands on its base.

    The checkpoint tells that base as "base" where it is needed.
    lora: the directory (or the .pt file) of an adapter to fold in. Raises UserError.
    """
    checkpoint, tokenizer = open_stored(place)
    if not checkpoint["model"]:
        base = str(checkpoint["settings"].get("ckpt_dir", ""))
        near = base and not base.startswith(("//", "\\\\"))  # on Windows those lead to other machines
        weights = open_stored(base)[0]["model"] if near and locate(base)[0].is_dir() else {}
        refuse(
            not weights,
            f"{place} holds an adapter alone, and there is no whole model {base} that it was trained on",
            f"give that model as --out_dir, and --lora={place}",
        )
        checkpoint |= {"model": merged(weights, adapter_in(checkpoint, place)), "base": base}
    if lora:
        of_ours = Path(lora).suffix == ".pt"
        adapter = adapter_in(load_checkpoint(lora), lora) if of_ours else read_adapter(lora)
        checkpoint["model"] = merged(checkpoint["model"], adapter)
        told = locate(lora)[0] / "config.json"
        learnt = read_json(told, "copy the directory again") if told.exists() else {}
        if "settings" in learnt:  # train.py has left it: what has the adapter learnt, and from what?
            settings = learnt["settings"]
            refuse(not is_plain_settings(settings), f"{told} is broken", "copy the directory again")
            checkpoint |= {key: bool(learnt.get(key)) for key in ("chat", "searches")} | {"settings": settings}
    return checkpoint, tokenizer


def is_plain_settings(settings):
    """Whether settings that were read from a file are what train.py writes: plain values, a data set within data/."""
    plain = isinstance(settings, dict) and all(type(value) in (bool, int, float, str) for value in settings.values())
    return plain and is_plain_name(str(settings.get("dataset", "none")))


def adapter_in(checkpoint, place):
    """The Adapter in a checkpoint that was loaded from `place`."""
    refuse(not checkpoint.get("lora"), f"{place} holds no adapter", "choose one that was trained with --lora_rank")
    return checked(checkpoint["lora"], place)


def load_model(out_dir, device="auto", dtype="float32", lora=""):
    """(model in evaluation mode on the device, tokenizer, checkpoint's plain values) of `out_dir`, see open_model.

    dtype: of the weights, see machine.cast_weights.
    """
    checkpoint, tokenizer = open_model(out_dir, lora)
    plain = {key: checkpoint[key] for key in ("settings", "chat", "iter_num")}
    plain["searches"] = bool(checkpoint.get("searches"))  # whether it has learnt to search a table
    model = build_model(checkpoint).eval().to(pick_device(device))
    return cast_weights(model, dtype), tokenizer, plain
