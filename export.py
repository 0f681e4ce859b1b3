"""Write a trained model in a form that other programs run.

python export.py --out_dir=out/demo-chat --to=gguf --save_path=sanguo.gguf      # llama.cpp, ollama, LM Studio
python export.py --out_dir=out/demo-chat --to=gguf --save_path=sanguo-q8.gguf --dtype=q8_0
python export.py --out_dir=models/smollm2 --lora=out/me --merge=False --save_path=me.gguf   # llama.cpp's --lora
python export.py --out_dir=out/demo-chat --to=hf --save_path=sanguo             # transformers, peft
python export.py --out_dir=out/demo-chat --to=onnx --save_path=sanguo.onnx      # onnxruntime: phones, browsers
"""

import logging
import warnings
from pathlib import Path
from typing import Literal

import torch

from configurator import FilePath, configure
from miniglm import origin
from miniglm.errors import UserError, refuse
from miniglm.files import replace_whole
from miniglm.hf import DTYPES as HF_DTYPES
from miniglm.hf import write_hf
from miniglm.llama_cpp import write_gguf, write_gguf_adapter

# -----------------------------------------------------------------------------
out_dir: FilePath = "out/demo-chat"  # the trained model
lora: FilePath = ""  # the directory of an adapter to fold in first
merge = True  # False, for gguf: the adapter alone, which llama.cpp puts beside the model's file with --lora
to: Literal["gguf", "hf", "onnx"] = "gguf"  # the form to write
save_path: FilePath = ""  # the file to write; for hf a new folder
# of the matrices: f32 (exact), f16; not for onnx bf16; for gguf q8_0, q4_0 (8, 4 bits in blocks of 32)
dtype: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = "f32"
# -----------------------------------------------------------------------------

DTYPES = {"gguf": ("f32", "f16", "bf16", "q8_0", "q4_0"), "hf": tuple(HF_DTYPES), "onnx": ("f32", "f16")}
LARGEST_ONNX = 2 << 30  # bytes: a file of protocol buffers


class Onnx(torch.nn.Module):
    """A MiniGLM as a graph with the names that optimum gives.

    In: tokens, and the keys and values before them. Out: logits, and the keys and values with theirs.
    """

    class Growing:
        """A LayerCache (see model.py) that begins with given keys and values and grows by joining."""

        def __init__(self, keys, values):
            self.keys, self.values = keys, values

        def append(self, k, v):
            """Join k, v (B, nkv, T, hs) to the others; give all."""
            self.keys, self.values = torch.cat([self.keys, k], 2), torch.cat([self.values, v], 2)
            return self.keys, self.values

    class Cache:
        """A KVCache of them, whose rows end together: padding stands before each one's first token."""

        def __init__(self, starts, layers):
            self.starts, self.layers, self.longest = starts, layers, layers[0].keys.size(2)

        def extend(self, count):
            """The slots of `count` more tokens, (T,)."""
            first, self.longest = self.longest, self.longest + count
            return torch.arange(first, self.longest)

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, past):
        """Logits (B, T, V), and each layer's keys and values (B, nkv, P + T, hs).

        input_ids (B, T) int64; attention_mask (B, P + T) int64, 0 on the padding before a row; past: each layer's keys
        and values (B, nkv, P, hs), one layer's after the other's.
        """
        layers = [self.Growing(keys, values) for keys, values in zip(past[::2], past[1::2])]
        cache = self.Cache((attention_mask == 0).sum(1, keepdim=True), layers)
        logits = self.model.logits(self.model.hidden(input_ids, cache=cache))
        return logits, *(part for layer in cache.layers for part in (layer.keys, layer.values))


def write_onnx(path, model, dtype):
    """Write the model as one ONNX file; any number of rows, tokens and cached positions, also none."""
    import onnx

    config, kind = model.config, torch.float16 if dtype == "f16" else torch.float32
    size = model.num_parameters() * kind.itemsize
    refuse(
        size >= LARGEST_ONNX, f"{size / 2**30:.1f} GiB are too much for an ONNX file", "choose --dtype=f16 or --to=hf"
    )
    each = [f"{layer}.{part}" for layer in range(config.n_layer) for part in ("key", "value")]
    rows, new, before = 2, 3, 5
    shape = (rows, config.kv_heads, before, config.head_size)
    inputs = {
        "input_ids": torch.zeros(rows, new, dtype=torch.int64),
        "attention_mask": torch.ones(rows, before + new, dtype=torch.int64),
        "past": [torch.zeros(shape, dtype=kind) for _ in each],
    }
    batch, length, past, total = (torch.export.Dim(name) for name in ("batch", "sequence", "past", "total"))
    dims = {
        "input_ids": {0: batch, 1: length},
        "attention_mask": {0: batch, 1: total},
        "past": [{0: batch, 2: past} for _ in each],
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            Onnx(model.to(kind)),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dims,
            input_names=["input_ids", "attention_mask", *(f"past_key_values.{name}" for name in each)],
            output_names=["logits", *(f"present.{name}" for name in each)],
            verbose=False,
        )
    assert program is not None  # as dynamo=True gives it
    try:
        onnx.save(program.model_proto, path)
    except ValueError as error:  # the graph's own constants can make it larger than its weights
        raise UserError("the model is too large for an ONNX file", "choose --dtype=f16 or --to=hf") from error


configure(globals())
refuse(dtype not in DTYPES[to], f"--to={to} knows no {dtype}", f"choose --dtype={'|'.join(DTYPES[to])}")
example = "DIR" if to == "hf" else f"FILE.{to}"
refuse(not save_path, "no place to write to is named", f"give one as --save_path={example}")
alone = not merge
refuse(
    alone and (to != "gguf" or not lora), "--merge=False writes an adapter for llama.cpp", "add --to=gguf --lora=DIR"
)
refuse(alone and dtype.startswith("q"), f"an adapter is not written in {dtype}", "choose --dtype=f32|f16|bf16")
loaded = origin.load(out_dir, device="cpu", lora="" if alone else lora)
if to == "hf":
    write_hf(save_path, loaded.model, loaded.tokenizer, loaded.chat, dtype, loaded.family)
else:
    try:
        with replace_whole(save_path) as partial:
            if alone:
                adapter = origin.open_adapter(lora, loaded.model.config, loaded.family)
                write_gguf_adapter(partial, loaded, adapter, dtype)
            elif to == "gguf":
                write_gguf(partial, loaded, dtype)
            else:
                write_onnx(partial, loaded.model, dtype)
    except ImportError as error:
        raise UserError(f"the package {error.name} is not installed", "run pip install -r requirements.txt") from error
size = sum(path.stat().st_size for path in [Path(save_path), *Path(save_path).glob("*")])
print(f"{save_path}: {size / 2**20:.1f} MiB in {dtype}")
