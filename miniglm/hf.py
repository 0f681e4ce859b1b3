"""Hugging Face folders of the GPT-2 family: read the weights that others trained, write ours for transformers.

Such a folder holds config.json, model.safetensors (or several, with an index) and the tokenizer's files. Nothing in it
is executed and nothing is fetched.
"""

import dataclasses
import re
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from miniglm.errors import UserError, refuse
from miniglm.files import is_plain_name, new_folder, read_json, write_json, write_whole
from miniglm.tokenizer import END, FAST_FILE, Tokenizer, WordPiece, chat_template
from model import GLMConfig, MiniGLM

CONFIG, TEMPLATE = "config.json", "chat_template.jinja"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# transformers stores these the other way round: (in_features, out_features)
TURNED = re.compile(r"transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask, which older files hold
SIZES = {"n_positions": 1024, "vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_embd": 768}  # config.json's defaults
# What a GPT-2 of theirs can be told to compute otherwise, and the values that mean what our model computes.
PLAIN = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def is_hf(folder):
    """Whether a directory is a Hugging Face folder: its config.json tells of a model type."""
    path = Path(folder, CONFIG)
    return path.is_file() and "model_type" in read_json(path, "copy the folder again")


def read_hf(folder):
    """(checkpoint, tokenizer) of a Hugging Face folder: the model's float32 weights and shape as checkpoint.py has them.

    Raises UserError.
    """
    config = read_json(Path(folder, CONFIG), "give a Hugging Face folder")
    kind = config.get("model_type")
    refuse(kind != "gpt2", f"{folder} holds a model of the type {str(kind)[:50]!r}", "choose one of the GPT-2 family")
    n_inner = config.get("n_inner")
    for key, plain in PLAIN.items():
        value = config.get(key, plain[0])
        refuse(value not in plain, f"{folder} has {key} {str(value)[:50]!r}", f"choose a GPT-2 with {plain[0]!r}")
    block_size, *sizes = (config.get(name, default) for name, default in SIZES.items())
    proper = all(type(size) is int and 0 < size < 1 << 20 for size in (block_size, *sizes))
    proper = proper and sizes[3] % sizes[2] == 0 and n_inner in (None, 4 * sizes[3])
    refuse(not proper, f"{folder}/{CONFIG} tells of no GPT-2", "copy the folder again")
    shape = GLMConfig(block_size, *sizes)
    tensors = {}
    for path in weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                names = file.keys()
                found = {f"transformer.{name.removeprefix('transformer.')}": name for name in names}
                tensors |= {ours: file.get_tensor(name) for ours, name in found.items() if not BUFFER.fullmatch(ours)}
        except Exception as error:  # safetensors' own kind, and torch's
            raise UserError(f"{path} is cut off or damaged", "copy the folder again") from error
    weights = ours_of(tensors, shape, folder)
    tokenizer = Tokenizer.load(folder)
    refuse(
        tokenizer.vocab_size > shape.vocab_size,
        f"the tokenizer in {folder} has {tokenizer.vocab_size:,} ids, the model {shape.vocab_size:,}",
        "copy the folder again",
    )
    chat = Path(folder, TEMPLATE).is_file() and Path(folder, TEMPLATE).read_text(
        encoding="utf-8", errors="replace"
    ) == chat_template(end_of(tokenizer))
    plain = {"settings": {}, "chat": chat, "searches": False, "iter_num": 0, "optimizers": []}
    return plain | {"model": weights, "model_args": dataclasses.asdict(shape)}, tokenizer


def weight_files(folder):
    """The safetensors files of a folder, a list of paths."""
    whole, index = Path(folder, WEIGHTS), Path(folder, INDEX)
    if whole.is_file() or not index.is_file():
        others = ", ".join(sorted(path.name for path in Path(folder).glob("*.bin"))[:3])
        there = f"{folder} holds no {WEIGHTS}" + (f", only {others}" if others else "")
        refuse(not whole.is_file(), there, "copy the folder again, or save the model as safetensors")
        return [whole]
    names = read_json(index, "copy the folder again").get("weight_map")
    proper = isinstance(names, dict) and names and all(isinstance(n, str) and is_plain_name(n) for n in names.values())
    refuse(not proper, f"{index} is broken", "copy the folder again")
    paths = [Path(folder, name) for name in sorted(set(names.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    refuse(missing, f"{folder} lacks {', '.join(missing[:3])}", "copy the folder again")
    return paths


def ours_of(tensors, shape, folder):
    """Our model's state dict from theirs; `shape` is what config.json tells. Raises UserError, which names `folder`."""
    head = tensors.pop("transformer.lm_head.weight", None)
    tied = tensors.get("transformer.wte.weight")
    refuse(
        head is not None and (tied is None or head.shape != tied.shape or not head.equal(tied)),
        f"{folder} has an lm_head of its own",
        "choose a GPT-2 whose lm_head is its embedding",
    )
    with torch.device("meta"):  # takes no memory, whatever shape is told
        expected = {
            name: weight.shape for name, weight in MiniGLM(dataclasses.replace(shape, n_layer=1)).state_dict().items()
        }
    del expected["lm_head.weight"]
    first = {name: size for name, size in expected.items() if ".h.0." in name}
    for layer in range(min(shape.n_layer, len(tensors) + 1)):  # one of them must be missing beyond
        expected |= {name.replace(".h.0.", f".h.{layer}."): size for name, size in first.items()}
    lacking, strange = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    for names, what in ((lacking, "lacks the weights"), (strange, "has weights that no GPT-2 of its shape has:")):
        refuse(names, f"{folder} {what} {', '.join(names)[:100]} ({len(names)})", "copy the folder again")
    weights = {}
    for name, size in expected.items():
        stored = tensors.pop(name)
        weight = stored.t() if TURNED.fullmatch(name) and stored.dim() == 2 else stored
        proper = weight.shape == size and weight.is_floating_point()
        shown = f"{name} of {folder} is {tuple(stored.shape)} in {stored.dtype}"
        refuse(not proper, f"{shown}, which does not fit {CONFIG}", "copy the folder again")
        weights[name] = weight.float().contiguous()
    return weights | {"lm_head.weight": weights["transformer.wte.weight"]}


def end_of(tokenizer):
    """The text of the token that ends an answer."""
    return WordPiece.END if isinstance(tokenizer, WordPiece) else END


def write_hf(path, model, tokenizer, chat, dtype):
    """Write model and tokenizer as a folder that AutoModelForCausalLM and AutoTokenizer open.

    dtype: of the weights, f32, f16 or bf16. A model trained without biases gets zeros, which GPT-2 has.
    """
    shape, end, end_id = model.config, end_of(tokenizer), tokenizer.end_id
    weights = dict(model.state_dict())
    del weights["lm_head.weight"]
    for name in [name for name in weights if name.endswith(".weight") and f"{name[:-6]}bias" not in weights]:
        if weights[name].dim() == 1 or TURNED.fullmatch(name):
            weights[f"{name[:-6]}bias"] = torch.zeros(len(weights[name]))
    weights = {
        name: (weight.t() if TURNED.fullmatch(name) else weight).to(DTYPES[dtype]).contiguous()
        for name, weight in weights.items()
    }
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": shape.block_size,
        **{name: getattr(shape, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")},
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout),
        "tie_word_embeddings": True,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_id),
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
    }
    with new_folder(path) as folder:
        try:
            save_file(weights, folder / WEIGHTS, {"format": "pt"})
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}", "free some space or choose another place") from error
        write_json(folder / CONFIG, config)
        write_json(
            folder / "generation_config.json", dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_id)
        )
        with write_whole(folder / FAST_FILE) as file:
            file.write(tokenizer.to_fast().to_str(pretty=True))
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.block_size}
        about |= {"bos_token": end, "eos_token": end, "pad_token": end, "clean_up_tokenization_spaces": False}
        write_json(folder / "tokenizer_config.json", about)
        if chat:
            with write_whole(folder / TEMPLATE) as file:
                file.write(chat_template(end))
