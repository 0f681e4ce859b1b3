"""The kinds of models that others know, as records. It knows no files and no weights.

A family is a record: which knobs of our decoder make it, what its config.json calls them, how its weights are named and
stored, what llama.cpp calls its parts. Each is read in both directions: shape_of says what a config.json describes,
config_of how a shape of ours is told. How weights are carried over stands in conversion.py.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from miniglm.errors import UserError, refuse
from model import PLACES, GLMConfig

BLOCK = "transformer.h.{}."  # what the names of our block number {} begin with
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # in a state dict of ours
VALUE_HEAD = "value_head."  # how the names of its parameters begin
POSITIONS = "transformer.wpe"
# The linear layers of a block, and what LoRA's roles call them.
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
QKV, ADDING = LINEAR[0], (LINEAR[1], LINEAR[3])  # queries, keys and values; what adds to the residual stream
POST_NORMS = ("ln_1_post", "ln_2_post")  # where what is added has a norm
ROLES = {"attention": ("attn.c_attn",), "output": ("attn.c_proj",), "mlp": ("mlp.c_fc", "mlp.c_proj")}
IS_LINEAR = re.compile(re.escape(BLOCK).replace(r"\{\}", r"\d+") + f"({'|'.join(map(re.escape, LINEAR))})")
NUMBER = re.compile(r"\.(\d+)\.")  # of a block, in a name

Names = dict[str, tuple[str, ...]]  # of modules, ours: theirs, several where we join them; {} is a block's number


class Unlike(Exception):
    """A config.json that tells of something our decoder does not do; the message says what."""


def nothing(_) -> dict[str, Any]:
    """No further values."""
    return {}


def as_stored(_: GLMConfig) -> dict[str, torch.Tensor]:
    """No module whose rows stand in another order."""
    return {}


@dataclass(frozen=True)
class Family:
    """A kind of model of others."""

    title: str  # as it is called
    model_type: str  # in config.json
    architecture: str  # transformers' class, or the one in its authors' code
    knobs: dict[str, Any]  # the fields of GLMConfig that all its models share
    fields: dict[str, tuple[str, Any]]  # the others: what config.json calls one, its value where it is not there
    plain: dict[str, tuple]  # what config.json can set otherwise, and the values that mean what our model computes
    modules: Names
    read: Callable[[dict], dict[str, Any]] = nothing  # further fields of GLMConfig, from a config.json. Raises Unlike
    tell: Callable[[GLMConfig], dict[str, Any]] = nothing  # the same, on the way back
    biases: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what config.json calls biases: at which PLACES
    rows: Callable[[GLMConfig], dict[str, torch.Tensor]] = as_stored  # a block's module: the order its rows stand in
    prefix: str = ""  # of all weights' names but the head's, which older files leave away
    transposed: bool = False  # a block's linear layers are stored as (in_features, out_features)
    filled: bool = False  # biases that we have not are zero there
    unit_head: bool = False  # the head's rows are brought to length 1 before they are used
    buffers: tuple[str, ...] = ()  # in older files: no weights
    dropouts: tuple[str, ...] = ()  # where config.json says our dropout
    llama_cpp: str = ""  # llama.cpp's name of the architecture; "" for one that it does not know
    gguf: Names = field(default_factory=dict)  # the modules' names there
    gguf_pairs: str = "halves"  # which numbers of a head llama.cpp turns together


def in_block(names: Names, theirs: str) -> Names:
    """Names of modules of a block, ours and `theirs`, with what they begin with put before them."""
    return {BLOCK + ours: tuple(theirs + name for name in several) for ours, several in names.items()}


def rope_read(config: dict) -> dict[str, Any]:
    """The fields of rotary positions; transformers has told them in one place or another over the years."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope if isinstance(rope, dict) else {"rope_type": rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    numbers = {
        "default": [],
        "linear": ["factor"],
        "llama3": ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
    }
    if not isinstance(kind, str) or kind not in numbers:
        raise Unlike(f"rotary positions of the kind {str(kind)[:50]!r}")
    values = [rope.get(name) for name in numbers[kind]]
    if any(type(value) not in (int, float) for value in values):
        raise Unlike(f"rotary positions of the kind {kind!r} without {', '.join(numbers[kind])}")
    told = {name: value for name, value in (rope | config).items() if value is not None}
    return {
        "rope_theta": told.get("rope_theta", 10000.0),
        "rope_share": told.get("partial_rotary_factor", 1.0),
        "rope_scaling": f"{kind}:{','.join(map(str, values))}" if values else "",
    }


