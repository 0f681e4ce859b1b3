"""A trained model on disk: out_dir/ckpt.pt, config.json and the tokenizer, enough to move and use out_dir alone."""

import dataclasses
import hashlib
from pathlib import Path

import torch

from errors import UserError, require
from files import write_json, write_whole
from machine import cast_weights, pick_device
from model import GLMConfig, MiniGLM
from tokenizer import Tokenizer

CHECKPOINT = "ckpt.pt"


def fingerprint(tokenizer):
    """A digest of a tokenizer's ranks, to tell whether data and checkpoint speak of the same ids."""
    lines = b"\n".join(token + b" %d" % rank for token, rank in tokenizer.ranks.items())
    return hashlib.sha256(lines).hexdigest()


def save_checkpoint(out_dir, model, tokenizer, settings, chat, state):
    """Write the checkpoint whole: the weights, the model's shape, `state` (what resuming needs) and the settings.

    state: a dict of tensors, numbers, texts, lists and dicts, so that it opens with weights_only=True.
    """
    shape = dataclasses.asdict(model.config)
    checkpoint = {"model": model.state_dict(), "model_args": shape, "settings": settings, "chat": chat}
    with write_whole(Path(out_dir, CHECKPOINT), "wb") as file:
        torch.save(checkpoint | state | {"tokenizer": fingerprint(tokenizer)}, file)
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


def load_checkpoint(out_dir, mmap=False):
    """The checkpoint in `out_dir`, a dict of tensors on the CPU and plain values. Runs no code from the file.

    mmap: read only what is used, for a checkpoint that is not to be written again meanwhile. Raises UserError.
    """
    path = Path(out_dir, CHECKPOINT)
    require(path.is_file(), f"no checkpoint {path}", "train first, or check --out_dir")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
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
        if wrong:
            raise ValueError(f"{wrong} of the wrong type")
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"{path} is cut off or no checkpoint of MiniGLM", "train again, or copy the file again"
        ) from error
    return checkpoint


def build_model(checkpoint, **changes):
    """The MiniGLM of a checkpoint, with its weights. changes: fields of GLMConfig to override (dropout)."""
    try:
        model = MiniGLM(GLMConfig(**{**checkpoint["model_args"], **changes}))
        model.load_state_dict(checkpoint["model"])
    except Exception as error:  # shapes of odd types fail in as many ways
        raise UserError(
            "the checkpoint's weights do not fit its own shape", "train again, or copy the file again"
        ) from error
    return model


def load_model(out_dir, device="auto", dtype="float32"):
    """(model in evaluation mode on the device, tokenizer, checkpoint's plain values) of `out_dir`.

    dtype: of the weights, see machine.cast_weights.
    """
    checkpoint = load_checkpoint(out_dir, mmap=True)
    tokenizer = Tokenizer.load(out_dir)
    require(
        fingerprint(tokenizer) == checkpoint.get("tokenizer"),
        f"the tokenizer in {out_dir} is not the one the model was trained with",
        "copy the whole directory again",
    )
    plain = {key: checkpoint[key] for key in ("settings", "chat", "iter_num")}
    plain["searches"] = bool(checkpoint.get("searches"))  # whether it has learnt to search a table
    model = build_model(checkpoint).eval().to(pick_device(device))
    return cast_weights(model, dtype), tokenizer, plain
