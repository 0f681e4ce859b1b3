"""The shapes and names of models that others trained, and how they become ours and ours theirs. It knows no files.

A family is a record: what its config.json calls our model's sizes, how its weights are named and stored, what LoRA's
roles are called in it, what llama.cpp calls its parts.
"""

import dataclasses
import re
from dataclasses import dataclass

import torch

from miniglm.errors import UserError, refuse
from model import GLMConfig, MiniGLM

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """A kind of model of others."""

    model_type: str  # in config.json
    architecture: str  # transformers' class
    sizes: dict[
        str, tuple[str, int]
    ]  # a field of GLMConfig: what config.json calls it, its value where it is not there
    plain: dict[str, tuple]  # what config.json can set otherwise, and the values that mean what our model computes
    prefix: str  # of all weights' names; older files leave it away
    block: str  # the name of block number {}
    linear: tuple[str, ...]  # a block's linear layers
    transposed: bool  # these are stored as (in_features, out_features)
    buffers: tuple[str, ...]  # of a block, in older files: no weights
    roles: dict[str, tuple[str, ...]]  # what LoRA can be put on: the linear layers of a role
    gguf_tensors: dict[str, str]  # tensors outside the blocks, and what llama.cpp calls them
    gguf_block: dict[str, str]  # modules of a block, and what llama.cpp calls them
    exact: str = ""  # the beginning of llama.cpp's name of a matrix that is never quantized


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    sizes={
        "block_size": ("n_positions", 1024),
        "vocab_size": ("vocab_size", 50257),
        "n_layer": ("n_layer", 12),
        "n_head": ("n_head", 12),
        "n_embd": ("n_embd", 768),
    },
    plain={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    prefix="transformer.",
    block="transformer.h.{}.",
    linear=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    transposed=True,
    buffers=("attn.bias", "attn.masked_bias"),  # the causal mask
    roles={"attention": ("attn.c_attn",), "output": ("attn.c_proj",), "mlp": ("mlp.c_fc", "mlp.c_proj")},
    gguf_tensors={
        "transformer.wte.weight": "token_embd.weight",
        "transformer.wpe.weight": "position_embd.weight",
        "transformer.ln_f": "output_norm",
    },
    gguf_block={
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
    exact="position",
)
FAMILIES = {family.model_type: family for family in (GPT2,)}

OURS = GPT2  # the family whose names our own weights have
LINEAR = re.compile(re.escape(OURS.block).replace(r"\{\}", r"\d+") + f"({'|'.join(map(re.escape, OURS.linear))})")
HEAD = "lm_head.weight"  # in a state dict of ours: the embedding once more
EMBEDDING = "transformer.wte.weight"


def is_linear(name: str) -> bool:
    """Whether a module's name is that of a linear layer of a block."""
    return bool(LINEAR.fullmatch(name))


def lora_layers(targets: str) -> tuple[str, ...]:
    """The linear layers of a block that --lora_targets names, by role or by a layer's name or its last part.

    Raises UserError.
    """
    chosen = []
    for target in targets.split(","):
        by_name = [layer for layer in OURS.linear if f".{layer}".endswith(f".{target}")]
        layers = OURS.roles.get(target, by_name) if target else ()
        refuse(not layers, f"the model has no layer {target!r} for LoRA", f"choose some of {', '.join(OURS.roles)}")
        chosen += layers
    return tuple(layer for layer in OURS.linear if layer in chosen)


def shape_of(config: dict, place) -> tuple[Family, GLMConfig]:
    """The family and the shape that a config.json describes. `place` names it in messages. Raises UserError."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UserError(f"{place} holds a model of the type {str(kind)[:50]!r}", "choose one of the GPT-2 family")
    for key, plain in family.plain.items():
        value = config.get(key, plain[0])
        refuse(value not in plain, f"{place} has {key} {str(value)[:50]!r}", f"choose a GPT-2 with {plain[0]!r}")
    sizes = {ours: config.get(theirs, default) for ours, (theirs, default) in family.sizes.items()}
    wrong = not all(type(size) is int and 0 < size < 1 << 20 for size in sizes.values())
    wrong = wrong or sizes["n_embd"] % sizes["n_head"] != 0 or config.get("n_inner") not in (None, 4 * sizes["n_embd"])
    refuse(wrong, f"{place}/config.json tells of no GPT-2", "copy the folder again")
    return family, GLMConfig(**sizes)


def ours_from(tensors: Weights, family: Family, shape: GLMConfig, place) -> Weights:
    """Our model's state dict, float32, from the tensors of a folder, which are used up.

    shape: what its config.json describes. `place` names the folder in messages. Raises UserError.
    """
    tensors = {family.prefix + name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}
    buffers = re.compile(re.escape(family.block).replace(r"\{\}", r"\d+") + f"({'|'.join(family.buffers)})")
    tensors = {name: tensor for name, tensor in tensors.items() if not buffers.fullmatch(name)}
    head, tied = tensors.pop(family.prefix + HEAD, None), tensors.get(EMBEDDING)
    refuse(
        head is not None and (tied is None or head.shape != tied.shape or not head.equal(tied)),
        f"{place} has an lm_head of its own",
        "choose a GPT-2 whose lm_head is its embedding",
    )
    with torch.device("meta"):  # takes no memory, whatever shape is told
        one_layer = MiniGLM(dataclasses.replace(shape, n_layer=1)).state_dict()
    expected = {name: weight.shape for name, weight in one_layer.items() if name != HEAD}
    first, prefix = family.block.format(0), family.block
    in_block = {name.removeprefix(first): size for name, size in expected.items() if name.startswith(first)}
    for layer in range(min(shape.n_layer, len(tensors) + 1)):  # one of them must be missing beyond
        expected |= {prefix.format(layer) + name: size for name, size in in_block.items()}
    missing, strange = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    for names, what in ((missing, "lacks the weights"), (strange, "has weights that no GPT-2 of its shape has:")):
        refuse(names, f"{place} {what} {', '.join(names)[:100]} ({len(names)})", "copy the folder again")
    weights = {}
    for name, size in expected.items():
        stored = tensors.pop(name)
        turned = family.transposed and is_linear(name.removesuffix(".weight")) and stored.dim() == 2
        weight = stored.t() if turned else stored
        refuse(
            weight.shape != size or not weight.is_floating_point(),
            f"{name} of {place} is {tuple(stored.shape)} in {stored.dtype}, which does not fit config.json",
            "copy the folder again",
        )
        weights[name] = weight.float().contiguous()
    return weights | {HEAD: weights[EMBEDDING]}


def theirs_from(model: MiniGLM, end_id: int, dtype: torch.dtype) -> tuple[dict, Weights]:
    """(config.json's content, weights in `dtype`) of a model of ours, as transformers has them.

    A model trained without biases gets zeros, which GPT-2 has.
    """
    family, shape = OURS, model.config
    weights = {name: weight for name, weight in model.state_dict().items() if name != HEAD}
    for name in list(weights):
        layer, _, part = name.rpartition(".")
        if part == "weight" and f"{layer}.bias" not in weights and (weights[name].dim() == 1 or is_linear(layer)):
            weights[f"{layer}.bias"] = torch.zeros(len(weights[name]))
    stored = {}
    for name, weight in weights.items():
        turned = family.transposed and name.endswith(".weight") and is_linear(name.removesuffix(".weight"))
        stored[name] = (weight.t() if turned else weight).to(dtype).contiguous()
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **{theirs: getattr(shape, ours) for ours, (theirs, _) in family.sizes.items()},
        "activation_function": family.plain["activation_function"][0],
        "layer_norm_epsilon": family.plain["layer_norm_epsilon"][0],
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout),
        "tie_word_embeddings": True,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_id),
        "dtype": str(dtype).removeprefix("torch."),
    }
    return config, stored


def gguf_tensors(model: MiniGLM):
    """(llama.cpp's name, float32 tensor, whether it is never quantized) of each tensor of a model of ours.

    A layer trained without biases gets zeros, which llama.cpp expects.
    """
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    modules = dict(OURS.gguf_tensors)
    for number in range(model.config.n_layer):
        modules |= {
            OURS.block.format(number) + ours: f"blk.{number}.{theirs}" for ours, theirs in OURS.gguf_block.items()
        }
    for ours, theirs in modules.items():
        if ours in weights:  # a tensor, no module
            yield theirs, weights[ours], theirs.startswith(OURS.exact)
            continue
        weight = weights[f"{ours}.weight"]
        yield f"{theirs}.weight", weight, weight.dim() == 1
        yield f"{theirs}.bias", weights.get(f"{ours}.bias", torch.zeros(len(weight))), True
