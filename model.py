"""MiniGLM: a decoder-only transformer, its training loss and its cache of keys and values.

It knows tensors and its own configuration: no files, no text, no sampling.

Shapes in the comments: B rows, T positions, C = n_embd, nh heads of hs = C / nh, V = vocab_size.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn as nn
from torch.nn import functional as F


@dataclass
class GLMConfig:
    """The shape of a model. The defaults are the report's: 45M parameters with GPT-2's vocabulary."""

    block_size: int = 512  # the longest context, in tokens
    vocab_size: int = 50304  # GPT-2's 50257, rounded up to a multiple of 64
    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 512
    dropout: float = 0.0
    bias: bool = True  # in the linear layers and layer norms


class CausalSelfAttention(nn.Module):
    """Multi-head attention to the present and earlier positions (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask=None, cache=None):
        """x (B, T, C). mask: None for plain causal, or bool, True where a query sees a key. cache: a LayerCache."""
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, T, C) -> (B, nh, T, hs)
            for part in self.c_attn(x).split(C, dim=2)  # (B, T, C) -> (B, T, 3 * C) -> three of (B, T, C)
        )
        if cache is not None:
            k, v = cache.append(k, v)  # (B, nh, T, hs) -> (B, nh, keys, hs), those before included
        causal = mask is None and T > 1  # a single query sees all keys
        y = F.scaled_dot_product_attention(  # softmax(q k^T / sqrt(hs)) v: (B, nh, T, hs)
            q, k, v, attn_mask=mask, is_causal=causal, dropout_p=self.dropout if self.training else 0.0
        )
        y = y.transpose(1, 2).reshape(B, T, C)  # the heads side by side again
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    """Two linear layers with GPT-2's tanh form of GELU between them (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        """x (B, T, C) -> (B, T, C)."""
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, C) -> (B, T, 4 * C)
        return self.dropout(self.c_proj(x))  # (B, T, 4 * C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each reading the normalised residual stream and adding to it."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x, mask=None, cache=None):
        """x (B, T, C) -> (B, T, C). mask, cache: see CausalSelfAttention."""
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class ChunkedCrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of a linear layer's logits, which never stand in memory all at once.

    For each chunk of rows the loss and both gradients are computed while its logits are at hand
    (the idea of Wijmans et al. 2024, arXiv:2411.09009). Products run in autocast's dtype, the softmax in float32.
    """

    CHUNK = 256  # rows

    @staticmethod
    def forward(ctx, x, weight, targets):
        """x (N, C), weight (V, C), targets (N,) int64 -> a float32 scalar, in nats."""
        # Everything that backward needs is computed here, so that no chunk's logits (rows, V) have to be kept.
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        narrow_weight = weight.to(dtype)
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), device=x.device)
        for start in range(0, len(x), ChunkedCrossEntropy.CHUNK):
            rows = slice(start, start + ChunkedCrossEntropy.CHUNK)
            chunk, target = x[rows].to(dtype), targets[rows, None]
            log_probs = (chunk @ narrow_weight.t()).log_softmax(1, dtype=torch.float32)  # (rows, V)
            losses = -log_probs.gather(1, target)
            total += losses.sum()
            grad_logits = log_probs.exp_().scatter_add_(1, target, torch.full_like(losses, -1.0)).to(dtype)
            grad_x[rows] = grad_logits @ narrow_weight
            if grad_weight is None:  # the weight is frozen
                continue
            if dtype == weight.dtype:
                grad_weight.addmm_(grad_logits.t(), chunk)
            else:
                grad_weight += grad_logits.t() @ chunk
        ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    def backward(ctx, *grads):
        """The gradients that forward has computed, times the loss's own."""
        (grad,) = grads
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), None if grad_weight is None else grad_weight * grad, None


