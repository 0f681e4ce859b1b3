"""Token ids in, token ids out: greedy decoding, sampling and beam search, with a cache of keys and values.

It knows a model and ids, no text and no tokenizer. Prompts are lists of ids; a batch goes on as one.
"""

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
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

    @property
    def greedy(self) -> bool:
        """Whether the likeliest is taken: dividing by a lower temperature would overflow."""
        return self.temperature < 1e-5


class Guide(Protocol):
    """Which ids may come next in one text, see grammar.py."""

    def allowed(self) -> np.ndarray | None:
        """The ids, int64, one at least; None where any may come."""

    def push(self, token: int):
        """Go on with an id."""


class Step(NamedTuple):
    """One step of some prompts."""

    ids: list[int | None]  # one a prompt; None for a prompt that has ended, or waits for the batch it is in
    logits: list[torch.Tensor | None]  # (V,) float32 each, what the ids were chosen from, after the penalties


def generate(
    model: MiniGLM,
    prompts: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    end_ids: Collection[int] = (),
    use_cache: bool = True,
    guides: Sequence[Guide | None] = (),
    batch: "RunningBatch | None" = None,
) -> Iterator[Step]:
    """Go on from all prompts at once, a Step at a time. guides: of each prompt, or of none.

    A prompt that has given one of end_ids gives None from then on; when all have, the generator ends. A context that
    outgrows block_size keeps its last half and is read again; with or without the cache the rule is the same.
    batch: one that somebody else lets step, in which these prompts join others; None: one of their own.
    """
    rng = None if sampling.seed is None else torch.Generator(model.device).manual_seed(sampling.seed)
    rows = [
        Row(list(prompt), fitting(model, prompt), max_new_tokens, sampling, rng, end_ids, guide)
        for prompt, guide in zip(prompts, guides or itertools.repeat(None))
    ]
    joined = batch or RunningBatch(model, use_cache)
    joined.join(rows)
    try:
        while not all(row.ended and not row.drawn for row in rows):
            if batch is None:
                joined.step()
            drawn = [joined.take(row) for row in rows]
            yield Step([token for token, _ in drawn], [logits for _, logits in drawn])
    finally:
        joined.leave(rows)


@dataclass(eq=False)
class Row:
    """A text that grows in a batch."""

    text: list[int]  # all ids so far, for the penalties
    context: list[int]  # those in the window
    more: int  # how many ids may yet come
    sampling: Sampling
    rng: torch.Generator | None  # of all rows that are drawn together; None: torch's random state
    end_ids: Collection[int]
    guide: Guide | None = None
    number: int = 0  # in the order of joining
    error: Exception | None = None  # which ended it
    drawn: deque[tuple[int, torch.Tensor]] = field(default_factory=deque)  # (id, logits (V,)), not yet taken

    @property
    def ended(self) -> bool:
        """Whether no id comes any more."""
        return not self.more


