"""Texts that grow in one batch, which they join and leave between steps."""

import asyncio
import gc
import random
import weakref
from contextlib import aclosing

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from miniglm.decoding import RunningBatch, Sampling, generate, new_cache
from miniglm.page.visitors import Visitors
from tools import random_model

GREEDY = Sampling(temperature=0)
KINDS = {
    "gpt2": {},
    "rope": {"positions": "rope", "n_kv_head": 2, "norm": "rms", "qk_norm": True},
    "alibi": {"positions": "alibi"},
    "the token before": {"previous_token": True},
}


def alone(model, prompt, n, sampling=GREEDY):
    """What a prompt is followed by in a batch of its own."""
    return [step.ids[0] for step in generate(model, [prompt], n, sampling)]


def come_and_go(model, batch, orders, most_rounds=1000):
    """What each of orders (the round it comes in, prompt, n, sampling, ids after which it goes) is followed by."""
    said, open_ones = {}, {}
    for number in range(most_rounds):
        for key, (comes, prompt, n, sampling, _) in enumerate(orders):
            if comes == number:
                open_ones[key], said[key] = generate(model, [prompt], n, sampling, batch=batch), []
        for key in list(open_ones):
            step = next(open_ones[key], None)
            said[key] += [] if step is None or step.ids[0] is None else step.ids
            if step is None or len(said[key]) >= orders[key][4]:
                open_ones.pop(key).close()
        batch.step()
        if not open_ones and len(said) == len(orders):
            return said
    raise AssertionError(f"{len(open_ones)} of {len(orders)} never ended")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limits", [{}, {"ROWS": 3, "READ": 7, "BEFORE": 10, "AHEAD": 2}], ids=["free", "narrow"])
def test_each_says_what_it_says_alone(kind, limits, monkeypatch):
    """Whoever comes and goes in between, with prompts longer than are read at once, and beyond the block.

    Greedily, and drawn with a seed, in float32.
    """
    for name, value in limits.items():
        monkeypatch.setattr(RunningBatch, name, value)
    model, rng = random_model(**KINDS[kind]), random.Random(kind)
    orders = []
    for number in range(16):
        prompt = [rng.randrange(64) for _ in range(rng.randint(1, 20))]
        sampling = rng.choice([GREEDY, Sampling(0.7, top_k=5, repetition_penalty=1.2, seed=number)])
        orders.append((rng.randint(0, 30), prompt, rng.randint(1, 40), sampling, rng.choice([5, 100])))
    batch = RunningBatch(model, shared=True)
    said = come_and_go(model, batch, orders)
    for key, (_, prompt, n, sampling, goes) in enumerate(orders):
        assert said[key] == alone(model, prompt, n, sampling)[:goes], key
    batch.step()
    assert not batch.rows and not batch.waiting and batch.cache is None and batch.begun is None


def test_who_is_not_listened_to_rests():
    """A text whose ids nobody takes stops growing, takes no row, and goes on where it was when they are taken."""
    model = random_model()
    batch, prompt = RunningBatch(model, shared=True), [3, 1, 4]
    talk = generate(model, [prompt], 60, GREEDY, batch=batch)
    assert next(talk).ids == [None]
    for _ in range(40):
        batch.step()
    assert not batch.rows and batch.cache is None and len(batch.resting) == 1
    said = []
    for step in talk:
        said += [] if step.ids[0] is None else step.ids
        batch.step()
    assert said == alone(model, prompt, 60)


def test_nothing_is_kept_of_who_goes_last():
    """Who leaves in the middle of a text takes its keys and values along, though nobody lets the batch step."""
    visitors, model = Visitors(), random_model()
    batch = visitors.batch_of(model)

    async def leave():
        async with aclosing(visitors.gathered(generate(model, [[3, 1]], 1 << 20, GREEDY, batch=batch))) as telling:
            await anext(telling)
            assert batch.cache

    asyncio.run(leave())
    visitors.submit(lambda: None).result()
    assert not batch.rows and batch.cache is None


@pytest.mark.parametrize("knobs", [{}, {"positions": "rope", "n_kv_head": 2}], ids=["gpt2", "rope"])
@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_attention_stays_fused(knobs, rows):
    """Whichever way round the products are computed that it begins with; else all keys were copied at each step."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # or an error
        for _ in generate(random_model(**knobs), [[7] * (1 + row % 3) for row in range(rows)], 4, GREEDY):
            pass


def test_a_cache_goes_with_its_last_reference():
    """Its memory is free at once, not when garbage is collected some day."""
    cache = new_cache(random_model(), 2, 8)
    cache.reserve(3, 16)
    keys = weakref.ref(cache.layers[0].keys)
    gc.disable()
    try:
        del cache
        assert keys() is None
    finally:
        gc.enable()


def test_there_is_room_for_so_many_keys_and_values(monkeypatch):
    """Who finds no room waits until others have left; one alone always has room."""
    model = random_model()
    monkeypatch.setattr(RunningBatch, "CACHE", 1)
    batch = RunningBatch(model, shared=True)
    orders = [(0, [number + 1, 2], 5, GREEDY, 100) for number in range(4)]
    most = []
    grows = batch.step
    monkeypatch.setattr(batch, "step", lambda: (grows(), most.append(len(batch.rows))))
    said = come_and_go(model, batch, orders)
    assert max(most) == 1 and said == {key: alone(model, order[1], 5) for key, order in enumerate(orders)}


def test_an_error_reaches_all_and_the_batch_goes_on(monkeypatch):
    """Where a step fails all texts end with its error; newcomers are answered."""
    model = random_model()
    batch = RunningBatch(model, shared=True)
    talks = [generate(model, [[number]], 9, GREEDY, batch=batch) for number in range(3)]
    assert [next(talk).ids for talk in talks] == [[None]] * 3
    batch.step()
    batch.fail(MemoryError("too much"))
    for talk in talks:
        with pytest.raises(MemoryError, match="too much"):
            next(talk)
    assert come_and_go(model, batch, [(0, [5, 6], 4, GREEDY, 100)]) == {0: alone(model, [5, 6], 4)}


def test_what_was_in_memory_does_not_count(monkeypatch):
    """Slots that no token of a row has filled may hold anything."""
    fresh = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **more: fresh(*shape, **more).fill_(float("nan")))
    model = random_model(**KINDS["alibi"])
    orders = [(number, [number + 1] * (1 + 3 * number), 12, GREEDY, 100) for number in range(5)]
    said = come_and_go(model, RunningBatch(model, shared=True), orders)
    monkeypatch.undo()
    assert said == {key: alone(model, order[1], 12) for key, order in enumerate(orders)}
