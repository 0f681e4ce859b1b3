"""The shapes and names of models that others know, and how they become ours and ours theirs. It knows no files.

A family is a record: which knobs of our decoder make it, what its config.json calls them, how its weights are named and
stored, what llama.cpp calls its parts. A model of ours that computes the same, only told otherwise, is folded into it.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from miniglm.errors import UserError, refuse
from model import GLMConfig, MiniGLM

Weights = dict[str, torch.Tensor]

BLOCK = "transformer.h.{}."  # what the names of our block number {} begin with
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # in a state dict of ours
# The linear layers of a block, and what LoRA's roles call them.
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
ROLES = {"attention": ("attn.c_attn",), "output": ("attn.c_proj",), "mlp": ("mlp.c_fc", "mlp.c_proj")}
IS_LINEAR = re.compile(re.escape(BLOCK).replace(r"\{\}", r"\d+") + f"({'|'.join(map(re.escape, LINEAR))})")
NUMBER = re.compile(r"\.(\d+)\.")  # of a block, in a name


@dataclass(frozen=True)
class Family:
    """A kind of model of others."""

    title: str  # as it is called
    model_type: str  # in config.json, and llama.cpp's name of the architecture
    architecture: str  # transformers' class
    knobs: dict[str, Any]  # the fields of GLMConfig that all its models share
    fields: dict[str, tuple[str, Any]]  # the others: what config.json calls one, its value where it is not there
    plain: dict[str, tuple]  # what config.json can set otherwise, and the values that mean what our model computes
    modules: dict[str, tuple[str, ...]]  # ours, {} for a block's number: theirs, several where we join them
    gguf: dict[str, tuple[str, ...]]  # the same for llama.cpp
    prefix: str = ""  # of all weights' names but the head's, which older files leave away
    transposed: bool = False  # a block's linear layers are stored as (in_features, out_features)
    filled: bool = False  # biases that we have not are zero there
    buffers: tuple[str, ...] = ()  # of a block, in older files: no weights
    dropouts: tuple[str, ...] = ()  # where config.json says our dropout
    extra: dict[str, Any] = field(default_factory=dict)  # what config.json says beside all this


def in_block(names: dict[str, tuple[str, ...]], theirs: str) -> dict[str, tuple[str, ...]]:
    """Names of modules of a block, ours and `theirs`, with what they begin with put before them."""
    return {BLOCK + ours: tuple(theirs + name for name in several) for ours, several in names.items()}


OF_A_GPT2 = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")  # our names are GPT-2's
GPT2 = Family(
    title="GPT-2",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    knobs=vars(GLMConfig()),
    fields={
        "block_size": ("n_positions", 1024),
        "vocab_size": ("vocab_size", 50257),
        "n_layer": ("n_layer", 12),
        "n_head": ("n_head", 12),
        "n_embd": ("n_embd", 768),
        "n_inner": ("n_inner", 0),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
    },
    plain={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    modules={name: (name,) for name in ("transformer.wte", "transformer.wpe", "transformer.ln_f")}
    | in_block({name: (name,) for name in OF_A_GPT2}, BLOCK),
    gguf={
        "transformer.wte": ("token_embd",),
        "transformer.wpe": ("position_embd",),
        "transformer.ln_f": ("output_norm",),
        **in_block(
            {
                "ln_1": ("attn_norm",),
                "attn.c_attn": ("attn_qkv",),
                "attn.c_proj": ("attn_output",),
                "ln_2": ("ffn_norm",),
                "mlp.c_fc": ("ffn_up",),
                "mlp.c_proj": ("ffn_down",),
            },
            "blk.{}.",
        ),
    },
    prefix="transformer.",
    transposed=True,
    filled=True,
    buffers=("attn.bias", "attn.masked_bias"),  # the causal mask
    dropouts=("resid_pdrop", "embd_pdrop"),
    extra={"attn_pdrop": 0.0},
)
QWEN3 = Family(
    title="Qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    knobs=vars(GLMConfig(bias=False, norm="rms", qk_norm=True, activation="silu", gated=True, positions="rope")),
    fields={
        "block_size": ("max_position_embeddings", 32768),
        "vocab_size": ("vocab_size", 151936),
        "n_layer": ("num_hidden_layers", 32),
        "n_head": ("num_attention_heads", 32),
        "n_kv_head": ("num_key_value_heads", 32),
        "n_embd": ("hidden_size", 4096),
        "head_dim": ("head_dim", 128),
        "n_inner": ("intermediate_size", 22016),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "rope_theta": ("rope_theta", 10000.0),
        "tied": ("tie_word_embeddings", False),
    },
    plain={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
        "quantization_config": (None,),
    },
    modules={
        "transformer.wte": ("model.embed_tokens",),
        "transformer.ln_f": ("model.norm",),
        "lm_head": ("lm_head",),
        **in_block(
            {
                "ln_1": ("input_layernorm",),
                "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                "attn.q_norm": ("self_attn.q_norm",),
                "attn.k_norm": ("self_attn.k_norm",),
                "attn.c_proj": ("self_attn.o_proj",),
                "ln_2": ("post_attention_layernorm",),
                "mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj"),
                "mlp.c_proj": ("mlp.down_proj",),
            },
            "model.layers.{}.",
        ),
    },
    gguf={
        "transformer.wte": ("token_embd",),
        "transformer.ln_f": ("output_norm",),
        "lm_head": ("output",),
        **in_block(
            {
                "ln_1": ("attn_norm",),
                "attn.c_attn": ("attn_q", "attn_k", "attn_v"),
                "attn.q_norm": ("attn_q_norm",),
                "attn.k_norm": ("attn_k_norm",),
                "attn.c_proj": ("attn_output",),
                "ln_2": ("ffn_norm",),
                "mlp.c_fc": ("ffn_gate", "ffn_up"),
                "mlp.c_proj": ("ffn_down",),
            },
            "blk.{}.",
        ),
    },
)
FAMILIES = {family.model_type: family for family in (GPT2, QWEN3)}
# Knobs of which nothing is left once a model is folded, and what they are then.
FOLDED = {"norm_weight": True, "embedding_norm": False, "attention_scale": 0.0, "embedding_multiplier": 1.0}
FOLDED |= {"residual_multiplier": 1.0, "logits_multiplier": 1.0, "zero_init": False, "dropout": 0.0}


def is_linear(name: str) -> bool:
    """Whether a module's name is that of a linear layer of a block."""
    return bool(IS_LINEAR.fullmatch(name))


