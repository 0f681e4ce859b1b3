"""LoRA: train a small change of low rank beside frozen weights, keep it as a file of its own, fold it in.

    attach(model, adapter := Adapter(rank=8, alpha=16.0))    # from now on only the adapter is trained
    save_adapter("out/style", adapter.of(model), shape)      # as peft writes it, and peft reads it
    weights = merged(base_weights, read_adapter("out/style", shape))

A linear layer W becomes W x + alpha / rank * B A x (Hu et al. 2021, arXiv:2106.09685), A (rank, in_features) drawn at
random, B (out_features, rank) zero at first. With `quantize` W itself is kept in 4 bits (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314). The model knows nothing of this: its linear layers are replaced from here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import re
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn as nn
from safetensors.torch import save
from torch.nn import functional as F

from miniglm.conversion import Changed, Weights, adapter_to_ours, adapter_to_theirs, sizes_of
from miniglm.errors import UserError, refuse
from miniglm.families import EMBEDDING, HEAD, LINEAR, VALUE_HEAD, is_linear
from miniglm.files import read_json, write_json, write_whole
from miniglm.parallel import gathered, part_like
from model import GLMConfig

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
PREFIX = "base_model.model."  # before each name in them
PART = re.compile(r"(.+)\.lora_([AB])\.weight")  # of a layer's name
# What peft's adapters can have beside the two matrices, and what that is where they have not.
BEYOND = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base, too
    **dict.fromkeys(("use_dora", "use_rslora", "use_qalora"), (False,)),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), ({},)),
    **dict.fromkeys(("modules_to_save", "trainable_token_indices", "layer_replication"), ([],)),
    "alora_invocation_tokens": ([],),
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A change of low rank, and which base model it belongs to."""

    rank: int
    alpha: float
    dropout: float = 0.0  # in training, of what A reads
    targets: tuple[str, ...] = LINEAR  # names of a block's layers, or their last parts
    base: str = ""  # digest of the base model's weights, where it is known
    # {"LAYER.lora_A.weight": (rank, in_features), …}, and the whole value head of a model that has one
    weights: Weights = dataclasses.field(default_factory=dict)

    @property
    def layers(self) -> Weights:
        """The matrices alone, without a value head."""
        return {name: part for name, part in self.weights.items() if not of_head(name)}

    def of(self, model: nn.Module) -> Adapter:
        """This adapter with its weights as they are in `model` now, copies on the CPU."""
        parts = {name: gathered(part).cpu().clone() for name, part in parts_of(model).items()}
        return dataclasses.replace(self, weights=parts)

    def into(self, model: nn.Module):
        """Give the adapters in `model` these weights. Raises ValueError where they do not fit."""
        places = {name: part.shape for name, part in parts_of(model).items()}
        if places != {name: part.shape for name, part in self.weights.items()}:
            raise ValueError("other adapters")
        found = parts_of(model)
        model.load_state_dict({name: part_like(part, found[name]) for name, part in self.weights.items()}, strict=False)


def parts_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is trained of a model with adapters: their matrices, and its value head, if it has one."""
    return {name: part.detach() for name, part in model.state_dict().items() if PART.fullmatch(name) or of_head(name)}


def of_head(name: str) -> bool:
    """Whether a parameter is one of a value head, which an adapter holds whole."""
    return name.startswith(VALUE_HEAD)


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable change of low rank."""

    def __init__(self, base, rank, alpha, dropout):
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / rank
        self.off = False  # see base_alone

    def forward(self, x):
        """x (..., in_features) -> (..., out_features)."""
        if self.off:
            return self.base(x)
        change = self.scale * self.lora_A(self.dropout(x))  # (..., rank): scaled where it is small
        return self.base(x) + self.lora_B(change)


class NF4Linear(nn.Module):
    """A frozen linear layer with its weight in 4-bit NormalFloat, 64 to a scale, and the scales in 8 bits.

    bitsandbytes makes and reads the numbers. Its own layer packs them anew for evaluation on some CPUs, and cannot be
    trained through afterwards. Each product makes the weight whole for its moment, on the way back once more.
    """

    def __init__(self, linear):
        super().__init__()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of faster kernels elsewhere
        try:
            from bitsandbytes.functional import quantize_4bit
        except ImportError as error:
            raise UserError("--quantize=nf4 needs the package bitsandbytes", "run pip install bitsandbytes") from error
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        packed, self.state = quantize_4bit(linear.weight.data, quant_type="nf4", compress_statistics=True)
        # (n, 1) uint8, two numbers each; a parameter, so that processes can share it out
        self.packed = nn.Parameter(packed, requires_grad=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.state.to(self.packed.device)
        return self

    def dequantized(self):
        """The weight (out_features, in_features), float32."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(gathered(self.packed), self.state)

    def forward(self, x):
        """x (..., in_features) -> (..., out_features)."""
        return FourBitProduct.apply(x, self)


class FourBitProduct(torch.autograd.Function):
    """The product with the weight of an NF4Linear, which is kept in 4 bits for the way back."""

    @staticmethod
    def forward(ctx, x, layer):
        """x (..., in_features) -> (..., out_features), in autocast's dtype."""
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.dequantized(), layer.bias)

    @staticmethod
    def backward(ctx, *grads):
        """The gradient of x."""
        (grad,) = grads
        return (grad @ ctx.layer.dequantized().to(grad.dtype)).to(ctx.dtype), None


