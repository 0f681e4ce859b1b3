"""Where a model comes from: a directory of ours, one of Hugging Face's, an adapter on its base, or nothing.

    loaded = load("out/demo-chat")                # to use it: model, tokenizer, what it has learnt
    start = begin(settings, data, group)          # to train it: scratch, resume, finetune, hf or auto

All that cannot be is refused here.
"""

import contextlib
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from miniglm.book.passages import Passages
from miniglm.book.reader import BookReader
from miniglm.checkpoint import (
    BEST,
    CHECKPOINT,
    Checkpoint,
    adapter_of,
    build_model,
    is_plain_settings,
    load_checkpoint,
    locate,
    shape_in,
)
from miniglm.decoding import RunningBatch
from miniglm.errors import UserError, refuse
from miniglm.families import lora_layers
from miniglm.files import claim
from miniglm.hf import is_hf, read_hf
from miniglm.lora import Adapter, attach, base_alone, digest, merged, read_adapter, stands_on
from miniglm.machine import DTYPES, cast_weights, evaluating, pick_device, pick_dtype, return_freed_memory
from miniglm.objectives import ON_ROLLOUTS, WITH_REFERENCE, WITH_VALUES, log_probs_of
from miniglm.parallel import Group
from miniglm.sources import Reference
from miniglm.typed import Normalisation, normalisation_in
from miniglm.vocabulary import AnyTokenizer, fingerprint, load_tokenizer, read_config
from model import GLMConfig, MiniGLM


@dataclass(frozen=True)
class Loaded:
    """A trained model to be used."""

    model: MiniGLM  # in evaluation mode
    tokenizer: AnyTokenizer
    chat: bool  # whether it was trained on conversations
    searches: bool  # whether it has learnt to call the search tool
    settings: dict  # of its training; empty for a model from elsewhere
    normalisation: Normalisation | None = None  # of what it is asked; None: it is read as it stands
    book: BookReader | None = None  # that it looks into
    family: str = ""  # the title of the family of others that it came from
    batch: RunningBatch | None = None  # in which all texts that it says grow together; None: each call has its own


@dataclass(frozen=True)
class Start:
    """What a training begins with."""

    init_from: str  # scratch, resume, finetune or hf: auto is decided
    model: MiniGLM  # on the CPU
    parameters: int  # how many the model has without an adapter
    block_size: int  # tokens of a row
    ckpt_dir: str  # where the model comes from, or the base of its adapter
    adapter: Adapter | None  # that is put on the model
    checkpoint: Checkpoint | None  # of the run that is resumed
    family: str  # the title of the family of others that the model came from, "" for none
    dtype: str  # of the matrix products: auto is decided, once for a run
    replaces: bool  # whether out_dir holds a checkpoint that this run will replace


def load(
    place, device: str = "auto", dtype: str = "auto", lora: str = "", lookup: bool = False, scores: bool = False
) -> Loaded:
    """The model at `place`, see open_model, on a device.

    dtype: of the weights, auto as they are stored, others see machine.cast_weights. lookup: with the book that it has
    learnt to look into, if any. scores: with the value head, if it has one. Raises UserError.
    """
    checkpoint, tokenizer = open_model(place, lora)
    stored, has_scores = None if dtype == "auto" else torch.float32, bool(checkpoint.shape.get("value_head"))
    model = build_model(checkpoint, stored, value_head=scores and has_scores).eval().to(pick_device(device))
    if dtype != "auto":
        model = cast_weights(model, dtype)
    about = (checkpoint.chat, checkpoint.searches, checkpoint.settings, checkpoint.normalisation)
    passages = Passages.load(locate(lora or place)[0]) if lookup and checkpoint.searches else None
    return Loaded(model, tokenizer, *about, BookReader(passages) if passages else None, checkpoint.family)