def lora_layers(targets: str) -> tuple[str, ...]:
    """The linear layers of a block that --lora_targets names, by role or by a layer's name or its last part.

    Raises UserError.
    """
    chosen = []
    for target in targets.split(","):
        by_name = [layer for layer in LINEAR if f".{layer}".endswith(f".{target}")]
        layers = ROLES.get(target, by_name) if target else ()
        refuse(not layers, f"the model has no layer {target!r} for LoRA", f"choose some of {', '.join(ROLES)}")
        chosen += layers
    return tuple(layer for layer in LINEAR if layer in chosen)


def module_names(names: dict[str, tuple[str, ...]], module: str) -> tuple[str, ...]:
    """What `names`, a family's modules or gguf, calls a module of ours; () for one that it has not."""
    number = NUMBER.search(module)
    pattern = NUMBER.sub(".{}.", module, count=1)
    return tuple(name.format(number[1]) if number else name for name in names.get(pattern, ()))


def joined_sizes(shape: GLMConfig, module: str, several: int) -> tuple[int, ...]:
    """How many rows each of `several` modules of theirs has that are joined in one of ours."""
    if module.endswith("c_attn"):
        return tuple(heads * shape.head_size for heads in (shape.n_head, shape.kv_heads, shape.kv_heads))
    return (shape.inner,) * several


def split(weight: torch.Tensor, shape: GLMConfig, module: str, several: int) -> tuple[torch.Tensor, ...]:
    """The parts of a weight or bias of ours, joined from `several` of theirs."""
    return (weight,) if several == 1 else weight.split(joined_sizes(shape, module, several))


