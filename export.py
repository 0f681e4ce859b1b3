"""Write a trained model in a form that other programs run: GGUF, for llama.cpp and what is built on it (ollama, LM Studio).

python export.py --out_dir=out/demo-chat --to=gguf --save_path=sanguo.gguf
python export.py --out_dir=out/demo-chat --to=gguf --save_path=sanguo-q8.gguf --dtype=q8_0
"""

from pathlib import Path

import numpy as np

from checkpoint import load_model
from configurator import configure
from errors import UserError, require
from files import replace_whole
from tokenizer import END, chat_template

# -----------------------------------------------------------------------------
out_dir = "out/demo-chat"  # the trained model
to = "gguf"  # the form to write
save_path = ""  # the file to write
dtype = "f32"  # of the matrices: f32 (exact), f16, bf16, q8_0 or q4_0 (8 and 4 bits in blocks of 32)
# -----------------------------------------------------------------------------

BLOCK_NAMES = {  # our modules' names within a block, and llama.cpp's
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)
}  # how GPT-2's vocabulary files write a byte as a visible character


def visible(token):
    """The bytes of a token as GPT-2's vocabulary files write them."""
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


def gguf_tensors(model):
    """(llama.cpp's name, float32 array) of each tensor. A layer trained without biases gets zeros, which it expects."""
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    yield "token_embd.weight", weights["transformer.wte.weight"]
    yield "position_embd.weight", weights["transformer.wpe.weight"]
    modules = {"transformer.ln_f": "output_norm"} | {
        f"transformer.h.{layer}.{ours}": f"blk.{layer}.{theirs}"
        for layer in range(model.config.n_layer)
        for ours, theirs in BLOCK_NAMES.items()
    }
    for ours, theirs in modules.items():
        weight = weights[f"{ours}.weight"]
        yield f"{theirs}.weight", weight
        yield f"{theirs}.bias", weights.get(f"{ours}.bias", np.zeros(len(weight), dtype=np.float32))


def write_gguf(path, model, tokenizer, chat, dtype):
    """Write model and tokenizer as one GGUF file of llama.cpp's architecture `gpt2`."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name("MiniGLM")
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(model.transformer.ln_f.eps)
    padding = range(tokenizer.vocab_size, config.vocab_size)  # rows of the embedding that stand for no token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*map(visible, tokenizer.ranks), END, *(f"[PAD{token}]" for token in padding)])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.NORMAL] * len(tokenizer.ranks) + [kinds.CONTROL] + [kinds.UNUSED] * len(padding))
    writer.add_token_merges([f"{visible(left)} {visible(right)}" for left, right in tokenizer.merges()])
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_add_bos_token(False)
    if chat:
        writer.add_chat_template(chat_template())
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, tensor in gguf_tensors(model):
        # As llama.cpp's own converter does: vectors and positions stay exact, what no block divides becomes f16.
        exact = tensor.ndim == 1 or name.startswith("position")
        fitting = kind if tensor.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16
        used = gguf.GGMLQuantizationType.F32 if exact else fitting
        writer.add_tensor(name, gguf.quants.quantize(tensor, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


configure(globals(), choices={"to": ("gguf",), "dtype": ("f32", "f16", "bf16", "q8_0", "q4_0")})
require(save_path, "no file to write is named", "give one as --save_path=FILE.gguf")
model, tokenizer, config = load_model(out_dir, device="cpu")
try:
    with replace_whole(save_path) as partial:
        write_gguf(partial, model, tokenizer, config["chat"], dtype)
except ImportError as error:
    raise UserError("the package gguf is not installed", "run pip install -r requirements.txt") from error
print(f"{save_path}: {Path(save_path).stat().st_size / 2**20:.1f} MiB in {dtype}")