def open_model(place, lora: str = "") -> tuple[Checkpoint, AnyTokenizer]:
    """A model with all its weights; an adapter that a training run has left stands on its base.

    lora: the directory (or the .pt file) of an adapter to fold in. Raises UserError.
    """
    checkpoint, tokenizer = open_stored(place)
    if not checkpoint.weights:
        base = str(checkpoint.settings.get("ckpt_dir", ""))
        near = base and not base.startswith(("//", "\\\\"))  # on Windows those lead to other machines
        weights = open_stored(base)[0].weights if near and locate(base)[0].is_dir() else {}
        refuse(
            not weights,
            f"{place} holds an adapter alone, and there is no whole model {base} that it was trained on",
            f"give that model as --out_dir, and --lora={place}",
        )
        checkpoint.weights, checkpoint.base = merged(weights, adapter_of(checkpoint, place)), base
    if lora:
        adapter = open_adapter(lora, shape_in(checkpoint, place), checkpoint.family)
        checkpoint.weights = merged(checkpoint.weights, adapter)
        path = locate(lora)[0] / "config.json"
        about = read_config(path.parent)
        if "settings" in about:  # train.py has left it: what has the adapter learnt, and from what?
            refuse(not is_plain_settings(about["settings"]), f"{path} is broken", "copy the directory again")
            checkpoint.settings = about["settings"]
            checkpoint.chat, checkpoint.searches = bool(about.get("chat")), bool(about.get("searches"))
            checkpoint.normalisation = normalisation_in(about, path)
    return checkpoint, tokenizer


def open_adapter(lora: str, shape: GLMConfig, family: str = "") -> Adapter:
    """The adapter in a directory or a .pt file, for a model of a shape and a family's title. Raises UserError."""
    of_ours = Path(lora).suffix == ".pt"
    return adapter_of(load_checkpoint(lora), lora) if of_ours else read_adapter(lora, shape, family)


def open_stored(place) -> tuple[Checkpoint, AnyTokenizer]:
    """What stands at `place`: a trained model of ours, or a Hugging Face folder. Raises UserError."""
    folder, path = locate(place)
    if not path.exists() and is_hf(folder):
        return read_hf(folder)
    checkpoint, tokenizer = load_checkpoint(place, mmap=True), load_tokenizer(folder)
    refuse(
        fingerprint(tokenizer) != checkpoint.fingerprint,
        f"the tokenizer in {folder} is not the one the model was trained with",
        "copy the whole directory again",
    )
    checkpoint.normalisation = normalisation_in(read_config(folder), folder / "config.json")
    return checkpoint, tokenizer


def reference_of(settings: dict, start: Start, autocast, group: Group) -> Reference | None:
    """The model that a training is to keep near, the one it began with; None where its objective keeps near none.

    With LoRA that is the model itself without its adapter, else a copy. Raises UserError where it is no more.
    """
    s = SimpleNamespace(**settings)
    if s.objective not in WITH_REFERENCE or s.objective in ON_ROLLOUTS and not s.beta:
        return None
    if start.adapter:
        model, as_it_was = start.model, base_alone
    else:
        refuse(
            not locate(start.ckpt_dir)[0].is_dir(),
            f"there is no model {start.ckpt_dir} to keep near any more",
            "copy it back, or give it as --ckpt_dir=DIR",
        )
        model = build_model(open_model(start.ckpt_dir)[0], value_head=False).requires_grad_(False)
        model = group.place(model)
        as_it_was = contextlib.nullcontext

    @torch.no_grad()
    def reference(batch):
        with as_it_was(model), autocast, evaluating(model):
            return log_probs_of(model, batch)

    return reference


def trains(settings: dict) -> bool:
    """Whether a run with train.py's settings trains for good, and writes to out_dir; else it only looks."""
    return not settings["eval_only"] and settings["replay"] < 0


