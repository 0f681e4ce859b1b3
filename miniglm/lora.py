"""LoRA: train a small change of low rank beside frozen weights, keep it as a file of its own, fold it in.

    attach(model, adapter := Adapter(rank=8, alpha=16.0))    # from now on only the adapter is trained
    save_adapter("out/style", adapter.of(model))             # as peft writes it, and peft reads it
    weights = merged(base_weights, read_adapter("out/style"))

A linear layer W becomes W x + alpha / rank * B A x (Hu et al. 2021, arXiv:2106.09685), A (rank, in_features) drawn at
random, B (out_features, rank) zero at first. With `quantize` W itself is kept in 4 bits (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314). The model knows nothing of this: its linear layers are replaced from here.
"""

import dataclasses
import hashlib
import logging
import math
import re
from pathlib import Path

import safetensors
import torch
import torch.nn as nn
from safetensors.torch import save
from torch.nn import functional as F

from miniglm.errors import UserError, refuse
from miniglm.files import read_json, write_json, write_whole

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
PREFIX = "base_model.model."  # before each name in them
PART = re.compile(r"(transformer\.h\.\d+\.\w+\.\w+)\.lora_([AB])\.weight")
# What peft's adapters can have beside the two matrices, and what that is where they have not.
BEYOND = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base, too
    **dict.fromkeys(("use_dora", "use_rslora", "use_qalora"), (False,)),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), ({},)),
    **dict.fromkeys(("modules_to_save", "trainable_token_indices", "layer_replication"), ([],)),
    "alora_invocation_tokens": ([],),
}
TARGETS = ("c_attn", "c_proj", "c_fc")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What belongs to a base model, and to which one."""

    rank: int
    alpha: float
    dropout: float = 0.0  # in training, of what A reads
    targets: tuple[str, ...] = TARGETS  # names, or ends of names, of the layers
    base: str = ""  # digest of the base model's weights, where it is known
    weights: dict = dataclasses.field(default_factory=dict)  # {"transformer.h.0.attn.c_attn.lora_A.weight": tensor, …}

    def of(self, model):
        """The adapter with its weights as they are in `model` now, copies on the CPU."""
        now = {name: part.detach().cpu().clone() for name, part in model.state_dict().items() if PART.fullmatch(name)}
        return dataclasses.replace(self, weights=now)

    def into(self, model):
        """Give the adapters in `model` these weights. Raises ValueError where they do not fit."""
        places = {name: part.shape for name, part in model.state_dict().items() if PART.fullmatch(name)}
        if places != {name: part.shape for name, part in self.weights.items()}:
            raise ValueError("other adapters")
        model.load_state_dict(self.weights, strict=False)


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

    def forward(self, x):
        """x (…, in_features) to (…, out_features)."""
        return self.base(x) + self.lora_B(self.scale * self.lora_A(self.dropout(x)))  # scaled where it is small


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
        self.register_buffer("packed", packed, persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.state.to(self.packed.device)
        return self

    def whole(self):
        """The weight (out_features, in_features), float32."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.packed, self.state)

    def forward(self, x):
        """x (…, in_features) to (…, out_features)."""
        return FourBitProduct.apply(x, self)


