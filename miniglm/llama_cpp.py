"""GGUF, llama.cpp's form of a model: our models written for it, and its files read into a folder of others' form."""

from typing import Any

import numpy as np
import torch

from miniglm.conversion import gguf_adapter, gguf_tensors, neighbours_order
from miniglm.errors import UserError, refuse
from miniglm.families import LLAMA, QWEN2, QWEN3, Family, config_of, family_of, module_names
from miniglm.foreign import CONFIG_FILE, OF_LLAMA3, OF_QWEN, Fast, Foreign, Pieces, Ranks
from miniglm.lora import Adapter, refuse_another_base
from miniglm.origin import Loaded
from miniglm.template import chat_template
from miniglm.tokenizer import Tokenizer, merges_of, visible
from model import GLMConfig

READ = (LLAMA, QWEN2, QWEN3)  # whose GGUF files are read, too
SCALED = ("Granite", "MiniCPM")  # families whose multipliers llama.cpp knows
CUTS = {OF_QWEN: "qwen2", OF_LLAMA3: "llama-bpe"}  # what it calls how words are cut


def write_gguf(path, loaded: Loaded, dtype: str):
    """Write a Loaded model as one GGUF file, tokenizer included, of the architecture that computes what it does.

    dtype: of the matrices, f32, f16, bf16, q8_0 or q4_0. Raises UserError where llama.cpp knows no such model.
    """
    import gguf

    family, config = family_of(loaded.model.config, loaded.family)
    refuse(not family.llama_cpp, f"llama.cpp knows no {family.title}", "choose --to=hf or --to=onnx")
    writer = gguf.GGUFWriter(path, family.llama_cpp)
    writer.add_name("MiniGLM")
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    if config.norm == "rms":
        writer.add_layer_norm_rms_eps(config.norm_eps)
    else:
        writer.add_layer_norm_eps(config.norm_eps)
    if config.positions == "rope":
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_rope_dimension_count(config.rotated)
        if config.scaling[0] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.scaling[1][0])
    if family.title in SCALED:
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(1 / config.logits_multiplier)
        writer.add_attention_scale(config.scale)
    for key, value in tokenizer_told(loaded, config.vocab_size).items():
        getattr(writer, f"add_{key}")(value)
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, tensor, exact in gguf_tensors(loaded.model, loaded.family):
        # As llama.cpp's own converter does: vectors and positions stay exact, what no block divides becomes f16.
        fitting = kind if tensor.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16
        used = gguf.GGMLQuantizationType.F32 if exact else fitting
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), used), raw_dtype=used)
    finish(writer)


def write_gguf_adapter(path, loaded: Loaded, adapter: Adapter, dtype: str):
    """Write an adapter on a Loaded model as a GGUF file of its own, for llama.cpp's --lora beside the model's.

    dtype: f32, f16 or bf16. Raises UserError where it belongs to another model, or llama.cpp knows no such model.
    """
    import gguf

    refuse_another_base(adapter, loaded.model.state_dict())
    family, _ = family_of(loaded.model.config, loaded.family)
    refuse(not family.llama_cpp, f"llama.cpp knows no {family.title}", "choose --to=hf or --to=onnx")
    writer = gguf.GGUFWriter(path, family.llama_cpp)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    for name, part in gguf_adapter(adapter.layers, loaded.model.config, loaded.family):
        writer.add_tensor(name, gguf.quants.quantize(part.contiguous().numpy(), kind), raw_dtype=kind)
    finish(writer)


