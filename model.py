"""MiniGLM: a GPT-2 style decoder, its training loss and its generator. It knows token ids, no files and no text.

Shapes in the comments: B rows, T positions, C = n_embd, nh heads of hs = C / nh, V = vocab_size.
"""

import math
from dataclasses import dataclass

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
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
            for part in self.c_attn(x).split(C, dim=2)
        )
        if cache is not None:
            k, v = cache.append(k, v)  # (B, nh, keys, hs)
        causal = mask is None and T > 1  # one query sees all keys
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, dropout_p=self.dropout if self.training else 0.0
        )
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """Two linear layers with GPT-2's tanh form of GELU between them."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        """x (B, T, C), the same shape out."""
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Attention, then MLP, each on the normalised residual stream."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x, mask=None, cache=None):
        """x (B, T, C), the same shape out."""
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
    def backward(ctx, grad):
        """The gradients that forward has computed, times the loss's own."""
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
        self.lm_head.weight = self.transformer.wte.weight  # tied
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # what adds to the residual stream starts smaller, as in GPT-2
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

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
            mask = (sample[:, :, None] == sample[:, None, :]).tril()  # (B, T, T)
            positions = mask.sum(-1) - 1
        else:
            past = cache.layers[0].length if cache else 0
            positions = queries = torch.arange(past, past + T, device=idx.device)
            if cache and cache.starts is not None:
                keys = torch.arange(past + T, device=idx.device)
                seen = (keys <= queries[:, None]) & (keys >= cache.starts[:, None])  # (B, T, keys)
                mask = seen | (keys == queries[:, None])  # padding sees itself, or its softmax were 0 / 0
                positions = (queries - cache.starts).clamp(min=0)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))
        mask = None if mask is None else mask[:, None]  # for every head: (B, 1, T, keys)
        for layer, block in enumerate(self.transformer.h):
            x = block(x, mask, cache and cache.layers[layer])
        return self.transformer.ln_f(x)

    def forward(self, idx, targets=None, loss_mask=None, sample=None):
        """(logits, loss) for idx (B, T) int64, T at most block_size.

        Without targets: logits (B, T, V), loss None. With targets (B, T) int64: logits None and the mean
        cross-entropy in nats, a scalar, over the positions where loss_mask (B, T) is not 0, all without one.
        """
        x = self.hidden(idx, sample)
        if targets is None:
            return self.lm_head(x), None
        if loss_mask is not None:  # the vocabulary product is the dearest: only where it counts
            chosen = loss_mask.reshape(-1) != 0
            x, targets = x.flatten(0, 1)[chosen], targets.reshape(-1)[chosen]
        x, targets = x.reshape(-1, x.size(-1)), targets.reshape(-1)
        if torch.is_grad_enabled():
            loss = ChunkedCrossEntropy.apply(x, self.lm_head.weight, targets)
        else:
            chunks = zip(x.split(ChunkedCrossEntropy.CHUNK), targets.split(ChunkedCrossEntropy.CHUNK))
            loss = sum(F.cross_entropy(self.lm_head(rows).float(), ids, reduction="sum") for rows, ids in chunks)
        return None, loss / max(1, targets.numel())

    @torch.inference_mode()
    def generate(
        self,
        prompts,
        max_new_tokens,
        end_id=None,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        seed=None,
        use_cache=True,
        with_logits=False,
    ):
        """Go on from prompts, a list of lists of ids, all at once; yields at each step a list with one id a prompt.

        with_logits: yields (that list, the logits (B, V) that it was chosen from, after the penalties).

        A prompt that has given end_id yields None from then on; when all have, the generator ends. The other
        settings have the names and meanings that they have in transformers: temperature 0 is greedy; top_k 0,
        top_p 1, min_p 0, repetition_penalty 1 and no_repeat_ngram_size 0 are off. A seed repeats a run exactly.
        A context that outgrows block_size keeps its last half; with or without the cache the rule is the same.
        """
        device = self.transformer.wpe.weight.device
        rng = None if seed is None else torch.Generator(device).manual_seed(seed)
        texts = [list(prompt) for prompt in prompts]  # all ids so far, for the penalties
        contexts = [self._fitting(text) for text in texts]  # the ids in the window
        ended = [False] * len(prompts)
        cache = None
        for _ in range(max_new_tokens):
            logits, cache = self._decode(contexts, cache) if cache else self._prefill(contexts)
            logits = penalize(logits.float(), texts, repetition_penalty, no_repeat_ngram_size)
            chosen = sample_token(logits, temperature, top_k, top_p, min_p, rng).tolist()
            step = [None if done else token for token, done in zip(chosen, ended)]
            ended = [done or token == end_id for token, done in zip(chosen, ended)]
            yield (step, logits) if with_logits else step
            if all(ended):
                return
            for text, token in zip(texts, chosen):
                text.append(token)
            grown = [self._fitting([*context, token]) for context, token in zip(contexts, chosen)]
            if not use_cache or any(len(new) <= len(old) for new, old in zip(grown, contexts)):
                cache = None  # the contexts must be read from their beginning
            contexts = grown

    @torch.inference_mode()
    def beam_search(
        self,
        prompt,
        max_new_tokens,
        num_beams,
        end_id=None,
        length_penalty=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
    ):
        """Search the likeliest continuations of a list of ids; yields None at each step and last what was found.

        That is a list of num_beams (ids, score), best first. At each step the num_beams likeliest beginnings are kept. A continuation that ends, with end_id or at
        max_new_tokens, scores its summed log-probability over its length to the power of length_penalty (above 0
        favours longer ones). The search ends when no open beginning, scored at its present length, beats the worst
        of num_beams ended ones; these are transformers' rules with early_stopping=False.
        """
        device, cache = self.transformer.wpe.weight.device, None
        texts = [list(prompt) for _ in range(num_beams)]
        contexts = [self._fitting(text) for text in texts]
        sums = torch.full((num_beams, 1), -1e9, device=device)  # log-probabilities of the beginnings
        sums[0] = 0.0  # all are the same at first: only one of them counts
        ended = []
        for length in range(1, max_new_tokens + 1):
            logits, cache = self._decode(contexts, cache) if cache else self._prefill(contexts)
            log_probs = penalize(logits.float().log_softmax(-1), texts, repetition_penalty, no_repeat_ngram_size)
            # Twice as many as are kept, since each of the best may be an end.
            best, places = (sums + log_probs).flatten().topk(2 * num_beams)
            candidates = [
                (score, *divmod(place, log_probs.size(-1))) for score, place in zip(best.tolist(), places.tolist())
            ]
            for score, beam, token in candidates[:num_beams]:
                if token == end_id or length == max_new_tokens:
                    ended.append(([*texts[beam][len(prompt) :], token], score / length**length_penalty))
            ended = sorted(ended, key=lambda found: -found[1])[:num_beams]
            open_ones = [candidate for candidate in candidates if candidate[2] != end_id][:num_beams]
            if len(ended) == num_beams and open_ones[0][0] / length**length_penalty <= ended[-1][1]:
                break
            beams = torch.tensor([beam for _, beam, _ in open_ones], device=device)
            cache.select(beams)
            sums = torch.tensor([[score] for score, _, _ in open_ones], device=device)
            texts = [[*texts[beam], token] for _, beam, token in open_ones]
            grown = [self._fitting([*contexts[beam], token]) for _, beam, token in open_ones]
            if len(grown[0]) <= len(contexts[0]):
                cache = None
            contexts = grown
            yield None
        yield ended

    def _fitting(self, ids):
        """A copy of ids, or of their last half block when they are longer than the block."""
        return ids[:] if len(ids) <= self.config.block_size else ids[-(self.config.block_size // 2) :]

    def _prefill(self, contexts):
        """Logits (B, V) after each context, read from its beginning, and the KVCache that this filled."""
        device, longest = self.transformer.wpe.weight.device, max(map(len, contexts))
        starts = torch.tensor([[longest - len(context)] for context in contexts], device=device)
        cache = KVCache(
            self.config, len(contexts), starts if starts.any() else None, device, self.transformer.wpe.weight.dtype
        )
        idx = torch.tensor([[0] * (longest - len(context)) + context for context in contexts], device=device)
        return self._last_logits(idx, cache), cache

    def _decode(self, contexts, cache):
        """The same where all but the last id of each context is in the cache already."""
        idx = torch.tensor([[context[-1]] for context in contexts], device=self.transformer.wpe.weight.device)
        return self._last_logits(idx, cache), cache

    def _last_logits(self, idx, cache):
        """Logits (B, V) after the last position of idx (B, T)."""
        x, head = self.hidden(idx, cache=cache)[:, -1], self.lm_head
        if type(head) is nn.Linear and x.device.type == "cpu" and 1 < len(x) <= 32:
            return (head.weight @ x.t()).t()  # with so few rows MKL is two to five times faster this way round
        return head(x)


def penalize(logits, texts, repetition_penalty=1.0, no_repeat_ngram_size=0):
    """Logits (B, V), made less likely where they repeat the ids in `texts` (B lists).

    repetition_penalty divides positive logits of ids that stand in the text and multiplies negative ones
    (Keskar et al. 2019, arXiv:1909.05858); no_repeat_ngram_size forbids an id that would complete an n-gram
    that the text holds already (Paulus et al. 2017, arXiv:1705.04304).
    """
    for row, text in enumerate(texts):
        if repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(text)), device=logits.device)
            score = logits[row, seen]
            logits[row, seen] = torch.where(score < 0, score * repetition_penalty, score / repetition_penalty)
        n = no_repeat_ngram_size
        if n and len(text) >= n:
            last = text[len(text) - n + 1 :]
            banned = [text[i + n - 1] for i in range(len(text) - n + 1) if text[i : i + n - 1] == last]
            if len(set(banned)) < logits.size(-1):  # something must be left
                logits[row, banned] = -math.inf
    return logits