class RunningBatch:
    """Texts that grow together, an id each at a step; they join and leave between steps.

    So a batch is never longer at work than one of its texts, and no text waits for another's end (Yu et al. 2022,
    "Orca", OSDI). A few texts are as fast as one: what a step takes is reading the weights.
    """

    ROWS = 64  # at once; others wait until one leaves
    CACHE = 4 << 30  # bytes of keys and values beyond which none joins
    READ = 2048  # tokens of prompts, padding included, that a step reads: the others wait for it
    BEFORE = 512  # tokens of newcomers that are read before all others grow again
    AHEAD = 256  # tokens of a row for which room is made at once
    UNTAKEN = 8  # ids that a row has drawn ahead, before it rests

    def __init__(self, model: MiniGLM, use_cache: bool = True, shared: bool = False):
        """shared: whether texts of many come and go, so that there are limits to what is taken in at once."""
        self.model, self.use_cache, self.shared, self.numbers = model, use_cache, shared, itertools.count()
        self.rows: list[Row] = []  # in the order of the cache's
        self.waiting: list[Row] = []  # those that are to be read from their beginning
        self.resting: list[Row] = []  # those whose ids are not taken
        self.cache: KVCache | None = None
        self.read_ahead = 0  # tokens since those that are read have grown
        self.begun: KVCache | None = None  # of the first that waits, where it is too long to be read at once

    def join(self, rows: Sequence[Row]):
        """Let texts grow from the next step on, the first to come first."""
        for row in rows:
            row.number = next(self.numbers)
        self.waiting += [row for row in rows if not row.ended]

    def leave(self, rows: Sequence[Row]):
        """Let texts grow no more."""
        for row in rows:
            row.more = 0

    def fail(self, error: Exception):
        """Let an error end all texts; it is raised where the next id of each is taken."""
        for row in (*self.rows, *self.waiting, *self.resting):
            row.error, row.more = error, 0
        self.rows, self.waiting, self.resting, self.cache, self.begun = [], [], [], None, None

    def take(self, row: Row) -> tuple[int, torch.Tensor] | tuple[None, None]:
        """The next (id, logits) that a row has drawn, if any."""
        if row.error:
            raise row.error
        if row.drawn:
            return row.drawn.popleft()
        if row in self.resting:
            self.resting.remove(row)
            self.waiting.append(row)
        return None, None

    @torch.inference_mode()
    def step(self):
        """Read some of the texts that wait, and let each that is read grow by an id.

        While few tokens are read those that have grown before may wait: the first id of a newcomer comes sooner.
        """
        self.settle()
        read, cache, of_read = self.read()
        self.read_ahead += sum(len(row.context) for row in read)
        grown, logits = self.rows, []
        if self.shared and read and self.read_ahead < self.BEFORE:
            grown = []
        if grown and self.cache:
            self.read_ahead = 0
            self.grow(0, self.cache.longest + 1)
            logits.append(decode(self.model, [row.context for row in grown], self.cache))
        if read and cache:
            self.add(cache)
            logits.append(of_read)
        self.rows = [*self.rows, *read]
        grown = [*grown, *read]
        if not grown:
            return
        joined = torch.cat(logits).float()
        for row, token, of_row in zip(grown, choose(grown, joined), joined):
            row.drawn.append((token, of_row))
            row.text.append(token)
            row.more = 0 if token in row.end_ids else row.more - 1
            row.context = fitting(self.model, [*row.context, token])

    @torch.inference_mode()
    def settle(self):
        """Part with the rows that have ended, that rest, or that must be read again."""
        for row in [row for row in self.waiting if row.ended]:
            self.begun = None if row is self.waiting[0] else self.begun
            self.waiting.remove(row)
        self.resting = [row for row in self.resting if not row.ended]
        lengths = self.cache.lengths if self.cache else []
        for place in reversed(range(len(self.rows))):
            row, rests = self.rows[place], len(self.rows[place].drawn) >= self.UNTAKEN
            if not row.ended and not rests and self.use_cache and len(row.context) > lengths[place]:
                continue
            self.rows[place] = self.rows[-1]
            self.rows.pop()
            if self.cache:
                self.cache.drop(place)
            if not row.ended:
                (self.resting if rests else self.waiting).append(row)
        if not self.rows:
            self.cache = None

    def read(self) -> tuple[list[Row], KVCache | None, torch.Tensor]:
        """(some rows that waited, a cache that has read them, the logits (B, V) after each)."""
        rows, longest = [], 0
        for row in self.waiting:
            longest = max(longest, len(row.context))
            too_much = len(rows) > 0 and longest * (len(rows) + 1) > self.READ
            if self.shared and (too_much or not self.has_room(len(rows) + 1, self.room_of(row))):
                break
            rows.append(row)
        if not rows:
            return rows, None, torch.empty(0)
        contexts = [row.context for row in rows]
        if self.shared and len(contexts[0]) > self.READ:  # it is read in several steps, and the others go on in between
            cache = self.begun or new_cache(self.model, 1, len(contexts[0]))
            contexts = [contexts[0][cache.longest :][: self.READ]]
        else:
            room = max(map(len, contexts)) if self.rows else max(self.room_of(row) for row in rows)
            cache = new_cache(self.model, len(rows), room)
        logits = prefill(self.model, contexts, cache)
        if cache.longest < len(rows[0].context):
            self.begun = cache
            return [], None, logits
        self.begun = None
        del self.waiting[: len(rows)]
        return rows, cache, logits

    def add(self, cache: KVCache):
        """Add the rows of another cache behind those that are there."""
        if self.cache is None:
            self.cache = cache
            return
        self.grow(len(cache.lengths), cache.longest)
        self.cache.put(cache)

    def room_of(self, row: Row) -> int:
        """How many tokens there should be room for, for some time."""
        return min(self.model.config.block_size, len(row.context) + min(row.more, self.AHEAD))

    def has_room(self, more: int, room: int) -> bool:
        """Whether so many more rows may join, one of which wants so much room; one alone always may."""
        rows, config = len(self.rows) + more, self.model.config
        room = max(room, self.cache.size[1] if self.cache else 0)
        size = 2 * config.n_layer * config.kv_heads * config.head_size * self.model.dtype.itemsize
        return rows == 1 or (rows <= self.ROWS and rows * room * size <= self.CACHE)

    def grow(self, more: int, length: int):
        """Make room in the cache for so many more rows, and for so many tokens of each."""
        assert self.cache
        rows, room = self.cache.size
        wanted = len(self.rows) + more
        if wanted > rows or length > room:
            longest = min(self.model.config.block_size, length + self.AHEAD)
            self.cache.reserve(max(rows, wanted + wanted // 2 if wanted > rows else 0), max(room, longest))


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
            cache = new_cache(model, num_beams, min(model.config.block_size, len(contexts[0]) + max_new_tokens))
            logits = prefill(model, contexts, cache)
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


def new_cache(model: MiniGLM, rows: int, room: int) -> KVCache:
    """An empty cache of a model, for so many rows and tokens of each."""
    return KVCache(model.config, rows, room, model.device, model.dtype)


def prefill(model: MiniGLM, contexts: list[list[int]], cache: KVCache) -> torch.Tensor:
    """Logits (B, V) after each context, read into a cache of B rows behind what they hold already."""
    lengths = [len(context) for context in contexts]
    longest = max(lengths)
    cache.padded = lengths if min(lengths) < longest else None
    idx = torch.tensor([context + [0] * (longest - len(context)) for context in contexts], device=model.device)
    last = cache.of_last(model.hidden(idx, cache=cache))  # (B, T, C) -> (B, 1, C)
    cache.padded = None
    return model.logits(last[:, 0])


def decode(model: MiniGLM, contexts: list[list[int]], cache: KVCache) -> torch.Tensor:
    """Logits (B, V) after each context, of which all but the last id is in the cache already."""
    idx = torch.tensor([[context[-1]] for context in contexts], device=model.device)  # (B, 1)
    return model.logits(model.hidden(idx, cache=cache)[:, -1])


def choose(rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
    """The next id of each row by its logits (B, V), which its penalties and its guide change in place."""
    for row, of_row in zip(rows, logits):
        penalize(of_row[None], [row.text], row.sampling.repetition_penalty, row.sampling.no_repeat_ngram_size)
        if row.guide:
            keep_allowed(of_row, row.guide.allowed())
    alike: dict[tuple | None, list[int]] = {}  # places of rows that are drawn together, in the order of joining
    for place, row in sorted(enumerate(rows), key=lambda each: each[1].number):
        alike.setdefault(None if row.sampling.greedy else (row.sampling, row.rng), []).append(place)
    chosen = [0] * len(rows)
    for places in alike.values():
        first, whole = rows[places[0]], places == list(range(len(rows)))
        ids = sample_token(logits if whole else logits[places], first.sampling, first.rng)
        for place, token in zip(places, ids.tolist()):
            chosen[place] = token
    for row, token in zip(rows, chosen):
        if row.guide:
            row.guide.push(token)
    return chosen


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
    if sampling.greedy:
        return logits.max(-1).indices
    kept = filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    return torch.multinomial(kept.softmax(-1), 1, generator=rng)[:, 0]
