"""MiniGLM: a decoder-only transformer, its training loss and its cache of keys and values.

It knows tensors and its own configuration: no files, no text, no sampling. What kind of decoder it is, GPT-2's of 2019
or one of today's, its configuration says: each part is picked from a small table, and none asks for a family's name.

Shapes in the comments: B rows, T positions, C = n_embd, nh heads of hs = head_dim, nkv of them with keys and values,
V = vocab_size.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
import torch.nn as nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

LARGEST = 1 << 31  # a number of a configuration
CHOICES = {
    "norm": ("layer", "rms"),
    "activation": ("gelu", "gelu_tanh", "silu", "relu2"),
    "positions": ("learned", "rope", "alibi"),
    "rope_pairs": ("halves", "neighbours"),
}
LONGEST_APART = 1024  # positions of which all scores are kept, see MiniGLM._view
INTEL = "Intel" in str(torch.cpu.get_capabilities().get("cpu_name"))  # whose own library it is that computes products
FEW = range(9 if INTEL else 1, 33)  # rows of which a CPU computes products otherwise, see linear
PLACES = ("attention", "output", "mlp", "norm")  # of biases: queries, keys and values; what follows them; MLP; norms


@dataclass
class GLMConfig:
    """The shape of a model. The defaults are the report's, GPT-2's block: 45M parameters with GPT-2's vocabulary.

    Raises ValueError where a value cannot be, or sizes and knobs do not go together; its message says what and, behind
    the last semicolon, what to do.
    """

    block_size: int = 512  # the longest context, in tokens
    vocab_size: int = 50304  # GPT-2's 50257, rounded up to a multiple of 64
    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 512
    dropout: float = 0.0
    bias: bool = True  # whether there are biases at the places that bias_at names
    bias_at: str = ",".join(PLACES)
    n_kv_head: int = 0  # heads of keys and values, each for a group of queries; 0: n_head
    head_dim: int = 0  # 0: n_embd / n_head
    n_inner: int = 0  # the MLP's width; 0: 4 n_embd, or with a gate 8/3 n_embd, rounded up to a multiple of 64
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    norm_weight: bool = True  # norms have weights
    embedding_norm: bool = False  # a norm on the tokens' embedding
    previous_token: bool = False  # the embedding of the token before is added, at other places: copying comes early
    qk_norm: bool = False  # a norm on each head's queries and keys
    post_norms: bool = False  # norms on what attention and MLP add, too
    parallel: bool = False  # attention and MLP read the same norm, side by side
    activation: Literal["gelu", "gelu_tanh", "silu", "relu2"] = "gelu_tanh"
    gated: bool = False  # the activation of one product times another
    positions: Literal["learned", "rope", "alibi"] = "learned"
    rope_theta: float = 10000.0  # the slowest pair turns once in 2 pi theta tokens
    rope_share: float = 1.0  # of a head's numbers that turn
    rope_pairs: Literal["halves", "neighbours"] = "halves"  # which two of them turn together
    rope_scaling: str = ""  # linear:FACTOR, or llama3:FACTOR,LOW,HIGH,CONTEXT
    attention_scale: float = 0.0  # of queries times keys; 0: 1 / sqrt(head_dim)
    zero_init: bool = False  # what adds to the residual stream starts from zero
    tied: bool = True  # the head's weight is the embedding
    head_bias: bool = False
    value_head: bool = False  # each position gets a number, too: of a reward model a score, of a critic what it expects
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0  # of what attention and MLP add
    logits_multiplier: float = 1.0

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            if type(each.default) is float and type(value) is int:
                setattr(self, each.name, value := float(min(value, LARGEST)))
            fits = type(value) is type(each.default) and (type(value) not in (int, float) or 0 <= value < LARGEST)
            if not fits:
                raise ValueError(f"{each.name} cannot be {str(value)[:50]!r}; give one like {each.default!r}")
        if 0 in (self.block_size, self.vocab_size, self.n_layer, self.n_head, self.n_embd) or self.dropout >= 1:
            raise ValueError("a model of no size, or one that drops all; give larger sizes, or a smaller --dropout")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} cannot be {getattr(self, name)[:50]!r}; choose one of {', '.join(known)}")
        if not self.head_dim and self.n_embd % self.n_head:
            raise ValueError(
                f"--n_embd={self.n_embd} cannot be shared by {self.n_head} heads; choose --n_head as a divisor"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(f"{self.n_head} heads cannot share {self.kv_heads}; choose --n_kv_head as a divisor")
        if self.positions == "rope":
            self._check_rope()
        if unknown := set(self.bias_at.split(",")) - {*PLACES, ""}:
            raise ValueError(f"--bias_at names {', '.join(sorted(unknown))}; choose some of {', '.join(PLACES)}")
        if self.parallel and self.post_norms:
            raise ValueError("a parallel block has no norms behind; choose --parallel or --post_norms")

    def _check_rope(self):
        """Raise ValueError where rotary positions cannot be."""
        if self.rotated % 2 or not 0 < self.rotated <= self.head_size:
            raise ValueError(
                f"rotary positions turn pairs, {self.rotated} of {self.head_size} numbers of a head are none;"
                " choose another --head_dim or --rope_share"
            )
        if self.rope_theta < 1:
            raise ValueError(f"a theta of {self.rope_theta} cannot be; choose a --rope_theta of 1 or more")
        self.scaling  # noqa: B018, it raises

    @property
    def scaling(self) -> tuple[str, list[float]]:
        """(kind, numbers) of rope_scaling; ("", []) for none. Raises ValueError where it is not known."""
        kind, _, numbers = self.rope_scaling.partition(":")
        try:
            values = [float(number) for number in numbers.split(",") if number]
        except ValueError:
            values = []
        wanted = {"": 0, "linear": 1, "llama3": 4}.get(kind, -1)
        sensible = all(0 < value < LARGEST for value in values) and (kind != "llama3" or values[1:2] < values[2:3])
        if len(values) != wanted or not sensible:
            raise ValueError(f"--rope_scaling={self.rope_scaling[:50]} is not known; see train.py --help")
        return kind, values

    @property
    def head_size(self) -> int:
        """The numbers of a head, hs."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """The heads of keys and values, nkv."""
        return self.n_kv_head or self.n_head

    @property
    def inner(self) -> int:
        """The MLP's width."""
        return self.n_inner or (math.ceil(8 * self.n_embd / 3 / 64) * 64 if self.gated else 4 * self.n_embd)

    @property
    def rotated(self) -> int:
        """How many of a head's numbers turn with the position."""
        return round(self.head_size * self.rope_share)

    @property
    def scale(self) -> float:
        """Of queries times keys."""
        return self.attention_scale or self.head_size**-0.5

    def has_bias(self, place: str) -> bool:
        """Whether there are biases at one of PLACES."""
        return self.bias and place in self.bias_at.split(",")