def digest(weights: Weights) -> str:
    """A digest of what an adapter stands on, a model's linear layers, to know which base it belongs to.

    It is the same for what export.py writes of the model: biases of zero count as none.
    """
    return _digest({name: weight for name, weight in weights.items() if is_linear(name.rpartition(".")[0])})


def digest_of_all(weights: Weights) -> str:
    """The digest that adapters of before 26 November 2026 hold: of all weights, a tied embedding once."""
    tied = HEAD in weights and EMBEDDING in weights and weights[HEAD].equal(weights[EMBEDDING])
    return _digest({name: weight for name, weight in weights.items() if name != HEAD or not tied})


def stands_on(adapter: Adapter, weights: Weights) -> bool:
    """Whether an adapter was trained on a model with these weights."""
    return adapter.base in (digest(weights), digest_of_all(weights))


def _digest(weights: Weights) -> str:
    seen = hashlib.sha256()
    for name in sorted(weights):
        if not name.endswith(".bias") or weights[name].any():
            seen.update(name.encode())
            numbers = weights[name].detach().float().contiguous().cpu()  # the same for what is stored in 16 bits
            seen.update(numbers.view(torch.uint8).numpy().data)
    return seen.hexdigest()


def attach(model: nn.Module, adapter: Adapter, quantize: str = "none"):
    """Freeze `model`, but for a value head, and put new adapters beside each of its target layers, in place.

    quantize: "nf4" keeps the frozen layers in 4 bits.
    """
    linear = {name: layer for name, layer in model.named_modules() if is_linear(name)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(of_head(name))
    for name, layer in linear.items():
        whole = isinstance(layer, nn.Linear)  # it may be in 4 bits since it was read
        frozen = NF4Linear(layer) if quantize == "nf4" and whole else layer
        chosen = any(name.endswith("." + target) for target in adapter.targets)
        adapted = LoRALinear(frozen, adapter.rank, adapter.alpha, adapter.dropout) if chosen else frozen
        model.set_submodule(name, adapted)


@contextlib.contextmanager
def base_alone(model: nn.Module):
    """A context in which a model computes as it would without its adapters."""
    adapted = [layer for layer in model.modules() if isinstance(layer, LoRALinear)]
    for layer in adapted:
        layer.off = True
    try:
        yield
    finally:
        for layer in adapted:
            layer.off = False


def merged(weights: Weights, adapter: Adapter) -> Weights:
    """The weights of a base model with the adapter folded in, each when it is asked for.

    Raises UserError where it does not fit.
    """
    refuse_another_base(adapter, weights)
    changes = {
        f"{layer}.weight": functools.partial(changed, A, B, adapter.alpha / adapter.rank)
        for layer, A, B in pairs_of(adapter)
    }
    return Changed(weights, changes, {name: part for name, part in adapter.weights.items() if of_head(name)})


def pairs_of(adapter: Adapter):
    """(layer, A, B) of an adapter's changes."""
    for name, A in adapter.layers.items():
        layer, letter = _layer_and_letter(name)
        if letter == "A":
            yield layer, A, adapter.layers[f"{layer}.lora_B.weight"]


def refuse_another_base(adapter: Adapter, weights: Weights):
    """Raise UserError where an adapter does not fit a model with these weights, or was trained on others."""
    foreign = "the adapter belongs to another model", "choose the model that it was trained on as --out_dir"
    refuse(adapter.base and not stands_on(adapter, weights), *foreign)
    sizes = sizes_of(weights)
    for layer, A, B in pairs_of(adapter):
        refuse(sizes.get(f"{layer}.weight") != (B.size(0), A.size(1)), *foreign)


def changed(A: torch.Tensor, B: torch.Tensor, scale: float, W: torch.Tensor) -> torch.Tensor:
    """A linear layer's weight (out_features, in_features) with scale * B A added; float32, a narrower one loses it."""
    return W.float() + scale * (B.float() @ A.float())


def merged_state(model: nn.Module, adapter: Adapter) -> dict[str, torch.Tensor]:
    """The state dict, on the CPU, that `model` would have without its adapters: folded in, 4 bits dequantized."""
    held = {name: part for name, part in model.state_dict().items() if not PART.fullmatch(name)}
    weights = {name: gathered(part).cpu() for name, part in held.items() if not name.endswith(".packed")}
    weights |= {
        f"{name}.weight": layer.dequantized().cpu()
        for name, layer in model.named_modules()
        if isinstance(layer, NF4Linear)
    }
    weights = {name.replace(".base.", "."): part for name, part in weights.items()}
    return dict(merged(weights, dataclasses.replace(adapter.of(model), base="")))


def save_adapter(folder, adapter: Adapter, shape: GLMConfig, family: str = ""):
    """Write the adapter of a model of a shape into `folder` as peft does, for what export.py makes of the model.

    A value head is left away, as in the model that export.py writes.
    family: the title of the one that the model came from, "" for none.
    """
    parts, targets, transposed = adapter_to_theirs(adapter.layers, shape, family)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": targets,
        "fan_in_fan_out": transposed,  # in transformers' GPT-2 weights are stored the other way round
        "inference_mode": True,
    }
    named = {PREFIX + name: part.contiguous() for name, part in parts.items()}
    with write_whole(Path(folder, ADAPTER_WEIGHTS), "wb") as file:
        file.write(save(named, {"format": "pt", "base": adapter.base}))
    write_json(Path(folder, ADAPTER_CONFIG), config)