class FourBitProduct(torch.autograd.Function):
    """The product with the weight of an NF4Linear, which is kept in 4 bits for the way back."""

    @staticmethod
    def forward(ctx, x, layer):
        """x (…, in_features) -> (…, out_features), in autocast's dtype."""
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.whole(), layer.bias)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of x."""
        return (grad @ ctx.layer.whole().to(grad.dtype)).to(ctx.dtype), None


def digest(weights):
    """A digest of a model's weights, {name: tensor}, to tell which base an adapter belongs to.

    Biases of zero count as none, as export.py writes them for transformers.
    """
    seen = hashlib.sha256()
    for name in sorted(weights):
        if name == "lm_head.weight" or (name.endswith(".bias") and not weights[name].any()):
            continue  # the first is the embedding once more
        seen.update(name.encode())
        seen.update(weights[name].detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return seen.hexdigest()


def attach(model, adapter, quantize="none"):
    """Freeze `model` and put an adapter, new ones, beside each of its target layers, in place.

    quantize: "nf4" keeps the frozen layers in 4 bits. Raises UserError for targets that the model has not.
    """
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and ".h." in name}
    chosen = set()
    for target in adapter.targets:
        found = [name for name in linear if name.endswith("." + target)]
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        refuse(not target or not found, f"the model has no layer {target!r} for LoRA", f"choose some of {known}")
        chosen.update(found)
    model.requires_grad_(False)
    for name, layer in linear.items():
        frozen = layer if quantize == "none" else NF4Linear(layer)
        adapted = LoRALinear(frozen, adapter.rank, adapter.alpha, adapter.dropout) if name in chosen else frozen
        model.set_submodule(name, adapted)


def merged(weights, adapter):
    """The weights of a base model, {name: tensor}, with the adapter folded in. Raises UserError where it does not fit."""
    foreign = "the adapter belongs to another model", "choose the model that it was trained on as --out_dir"
    refuse(adapter.base not in ("", digest(weights)), *foreign)
    result = dict(weights)
    for name, part in adapter.weights.items():
        layer, letter = PART.fullmatch(name).groups()
        if letter == "A":
            A, B, W = part.float(), adapter.weights[f"{layer}.lora_B.weight"].float(), weights.get(f"{layer}.weight")
            refuse(W is None or W.shape != (B.size(0), A.size(1)), *foreign)
            result[f"{layer}.weight"] = (W.float() + adapter.alpha / adapter.rank * (B @ A)).to(W.dtype)
    return result


def merged_state(model, adapter):
    """The state dict of `model`, which has adapters, as a model without has it, on the CPU: folded in, 4 bits made whole."""
    weights = {name: part for name, part in model.state_dict().items() if not PART.fullmatch(name)}
    weights |= {
        f"{name}.weight": layer.whole() for name, layer in model.named_modules() if isinstance(layer, NF4Linear)
    }
    weights = {name.replace(".base.", "."): part.cpu() for name, part in weights.items()}
    return merged(weights, dataclasses.replace(adapter.of(model), base=""))


def save_adapter(folder, adapter):
    """Write the adapter into `folder` as peft does."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": list(adapter.targets),
        "fan_in_fan_out": True,  # in transformers' GPT-2 weights are stored the other way round
        "inference_mode": True,
    }
    named = {PREFIX + name: part.contiguous() for name, part in adapter.weights.items()}
    with write_whole(Path(folder, ADAPTER_WEIGHTS), "wb") as file:
        file.write(save(named, {"format": "pt", "base": adapter.base}))
    write_json(Path(folder, ADAPTER_CONFIG), config)


def read_adapter(folder):
    """The Adapter that peft or save_adapter has written into `folder`. Raises UserError."""
    todo = "copy the whole directory again, or train it again"
    path, config = (
        Path(folder, ADAPTER_WEIGHTS),
        read_json(Path(folder, ADAPTER_CONFIG), "give the directory of a LoRA adapter"),
    )
    refuse(config.get("peft_type") != "LORA", f"{folder} holds no LoRA adapter", "choose one that is")
    for key, plain in BEYOND.items():
        refuse(
            config.get(key) not in (None, *plain),
            f"the adapter in {folder} has {key}",
            "choose one that is nothing but LoRA",
        )
    refuse(not path.is_file(), f"no file {path}", todo)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            base = str((file.metadata() or {}).get("base", ""))
            names = file.keys()
            weights = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    except Exception as error:  # safetensors' own kind, and torch's
        raise UserError(f"{path} is cut off or damaged", todo) from error
    plain = {"dropout": 0.0, "targets": (), "base": base, "weights": weights}
    return checked({"rank": config.get("r"), "alpha": config.get("lora_alpha"), **plain}, folder)


def checked(fields, place):
    """The Adapter with `fields`, of which nothing is known yet. Raises UserError, which names `place`."""
    try:
        adapter = Adapter(**fields)
        rank, alpha, weights = adapter.rank, adapter.alpha, adapter.weights
        if (
            type(rank) is not int
            or rank < 1
            or type(alpha) not in (int, float)
            or not math.isfinite(alpha)
            or not weights
        ):
            raise ValueError("no rank, no alpha or no weights")
        for name, part in weights.items():
            layer, letter = PART.fullmatch(name).groups()
            there = f"{layer}.lora_{'B' if letter == 'A' else 'A'}.weight" in weights
            side = part.shape[0 if letter == "A" else 1]
            if (
                not there
                or part.dim() != 2
                or side != rank
                or not part.is_floating_point()
                or not part.is_contiguous()  # a damaged one may claim more than there is
                or not part.isfinite().all()
            ):
                raise ValueError(f"{name} is no part of it")
    except Exception as error:  # values of odd types fail in as many ways
        raise UserError(
            f"the adapter in {place} is damaged or of layers that MiniGLM has not", "choose one made for GPT-2's layers"
        ) from error
    return adapter