def finish(writer):
    """Write all that a GGUFWriter was told, and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenizer_told(loaded: Loaded, vocab_size: int) -> dict[str, Any]:
    """What a GGUF file says of a tokenizer: {what GGUFWriter calls it: its value}. Raises UserError."""
    from gguf import TokenType as kinds

    tokenizer = loaded.tokenizer
    if isinstance(tokenizer, Tokenizer):
        told = of_pairs([*map(visible, tokenizer.ranks), tokenizer.end], tokenizer.merges(), "gpt-2")
        control, added = {tokenizer.end_id}, set()
    elif isinstance(tokenizer, Foreign):
        told, control = of_foreign(tokenizer), set(tokenizer.special)
        added = tokenizer.engine.added
    else:
        raise UserError("llama.cpp runs no GPT-2 with a BERT vocabulary", "choose --to=hf or --to=onnx")
    tokens: list[str] = told["token_list"]
    types = told.pop("token_types", None) or [
        kinds.CONTROL if number in control else kinds.USER_DEFINED if number in added else kinds.NORMAL
        for number in range(len(tokens))
    ]
    padding = range(len(tokens), vocab_size)  # rows of the embedding that stand for no token
    told["token_list"] = tokens + [f"[PAD{number}]" for number in padding]
    told["token_types"] = types + [kinds.UNUSED] * len(padding)
    begins = tokenizer.start_ids[0] if tokenizer.start_ids else tokenizer.end_id
    told |= {"bos_token_id": begins, "add_bos_token": bool(tokenizer.start_ids), "eos_token_id": tokenizer.end_id}
    if len(tokenizer.end_ids) > 1:
        told["eot_token_id"] = next(end for end in tokenizer.end_ids if end != tokenizer.end_id)
    if "token_scores" in told:
        told["token_scores"] += [0.0] * len(padding)
    if loaded.chat:
        told["chat_template"] = tokenizer.template.source if tokenizer.template else chat_template(tokenizer.end)
    return told


def of_pairs(tokens: list[str], merges: list[tuple[bytes, bytes]], cut: str) -> dict[str, Any]:
    """A byte-level BPE. tokens: in visible characters. cut: what llama.cpp calls how it cuts words."""
    joined = [f"{visible(left)} {visible(right)}" for left, right in merges]
    return {"tokenizer_model": "gpt2", "tokenizer_pre": cut, "token_list": tokens, "token_merges": joined}


def of_foreign(tokenizer: Foreign) -> dict[str, Any]:
    """A tokenizer of others, see tokenizer_told. Raises UserError."""
    from gguf import TokenType as kinds

    engine = tokenizer.engine
    unknown = UserError("llama.cpp does not know how this tokenizer cuts words", "choose --to=hf or --to=onnx")
    if isinstance(engine, Pieces):
        return of_pieces(engine, kinds)
    if isinstance(engine, Ranks):
        texts = [visible(engine.tokens[number]) if number in engine.tokens else "" for number in range(engine.size)]
        for text, number in engine.special.items():
            texts[number] = text
        tokens = [text or f"[UNUSED{number}]" for number, text in enumerate(texts)]
        return of_pairs(tokens, merges_of(engine.ranks), CUTS[engine.pattern])
    assert isinstance(engine, Fast)
    described = engine.described
    vocabulary: dict[str, int] = described["model"]["vocab"]
    texts = {number: piece for piece, number in vocabulary.items()}
    texts |= {token["id"]: token["content"] for token in described.get("added_tokens") or ()}
    tokens = [texts.get(number, f"[UNUSED{number}]") for number in range(engine.size)]
    if engine.byte_level:
        cut = cut_of(described.get("pre_tokenizer") or {})
        if not cut:
            raise unknown
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in described["model"]["merges"]]
        return {"tokenizer_model": "gpt2", "tokenizer_pre": cut, "token_list": tokens, "token_merges": merges}
    if described["model"].get("type") == "Unigram":
        raise unknown
    byte = [f"<0x{number:02X}>" in vocabulary for number in range(256)]
    types = [kinds.NORMAL] * engine.size
    for number in engine.special.values():
        types[number] = kinds.CONTROL
    for number in range(256):
        if byte[number]:
            types[vocabulary[f"<0x{number:02X}>"]] = kinds.BYTE
    # It joins what has the highest score first: pieces stand in the order in which they were learnt.
    scores = [-float(number) for number in range(engine.size)]
    return {
        "tokenizer_model": "llama", "tokenizer_pre": "default", "token_list": tokens, "token_scores": scores,
        "token_types": types, "add_space_prefix": engine.prefixes,
    }  # fmt: skip


def of_pieces(engine: Pieces, kinds) -> dict[str, Any]:
    """sentencepiece's own file, see tokenizer_told."""
    model, tokens, scores, types = engine.model, [], [], []
    for number in range(model.get_piece_size()):
        tokens.append(model.id_to_piece(number))
        scores.append(model.get_score(number))
        of_bytes, unknown, control = model.is_byte(number), model.is_unknown(number), model.is_control(number)
        kind = kinds.BYTE if of_bytes else kinds.UNKNOWN if unknown else kinds.CONTROL if control else kinds.NORMAL
        types.append(kind)
    more = {number: text for text, number in engine.special.items() if number >= len(tokens)}
    for number in range(len(tokens), engine.size):
        tokens.append(more.get(number, f"[UNUSED{number}]"))
        scores.append(0.0)
        types.append(kinds.CONTROL)
    return {
        "tokenizer_model": "llama", "tokenizer_pre": "default", "token_list": tokens, "token_scores": scores,
        "token_types": types, "add_space_prefix": True,
    }  # fmt: skip