def begin(settings: dict, data, group: Group) -> Start:
    """The model that a training with train.py's settings begins with.

    data: what open_data gives. From here on no other process may write to out_dir. Raises UserError.
    """
    s = SimpleNamespace(**settings)
    resumable = Path(s.out_dir, CHECKPOINT).exists()
    init_from = decided(s, resumable)
    refuse_what_cannot_be(s, init_from, resumable, trains(settings))
    refuse(
        s.objective not in data.objectives,
        f"data/{data.name} is nothing that --objective={s.objective} learns from",
        f"choose one of {', '.join(data.objectives)}, or other data (data/prepare_sft.py, data/prepare_pairs.py)",
    )
    if group.main and trains(settings) and (resumable or init_from != "resume"):
        claim(s.out_dir)
    if init_from == "scratch":
        model, checkpoint, family = new_model(s, data.tokenizer), None, ""
        parameters, block_size, ckpt_dir, adapter = model.num_parameters(), s.block_size, s.ckpt_dir, None
    else:
        checkpoint = load_checkpoint(s.out_dir) if init_from == "resume" else None
        ckpt_dir = best_of(s.ckpt_dir or (str(checkpoint.settings.get("ckpt_dir", "")) if checkpoint else ""))
        base = starting_point(s, checkpoint, ckpt_dir, data)
        if s.quantize != "none":
            return_freed_memory()
        with_values = s.objective in WITH_VALUES
        model = build_model(base, quantize=s.quantize, dropout=s.dropout, value_head=with_values)
        family = base.family
        parameters = MiniGLM.outline(model.config).num_parameters()
        block_size = row_length(s, checkpoint, base, data)
        adapter = put_on(model, s, checkpoint, base, ckpt_dir) if s.lora_rank else None
        if s.freeze:
            model.freeze(s.freeze)
            trained = any(parameter.requires_grad for parameter in model.parameters())
            refuse(
                not trained or s.freeze > model.config.n_layer,
                f"--freeze={s.freeze} leaves nothing to train",
                "freeze fewer blocks",
            )
    data.check(block_size)  # data that do not fit the model are told before anything is written
    replaces = resumable and init_from != "resume"
    dtype = decided_dtype(s.dtype, checkpoint, group)
    refuse(
        s.shard == "fsdp" and dtype == "float16",  # also where auto means it
        "float16 has a scale that processes with parts of the weights would not agree on",
        "choose --dtype=bfloat16, or leave --shard=fsdp away",
    )
    return Start(init_from, model, parameters, block_size, ckpt_dir, adapter, checkpoint, family, dtype, replaces)


def decided(s, resumable):
    """init_from without auto. A run that torchrun starts again after a process has died is resumed, too."""
    again = resumable and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if again and load_checkpoint(s.out_dir, mmap=True).settings.get("run") == os.environ.get("TORCHELASTIC_RUN_ID", ""):
        return "resume"
    if s.init_from != "auto":
        return s.init_from
    if resumable:
        return "resume"
    return "finetune" if s.ckpt_dir else "scratch"


def decided_dtype(dtype, checkpoint, group):
    """The format of the products: of a run that is resumed on a like device the one that it began with.

    pick_dtype takes the time of a product, which two processes, or one today and tomorrow, could find different.
    """
    before = checkpoint.settings if checkpoint else {}
    if dtype == "auto" and before.get("device") == group.device_type and before.get("dtype") in DTYPES:
        return before["dtype"]
    return DTYPES[round(group.first(DTYPES.index(pick_dtype(dtype, group.device))))]


def best_of(place: str) -> str:
    """The best checkpoint of a model that has read books, where it has overfitted since; else `place` itself.

    A model that has learnt answers by heart overfits on purpose: its last checkpoint is what it is.
    """
    folder, path = locate(place) if place else (Path(), Path())
    if path.name != CHECKPOINT or not path.exists() or not (folder / BEST).exists():
        return place
    last, best = load_checkpoint(path, mmap=True), load_checkpoint(folder / BEST, mmap=True)
    return place if last.chat or best.state.step >= last.state.step else str(folder / BEST)


