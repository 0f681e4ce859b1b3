"""What a model says to a visitor of the page, longer and longer, together with what it says to others."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence

import gradio as gr

from miniglm.chat import Choice, Tool, answer_with, beams, grow, look_inside, prompt_ids, recent_turns, stream
from miniglm.conversation import Messages
from miniglm.origin import Loaded
from miniglm.page.controls import sampling_of
from miniglm.page.markup import inside_html, sources_html
from miniglm.page.visitors import Visitors

MOST_SEEN = 100  # tokens of a look inside


async def written(
    visitors: Visitors, loaded: Loaded, prompt: str | Messages, num_beams, length_penalty, max_new_tokens, *sampling
) -> AsyncIterator[tuple[str, str]]:
    """What a model says to a prompt: (text, its speed). The settings: see controls.settings."""
    ids = await asyncio.to_thread(prompt_ids, loaded, prompt)
    text = prompt if isinstance(prompt, str) and not loaded.chat else ""
    tokens, started = 0, time.perf_counter()
    if num_beams > 1:
        found = beams(loaded, ids, int(max_new_tokens), sampling_of(*sampling), int(num_beams), length_penalty)
        pieces = (loaded.tokenizer.decode(texts[0]) if texts else "" for texts in found)
    else:
        pieces = (piece for (piece,) in stream(loaded, [ids], int(max_new_tokens), sampling_of(*sampling)))
    async for added in visitors.gathered(pieces, bool):
        text += "".join(map(str, added))
        tokens += len(added)
        yield text, speed_of(tokens, started)


async def answered(
    visitors: Visitors, loaded: Loaded, tool: Tool | None, messages: Messages, request: gr.Request | None,
    turns, *settings,
) -> AsyncIterator[tuple[Messages, str, str]]:  # fmt: skip
    """What a model says to a conversation: (messages, calls included, what they rest on as HTML, the speed).

    tool: where it may look something up; of a book the calls are not worth a yield. turns: how many earlier ones it is
    shown.
    """
    question = messages[-1]["content"]
    shown = recent_turns(loaded, messages, int(turns))
    num_beams, _, max_new_tokens, *sampling = settings
    if not tool or num_beams > 1:  # beams look nothing up
        async for text, speed in written(visitors, loaded, shown if loaded.chat else question, *settings):
            yield [{"role": "assistant", "content": text}], "", speed
        return
    in_book = tool is loaded.book
    said: Messages = []
    places: Sequence = ()
    tokens, started = 0, time.perf_counter()
    steps = answer_with(tool, loaded, [shown], int(max_new_tokens), sampling_of(*sampling))
    in_sight = ("assistant",) if in_book else ("assistant", "search", "return")
    async for added in visitors.gathered(steps, lambda step: any(each.role in in_sight and each.text for each in step)):
        for _, role, piece, ids, found in itertools.chain(*added):
            places, tokens = found or places, tokens + len(ids)
            grow(said, role, piece)
        rests_on = sources_html(loaded.book, question, said[-1]["content"], places, request) if in_book else ""
        yield said, rests_on, speed_of(tokens, started)


async def said_to(
    visitors: Visitors, loaded: Loaded, tool: Tool | None, text: str, *settings
) -> AsyncIterator[tuple[str, str]]:
    """What a model says to a text alone: (text, its speed). A chat model is asked it, and may look something up."""
    if not loaded.chat:
        async for told in written(visitors, loaded, text, *settings):
            yield told
        return
    async for said, _, speed in answered(
        visitors, loaded, tool, [{"role": "user", "content": text}], None, 0, *settings
    ):
        yield said[-1]["content"], speed


async def looked_inside(
    visitors: Visitors, loaded: Loaded, text: str, chosen: Sequence[Choice], request: gr.Request, kept_k, kept_p,
    num_beams, length_penalty, max_new_tokens, *sampling,
) -> AsyncIterator[tuple[str, Sequence[Choice]]]:  # fmt: skip
    """The tokens that a model says behind a text and those already chosen: (a table as HTML, all choices).

    kept_k, kept_p: see chat.look_inside. Beams are none here.
    """
    ids = [*await asyncio.to_thread(prompt_ids, loaded, text), *(choice.token for choice in chosen)]
    yield inside_html(loaded.tokenizer, chosen, request), chosen
    longest = min(int(max_new_tokens), MOST_SEEN) - len(chosen)
    if longest <= 0 or ids[-1] in loaded.tokenizer.end_ids:
        return
    seen = look_inside(loaded, ids, longest, int(kept_k), kept_p, sampling_of(*sampling))
    async for added in visitors.gathered(seen):
        chosen = [*chosen, *added]
        yield inside_html(loaded.tokenizer, chosen, request), chosen


def speed_of(tokens: int, started: float) -> str:
    """The line that shows how fast an answer came."""
    return f"{tokens} token, {tokens / max(1e-9, time.perf_counter() - started):.0f} token/s"
