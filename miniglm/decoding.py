"""Token ids in, token ids out: greedy decoding, sampling and beam search, with a cache of keys and values.

It knows a model and ids, no text and no tokenizer. Prompts are lists of ids; a batch goes on as one.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from model import KVCache, MiniGLM


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen; names and meanings are those of transformers."""

    temperature: float = 1.0  # below 1 keeps to the likely, above 1 is bolder; 0 is greedy
    top_k: int = 0  # draw from the so many likeliest, 0 from all
    top_p: float = 1.0  # draw from the fewest likeliest that hold this share of probability
    min_p: float = 0.0  # leave out what has less than this share of the likeliest one's probability
    repetition_penalty: float = 1.0  # above 1 makes what stands there already less likely
    no_repeat_ngram_size: int = 0  # never repeat so many ids in a row, 0 for no limit
    seed: int | None = None  # repeats a run exactly; None draws from torch's random state


class Guide(Protocol):
    """Which ids may come next in one text, see grammar.py."""

    def allowed(self) -> np.ndarray | None:
        """The ids, int64, one at least; None where any may come."""

    def push(self, token: int):
        """Go on with an id."""


class Step(NamedTuple):
    """One step of a batch."""

    ids: list[int | None]  # one a prompt; None for a prompt that has ended
    logits: torch.Tensor  # (B, V) float32, what the ids were chosen from, after the penalties


@torch.inference_mode()
def generate(
    model: MiniGLM,
    prompts: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    end_ids: Collection[int] = (),
    use_cache: bool = True,
    guides: Sequence[Guide | None] = (),
) -> Iterator[Step]:
    """Go on from all prompts at once, a Step at a time. guides: of each prompt, or of none.

    A prompt that has given one of end_ids gives None from then on; when all have, the generator ends. A context that
    outgrows block_size keeps its last half and is read again; with or without the cache the rule is the same.
    """
    rng = None if sampling.seed is None else torch.Generator(model.device).manual_seed(sampling.seed)
    texts = [list(prompt) for prompt in prompts]  # all ids so far, for the penalties
    contexts = [fitting(model, text) for text in texts]  # the ids in the window
    ended = [False] * len(prompts)
    cache = None
    for _ in range(max_new_tokens):
        if cache is None:
            logits, cache = prefill(model, contexts, max_new_tokens)
        else:
            logits = decode(model, contexts, cache)
        logits = penalize(logits.float(), texts, sampling.repetition_penalty, sampling.no_repeat_ngram_size)
        for row, guide in enumerate(guides):
            if guide and not ended[row]:
                keep_allowed(logits[row], guide.allowed())
        chosen = sample_token(logits, sampling, rng).tolist()
        for guide, token, done in zip(guides, chosen, ended):
            if guide and not done:
                guide.push(token)
        step = Step([None if done else token for token, done in zip(chosen, ended)], logits)
        ended = [done or token in end_ids for token, done in zip(chosen, ended)]
        yield step
        if all(ended):
            return
        for text, token in zip(texts, chosen):
            text.append(token)
        grown = [fitting(model, [*context, token]) for context, token in zip(contexts, chosen)]
        if not use_cache or any(len(new) <= len(old) for new, old in zip(grown, contexts)):
            cache = None  # the contexts must be read from their beginning
        contexts = grown