def read_adapter(folder, shape: GLMConfig, family: str = "") -> Adapter:
    """The Adapter that peft or save_adapter has written into `folder`, for a model of a shape. Raises UserError.

    family: the title of the one that the model came from, "" for none.
    """
    todo = "copy the whole directory again, or train it again"
    path = Path(folder, ADAPTER_WEIGHTS)
    config = read_json(Path(folder, ADAPTER_CONFIG), "give the directory of a LoRA adapter")
    refuse(config.get("peft_type") != "LORA", f"{folder} holds no LoRA adapter", "choose one that is")
    for key, plain in BEYOND.items():
        beyond = config.get(key) not in (None, *plain)
        refuse(beyond, f"the adapter in {folder} has {key}", "choose one that is nothing but LoRA")
    refuse(not path.is_file(), f"no file {path}", todo)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            base = str((file.metadata() or {}).get("base", ""))
            weights = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors' own kind, and torch's
        raise UserError(f"{path} is cut off or damaged", todo) from error
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    try:
        if type(rank) is not int or not 0 < rank < 1 << 16 or type(alpha) not in (int, float):
            raise ValueError("no rank or no alpha")
        joined, width = adapter_to_ours(weights, shape, rank, family)
        fields = {"rank": width, "alpha": alpha * width / rank, "dropout": 0.0, "targets": ()}
    except Exception as error:  # values of odd types fail in as many ways
        raise UserError(*damaged(folder)) from error
    return checked(fields | {"base": base, "weights": joined}, folder)


def damaged(place) -> tuple[str, str]:
    """What is said of an adapter that does not fit, and what to do."""
    return f"the adapter in {place} is damaged or of layers that the model has not", "choose one made for this model"


def checked(fields: dict, place) -> Adapter:
    """The Adapter with `fields`, of which nothing is known yet. Raises UserError, which names `place`."""
    try:
        adapter = Adapter(**fields)
        rank, alpha, weights = adapter.rank, adapter.alpha, adapter.weights
        if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise ValueError("no rank or no alpha")
        if not weights:
            raise ValueError("no weights")
        for name, part in weights.items():
            if not of_head(name):
                layer, letter = _layer_and_letter(name)
                other, side = ("B", 0) if letter == "A" else ("A", 1)
                if f"{layer}.lora_{other}.weight" not in weights or part.dim() != 2 or part.shape[side] != rank:
                    raise ValueError(f"{name} is no part of it")
            # A part that is not contiguous may claim more than there is.
            if not part.is_floating_point() or not part.is_contiguous() or not part.isfinite().all():
                raise ValueError(f"{name} is damaged")
    except Exception as error:  # values of odd types fail in as many ways
        raise UserError(*damaged(place)) from error
    return adapter


def _layer_and_letter(name):
    """(a linear layer's name, A or B) of a part's name. Raises ValueError where it is none of our layers."""
    found = PART.fullmatch(name)
    if not found or not is_linear(found[1]):
        raise ValueError(f"{name} is no part of an adapter")
    return found.groups()