class LayerCache:
    """The keys and values that one layer has computed, (B, nh, block_size, hs) each, allocated once."""

    def __init__(self, shape, device, dtype):
        self.keys, self.values = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
        self.length = 0  # positions in use

    def append(self, k, v):
        """Store k, v (B, nh, T, hs) behind the others; give all (B, nh, length, hs)."""
        start, self.length = self.length, self.length + k.size(2)
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class KVCache:
    """The LayerCaches of a model for B rows that end together: before a shorter one stands padding.

    starts: (B, 1) int64, where each row's padding ends, or None where no row has any.
    """

    def __init__(self, config, rows, starts, device, dtype):
        shape = (rows, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.layers = [LayerCache(shape, device, dtype) for _ in range(config.n_layer)]
        self.starts = starts

    def select(self, rows):
        """Let each row go on from row `rows` (B,) of before."""
        for layer in self.layers:
            for stored in (layer.keys, layer.values):
                stored[:, :, : layer.length] = stored[rows, :, : layer.length]


class MiniGLM(nn.Module):
    """A decoder-only language model whose weights and logits are GPT-2's (Radford et al. 2019)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, bias=config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # tied (Press and Wolf 2017, arXiv:1608.05859)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # what adds to the residual stream starts smaller, as in GPT-2
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def blocks(self) -> nn.ModuleList:
        """The Blocks, from the first that reads the embedding to the last."""
        return cast(nn.ModuleList, self.transformer["h"])

    @property
    def token_embedding(self) -> nn.Embedding:
        """The embedding of the tokens, weight (V, C), which is the head's weight, too."""
        return cast(nn.Embedding, self.transformer["wte"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the residual stream, and so of the cache."""
        return self.token_embedding.weight.dtype

    def num_parameters(self):
        """How many parameters there are, the tied embedding counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def hidden(self, idx, sample=None, cache=None):
        """The normalised residual stream (B, T, C) over idx (B, T) int64.

        sample: (B, T) integers, which sample of a packed row each token belongs to: positions count from the
        sample's beginning and attention stays inside it. cache: a KVCache of the positions before, which grows.
        """
        T, mask = idx.size(1), None
        if sample is not None:
            mask = (sample[:, :, None] == sample[:, None, :]).tril()  # (B, T) -> (B, T, T)
            positions = mask.sum(-1) - 1  # (B, T): as many as a token sees of its own sample, less itself
        else:
            past = cache.layers[0].length if cache else 0
            positions = queries = torch.arange(past, past + T, device=idx.device)  # (T,)
            if cache and cache.starts is not None:
                keys = torch.arange(past + T, device=idx.device)
                seen = (keys <= queries[:, None]) & (keys >= cache.starts[:, None])  # (B, T, keys)
                mask = seen | (keys == queries[:, None])  # padding sees itself, or its softmax were 0 / 0
                positions = (queries - cache.starts).clamp(min=0)  # (B, T)
        x = self.token_embedding(idx) + self.transformer["wpe"](positions)  # (B, T) -> (B, T, C)
        x = self.transformer["drop"](x)
        mask = None if mask is None else mask[:, None]  # the same for every head: (B, 1, T, keys)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache and cache.layers[layer])
        return self.transformer["ln_f"](x)

    def logits(self, x):
        """Logits (..., V) of the normalised residual stream x (..., C)."""
        head = self.lm_head
        few = x.dim() == 2 and 1 < len(x) <= 32 and x.device.type == "cpu"
        if few and type(head) is nn.Linear and not torch.is_grad_enabled():
            return (head.weight @ x.t()).t()  # with so few rows MKL is two to five times faster this way round
        return head(x)

    def forward(self, idx, targets=None, loss_mask=None, sample=None):
        """(logits, loss) for idx (B, T) int64, T at most block_size. sample: see hidden.

        Without targets: logits (B, T, V), loss None. With targets (B, T) int64: logits None and the mean
        cross-entropy in nats, a scalar, over the positions where loss_mask (B, T) is not 0, all without one.
        """
        x = self.hidden(idx, sample)  # (B, T, C)
        if targets is None:
            return self.logits(x), None
        if loss_mask is not None:  # the vocabulary product is the dearest: only where it counts
            chosen = loss_mask.reshape(-1) != 0
            x, targets = x.flatten(0, 1)[chosen], targets.reshape(-1)[chosen]
        x, targets = x.reshape(-1, x.size(-1)), targets.reshape(-1)  # (N, C) and (N,)
        if torch.is_grad_enabled():
            loss = ChunkedCrossEntropy.apply(x, self.lm_head.weight, targets)
        else:
            chunks = zip(x.split(ChunkedCrossEntropy.CHUNK), targets.split(ChunkedCrossEntropy.CHUNK))
            loss = sum(F.cross_entropy(self.lm_head(rows).float(), ids, reduction="sum") for rows, ids in chunks)
        return None, loss / max(1, targets.numel())