@torch.inference_mode()
def beam_search(
    model: MiniGLM,
    prompt: list[int],
    max_new_tokens: int,
    num_beams: int,
    end_ids: Collection[int] = (),
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
) -> Iterator[list[tuple[list[int], float]] | None]:
    """Search the likeliest continuations of a prompt; yields None at each step and last what was found.

    What was found is a list of num_beams (ids, score), the best first. At each step the num_beams likeliest beginnings
    are kept. A continuation that ends, with one of end_ids or at max_new_tokens, scores its summed log-probability over
    its length to the power of length_penalty (above 0 favours longer ones). The search ends when no open beginning,
    scored at its present length, beats the worst of num_beams ended ones; these are transformers' rules with
    early_stopping=False.
    """
    device, cache = model.device, None
    texts = [list(prompt) for _ in range(num_beams)]
    contexts = [fitting(model, text) for text in texts]
    sums = torch.full((num_beams, 1), -1e9, device=device)  # log-probabilities of the beginnings
    sums[0] = 0.0  # all are the same at first: only one of them counts
    ended = []
    for length in range(1, max_new_tokens + 1):
        if cache is None:
            logits, cache = prefill(model, contexts, max_new_tokens)
        else:
            logits = decode(model, contexts, cache)
        log_probs = penalize(logits.float().log_softmax(-1), texts, repetition_penalty, no_repeat_ngram_size)
        # More than are kept, since the best of each beginning may be its ends.
        best, places = (sums + log_probs).flatten().topk((1 + max(1, len(end_ids))) * num_beams)
        candidates = [
            (score, *divmod(place, log_probs.size(-1))) for score, place in zip(best.tolist(), places.tolist())
        ]
        for score, beam, token in candidates[:num_beams]:
            if token in end_ids or length == max_new_tokens:
                ended.append(([*texts[beam][len(prompt) :], token], score / length**length_penalty))
        ended = sorted(ended, key=lambda found: -found[1])[:num_beams]
        open_ones = [candidate for candidate in candidates if candidate[2] not in end_ids][:num_beams]
        if len(ended) == num_beams and open_ones[0][0] / length**length_penalty <= ended[-1][1]:
            break
        beams = torch.tensor([beam for _, beam, _ in open_ones], device=device)
        cache.select(beams)
        sums = torch.tensor([[score] for score, _, _ in open_ones], device=device)
        texts = [[*texts[beam], token] for _, beam, token in open_ones]
        grown = [fitting(model, [*contexts[beam], token]) for _, beam, token in open_ones]
        if len(grown[0]) <= len(contexts[0]):
            cache = None
        contexts = grown
        yield None
    yield ended


def fitting(model: MiniGLM, ids: list[int]) -> list[int]:
    """A copy of ids, or of their last half block where they are longer than the block."""
    block_size = model.config.block_size
    return ids[:] if len(ids) <= block_size else ids[-(block_size // 2) :]


def prefill(model: MiniGLM, contexts: list[list[int]], more: int) -> tuple[torch.Tensor, KVCache]:
    """Logits (B, V) after each context, read from its beginning, and the KVCache that this filled.

    more: how many ids will be put into the cache at most, as long as the contexts fit.
    """
    longest = max(map(len, contexts))
    length = min(model.config.block_size, longest + more)
    padding = torch.tensor([[longest - len(context)] for context in contexts], device=model.device)  # (B, 1)
    starts = padding if padding.any() else None
    cache = KVCache(model.config, len(contexts), length, starts, model.device, model.dtype)
    idx = torch.tensor([[0] * (longest - len(context)) + context for context in contexts], device=model.device)
    return model.logits(model.hidden(idx, cache=cache)[:, -1]), cache


def decode(model: MiniGLM, contexts: list[list[int]], cache: KVCache) -> torch.Tensor:
    """Logits (B, V) after each context, of which all but the last id is in the cache already."""
    idx = torch.tensor([[context[-1]] for context in contexts], device=model.device)  # (B, 1)
    return model.logits(model.hidden(idx, cache=cache)[:, -1])


def penalize(logits, texts, repetition_penalty=1.0, no_repeat_ngram_size=0):
    """Logits (B, V), in place, made less likely where they repeat the ids in `texts` (B lists).

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


def keep_allowed(logits, allowed: np.ndarray | None):
    """Logits (V,), in place, with -inf for all but the allowed ids; None allows all."""
    if allowed is not None:
        kept = torch.from_numpy(allowed).to(logits.device)
        values = logits[kept]
        logits.fill_(-math.inf)
        logits[kept] = values


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


def sample_token(logits, sampling=Sampling(), rng=None):
    """One id a row (B,) int64 from logits (B, V): the likeliest at temperature 0, else drawn from what is kept.

    rng: a torch.Generator on the logits' device, or None for torch's random state.
    """
    if sampling.temperature < 1e-5:  # dividing by less would overflow
        return logits.max(-1).indices
    kept = filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    return torch.multinomial(kept.softmax(-1), 1, generator=rng)[:, 0]