def filter_logits(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Logits (B, V) over temperature, with -inf where top-k, top-p or min-p drops an id; the likeliest always stays.

    top_p keeps the fewest ids whose probabilities reach top_p (Holtzman et al. 2019, arXiv:1904.09751); min_p
    those with at least min_p times the likeliest one's probability (Nguyen et al. 2024, arXiv:2407.01082).
    """
    logits = logits / temperature
    if 0 < top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(descending=True)
        probs = ordered.softmax(-1)
        dropped = probs.cumsum(-1) - probs >= top_p  # those before it reach top_p already
        dropped[:, 0] = False
        logits = logits.masked_fill(dropped.scatter(-1, order, dropped), -math.inf)
    if min_p > 0.0:
        probs = logits.softmax(-1)
        logits = logits.masked_fill(probs < min_p * probs.amax(-1, keepdim=True), -math.inf)
    return logits


def sample_token(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, rng=None):
    """One id a row (B,) int64 from logits (B, V): the likeliest at temperature 0, else drawn from what is kept."""
    if temperature < 1e-5:  # dividing by less would overflow
        return logits.max(-1).indices
    probs = filter_logits(logits, temperature, top_k, top_p, min_p).softmax(-1)
    return torch.multinomial(probs, 1, generator=rng)[:, 0]