def refuse_what_cannot_be(s, init_from, resumable, writes):
    """Raise UserError for settings of a beginning that contradict each other, or what is on disk."""
    refuse(
        init_from != "resume" and resumable and not s.overwrite,
        f"{s.out_dir} holds a checkpoint already",
        "go on with --init_from=resume, choose another --out_dir, or replace it with --overwrite=True",
    )
    if init_from in ("finetune", "hf"):
        refuse(not s.ckpt_dir, f"{init_from} needs a model to start from", "give its directory as --ckpt_dir=DIR")
        refuse(
            init_from == "hf" and not is_hf(s.ckpt_dir),
            f"{s.ckpt_dir} is no Hugging Face folder",
            "give one with config.json, model.safetensors and the tokenizer's files as --ckpt_dir",
        )
        itself = locate(s.ckpt_dir)[0].resolve() == Path(s.out_dir).resolve()
        refuse(itself, "the model to start from is in --out_dir", "choose another --out_dir")
    refuse(
        init_from == "scratch" and s.objective != "likelihood",
        f"--objective={s.objective} changes a model that is there",
        "name it with --init_from=finetune --ckpt_dir=DIR",
    )
    refuse(
        s.freeze and (s.lora_rank or init_from == "scratch"),
        "--freeze keeps a part of a model that is there, and LoRA all of it",
        "leave --freeze away, or name a model with --init_from=finetune --ckpt_dir=DIR and leave LoRA away",
    )
    if s.lora_rank:
        refuse(
            init_from == "scratch",
            "LoRA changes a model that is there",
            "name it with --init_from=finetune --ckpt_dir=DIR",
        )
    else:
        refuse(
            s.quantize != "none" or s.merge_lora,
            "--quantize and --merge_lora go with LoRA",
            "add --lora_rank=8, or leave them away",
        )
    refuse(
        s.shard == "fsdp" and s.objective in ON_ROLLOUTS,
        f"--objective={s.objective} draws answers, for which each process needs all weights",
        "leave --shard=fsdp away",
    )
    on_mps = pick_device(s.device) == "mps"
    refuse(s.quantize != "none" and on_mps, "--quantize=nf4 is for CUDA and the CPU", "choose --device=cpu")
    refuse(writes and s.out_dir.endswith(".pt"), f"--out_dir={s.out_dir} is a checkpoint", "give its directory")


def new_model(s, tokenizer):
    """A model with random weights of the shape that the settings say."""
    vocab_size = math.ceil(tokenizer.vocab_size / 64) * 64
    knobs = {field.name: getattr(s, field.name) for field in dataclasses.fields(GLMConfig) if hasattr(s, field.name)}
    try:
        shape = GLMConfig(vocab_size=vocab_size, **knobs)
    except ValueError as error:
        what, _, todo = str(error).rpartition("; ")
        raise UserError(what, todo) from error
    return MiniGLM(shape)


def starting_point(s, checkpoint, ckpt_dir, data):
    """The Checkpoint whose weights a run begins with: that of the run resumed, or of the model in ckpt_dir."""
    if checkpoint:
        trained = "without" if s.lora_rank else "with"
        refuse(
            bool(checkpoint.adapter) != bool(s.lora_rank),
            f"{s.out_dir} was trained {trained} --lora_rank",
            "resume with the settings of the run, which are in its config.json",
        )
    base = checkpoint if checkpoint and not s.lora_rank else open_model(ckpt_dir)[0]
    refuse(
        s.lora_rank and base.base,
        f"{ckpt_dir} is an adapter itself",
        "train that one with --merge_lora=True first, or start from its own base",
    )
    refuse(
        base.fingerprint != fingerprint(data.tokenizer),
        f"the checkpoint was trained with another tokenizer than data/{data.name}",
        f"prepare the data with the checkpoint's own, --tokenizer_from={locate(ckpt_dir or s.out_dir)[0]}",
    )
    return base


def row_length(s, checkpoint, base, data):
    """How many tokens a row has: those of conversations, or so many of the model's context as a row of a book takes.

    A row may be shorter than the context: one of conversations, or of a book for a model from elsewhere.
    """
    context = base.shape["block_size"]
    if data.chat:
        rows = data.row_length or s.block_size
    elif checkpoint:
        rows = checkpoint.settings.get("block_size")
    else:
        rows = context if base.settings else s.block_size
    return min(rows, context) if isinstance(rows, int) and rows > 1 else context


def put_on(model, s, checkpoint, base, ckpt_dir):
    """Put a new adapter on the model; it. The weights that it had in a run that is resumed come later."""
    layers = lora_layers(s.lora_targets)
    adapter = Adapter(s.lora_rank, s.lora_alpha, s.lora_dropout, layers, digest(base.weights))
    another = checkpoint and not stands_on(adapter_of(checkpoint, s.out_dir), base.weights)
    refuse(another, f"{s.out_dir} was trained from another model than {ckpt_dir}", "give that one as --ckpt_dir")
    attach(model, adapter, s.quantize)
    return adapter
