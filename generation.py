"""Text in, text out: what the command line, the page and the evaluation share between tokenizer and model."""

import time
from functools import partial
from typing import NamedTuple

from errors import require

CHAT_TOKENS = 200  # an answer without an end by then is cut off
BATCH = 64  # prompts answered at once


class Completion(NamedTuple):
    """What a prompt was followed by."""

    text: str
    tokens: int
    ended: bool  # whether it came to its end
    seconds: float  # its share of the batch's time


def prompt_ids(model, tokenizer, prompt, chat):
    """The ids to go on from: of a text as it is, or of a conversation up to 答：.

    prompt: a text (for a chat model a question) or a list of {"role", "content"}. chat: whether the model has
    learnt conversations.
    Raises UserError for an empty prompt and for a conversation that leaves no room in the block.
    """
    if not chat:
        require(isinstance(prompt, str) and prompt, "nothing to go on from", "give some text as --start=TEXT")
        return tokenizer.encode(prompt)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [{**message, "content": message["content"].strip()} for message in messages]
    require(messages and messages[-1]["content"], "the question is empty", "ask something, as --start=QUESTION")
    ids = tokenizer.encode_prompt(messages)
    require(
        len(ids) < model.config.block_size,
        f"the question is {len(ids)} tokens long, the model reads {model.config.block_size - 1}",
        "ask a shorter one",
    )
    return ids


def stream(model, tokenizer, prompts, max_new_tokens, **sampling):
    """Generate for all prompts (lists of ids) at once; yields at each step the new text of each, whole characters only.

    sampling: what MiniGLM.generate takes. A prompt that has ended yields None.
    """
    decoders = [tokenizer.decoder() for _ in prompts]
    for step in model.generate(prompts, max_new_tokens, end_id=tokenizer.end_id, **sampling):
        yield [None if token is None else decoder.decode([token]) for token, decoder in zip(step, decoders)]


def complete(model, tokenizer, prompts, max_new_tokens, num_beams=1, length_penalty=1.0, **sampling):
    """A Completion for each of the prompts (lists of ids), BATCH of them at a time.

    num_beams above 1 searches for the likeliest text instead of drawing one; of sampling it heeds the penalties.
    """
    if num_beams > 1:
        penalties = {
            name: sampling[name] for name in ("repetition_penalty", "no_repeat_ngram_size") if name in sampling
        }
        search = partial(model.beam_search, end_id=tokenizer.end_id, length_penalty=length_penalty, **penalties)
    completions = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        started = time.monotonic()
        if num_beams > 1:
            generated = [search(prompt, max_new_tokens, num_beams)[0][0] for prompt in batch]
        else:
            steps = zip(*model.generate(batch, max_new_tokens, end_id=tokenizer.end_id, **sampling))
            generated = [[token for token in row if token is not None] for row in steps]
        seconds = (time.monotonic() - started) / len(batch)
        completions += [
            Completion(tokenizer.decode(ids), len(ids), ids[-1:] == [tokenizer.end_id], seconds) for ids in generated
        ]
    return completions
