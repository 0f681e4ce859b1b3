"""Lesson 11, how far it scales: prints the numbers of 11_scale.md, draws its picture into lessons/out/.

python lessons/11_scale.py
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
from torch.nn import Linear

from configurator import Bounds, Positive, configure
from lessons.drawing import keep, words
from model import GLMConfig, MiniGLM

# -----------------------------------------------------------------------------
card_gb: Positive = 24  # memory of a card, in GB
card_tflops: Annotated[float, Bounds(0.001, 1e5)] = 165.0  # what its maker says it does in bfloat16, in 10^12 a second
used: Annotated[float, Bounds(0.001, 1)] = 0.4  # of that, what a training gets out of it
tokens_a_parameter: Positive = 20  # of training text, after Hoffmann et al. 2022
# -----------------------------------------------------------------------------

GPT2, TODAY = {}, {"norm": "rms", "positions": "rope", "activation": "silu", "gated": True, "bias": False}
SHAPES = {  # {name: (layers, heads, heads of keys and values, width, MLP, vocabulary, tied, what kind)}
    "4M, the demo": (4, 4, 4, 256, 704, 4096, True, TODAY),
    "45M, the report": (6, 8, 8, 512, 2048, 50304, True, GPT2),
    "135M": (30, 9, 3, 576, 1536, 49152, True, TODAY),
    "0.5B": (24, 14, 2, 896, 4864, 151936, True, TODAY),
    "1.1B": (22, 32, 4, 2048, 5632, 32000, False, TODAY),
    "7B": (32, 32, 32, 4096, 11008, 32000, False, TODAY),
}
BYTES = {  # of a parameter
    "talking, 16 bits": 2,
    "talking, 4 bits": 0.5,
    "training all: weights, gradients, two of AdamW, in 32 bits": 16,
    "training LoRA: the frozen model in 16 bits": 2,
    "training QLoRA: the frozen model in 4 bits": 0.5,
}


def outline(layers, heads, kv_heads, width, inner, vocabulary, tied, kind):
    """A model of a shape without its numbers."""
    sizes = {"n_layer": layers, "n_head": heads, "n_kv_head": kv_heads, "n_embd": width, "n_inner": inner}
    return MiniGLM.outline(GLMConfig(vocab_size=vocabulary, tied=tied, **sizes, **kind))


def spoken(seconds):
    """A time in the unit that one would say it in."""
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


configure(globals())

# parameters, tokens, and the time that the arithmetic takes: 6 products a parameter and token
parameters = {}
for name, shape in SHAPES.items():
    parameters[name] = count = outline(*shape).num_parameters()
    tokens = tokens_a_parameter * count
    seconds = 6 * count * tokens / (used * card_tflops * 1e12)
    print(f"{name}: {count:,} parameters, {tokens / 1e9:.2f} billion tokens, {spoken(seconds)} on one card")

# memory
for name, count in parameters.items():
    print(f"{name}: {', '.join(f'{count * size / 1e9:.2f}' for size in BYTES.values())} GB")
figure, axes = plt.subplots(figsize=(9, 4))
for name, size in BYTES.items():
    axes.loglog(
        list(parameters.values()), [count * size / 1e9 for count in parameters.values()], marker="o", label=name
    )
axes.axhline(card_gb, linestyle="--", color="gray", label=words(f"一张 {card_gb} GB 的卡", f"a card of {card_gb} GB"))
axes.set(xlabel=words("参数", "parameters"), ylabel="GB")
axes.legend(fontsize=8)
keep(figure, "11_memory")

# sharing: what of it lies on each of several cards, with what is gathered for the moment: a block, embedding and head
model = outline(*SHAPES["7B"])
count, block = parameters["7B"], sum(parameter.numel() for parameter in model.blocks[0].parameters())
around = count - len(model.blocks) * block  # embedding, head, last norm
layers = [layer for layer in model.blocks.modules() if isinstance(layer, Linear)]
changed = 16 * 8 * sum(layer.in_features + layer.out_features for layer in layers)  # LoRA of rank 8
kinds = {  # {name: (bytes that are kept, bytes that are gathered)}
    "all weights": (16 * count, 4 * (block + around)),
    "LoRA": (4 * count + changed, 4 * (block + around)),
    "QLoRA": (0.52 * (count - around) + 4 * around + changed, 0.52 * block + 4 * around),
}
for name, (held, gathered) in kinds.items():
    two, eight = ((held / cards + gathered) / 1e9 for cards in (2, 8))
    print(f"7B, {name}: {held / 1e9:.1f} GB on 1 card; shared {two:.1f} on each of 2, {eight:.1f} on each of 8")

# the cache of keys and values, while talking
for name, (layers, heads, kv_heads, width, *_) in SHAPES.items():
    print(f"{name}: {2 * 2 * layers * kv_heads * (width // heads) / 1024:.0f} KiB of cache a token in 16 bits")