def cut_of(described: dict) -> str:
    """What llama.cpp calls the way in which a tokenizer.json cuts words; "" for one that it does not know."""
    steps = described.get("pretokenizers") or [described]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        return CUTS.get((steps[0].get("pattern") or {}).get("Regex", ""), "")
    return ""


PRE_TOKENIZERS = {  # the same way round
    "gpt-2": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
    **{
        name: [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]
        for pattern, name in CUTS.items()
    },
}


def read_gguf(path) -> tuple[dict, dict[str, torch.Tensor], dict[str, dict]]:
    """(config.json's content, weights in bfloat16, {file name: content} of the tokenizer) of a model in a GGUF file.

    Names are those of its family; weights in fewer bits are made whole. Raises UserError for a file that is none, or of
    another family or tokenizer.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        told = {name: field.contents() for name, field in reader.fields.items()}
        architecture = told["general.architecture"]
        told |= {name.removeprefix(f"{architecture}."): value for name, value in told.items()}
        family = next((family for family in READ if family.llama_cpp == architecture), None)
        if family is None:
            raise UserError(f"{path} holds a model that llama.cpp calls {architecture!r}", "choose a Llama or a Qwen")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        shape = shape_in(told, family, tensors)
        weights = {}
        names = [name for name, _ in named_modules(family, shape)]
        for name, theirs in named_modules(family, shape):
            for part in ("weight", "bias"):
                tensor = tensors.get(f"{name}.{part}")
                if tensor is None:
                    continue
                values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
                if family.gguf_pairs == "neighbours" and name.endswith(("attn_q", "attn_k")):
                    values = values[neighbours_order(len(values), shape).argsort()]
                weights[f"{theirs}.{part}"] = values.bfloat16().contiguous()
        strange = [name for name in tensors if name.rpartition(".")[0] not in names]
        refuse(strange, f"{path} has tensors that no {family.title} has: {', '.join(strange)[:100]}", "choose another")
        config = {**config_of(family, shape), "dtype": "bfloat16", "eos_token_id": told["tokenizer.ggml.eos_token_id"]}
        return config, weights, tokenizer_in(told)
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is no GGUF file that MiniGLM reads", "fetch it again") from error


def shape_in(told: dict, family: Family, tensors: dict) -> GLMConfig:
    """The shape that the metadata of a GGUF file tells."""
    sizes: dict[str, Any] = {
        "block_size": told["context_length"],
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "n_layer": told["block_count"],
        "n_head": told["attention.head_count"],
        "n_kv_head": told.get("attention.head_count_kv", 0),
        "n_embd": told["embedding_length"],
        "head_dim": told.get("attention.key_length", 0),
        "n_inner": told["feed_forward_length"],
        "norm_eps": round(told["attention.layer_norm_rms_epsilon"], 10),
        "rope_theta": told.get("rope.freq_base", 10000.0),
        "tied": "output.weight" not in tensors,
    }
    return GLMConfig(**{**family.knobs, **sizes})


def named_modules(family: Family, shape: GLMConfig) -> list[tuple[str, str]]:
    """[(llama.cpp's name, the family's own)] of all modules of a model."""
    pairs = []
    ours = {pattern.format(number): None for pattern in family.gguf for number in range(shape.n_layer)}
    for module in ours:
        pairs += zip(module_names(family.gguf, module), module_names(family.modules, module), strict=True)
    return pairs


def tokenizer_in(told: dict) -> dict[str, dict]:
    """{file name: content} of the tokenizer in a GGUF file. Raises UserError."""
    cut = told.get("tokenizer.ggml.pre", "gpt-2")
    known = told["tokenizer.ggml.model"] == "gpt2" and cut in PRE_TOKENIZERS
    what = f"the tokenizer of the GGUF file cuts words in the way {cut!r}"
    refuse(not known, what, f"choose a model with one of {', '.join(PRE_TOKENIZERS)}")
    tokens, types = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    added = [
        {
            "id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": types[number] == 3,
        }
        for number, text in enumerate(tokens)
        if types[number] in (3, 4)
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[cut]},
        "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": cut == "llama-bpe",
            "vocab": {text: number for number, text in enumerate(tokens)},
            "merges": [pair.split(" ") for pair in told["tokenizer.ggml.merges"]],
        },
    }  # fmt: skip
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": told["context_length"]}
    for name in ("bos", "eos"):
        if f"tokenizer.ggml.{name}_token_id" in told:
            about[f"{name}_token"] = tokens[told[f"tokenizer.ggml.{name}_token_id"]]
    if "tokenizer.chat_template" in told:
        about["chat_template"] = told["tokenizer.chat_template"]
    return {"tokenizer.json": content, CONFIG_FILE: about | {"clean_up_tokenization_spaces": False}}