def rope_told(shape: GLMConfig) -> dict[str, Any]:
    """What config.json says of rotary positions, so that old and new versions of transformers read it."""
    kind, values = shape.scaling
    scaling = None
    if kind:
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        scaling = {"rope_type": kind, **dict(zip(names, values))}
        if kind == "llama3":
            scaling["original_max_position_embeddings"] = round(values[3])
    share = {} if shape.rope_share == 1 else {"partial_rotary_factor": shape.rope_share}
    return {"rope_theta": shape.rope_theta, "rope_scaling": scaling, **share}


def gpt2_told(_: GLMConfig) -> dict[str, Any]:
    """That attention drops nothing in training, as ours does not: transformers would by itself."""
    return {"attn_pdrop": 0.0}


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
        "tied": ("tie_word_embeddings", True),
    },
    plain={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    modules={name: (name,) for name in ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head")}
    | in_block({name: (name,) for name in OF_A_GPT2}, BLOCK),
    tell=gpt2_told,
    prefix="transformer.",
    transposed=True,
    filled=True,
    buffers=(BLOCK + "attn.bias", BLOCK + "attn.masked_bias"),  # the causal mask
    dropouts=("resid_pdrop", "embd_pdrop"),
    llama_cpp="gpt2",
    gguf={
        "transformer.wte": ("token_embd",),
        "transformer.wpe": ("position_embd",),
        "transformer.ln_f": ("output_norm",),
        "lm_head": ("output",),
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
)

TODAYS = GLMConfig(bias=False, norm="rms", activation="silu", gated=True, positions="rope")
OF_A_LLAMA = {
    "ln_1": ("input_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "ln_2": ("post_attention_layernorm",),
    "mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.c_proj": ("mlp.down_proj",),
}
OF_A_GGUF = {
    "ln_1": ("attn_norm",),
    "attn.c_attn": ("attn_q", "attn_k", "attn_v"),
    "attn.c_proj": ("attn_output",),
    "ln_2": ("ffn_norm",),
    "mlp.c_fc": ("ffn_gate", "ffn_up"),
    "mlp.c_proj": ("ffn_down",),
}


def llama_modules(**in_the_block: tuple[str, ...]) -> Names:
    """The names of Llama's modules; in_the_block: others for some of a block."""
    ends = {"transformer.wte": ("model.embed_tokens",), "transformer.ln_f": ("model.norm",), "lm_head": ("lm_head",)}
    return ends | in_block(OF_A_LLAMA | in_the_block, "model.layers.{}.")


def llama_gguf(**in_the_block: tuple[str, ...]) -> Names:
    """What llama.cpp calls Llama's modules; in_the_block: others for some of a block."""
    ends = {"transformer.wte": ("token_embd",), "transformer.ln_f": ("output_norm",), "lm_head": ("output",)}
    return ends | in_block(OF_A_GGUF | in_the_block, "blk.{}.")


LLAMA = Family(
    title="Llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    knobs=vars(TODAYS),
    fields={
        "block_size": ("max_position_embeddings", 2048),
        "vocab_size": ("vocab_size", 32000),
        "n_layer": ("num_hidden_layers", 32),
        "n_head": ("num_attention_heads", 32),
        "n_kv_head": ("num_key_value_heads", 0),
        "n_embd": ("hidden_size", 4096),
        "head_dim": ("head_dim", 0),
        "n_inner": ("intermediate_size", 11008),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "tied": ("tie_word_embeddings", False),
    },
    plain={"hidden_act": ("silu",), "quantization_config": (None,)},
    modules=llama_modules(),
    read=rope_read,
    tell=rope_told,
    biases={"attention_bias": ("attention", "output"), "mlp_bias": ("mlp",)},
    filled=True,
    buffers=("model.layers.{}.self_attn.rotary_emb.inv_freq",),
    llama_cpp="llama",
    gguf=llama_gguf(),
    gguf_pairs="neighbours",
)
QWEN2 = replace(
    LLAMA,
    title="Qwen2",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    knobs=vars(replace(TODAYS, bias=True, bias_at="attention")),
    fields=LLAMA.fields | {"block_size": ("max_position_embeddings", 32768), "vocab_size": ("vocab_size", 151936)},
    plain=LLAMA.plain | {"use_sliding_window": (False,)},
    biases={},
    llama_cpp="qwen2",
    gguf_pairs="halves",
)
QWEN3 = replace(
    QWEN2,
    title="Qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    knobs=vars(replace(TODAYS, qk_norm=True)),
    fields=QWEN2.fields | {"head_dim": ("head_dim", 128)},
    plain=QWEN2.plain | {"attention_bias": (False,)},
    modules=llama_modules(**{"attn.q_norm": ("self_attn.q_norm",), "attn.k_norm": ("self_attn.k_norm",)}),
    filled=False,
    llama_cpp="qwen3",
    gguf=llama_gguf(**{"attn.q_norm": ("attn_q_norm",), "attn.k_norm": ("attn_k_norm",)}),
)


def granite_read(config: dict) -> dict[str, Any]:
    """Granite's multipliers and rotary positions."""
    return {
        "embedding_multiplier": config.get("embedding_multiplier", 1.0),
        "residual_multiplier": config.get("residual_multiplier", 1.0),
        "attention_scale": config.get("attention_multiplier", 1.0),
        "logits_multiplier": 1 / config.get("logits_scaling", 1.0),
        **rope_read(config),
    }


def granite_told(shape: GLMConfig) -> dict[str, Any]:
    """The same as config.json has it."""
    return {
        "embedding_multiplier": shape.embedding_multiplier,
        "residual_multiplier": shape.residual_multiplier,
        "attention_multiplier": shape.scale,
        "logits_scaling": 1 / shape.logits_multiplier,
        **rope_told(shape),
    }


GRANITE = replace(
    LLAMA,
    title="Granite",
    model_type="granite",
    architecture="GraniteForCausalLM",
    read=granite_read,
    tell=granite_told,
    llama_cpp="granite",
)


def minicpm_read(config: dict) -> dict[str, Any]:
    """MiniCPM's multipliers, told by what they come from, and rotary positions."""
    width, layers = config.get("hidden_size", 4096), config.get("num_hidden_layers", 32)
    return {
        "embedding_multiplier": config.get("scale_emb", 1),
        "residual_multiplier": config.get("scale_depth", 1) / math.sqrt(layers),
        "logits_multiplier": config.get("dim_model_base", 1) / width,
        **rope_read(config),
    }


def minicpm_told(shape: GLMConfig) -> dict[str, Any]:
    """The same as config.json has it."""
    return {
        "scale_emb": shape.embedding_multiplier,
        "scale_depth": shape.residual_multiplier * math.sqrt(shape.n_layer),
        "dim_model_base": shape.logits_multiplier * shape.n_embd,
        **rope_told(shape),
    }


MINICPM = replace(
    LLAMA,
    title="MiniCPM",
    model_type="minicpm",
    architecture="MiniCPMForCausalLM",
    fields=LLAMA.fields | {"tied": ("tie_word_embeddings", True)},
    read=minicpm_read,
    tell=minicpm_told,
    biases={"attention_bias": ("attention", "output")},
    llama_cpp="minicpm",
)


def turns(config: dict) -> bool:
    """Whether a Baichuan has rotary positions; one of 13 billion parameters, whose file tells none, has ALiBi."""
    return "max_position_embeddings" in config and config.get("num_hidden_layers") != 40


def baichuan_read(config: dict) -> dict[str, Any]:
    """The longest context, and the positions."""
    if turns(config):
        return {"positions": "rope", "block_size": config["max_position_embeddings"]} | rope_read(config)
    return {"positions": "alibi", "block_size": config.get("model_max_length", 4096)}


def baichuan_told(shape: GLMConfig) -> dict[str, Any]:
    """The same as config.json has it."""
    told = {"model_max_length": shape.block_size}
    if shape.positions == "rope":
        return told | {"max_position_embeddings": shape.block_size, **rope_told(shape)}
    first = shape.vocab_size != BAICHUAN2_VOCABULARY  # the large Baichuan of before has the second one's class
    return told | ({"architectures": ["BaichuanForCausalLM"]} if first else {})


BAICHUAN = replace(
    LLAMA,
    title="Baichuan",
    model_type="baichuan",
    architecture="BaiChuanForCausalLM",
    fields={ours: LLAMA.fields[ours] for ours in LLAMA.fields if ours not in ("block_size", "n_kv_head", "head_dim")},
    modules=llama_modules(**{"attn.c_attn": ("self_attn.W_pack",)}),
    read=baichuan_read,
    tell=baichuan_told,
    biases={},
    filled=False,
    llama_cpp="baichuan",
)
BAICHUAN2 = replace(BAICHUAN, title="Baichuan2", architecture="BaichuanForCausalLM", unit_head=True)
BAICHUAN2_VOCABULARY = 125696  # ids of all its models

GLM = replace(
    LLAMA,
    title="GLM",
    model_type="glm",
    architecture="GlmForCausalLM",
    knobs=vars(replace(TODAYS, rope_pairs="neighbours")),
    fields=LLAMA.fields | {"block_size": ("max_position_embeddings", 131072), "vocab_size": ("vocab_size", 151552)},
    modules=llama_modules(**{"mlp.c_fc": ("mlp.gate_up_proj",)}),
    biases={"attention_bias": ("attention",)},
    llama_cpp="chatglm",
    gguf=llama_gguf(**{"attn.c_attn": ("attn_qkv",), "mlp.c_fc": ("ffn_up",)}),
)
GLM4 = replace(
    GLM,
    title="GLM-4-0414",
    model_type="glm4",
    architecture="Glm4ForCausalLM",
    knobs=vars(replace(TODAYS, rope_pairs="neighbours", post_norms=True)),
    modules=llama_modules(
        **{
            "mlp.c_fc": ("mlp.gate_up_proj",),
            "ln_1_post": ("post_self_attn_layernorm",),
            "ln_2_post": ("post_mlp_layernorm",),
        }
    ),
    llama_cpp="glm4",
    gguf=llama_gguf(
        **{"mlp.c_fc": ("ffn_up",), "ln_1_post": ("post_attention_norm",), "ln_2_post": ("post_ffw_norm",)}
    ),
)


def chatglm_read(config: dict) -> dict[str, Any]:
    """Groups of queries are optional, rotary positions are told by how much slower than usual they turn."""
    groups = config.get("multi_query_group_num", 1) if config.get("multi_query_attention") else 0
    ratio = config.get("rope_ratio", 1)
    return {
        "n_kv_head": groups,
        "vocab_size": config.get("padded_vocab_size", config.get("vocab_size", 65024)),
        "rope_theta": 10000.0 * ratio,
    }


def chatglm_told(shape: GLMConfig) -> dict[str, Any]:
    """The same as config.json has it."""
    return {
        "multi_query_attention": shape.kv_heads < shape.n_head,
        "multi_query_group_num": shape.kv_heads,
        "padded_vocab_size": shape.vocab_size,
        "vocab_size": shape.vocab_size,
        "rope_ratio": shape.rope_theta / 10000,
    }


CHATGLM = replace(
    GLM,
    title="ChatGLM2",
    model_type="chatglm",
    architecture="ChatGLMForConditionalGeneration",
    knobs=vars(replace(TODAYS, rope_pairs="neighbours", rope_share=0.5)),
    fields={
        "block_size": ("seq_length", 2048),
        "n_layer": ("num_layers", 28),
        "n_head": ("num_attention_heads", 32),
        "n_embd": ("hidden_size", 4096),
        "head_dim": ("kv_channels", 128),
        "n_inner": ("ffn_hidden_size", 13696),
        "norm_eps": ("layernorm_epsilon", 1e-5),
        "tied": ("tie_word_embeddings", False),
    },
    plain={
        "rmsnorm": (True,),
        "post_layer_norm": (True,),
        "original_rope": (True,),
        "apply_residual_connection_post_layernorm": (False,),
        "quantization_bit": (0,),
        "pre_seq_len": (None,),
        "quantization_config": (None,),
    },
    modules={
        "transformer.wte": ("transformer.embedding.word_embeddings",),
        "transformer.ln_f": ("transformer.encoder.final_layernorm",),
        "lm_head": ("transformer.output_layer",),
        **in_block(
            {
                "ln_1": ("input_layernorm",),
                "attn.c_attn": ("self_attention.query_key_value",),
                "attn.c_proj": ("self_attention.dense",),
                "ln_2": ("post_attention_layernorm",),
                "mlp.c_fc": ("mlp.dense_h_to_4h",),
                "mlp.c_proj": ("mlp.dense_4h_to_h",),
            },
            "transformer.encoder.layers.{}.",
        ),
    },
    read=chatglm_read,
    tell=chatglm_told,
    biases={"add_qkv_bias": ("attention",), "add_bias_linear": ("attention", "output", "mlp")},
    buffers=("transformer.rotary_pos_emb.inv_freq",),
)


def codegen_read(config: dict) -> dict[str, Any]:
    """How many of a head's numbers turn; the vocabulary's head has a bias."""
    heads, width = config.get("n_head", 16), config.get("n_embd", 4096)
    turning = config.get("rotary_dim", 64)
    if heads % QKV_BLOCKS:
        raise Unlike(f"{heads} heads, which {QKV_BLOCKS} blocks of queries, values and keys do not share")
    return {"rope_share": turning * heads / width if turning else 1.0}


def codegen_told(shape: GLMConfig) -> dict[str, Any]:
    """The same as config.json has it."""
    return {"rotary_dim": shape.rotated, "n_ctx": shape.block_size}


QKV_BLOCKS = 4  # so many devices computed one layer together when CodeGen was trained


def codegen_rows(shape: GLMConfig) -> dict[str, torch.Tensor]:
    """Queries, values and keys of a quarter of the heads, then those of the next quarter, and so on."""
    queries, keys, values = torch.arange(3 * shape.n_head * shape.head_size).view(3, QKV_BLOCKS, -1)
    return {"attn.c_attn": torch.stack([queries, values, keys], 1).flatten()}


CODEGEN = Family(
    title="CodeGen",
    model_type="codegen",
    architecture="CodeGenForCausalLM",
    knobs=vars(GLMConfig(bias_at="mlp,norm", positions="rope", rope_pairs="neighbours", parallel=True, head_bias=True)),
    fields={
        "block_size": ("n_positions", 2048),
        "vocab_size": ("vocab_size", 50400),
        "n_layer": ("n_layer", 28),
        "n_head": ("n_head", 16),
        "n_embd": ("n_embd", 4096),
        "n_inner": ("n_inner", 0),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tied": ("tie_word_embeddings", False),
    },
    plain={"activation_function": ("gelu_new", "gelu_pytorch_tanh"), "quantization_config": (None,)},
    modules={
        **{name: (name,) for name in ("transformer.wte", "transformer.ln_f", "lm_head")},
        **in_block(
            {
                "ln_1": ("ln_1",),
                "attn.c_attn": ("attn.qkv_proj",),
                "attn.c_proj": ("attn.out_proj",),
                "mlp.c_fc": ("mlp.fc_in",),
                "mlp.c_proj": ("mlp.fc_out",),
            },
            BLOCK,
        ),
    },
    read=codegen_read,
    tell=codegen_told,
    rows=codegen_rows,
    filled=True,
    buffers=(BLOCK + "attn.causal_mask", BLOCK + "attn.bias", BLOCK + "attn.masked_bias"),
    dropouts=("resid_pdrop", "embd_pdrop"),
)
MOSS = replace(CODEGEN, title="MOSS", model_type="moss", architecture="MossForCausalLM")

# Where several compute the same, the first is taken: those that transformers knows stand before the others.
FAMILIES = (
    *(GPT2, LLAMA, QWEN2, QWEN3, GLM, GLM4, GRANITE, CODEGEN),
    *(BAICHUAN, BAICHUAN2, CHATGLM, MINICPM, MOSS),
)
# Knobs of which nothing is left once a model is folded, and what they are then.
FOLDED = {"norm_weight": True, "embedding_norm": False, "attention_scale": 0.0, "embedding_multiplier": 1.0}
FOLDED |= {"residual_multiplier": 1.0, "logits_multiplier": 1.0}
KNOWN = "GPT-2, Llama, Qwen2, Qwen3, GLM, ChatGLM2 or later, Baichuan, MiniCPM, Granite, CodeGen or MOSS"


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


def module_names(names: Names, module: str) -> tuple[str, ...]:
    """What `names`, a family's modules or gguf, calls a module of ours; () for one that it has not."""
    number = NUMBER.search(module)
    pattern = NUMBER.sub(".{}.", module, count=1)
    return tuple(name.format(number[1]) if number else name for name in names.get(pattern, ()))


def family_told(config: dict, place) -> Family:
    """The family that a config.json names. `place` names it in messages. Raises UserError."""
    kind = config.get("model_type")
    of_its_type = [family for family in FAMILIES if family.model_type == kind]
    if not of_its_type:
        raise UserError(f"{place} holds a model of the type {str(kind)[:50]!r}", f"choose a {KNOWN}")
    if kind == "baichuan":
        named = BAICHUAN2.architecture in (config.get("architectures") or ())
        return BAICHUAN2 if named and (turns(config) or config.get("vocab_size") == BAICHUAN2_VOCABULARY) else BAICHUAN
    return of_its_type[0]


def shape_of(config: dict, place) -> tuple[Family, GLMConfig]:
    """The family and the shape that a config.json describes. `place` names it in messages. Raises UserError."""
    family = family_told(config, place)
    first_chatglm = family is CHATGLM and not {"position_encoding_2d", "inner_hidden_size"}.isdisjoint(config)
    refuse(first_chatglm, f"{place} is a ChatGLM-6B of the first version", "choose its successor, ChatGLM2-6B")
    try:
        return family, GLMConfig(**{**family.knobs, **values_told(config, family)})
    except Unlike as error:
        raise UserError(f"{place} has {error}", f"choose a {family.title} without") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"{place}/config.json tells of no {family.title}", "copy the folder again") from error


def values_told(config: dict, family: Family) -> dict[str, Any]:
    """The fields of GLMConfig that a family's config.json tells. Raises Unlike, and others for values of odd types."""
    for key, plain in family.plain.items():
        value = config.get(key, plain[0])
        if value not in plain or type(value) is not type(plain[0]):
            raise Unlike(f"{key} {str(value)[:50]!r} instead of {plain[0]!r}")
    if set(config.get("layer_types") or ()) - {"full_attention"}:
        raise Unlike("layers that see only some of what stands before")
    values = {}
    for ours, (theirs, default) in family.fields.items():
        value = config.get(theirs)
        values[ours] = default if value is None else value
    values |= family.read(config)
    if there := {place for key, places in family.biases.items() if config.get(key) for place in places}:
        values |= {"bias": True, "bias_at": ",".join(place for place in PLACES if place in there)}
    return values


def config_of(family: Family, shape: GLMConfig) -> dict[str, Any]:
    """What a family's config.json says of a shape; it need not be all, see differing."""
    biases, reached = {}, set()
    for key, places in family.biases.items():
        biases[key] = any(shape.has_bias(place) for place in places if place not in reached)
        reached.update(places)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **{theirs: resolved(shape, ours) for ours, (theirs, _) in family.fields.items()},
        **{key: plain[0] for key, plain in family.plain.items() if plain[0] is not None},
        **biases,
        **family.tell(shape),
    }


def told_back(family: Family, shape: GLMConfig) -> tuple[Family, GLMConfig]:
    """What a family's config.json that is told of a shape describes, see shape_of; where it has biases, for one."""
    return shape_of(config_of(family, shape), family.title)


def resolved(shape: GLMConfig, name: str):
    """The value of a field of a shape, with what 0 stands for in its place."""
    properties = {"n_kv_head": "kv_heads", "head_dim": "head_size", "n_inner": "inner", "attention_scale": "scale"}
    return getattr(shape, properties.get(name, name))


def differing(family: Family, shape: GLMConfig) -> list[str]:
    """The fields of a shape that a family's config.json cannot tell: read again, it says something else."""
    try:
        told_family, told = told_back(family, shape)
    except (UserError, ArithmeticError):
        return [each.name for each in fields(shape)]
    names = {each.name for each in fields(shape)} - {"dropout", "zero_init", "bias", "bias_at"}
    if shape.positions != "rope":
        names = {name for name in names if not name.startswith("rope_")}
    found = [name for name in sorted(names) if not alike(resolved(shape, name), resolved(told, name))]
    places = [{place for place in PLACES if each.has_bias(place)} for each in (shape, told)]
    biased = places[0] <= places[1] if family.filled else places[0] == places[1]
    return found + ["bias_at"] * (not biased or told_family is not family)


def alike(one, other) -> bool:
    """Whether two values are the same, numbers as far as arithmetic keeps them."""
    return math.isclose(one, other, rel_tol=1e-6) if isinstance(one, float) else one == other


def folded_shape(shape: GLMConfig) -> GLMConfig:
    """The shape that a model has once its scales and its embedding's norm are folded in, see conversion.folded."""
    untied = shape.embedding_norm or shape.embedding_multiplier != 1 or shape.logits_multiplier != 1
    return replace(shape, **FOLDED, tied=shape.tied and not untied)


def family_of(shape: GLMConfig, preferred: str = "") -> tuple[Family, GLMConfig]:
    """(a family, the shape of its model) that computes what a model of ours of a shape does.

    The shape is the model's own, or that of the folded model. preferred: the title of a family to be tried first.
    Raises UserError where no family fits.
    """
    shapes = (shape, folded_shape(shape))
    first = [family for family in FAMILIES if family.title == preferred]
    trials = [(family, each) for family in first for each in shapes]
    trials += [(family, each) for each in shapes for family in FAMILIES]
    for family, each in trials:
        if not differing(family, each):
            return family, each
    closest = min((differing(family, shapes[1]) for family in FAMILIES), key=len)
    names = ", ".join(f"{name}={getattr(shape, name)}" for name in closest)
    raise UserError(
        f"no architecture of others computes what this model does ({names})", "use --to=onnx, or train another shape"
    )
