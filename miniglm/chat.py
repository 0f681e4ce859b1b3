"""Text in, text out: what the command line, the page and the evaluation share between tokenizer and model."""

import json
import time
from functools import partial
from typing import NamedTuple

from miniglm.errors import refuse
from miniglm.search import search
from miniglm.tokenizer import LEARNED, MARKERS
from model import filter_logits

CHAT_TOKENS = 200  # an answer without an end by then is cut off
BATCH = 64  # prompts answered at once
MOST_CALLS = 3  # of the search in one answer


class Completion(NamedTuple):
    """What a prompt was followed by."""

    text: str
    tokens: int
    ended: bool  # whether it came to its end
    seconds: float  # its share of the batch's time


class Candidate(NamedTuple):
    """A token that could have come next."""

    text: str
    probability: float
    top_k: bool  # whether top-k keeps it
    top_p: bool  # whether top-p keeps it


def recent_turns(model, tokenizer, messages, turns):
    """The last question of a conversation with as many of the `turns` exchanges before it as leave room for an answer.

    messages: [{"role", "content"}, …], the question last. Questions that were not answered are left out.
    """
    exchanges = answered(messages)
    for start in range(max(0, len(exchanges) - turns), len(exchanges)):
        shown = sum(exchanges[start:], []) + messages[-1:]
        if len(tokenizer.encode_prompt(shown)) <= model.config.block_size // 2:
            return shown
    return messages[-1:]


def answered(messages):
    """The exchanges of a conversation, lists of messages that begin with a question and end with its answer."""
    exchanges = []
    for message in messages:
        if message["role"] == "user":
            exchanges.append([])
        if exchanges:
            exchanges[-1].append(message)
    return [each for each in exchanges if each[-1]["role"] == "assistant" and each[-1]["content"].strip()]


def prompt_ids(model, tokenizer, prompt, chat, choosing=False):
    """The ids to go on from: of a text as it is, or of a conversation up to 答：.

    prompt: a text (for a chat model a question) or a list of {"role", "content"}. chat: whether the model has
    learnt conversations. choosing: leave 答： away, so that the model may search (查：) instead.
    Raises UserError for an empty prompt and for a conversation that leaves no room in the block.
    """
    if not chat:
        refuse(not isinstance(prompt, str) or not prompt, "nothing to go on from", "write some text (--start=TEXT)")
        return tokenizer.encode(prompt)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [{**message, "content": message["content"].strip()} for message in messages]
    refuse(not messages or not messages[-1]["content"], "the question is empty", "ask something (--start=QUESTION)")
    ids = tokenizer.encode_conversation(messages)[0] if choosing else tokenizer.encode_prompt(messages)
    refuse(
        len(ids) >= model.config.block_size,
        f"the question and what goes with it are {len(ids)} tokens long, the model reads {model.config.block_size - 1}",
        "ask a shorter one, or show fewer turns or records",
    )
    return ids


def stream(model, tokenizer, prompts, max_new_tokens, **sampling):
    """Generate for all prompts (lists of ids) at once; yields at each step the new text of each, whole characters only.

    sampling: what MiniGLM.generate takes. A prompt that has ended yields None.
    """
    decoders = [tokenizer.decoder() for _ in prompts]
    for step in model.generate(prompts, max_new_tokens, end_id=tokenizer.end_id, **sampling):
        yield [None if token is None else decoder.decode([token]) for token, decoder in zip(step, decoders)]


def answer_with_search(model, tokenizer, messages, table, max_new_tokens, **sampling):
    """Let the model answer a conversation, searching `table` (see search.py) as it likes; yields (role, new text).

    The roles are search, what it looks for; return, the records found, both in JSON; and assistant, the answer.
    Raises UserError where the conversation and the records leave no room.
    """
    for calls in range(MOST_CALLS + 1):
        choosing = calls < MOST_CALLS  # after so many searches it must answer
        ids = prompt_ids(model, tokenizer, messages, True, choosing)
        role, said = None if choosing else "assistant", ""
        for (piece,) in stream(model, tokenizer, [ids], max_new_tokens, **sampling):
            said += piece
            if role is None and len(said) >= max(len(MARKERS[role]) for role in LEARNED):
                role = next((role for role in LEARNED if said.startswith(MARKERS[role])), "assistant")
                said = piece = said.removeprefix(MARKERS[role])
                yield role, piece
            elif role and piece:
                yield role, piece
        if role is None and said:  # shorter than a marker
            yield "assistant", said
        if role != "search":
            return
        found = json.dumps(search(table, said), ensure_ascii=False)
        yield "return", found
        messages = [*messages, {"role": "search", "content": said}, {"role": "return", "content": found}]


def grow(messages, role, piece):
    """Add a piece of what answer_with_search yields to a list of messages, in place; whether it begins a new one."""
    begins = not messages or messages[-1]["role"] != role
    if begins:
        messages.append({"role": role, "content": ""})
    messages[-1]["content"] += piece
    return begins


def look_inside(model, tokenizer, prompt, max_new_tokens, kept_k, kept_p, temperature=1.0, **sampling):
    """Generate for one prompt (a list of ids); yields at each step what was chosen and the five likeliest Candidates.

    The probabilities are those at the temperature (at 1 where it is 0). kept_k, kept_p: the top-k and the top-p by
    which candidates are marked, each alone; what is chosen follows temperature and sampling.
    """
    steps = model.generate([prompt], max_new_tokens, tokenizer.end_id, temperature, with_logits=True, **sampling)
    for (token,), logits in steps:
        heat = temperature or 1.0
        probabilities, ids = (logits / heat).softmax(-1)[0].topk(5)
        by_k = filter_logits(logits, heat, top_k=kept_k)[0].isfinite()
        by_p = filter_logits(logits, heat, top_p=kept_p)[0].isfinite()
        yield (
            tokenizer.show(token),
            [
                Candidate(tokenizer.show(each), probability, bool(by_k[each]), bool(by_p[each]))
                for each, probability in zip(ids.tolist(), probabilities.tolist())
            ],
        )


def complete(model, tokenizer, prompts, max_new_tokens, num_samples=1, num_beams=1, length_penalty=1.0, **sampling):
    """num_samples Completions for each of the prompts (lists of ids), one prompt's after the other's, BATCH at a time.

    num_beams above 1 searches for the likeliest texts, the best first, instead of drawing; num_samples is at most
    num_beams then, and of sampling the penalties are heeded.
    """
    if num_beams > 1:
        penalties = {
            name: sampling[name] for name in ("repetition_penalty", "no_repeat_ngram_size") if name in sampling
        }
        search = partial(model.beam_search, end_id=tokenizer.end_id, length_penalty=length_penalty, **penalties)
    else:
        prompts = [prompt for prompt in prompts for _ in range(num_samples)]
    completions, seed = [], sampling.get("seed")
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        started = time.perf_counter()
        if num_beams > 1:
            found = [list(search(prompt, max_new_tokens, num_beams))[-1] for prompt in batch]
            generated = [ids for beams in found for ids, _ in beams[:num_samples]]
        else:
            if seed is not None:  # another one for each batch, or all would draw the same
                sampling["seed"] = (seed + start) % 2**63
            steps = zip(*model.generate(batch, max_new_tokens, end_id=tokenizer.end_id, **sampling))
            generated = [[token for token in row if token is not None] for row in steps]
        seconds = (time.perf_counter() - started) / len(generated)
        completions += [
            Completion(tokenizer.decode(ids), len(ids), ids[-1:] == [tokenizer.end_id], seconds) for ids in generated
        ]
    return completions