def shape_of(config: dict, place) -> tuple[Family, GLMConfig]:
    """The family and the shape that a config.json describes. `place` names it in messages. Raises UserError."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        known = " or ".join(each.title for each in FAMILIES.values())
        raise UserError(f"{place} holds a model of the type {str(kind)[:50]!r}", f"choose a {known}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}  # where it lies has changed
    rope = rope if isinstance(rope, dict) else {"rope_type": rope}
    config = {"rope_theta": rope.get("rope_theta"), **config}
    turning = rope.get("rope_type", rope.get("type", "default"))
    refuse(
        turning != "default",
        f"{place} has rotary positions of the kind {str(turning)[:50]!r}",
        f"choose a {family.title} without",
    )
    for key, plain in family.plain.items():
        value = config.get(key, plain[0])
        known = value in plain and type(value) is type(plain[0])
        refuse(not known, f"{place} has {key} {str(value)[:50]!r}", f"choose a {family.title} with {plain[0]!r}")
    values: dict[str, Any] = {}
    for ours, (theirs, default) in family.fields.items():
        value = config.get(theirs)
        values[ours] = default if value is None else value
    try:
        shape = GLMConfig(**{**family.knobs, **values})
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}/config.json tells of no {family.title}", "copy the folder again") from error
    return family, shape


def ours_from(tensors: Weights, family: Family, shape: GLMConfig, place) -> Weights:
    """Our model's state dict, float32, from the tensors of a folder, which are used up.

    shape: what its config.json describes. `place` names the folder in messages. Raises UserError.
    """
    head = tensors.pop(HEAD, tensors.pop(family.prefix + HEAD, None)) if shape.tied else None
    if family.prefix:
        tensors = {family.prefix + name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}
    buffers = re.compile(re.escape(BLOCK).replace(r"\{\}", r"\d+") + f"({'|'.join(family.buffers)})")
    tensors = {name: tensor for name, tensor in tensors.items() if not buffers.fullmatch(name)}
    (embedding,) = module_names(family.modules, EMBEDDING.removesuffix(".weight"))
    tied = tensors.get(f"{embedding}.weight")
    refuse(
        head is not None and (tied is None or head.shape != tied.shape or not head.equal(tied)),
        f"{place} has an lm_head of its own",
        f"choose a {family.title} whose lm_head is its embedding",
    )
    with torch.device("meta"):  # takes no memory, whatever shape is told
        first = MiniGLM(replace(shape, n_layer=1)).state_dict()
    sizes = {name: weight.shape for name, weight in first.items() if name != HEAD or not shape.tied}
    of_a_block = {name: size for name, size in sizes.items() if name.startswith(BLOCK.format(0))}
    ours = {name: size for name, size in sizes.items() if name not in of_a_block}
    for layer in range(min(shape.n_layer, len(tensors) + 1)):  # one of them must be missing beyond
        ours |= {NUMBER.sub(f".{layer}.", name, count=1): size for name, size in of_a_block.items()}
    expected = {}  # ours: theirs
    for name in ours:
        module, _, part = name.rpartition(".")
        expected[name] = [f"{theirs}.{part}" for theirs in module_names(family.modules, module)]
    theirs = {name for several in expected.values() for name in several}
    missing, strange = sorted(theirs - tensors.keys()), sorted(tensors.keys() - theirs)
    for names, what in (
        (missing, "lacks the weights"),
        (strange, f"has weights that no {family.title} of its shape has:"),
    ):
        refuse(names, f"{place} {what} {', '.join(names)[:100]} ({len(names)})", "copy the folder again")
    weights = {}
    for name, size in ours.items():
        module, several, parts = name.rpartition(".")[0], expected[name], []
        rows = size[:1] if len(several) == 1 else joined_sizes(shape, module, len(several))
        for one, its_rows in zip(several, rows, strict=True):
            stored = tensors.pop(one)
            part = stored.t() if family.transposed and is_linear(module) and stored.dim() == 2 else stored
            refuse(
                part.shape != (its_rows, *size[1:]) or not part.is_floating_point(),
                f"{one} of {place} is {tuple(stored.shape)} in {stored.dtype}, which does not fit config.json",
                "copy the folder again",
            )
            parts.append(part.float())
        weights[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()
    return weights | ({HEAD: weights[EMBEDDING]} if shape.tied else {})


def folded_shape(shape: GLMConfig) -> GLMConfig:
    """The shape that a model has once it is folded, see folded."""
    untied = shape.embedding_norm or shape.embedding_multiplier != 1 or shape.logits_multiplier != 1
    return replace(shape, **FOLDED, tied=shape.tied and not untied)


def family_of(shape: GLMConfig) -> Family:
    """The family that computes what a model of ours of a shape computes. Raises UserError where there is none."""
    plain, closest = folded_shape(shape), []
    for family in FAMILIES.values():
        differing = [
            name
            for name, value in family.knobs.items()
            if name not in family.fields and name not in ("n_kv_head", "head_dim") and getattr(plain, name) != value
        ]
        if family.filled:  # biases that are not there can be zero
            differing = [name for name in differing if name not in ("bias", "bias_at")]
        elif not plain.bias:
            differing = [name for name in differing if name != "bias_at"]
        if plain.kv_heads != plain.n_head and "n_kv_head" not in family.fields:
            differing.append("n_kv_head")
        if plain.head_size * plain.n_head != plain.n_embd and "head_dim" not in family.fields:
            differing.append("head_dim")
        if not differing:
            return family
        closest.append(differing)
    names = ", ".join(f"{name}={getattr(plain, name)}" for name in min(closest, key=len))
    raise UserError(
        f"no architecture of others computes what this model does ({names})", "use --to=onnx, or train another shape"
    )


@torch.no_grad()
def folded(model: MiniGLM) -> tuple[Weights, GLMConfig]:
    """(state dict, float32; shape) of a model that computes the same with none of the knobs in FOLDED.

    A norm on the embedding is one on the rows of its table; the scales go into the weights that they follow.
    """
    shape, plain = model.config, folded_shape(model.config)
    weights = {name: weight.float() for name, weight in model.state_dict().items()}
    weights[HEAD] = weights[HEAD] * shape.logits_multiplier
    if shape.embedding_norm or shape.embedding_multiplier != 1:
        table = model.token_embedding.weight * shape.embedding_multiplier
        norm = model.transformer["ln_e"] if shape.embedding_norm else torch.nn.Identity()
        weights[EMBEDDING] = norm(table).float()
        weights = {name: weight for name, weight in weights.items() if ".ln_e." not in name}
    with torch.device("meta"):
        for name, weight in MiniGLM(plain).state_dict().items():
            if name not in weights:  # of a norm
                weights[name] = (torch.zeros if name.endswith("bias") else torch.ones)(weight.shape, device="cpu")
    stronger = shape.scale * shape.head_size**0.5  # the queries, than with the usual scale
    changed = ("q_norm.",) if shape.qk_norm else ("attn.c_attn.",)
    scaled = ("ln_1_post.", "ln_2_post.") if shape.post_norms else ("c_proj.",)
    for name, weight in weights.items():
        if stronger != 1 and name.startswith("transformer.h.") and any(part in name for part in changed):
            weight = weights[name] = weight.clone()
            weight[: shape.head_size if shape.qk_norm else shape.n_head * shape.head_size] *= stronger
        if shape.residual_multiplier != 1 and any(part in name for part in scaled):
            weights[name] = weight * shape.residual_multiplier
    if plain.tied:
        weights[HEAD] = weights[EMBEDDING]
    return weights, plain


def theirs_from(model: MiniGLM, end_id: int, dtype: torch.dtype) -> tuple[dict, Weights]:
    """(config.json's content, weights in `dtype`) of a model of ours, as transformers has them.

    A model trained without biases gets zeros where its family has some. Raises UserError where no family is its own.
    """
    family, (weights, shape) = family_of(model.config), folded(model)
    stored = {}
    for module, several, tensors in parts_of(weights, shape, family, family.modules):
        for part, tensor in tensors.items():
            turned = family.transposed and is_linear(module) and part == "weight"
            for name, piece in zip(several, split(tensor, shape, module, len(several)), strict=True):
                stored[f"{name}.{part}"] = (piece.t() if turned else piece).to(dtype).contiguous()
    values = {
        theirs: getattr(shape, {"n_kv_head": "kv_heads", "head_dim": "head_size", "n_inner": "inner"}.get(ours, ours))
        for ours, (theirs, _) in family.fields.items()
    }
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **values,
        **{key: plain[0] for key, plain in family.plain.items() if plain[0] is not None},
        **dict.fromkeys(family.dropouts, model.config.dropout),
        **family.extra,
        "tie_word_embeddings": shape.tied,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_id),
        "dtype": str(dtype).removeprefix("torch."),
    }
    return config, stored


def parts_of(weights: Weights, shape: GLMConfig, family: Family, names: dict[str, tuple[str, ...]]):
    """(our module, its names in `names`, {"weight" or "bias": tensor}) of each module of folded weights.

    Biases that the family has and the model has not are zero.
    """
    modules: dict[str, Weights] = {}
    for name, tensor in weights.items():
        if name != HEAD or not shape.tied:
            module, _, part = name.rpartition(".")
            modules.setdefault(module, {})[part] = tensor
    for module, tensors in modules.items():
        if family.filled and (tensors["weight"].dim() == 1 or is_linear(module)):
            tensors.setdefault("bias", torch.zeros(len(tensors["weight"])))
        yield module, module_names(names, module), tensors


def gguf_tensors(model: MiniGLM):
    """(llama.cpp's name, float32 tensor, whether it is never quantized) of each tensor of a model of ours.

    A layer trained without biases gets zeros where llama.cpp expects some. Raises UserError as family_of does.
    """
    family, (weights, shape) = family_of(model.config), folded(model)
    for module, several, tensors in parts_of(weights, shape, family, family.gguf):
        for part, tensor in tensors.items():
            exact = tensor.dim() == 1 or module.endswith("wpe")
            for name, piece in zip(several, split(tensor, shape, module, len(several)), strict=True):
                yield f"{name}.{part}", piece, exact


def adapter_to_theirs(parts: Weights, shape: GLMConfig) -> tuple[Weights, list[str], bool]:
    """(parts, the layers' last names, whether their weights are transposed) of an adapter on a model of a shape.

    parts: {"LAYER.lora_A.weight": …} of ours. Where no family computes what the model does, the names stay ours.
    """
    try:
        family = family_of(shape)
    except UserError:
        family = None
    rows_change = shape.residual_multiplier != 1 or (shape.attention_scale and not shape.qk_norm)
    if family is None or rows_change:
        return parts, sorted({NUMBER.split(name)[-1].rpartition(".lora_")[0] for name in parts}), False
    theirs, targets = {}, []
    for name, part in parts.items():
        layer, _, rest = name.partition(".lora_")
        several = module_names(family.modules, layer)
        pieces = split(part, shape, layer, len(several)) if rest.startswith("B") else (part,) * len(several)
        theirs |= {f"{one}.lora_{rest}": piece.clone() for one, piece in zip(several, pieces, strict=True)}
        targets += [NUMBER.split(one)[-1] for one in several]
    return theirs, sorted(set(targets)), family.transposed


def adapter_to_ours(parts: Weights, shape: GLMConfig, rank: int) -> tuple[Weights, int]:
    """(parts, rank) with our names of an adapter that may have a family's.

    Where layers that we join have changes of their own, those stand side by side in a larger rank. Raises KeyError for
    layers of another model and for half a change, and others where a part does not fit.
    """
    if all(is_linear(name.partition(".lora_")[0]) for name in parts):
        return parts, rank
    names, ours_of = family_of(shape).modules, {}
    for module in (BLOCK.format(number) + layer for number in range(shape.n_layer) for layer in LINEAR):
        ours_of |= {theirs: (module, place) for place, theirs in enumerate(module_names(names, module))}
    changes: dict[str, dict[int, tuple[torch.Tensor, torch.Tensor]]] = {}
    for theirs in {name.partition(".lora_")[0] for name in parts}:
        module, place = ours_of[theirs]
        A, B = (parts[f"{theirs}.lora_{letter}.weight"].float() for letter in "AB")
        if len(A) != rank or B.size(1) != rank:
            raise ValueError(f"{theirs} has another rank")
        changes.setdefault(module, {})[place] = (A, B)
    shared = all(A.equal(next(iter(pieces.values()))[0]) for pieces in changes.values() for A, _ in pieces.values())
    width = rank if shared else rank * max(map(len, changes.values()))
    weights = {}
    for module, pieces in changes.items():
        several = len(module_names(names, module))
        sizes = joined_sizes(shape, module, several) if several > 1 else (len(pieces[0][1]),)
        joined_A = torch.zeros(width, next(iter(pieces.values()))[0].size(1))
        joined_B = torch.zeros(sum(sizes), width)
        for number, (place, (A, B)) in enumerate(sorted(pieces.items())):
            columns = slice(0, rank) if shared else slice(number * rank, (number + 1) * rank)
            joined_A[columns] = A
            joined_B[sum(sizes[:place]) : sum(sizes[: place + 1]), columns] = B
        weights |= {f"{module}.lora_A.weight": joined_A, f"{module}.lora_B.weight": joined_B}
    return weights, width
