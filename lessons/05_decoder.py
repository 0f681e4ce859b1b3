"""Lesson 5, inside the decoder: prints the numbers of 05_decoder.md, draws its pictures into lessons/out/.

python lessons/05_decoder.py         # its last part looks into the demo's model: make demo
"""

import math
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from configurator import Natural, configure
from lessons.drawing import keep, name_of, words
from lessons.trained import PRETRAINED, trained
from model import GLMConfig, MiniGLM, Rotary, alibi_slopes

# -----------------------------------------------------------------------------
sentence = "玄德曰：“吾得孔明，犹鱼之得水也。”"  # on which attention is looked at
layer: Natural = 2  # of which block
# -----------------------------------------------------------------------------

PARTS = {"wte": "tokens", "wpe": "positions", "attn": "attention", "mlp": "MLP", "ln": "norms"}


class Watching(TorchFunctionMode):
    """A context in which the attention of each block is kept, (heads, T, T) each."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of torch's; of attention, compute once more how much each position looks at which."""
        if func is F.scaled_dot_product_attention:
            q, k = args[0][0], args[1][0]  # (heads, T, hs)
            scores = (q @ k.transpose(-2, -1)) * kwargs["scale"]
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)  # what comes later is not seen
            self.seen.append(scores.masked_fill(hidden, -math.inf).softmax(-1))
        return func(*args, **(kwargs or {}))


configure(globals())
torch.manual_seed(42)

# attention by hand: three positions, one head of two numbers
q, k, v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.eye(3, 2), torch.tensor([[1.0], [2.0], [3.0]])
scores = (q @ k.T) / math.sqrt(2)
weights = scores.masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
for row in range(3):
    seen = " ".join(f"{weight:.2f}" for weight in weights[row, : row + 1])
    print(f"position {row} looks at those up to it with {seen}, and takes {(weights @ v)[row, 0]:.2f}")
same = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0].allclose(weights @ v)
print(f"PyTorch's attention gives the same: {same}")

# positions: a table, turning pairs, scores that fade
figure, panels = plt.subplots(1, 3, figsize=(11, 3))
panels[0].imshow(MiniGLM(GLMConfig(n_layer=1)).transformer["wpe"].weight[:64, :64].detach())
panels[0].set_title(words("学来的表（刚开始是乱的）", "a table, learnt (random at first)"))
rotary = Rotary(GLMConfig(positions="rope", n_embd=64, n_head=1))
cos, sin = (part[:, 0] for part in rotary.at(torch.arange(64), torch.float32))  # (T, hs)
panels[1].imshow(cos)
panels[1].set_title(words("旋转：每对数转得快慢不同", "turning pairs, fast and slow"))
distance = torch.arange(64) - torch.arange(64)[:, None]
panels[2].imshow((alibi_slopes(8)[2] * distance).masked_fill(distance > 0, math.nan))
panels[2].set_title(words("ALiBi：越远减得越多", "ALiBi: less, the further back"))
for axes in panels:
    axes.grid(False)
keep(figure, "05_positions")
x, y = torch.randn(2, 64)
for places in ([5, 2], [105, 102], [105, 2]):
    query, key = rotary(torch.stack([x, y])[None, :, None], *rotary.at(torch.tensor(places), torch.float32))[0, :, 0]
    print(f"at positions {places[0]} and {places[1]}: query times key is {query @ key:.3f}")

# the cache: how many positions are computed for a text of 200 tokens
print(f"positions computed without a cache {sum(range(1, 201)):,}, with one {200:,}")

# where the 45M parameters of the report's model are, and the work of a token
model = MiniGLM.outline(GLMConfig())
counts = Counter()
for name, parameter in model.named_parameters():
    counts[next(title for part, title in PARTS.items() if part in name)] += parameter.numel()
for title, count in counts.items():
    print(f"{title}: {count:,} of {model.num_parameters():,} parameters, {count / model.num_parameters():.1%}")
work = {"attention": counts["attention"], "MLP": counts["MLP"], "next token": counts["tokens"]}
work |= {"looking back": 6 * 512 * 512}
figure, panels = plt.subplots(1, 2, figsize=(8, 2.8))
panels[0].barh(list(counts), [count / 1e6 for count in counts.values()])
panels[0].set_title(words("参数（百万）", "parameters (millions)"))
panels[1].barh(list(work), [count / 1e6 for count in work.values()])
panels[1].set_title(words("一个 token 的乘法（百万）", "products of a token (millions)"))
keep(figure, "05_parameters")

# attention in the demo's model, on a sentence of the book
loaded = trained(PRETRAINED)
if loaded is None:
    raise SystemExit
ids = loaded.tokenizer.encode(sentence)
with torch.inference_mode(), Watching() as watching:
    loaded.model(torch.tensor([ids]))
tokens = [name_of(loaded, each) for each in ids]
for number, seen in enumerate(watching.seen):
    itself, before, first = seen.diagonal(0, 1, 2).mean(), seen.diagonal(-1, 1, 2).mean(), seen[:, 1:, 0].mean()
    print(f"block {number} looks at itself {itself:.0%}, at the token before {before:.0%}, at the first {first:.0%}")
figure, panels = plt.subplots(1, len(watching.seen[layer]), figsize=(14, 3.8))
for head, axes in enumerate(panels):
    axes.imshow(watching.seen[layer][head], cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(tokens)), tokens, fontsize=6, rotation=90)
    axes.set_yticks(range(len(tokens)), tokens, fontsize=6)
    axes.set_title(words(f"第 {layer} 层第 {head} 个头", f"block {layer}, head {head}"))
keep(figure, "05_attention")