def rope_frequencies(config: GLMConfig) -> torch.Tensor:
    """How far each pair turns a token, (rotated / 2,) float32, in radians."""
    exponents = torch.arange(0, config.rotated, 2, device="cpu").float() / config.rotated
    frequencies = config.rope_theta**-exponents
    kind, values = config.scaling
    if kind == "linear":
        (factor,) = values
        return frequencies / factor
    if kind == "llama3":  # the slow ones are slowed down, those between gradually (Llama 3.1's own rule)
        factor, low, high, context = values
        turns = context * frequencies / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / factor)
    return frequencies


def make_norm(config: GLMConfig, size: int) -> nn.Module:
    """A norm over the last `size` numbers (Ba et al. 2016, arXiv:1607.06450; Zhang and Sennrich 2019, 1910.07467)."""
    if config.norm == "rms":
        return nn.RMSNorm(size, config.norm_eps, elementwise_affine=config.norm_weight)
    return nn.LayerNorm(size, config.norm_eps, config.norm_weight, bias=config.has_bias("norm"))


# GPT-2's tanh form of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415); ReLU squared is So et al.'s (2109.08668)
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
}


class Rotary(nn.Module):
    """Rotary positions: pairs of a head's numbers turn with the position (Su et al. 2021, arXiv:2104.09864)."""

    def __init__(self, config):
        super().__init__()
        self.halves, self.rotated, self.all = config.rope_pairs == "halves", config.rotated, config.rope_share == 1
        self.frequencies = rope_frequencies(config)  # no buffer: it would become bfloat16 with the weights

    def at(self, positions, dtype):
        """(cos, sin) for positions (T,) or (B, T): (..., T, 1, rotated), the same for every head.

        sin has the sign with which each number takes its partner.
        """
        angles = positions[..., None, None].float() * self.frequencies.to(positions.device)  # (..., T, 1, pairs)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        if self.halves:  # number i turns with number i + pairs
            return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return cos.repeat_interleave(2, -1), torch.stack([-sin, sin], -1).flatten(-2)  # 2 i with 2 i + 1

    def forward(self, x, cos, sin):
        """x (B, T, heads, hs), turned."""
        turning = x if self.all else x[..., : self.rotated]
        if self.halves:
            partners = turning.roll(self.rotated // 2, -1)
        else:
            partners = turning.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        turned = torch.addcmul(turning * cos, partners, sin)
        return turned if self.all else torch.cat([turned, x[..., self.rotated :]], -1)


def alibi_slopes(heads: int) -> torch.Tensor:
    """How much less each head sees of a token a place further back, (heads,) (Press et al. 2021, arXiv:2108.12409)."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return torch.tensor(slopes)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that draws a byte a number: on a CPU the drawing is the dear part of it."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        """x with about this share of its numbers zero, and the others larger to make up for it."""
        if not self.training or not self.share:
            return x
        dropped = round(256 * self.share)  # of 256 values of a byte
        if x.device.type != "cpu" or not 0 < dropped < 256:
            return F.dropout(x, self.share)
        drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(1 << 63), None)
        kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * (kept * (256 / (256 - dropped)))


def linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """layer(x), x (..., in_features) -> (..., out_features).

    Of a few rows in float32, as generation has them, a CPU computes the product up to three times as fast the other
    way round, as a batch of two: the library's product with a few rows waits for memory, on Intel's not with one to 8.
    """
    rows = x.numel() // x.size(-1) if not torch.compiler.is_compiling() else FEW.stop
    few = rows in FEW and x.device.type == "cpu" and not torch.is_grad_enabled() and type(layer) is nn.Linear
    if not few or layer.weight.dtype != torch.float32 or len(layer.weight) % 2:
        return layer(x)
    halves = layer.weight.view(2, -1, x.size(-1))  # (2, out / 2, in)
    products = torch.bmm(halves, x.reshape(rows, -1).t().expand(2, -1, -1))  # (2, out / 2, rows)
    product = products.view(-1, rows).t().view(*x.shape[:-1], -1)
    return product if layer.bias is None else product + layer.bias


class View(NamedTuple):
    """What each position sees, the same in every block."""

    mask: torch.Tensor | None = None  # None: plain causal; bool, True where a query sees a key; or what scores get
    fused: bool = True  # whether PyTorch's fused attention is the fastest
    cos: torch.Tensor | None = None  # of rotary positions, see Rotary.at
    sin: torch.Tensor | None = None


CAUSAL = View()


class CausalSelfAttention(nn.Module):
    """Multi-head attention to the present and earlier positions (Vaswani et al. 2017, arXiv:1706.03762).

    With fewer heads of keys and values, groups of queries share one (Ainslie et al. 2023, arXiv:2305.13245).
    """

    def __init__(self, config, rotary):
        super().__init__()
        self.n_head, self.kv_heads, self.head_size = config.n_head, config.kv_heads, config.head_size
        self.scale, self.grouped = config.scale, config.kv_heads < config.n_head
        width = config.n_head * self.head_size
        self.c_attn = nn.Linear(
            config.n_embd, width + 2 * self.kv_heads * self.head_size, bias=config.has_bias("attention")
        )
        self.c_proj = nn.Linear(width, config.n_embd, bias=config.has_bias("output"))
        self.q_norm = make_norm(config, self.head_size) if config.qk_norm else None
        self.k_norm = make_norm(config, self.head_size) if config.qk_norm else None
        self.rotate = rotary
        self.resid_dropout = Dropout(config.dropout)

    def forward(self, x, view=CAUSAL, cache=None):
        """x (B, T, C) -> (B, T, C). view: what is seen. cache: a LayerCache."""
        B, T, _ = x.shape
        qkv = linear(self.c_attn, x).contiguous()  # fused attention wants the numbers of a head side by side
        qkv = qkv.view(B, T, -1, self.head_size)  # (B, T, C) -> (B, T, nh + 2 * nkv, hs)
        q, k, v = qkv.split((self.n_head, self.kv_heads, self.kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotate is not None:
            q, k = self.rotate(q, view.cos, view.sin), self.rotate(k, view.cos, view.sin)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, hs)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, nkv, T, hs) -> (B, nkv, keys, hs), those before included
        if view.fused:  # softmax(scale q k^T) v: (B, nh, T, hs)
            causal = view.mask is None and T > 1  # a single query sees all keys
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=view.mask, is_causal=causal, scale=self.scale, enable_gqa=self.grouped
            )
        else:
            if self.grouped:
                k, v = (part.repeat_interleave(self.n_head // self.kv_heads, dim=1) for part in (k, v))
            y = ((q * self.scale) @ k.transpose(-2, -1)).add_(view.mask).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(B, T, -1)  # the heads side by side again
        return self.resid_dropout(linear(self.c_proj, y))


class MLP(nn.Module):
    """Two linear layers with an activation between them, which a gate may multiply (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config):
        super().__init__()
        self.activation, self.gated = ACTIVATIONS[config.activation], config.gated
        width = 2 * config.inner if config.gated else config.inner  # the gate, then what it multiplies
        self.c_fc = nn.Linear(config.n_embd, width, bias=config.has_bias("mlp"))
        self.c_proj = nn.Linear(config.inner, config.n_embd, bias=config.has_bias("mlp"))
        self.dropout = Dropout(config.dropout)

    def forward(self, x):
        """x (B, T, C) -> (B, T, C)."""
        x = linear(self.c_fc, x)  # (B, T, C) -> (B, T, inner), twice that with a gate
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        return self.dropout(linear(self.c_proj, x))  # (B, T, inner) -> (B, T, C)


class Block(nn.Module):
    """Attention, then MLP (or both side by side), each reading the normalised residual stream and adding to it."""

    def __init__(self, config, rotary=None):
        super().__init__()
        self.ln_1 = make_norm(config, config.n_embd)
        self.attn = CausalSelfAttention(config, rotary)
        self.ln_2 = None if config.parallel else make_norm(config, config.n_embd)
        self.mlp = MLP(config)
        self.ln_1_post = make_norm(config, config.n_embd) if config.post_norms else nn.Identity()
        self.ln_2_post = make_norm(config, config.n_embd) if config.post_norms else nn.Identity()
        self.multiplier = config.residual_multiplier

    def forward(self, x, view=CAUSAL, cache=None):
        """x (B, T, C) -> (B, T, C). view, cache: see CausalSelfAttention."""
        normed = self.ln_1(x)
        x = self.added(x, self.ln_1_post(self.attn(normed, view, cache)))
        if self.ln_2 is not None:
            normed = self.ln_2(x)
        return self.added(x, self.ln_2_post(self.mlp(normed)))

    def added(self, x, change):
        """The residual stream with a change added."""
        return x + change if self.multiplier == 1 else torch.add(x, change, alpha=self.multiplier)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of a linear layer's logits, of which no more than LOGITS stand in memory at once.

    For each chunk of rows the loss and all gradients are computed while its logits are at hand (the idea of Wijmans
    et al. 2024, arXiv:2411.09009). Products run in autocast's dtype, the softmax in float32.
    """

    LOGITS = 1 << 26  # in a chunk at most: larger chunks add fewer products of the weight's size together
    ROWS = 256  # a chunk has a multiple of so many

    @staticmethod
    def rows(vocab_size: int) -> int:
        """How many rows a chunk has."""
        unit = ChunkedCrossEntropy.ROWS
        return max(unit, ChunkedCrossEntropy.LOGITS // vocab_size // unit * unit)

    @staticmethod
    def forward(ctx, x, weight, bias, targets, count):
        """x (N, C), weight (V, C), bias (V,) or None, targets (N,) int64 -> a float32 scalar, in nats.

        Only the first `count` rows count; the others are filling.
        """
        # Everything that backward needs is computed here, so that no chunk's logits (rows, V) have to be kept.
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        narrow_weight, narrow_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        grad_x, grad_weight = torch.empty_like(x), None
        grad_bias = None if bias is None else torch.zeros_like(bias)
        total = torch.zeros((), device=x.device)
        size = ChunkedCrossEntropy.rows(len(weight))
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            chunk, target, counted = x[rows].to(dtype), targets[rows, None], max(0, count - start)
            probs = F.linear(chunk, narrow_weight, narrow_bias).softmax(1, dtype=torch.float32)  # (rows, V)
            of_target = probs.gather(1, target)
            total -= of_target[:counted].clamp(min=1e-37).log().sum()
            probs.scatter_(1, target, of_target - 1)  # the gradient of the logits
            probs[counted:] = 0
            grad_logits = probs.to(dtype)
            grad_x[rows] = grad_logits @ narrow_weight
            if grad_bias is not None:
                grad_bias += probs.sum(0)
            if not ctx.needs_input_grad[1]:  # the weight is frozen
                continue
            if grad_weight is None:
                grad_weight = (grad_logits.t() @ chunk).to(weight.dtype)
            elif dtype == weight.dtype:
                grad_weight.addmm_(grad_logits.t(), chunk)
            else:
                grad_weight += grad_logits.t() @ chunk
        if grad_weight is None and ctx.needs_input_grad[1]:  # nothing counts
            grad_weight = torch.zeros_like(weight)
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx, *grads):
        """The gradients that forward has computed, times the loss's own."""
        (grad,) = grads
        grad_x, grad_weight, grad_bias = ctx.saved_tensors
        scaled = (None if each is None else each * grad.to(each.dtype) for each in (grad_x, grad_weight, grad_bias))
        return *scaled, None, None


def where_counted(loss_mask):
    """(places, count): where a loss mask is not 0, int64, then filling, and how many of the places are no filling.

    They fill whole chunks: every new shape would cost the CPU's kernels time and memory, which they keep.
    """
    chosen = loss_mask.reshape(-1).nonzero()[:, 0]
    return F.pad(chosen, (0, -len(chosen) % ChunkedCrossEntropy.ROWS)), len(chosen)


class LayerCache:
    """The keys and values that one layer has computed, (rows, nkv, room, hs) each, part of a KVCache."""

    def __init__(self, cache, rows, room):
        shape = rows, cache.config.kv_heads, room, cache.config.head_size
        self.cache = weakref.proxy(cache)  # each holding the other, both would stay until garbage is collected
        self.keys, self.values = (torch.empty(shape, device=cache.device, dtype=cache.dtype) for _ in range(2))

    def append(self, k, v):
        """Store k, v (B, nkv, T, hs) behind each row's others; give all (B, nkv, keys, hs)."""
        slots, longest, rows = self.cache.slots, self.cache.longest, len(k)
        if isinstance(slots, slice):
            self.keys[:rows, :, slots], self.values[:rows, :, slots] = k, v
        else:  # (B, T) x nkv x hs are written there
            of_row = torch.arange(rows, device=k.device)[:, None]
            self.keys[of_row, :, slots], self.values[of_row, :, slots] = k.transpose(1, 2), v.transpose(1, 2)
        return self.keys[:rows, :, :longest], self.values[:rows, :, :longest]


class KVCache:
    """The keys and values of rows of tokens, each of its own length: token t of a row is in slot t.

    What stands in slots behind a row's length is not heeded, and written over by the row's next tokens.
    """

    starts = None  # (B, 1) slots before each row's first token; see export.py

    def __init__(self, config, rows, room, device, dtype):
        """For so many rows, and so many tokens of each."""
        self.config, self.device, self.dtype = config, device, dtype
        self.lengths = [0] * rows  # tokens of each row that are there
        self.padded: list[int] | None = None  # of the next tokens, how many of each row are no padding; None: all
        self.slots: slice | torch.Tensor = slice(0)  # of the tokens that are being read, the same ones or (B, T)
        self.longest = 0  # slots in use
        self.last: torch.Tensor | None = None  # (B, 1, C), the embedding of each row's last token
        self.layers = [LayerCache(self, rows, room) for _ in range(config.n_layer)]

    @property
    def size(self):
        """(rows, tokens of each) for which there is room."""
        return self.layers[0].keys.size(0), self.layers[0].keys.size(2)

    def reserve(self, rows, room):
        """Make room for so many rows and tokens of each."""
        used = slice(len(self.lengths)), slice(None), slice(self.longest)
        for number, old in enumerate(self.layers):  # one after the other, for the sake of memory
            new = self.layers[number] = LayerCache(self, rows, room)
            new.keys[used], new.values[used] = old.keys[used], old.values[used]

    def extend(self, count):
        """Take the slots of `count` more tokens of each row: their numbers, (T,) where they are the same, or (B, T)."""
        lengths, counts = self.lengths, self.padded or [count] * len(self.lengths)
        self.lengths = [length + more for length, more in zip(lengths, counts)]
        self.longest = max(lengths) + count
        new = torch.arange(count, device=self.device)
        if len(set(lengths)) == 1:
            self.slots = slice(lengths[0], self.longest)
            return lengths[0] + new
        self._clear(slice(len(lengths)), slice(self.longest - count, self.longest))
        self.slots = torch.tensor(lengths, device=self.device)[:, None] + new
        return self.slots

    def of_last(self, x):
        """What x (B, T, ...) has at each row's last token that is no padding, (B, 1, ...)."""
        if self.padded is None:
            return x[:, -1:]
        return x[torch.arange(len(x), device=x.device), torch.tensor(self.padded, device=x.device) - 1, None]

    def select(self, rows):
        """Let each row go on from row `rows` (B,) of before."""
        for layer in self.layers:
            for stored in (layer.keys, layer.values):
                stored[: len(rows), :, : self.longest] = stored[rows, :, : self.longest]
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        if self.last is not None:
            self.last = self.last[rows]

    def put(self, other):
        """Add another cache's rows, for which there is room."""
        first, used = len(self.lengths), (slice(len(other.lengths)), slice(None), slice(other.longest))
        placed = (slice(first, first + len(other.lengths)), *used[1:])
        for mine, theirs in zip(self.layers, other.layers):
            mine.keys[placed], mine.values[placed] = theirs.keys[used], theirs.values[used]
        self._clear(slice(first), slice(self.longest, other.longest))
        self._clear(placed[0], slice(other.longest, self.longest))
        self.lengths, self.longest = self.lengths + other.lengths, max(self.longest, other.longest)
        if self.last is not None:
            self.last = torch.cat([self.last, other.last])

    def _clear(self, rows, slots):
        """Write zeros: what is masked counts 0 times, but what happens to stand in memory may be no number."""
        for layer in self.layers:
            layer.keys[rows, :, slots] = layer.values[rows, :, slots] = 0

    def drop(self, row):
        """Forget a row; the last one takes its place."""
        last = len(self.lengths) - 1
        for layer in self.layers:
            for stored in (layer.keys, layer.values):
                stored[row, :, : self.lengths[last]] = stored[last, :, : self.lengths[last]]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self.longest = max(self.lengths, default=0)
        if self.last is not None:
            self.last = torch.cat([self.last[:row], self.last[last:], self.last[row + 1 : last]])[:last]


class Unfilled(TorchFunctionMode):
    """A context in which new weights stay as they are: what would fill them does nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of torch's, unless it is one that fills a tensor (on meta it would import the compiler)."""
        if func in (nn.init.normal_, nn.init.kaiming_uniform_, torch.Tensor.uniform_):
            return (kwargs or {}).get("tensor", args[:1])
        return func(*args, **(kwargs or {}))


class MiniGLM(nn.Module):
    """A decoder-only language model; with the default configuration its logits are GPT-2's (Radford et al. 2019)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        rotary = Rotary(config) if config.positions == "rope" else None  # one table for all blocks
        parts: dict[str, nn.Module] = {"wte": nn.Embedding(config.vocab_size, config.n_embd)}
        if config.positions == "learned":
            parts["wpe"] = nn.Embedding(config.block_size, config.n_embd)
        if config.embedding_norm:
            parts["ln_e"] = make_norm(config, config.n_embd)
        parts["drop"] = Dropout(config.dropout)
        parts["h"] = nn.ModuleList(Block(config, rotary) for _ in range(config.n_layer))
        parts["ln_f"] = make_norm(config, config.n_embd)
        self.transformer = nn.ModuleDict(parts)
        self.rotary = rotary
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self.value_head = nn.Linear(config.n_embd, 1) if config.value_head else None
        self.tie()
        self._initialise()

    def tie(self):
        """Make the head's weight the embedding, if the shape says so (Press and Wolf 2017, arXiv:1608.05859)."""
        if self.config.tied:
            self.lm_head.weight = self.token_embedding.weight

    def _initialise(self):
        """Weights from a normal distribution as GPT-2's, biases from zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight") and self.config.zero_init:
                nn.init.zeros_(parameter)
            elif name.endswith("c_proj.weight"):  # what adds to the residual stream starts smaller, as in GPT-2
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @classmethod
    def outline(cls, config):
        """A model of a shape on the device meta: names and sizes alone, which take no time and no memory."""
        with torch.device("meta"), Unfilled():
            return cls(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The Blocks, from the first that reads the embedding to the last."""
        return cast(nn.ModuleList, self.transformer["h"])

    @property
    def token_embedding(self) -> nn.Embedding:
        """The embedding of the tokens, weight (V, C); the head's weight, too, where they are tied."""
        return cast(nn.Embedding, self.transformer["wte"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the residual stream, and so of the cache."""
        return self.token_embedding.weight.dtype

    def freeze(self, blocks):
        """Let training leave the embeddings and the first so many blocks as they are; a head that is tied, too."""
        below = [part for name, part in self.transformer.items() if name in ("wte", "wpe", "ln_e")]
        for part in [*below, *self.blocks[:blocks]]:
            part.requires_grad_(False)

    def num_parameters(self):
        """How many parameters there are, a tied embedding counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def hidden(self, idx, sample=None, cache=None):
        """The normalised residual stream (B, T, C) over idx (B, T) int64.

        sample: (B, T) integers, which sample of a packed row each token belongs to: positions count from the
        sample's beginning and attention stays inside it. cache: a KVCache of the positions before, which grows.
        """
        positions, view = self._view(idx, sample, cache)
        parts = self.transformer
        x = self.token_embedding(idx)  # (B, T) -> (B, T, C)
        if self.config.embedding_multiplier != 1:
            x = x * self.config.embedding_multiplier
        if self.config.previous_token:
            x = x + self._before(x, positions, cache)
        if self.config.embedding_norm:
            x = parts["ln_e"](x)
        if self.config.positions == "learned":
            x = x + parts["wpe"](positions)
        x = parts["drop"](x)
        for layer, block in enumerate(self.blocks):
            x = block(x, view, cache and cache.layers[layer])
        return parts["ln_f"](x)

    def _before(self, x, positions, cache):
        """The embedding of the token before each, (B, T, C) like x, rolled by a quarter of the width.

        So a key tells at once which token stands before it, and what followed a token is found in one step instead of
        two (after the smeared keys of Olsson et al. 2022, arXiv:2209.11895). Before a sample's first token is nothing.
        """
        first = torch.zeros_like(x[:, :1]) if cache is None or cache.last is None else cache.last
        if cache is not None:
            cache.last = cache.of_last(x)
        before = torch.cat([first, x[:, :-1]], 1) * (positions > 0).unsqueeze(-1)
        return before.roll(self.config.n_embd // 4, -1)

    def _view(self, idx, sample, cache):
        """(positions (T,) or (B, T), View) of idx. sample, cache: see hidden."""
        T, mask = idx.size(1), None
        queries = cache.extend(T) if cache else torch.arange(T, device=idx.device)  # slots, (T,) or (B, T)
        positions, keys = queries, torch.arange(cache.longest if cache else T, device=idx.device)
        if sample is not None:
            mask = (sample[:, :, None] == sample[:, None, :]).tril()  # (B, T) -> (B, T, T)
            positions = mask.sum(-1) - 1  # (B, T): as many as a token sees of its own sample, less itself
        elif cache and cache.starts is not None:
            seen = (keys <= queries[:, None]) & (keys >= cache.starts[:, None])  # (B, T, keys)
            mask = seen | (keys == queries[:, None])  # padding sees itself, or its softmax were 0 / 0
            positions = (queries - cache.starts).clamp(min=0)  # (B, T)
        elif queries.dim() == 2 or 1 < T < len(keys):  # rows of several lengths; some tokens behind others
            mask = (keys <= queries[..., None]).view(-1, T, len(keys))  # (B or 1, T, keys)
        mask = None if mask is None else mask[:, None]  # the same for every head: (B, 1, T, keys)
        device = idx.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype
        # In training in bfloat16 on a CPU the parts of attention one by one take half as long as PyTorch's fused
        # kernel, which alone does not keep all scores: where rows are long it is used all the same.
        apart = device == "cpu" and dtype == torch.bfloat16 and torch.is_grad_enabled() and T <= LONGEST_APART
        fused = not apart
        alibi = self.config.positions == "alibi"
        if alibi or not fused:  # what scores get
            distance = (keys - queries[..., None]).view(-1, 1, T, len(keys))  # 0 and below where a key is seen
            slopes = alibi_slopes(self.config.n_head).to(idx.device)[:, None, None] if alibi else 0.0
            fading = slopes * distance  # (B or 1, nh, T, keys): only the distance counts, whatever stands before
            mask = fading.masked_fill(~(distance <= 0 if mask is None else mask), -math.inf).to(dtype)
        turns = self.rotary.at(positions, dtype) if self.rotary else ()
        return positions, View(mask, fused, *turns)

    def logits(self, x):
        """Logits (..., V) of the normalised residual stream x (..., C)."""
        x = x * self.config.logits_multiplier if self.config.logits_multiplier != 1 else x
        return linear(self.lm_head, x)

    def log_probs(self, x, targets, temperature):
        """The log-probability (N,) float32 of each of targets (N,) after the residual stream x (N, C).

        No more than a chunk of logits stands in memory at once; on the way back they are computed once more.
        """

        def of_chunk(x, targets):
            return -F.cross_entropy(self.logits(x).float() / temperature, targets, reduction="none")

        size = ChunkedCrossEntropy.rows(self.config.vocab_size)
        chunks = list(zip(x.split(size), targets.split(size)))
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([of_chunk(*chunk) for chunk in chunks])
        return torch.cat([checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks])

    def of_each(self, x, targets, loss_mask, temperature):
        """(log_probs, values) of the residual stream x (B, T, C), see forward."""
        values = None if self.value_head is None else self.value_head(x)[..., 0].float()  # (B, T)
        if targets is None:
            return None, values
        chosen, count = where_counted(loss_mask)
        of_chosen = self.log_probs(x.flatten(0, 1)[chosen], targets.reshape(-1)[chosen], temperature)
        flat = of_chosen.new_zeros(targets.numel()).index_copy(0, chosen[:count], of_chosen[:count])
        return flat.view(targets.shape), values

    def forward(self, idx, targets=None, loss_mask=None, sample=None, each=False, temperature=1.0):
        """(logits, loss) for idx (B, T) int64, T at most block_size. sample: see hidden.

        Without targets: logits (B, T, V), loss None. With targets (B, T) int64: logits None and the mean
        cross-entropy in nats, a scalar, over the positions where loss_mask (B, T) is not 0, all without one.
        With `each` (log_probs, values), (B, T) float32 each, instead: the log-probability of each target, 0 where
        loss_mask is 0, None without targets; and what the value head gives each position, None without one.
        temperature: by which logits are divided then.
        """
        x = self.hidden(idx, sample)  # (B, T, C)
        if each:
            return self.of_each(x, targets, loss_mask, temperature)
        if targets is None:
            return self.logits(x), None
        x, targets = x.reshape(-1, x.size(-1)), targets.reshape(-1)  # (N, C) and (N,)
        count = len(x)
        if loss_mask is not None:  # the vocabulary product is the dearest: only where it counts
            chosen, count = where_counted(loss_mask)
            x, targets = x[chosen], targets[chosen]
        x = x * self.config.logits_multiplier if self.config.logits_multiplier != 1 else x
        head = self.lm_head
        if torch.is_grad_enabled():
            loss = ChunkedCrossEntropy.apply(x, head.weight, head.bias, targets, count)
        else:
            size = ChunkedCrossEntropy.rows(self.config.vocab_size)
            chunks = zip(x[:count].split(size), targets[:count].split(size))
            loss = sum(F.cross_entropy(head(rows).float(), ids, reduction="sum") for rows, ids in chunks)
        return None, loss / max(1, count)
