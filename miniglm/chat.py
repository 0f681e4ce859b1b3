"""Text in, text out: what the command line, the page and the evaluation share between tokenizer and model."""

import functools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from miniglm.book.passages import Place
from miniglm.book.reader import BookReader
from miniglm.conversation import Messages, encode_conversation, encode_prompt, normalised
from miniglm.decoding import Sampling, beam_search, filter_logits, generate
from miniglm.errors import UserError
from miniglm.grammar import Grammar, Guide, Trie
from miniglm.origin import Loaded
from miniglm.template import LEARNED, MARKERS
from miniglm.tokenizer import Tokenizer

CHAT_TOKENS = 200  # an answer without an end by then is cut off
BATCH = 64  # prompts answered at once
MOST_CALLS = 3  # of the search in one answer


class TooLong(UserError):
    """A conversation that leaves no room in the block."""


class Blank(UserError):
    """Nothing to answer, or to go on from."""


class Completion(NamedTuple):
    """What a prompt was followed by."""

    text: str
    tokens: int
    ended: bool  # whether it came to its end
    seconds: float  # its share of the batch's time
    looked_up: Messages = []  # what was looked for and what that gave, JSON, before the text
    places: Sequence = ()  # in the book, that were found
    said: Sequence[list[int]] = ()  # the ids of each call and of the text, with their markers and ends

    @property
    def call(self) -> str:
        """What was looked for, JSON."""
        return "".join(turn["content"] for turn in self.looked_up if turn["role"] == "search")


class Candidate(NamedTuple):
    """A token that could have come next."""

    token: int
    probability: float
    top_k: bool  # whether top-k keeps it
    top_p: bool  # whether top-p keeps it


class Choice(NamedTuple):
    """A token that was chosen, and what else could have been."""

    token: int
    candidates: list[Candidate]  # the likeliest first


def recent_turns(loaded: Loaded, messages: Messages, turns: int) -> Messages:
    """The last question of a conversation with as many of the `turns` exchanges before it as leave room for an answer.

    messages: the question is the last. Questions that were not answered are left out.
    """
    exchanges = answered(messages)
    for start in range(max(0, len(exchanges) - turns), len(exchanges)):
        shown = sum(exchanges[start:], []) + messages[-1:]
        ids = encode_prompt(loaded.tokenizer, normalised(shown, loaded.normalisation))
        if len(ids) <= loaded.model.config.block_size // 2:
            return shown
    return messages[-1:]


def answered(messages: Messages) -> list[Messages]:
    """The exchanges of a conversation, lists of messages that begin with a question and end with its answer."""
    exchanges = []
    for message in messages:
        if message["role"] == "user":
            exchanges.append([])
        if exchanges:
            exchanges[-1].append(message)
    return [each for each in exchanges if each[-1]["role"] == "assistant" and each[-1]["content"].strip()]


def prompt_ids(loaded: Loaded, prompt: str | Messages, choosing: bool = False) -> list[int]:
    """The ids to go on from: of a text as it is, or for a chat model of a conversation up to 答：.

    prompt: a text (for a chat model a question) or a conversation. choosing: leave 答： away, so that the model may
    search (查：) instead. Raises UserError for an empty prompt and for a conversation that leaves no room in the block.
    """
    block_size, tokenizer = loaded.model.config.block_size, loaded.tokenizer
    if not loaded.chat:
        if not isinstance(prompt, str) or not prompt:
            raise Blank("nothing to go on from", "write some text (--start=TEXT)")
        return [*tokenizer.start_ids, *tokenizer.encode(prompt)]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = normalised(messages, loaded.normalisation)
    if not messages or not messages[-1]["content"]:
        raise Blank("the question is empty", "ask something (--start=QUESTION)")
    choosing = choosing and not tokenizer.template  # a template of others knows no call: it is said in an answer
    ids = encode_conversation(tokenizer, messages)[0] if choosing else encode_prompt(tokenizer, messages)
    if len(ids) >= block_size:
        long = f"the question and what goes with it are {len(ids)} tokens long, the model reads {block_size - 1}"
        raise TooLong(long, "ask a shorter one, or show fewer turns or records")
    return ids


def prompt_of(loaded: Loaded, turns: Messages) -> str | Messages:
    """A conversation as prompt_ids takes it: to a model that is no chat model it is a text, a line a turn."""
    return turns if loaded.chat else "\n".join(turn["content"] for turn in turns)


def stream(
    loaded: Loaded,
    prompts: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[list[str | None]]:
    """Generate for all prompts at once; yields at each step the new text of each, whole characters only.

    A prompt that has ended yields None, as one does that waits for its batch.
    """
    decoders, end_ids = [loaded.tokenizer.decoder() for _ in prompts], loaded.tokenizer.end_ids
    for step in generate(loaded.model, prompts, max_new_tokens, sampling, end_ids, batch=loaded.batch):
        yield [None if token is None else decoder.decode([token]) for token, decoder in zip(step.ids, decoders)]


class Tool(Protocol):
    """Where a model may look something up before it answers: a table (search.py) or a book (book/reader.py)."""

    beyond: str  # what is said where the question is too long to read; "" tells the user

    def look(self, call: str, messages: Messages) -> tuple[str, list]:
        """(what a call in a conversation found, as the model reads it, the Places in a book)."""

    def call_grammar(self, messages: Messages) -> Grammar | None:
        """What may be said to a conversation: an answer or a call. None: anything."""

    def answer_grammar(self, call: str, places: Sequence, messages: Messages) -> Grammar | None:
        """What may be answered to what a call in a conversation found. None: anything."""


class Said(NamedTuple):
    """A piece of what is said in one of several conversations."""

    talk: int  # which
    role: str  # search, what is looked for; return, what was found (both JSON); assistant, the answer
    text: str
    ids: list[int]  # of the text, with the marker before it; none of a return
    places: Sequence = ()  # in a book, of a return


def answer_with(
    tool: Tool,
    loaded: Loaded,
    talks: Sequence[Messages],
    max_new_tokens: int,
    sampling: Sampling,
    guided: bool = True,
) -> Iterator[list[Said]]:
    """Let the model answer some conversations at once, looking things up as it likes; yields what is said at each step.

    guided: it keeps to the tool's grammars. Raises UserError where a conversation and what was found leave no room.
    """
    open_talks = dict(enumerate(talks))
    read = {number: normalised(messages, loaded.normalisation) for number, messages in open_talks.items()}
    grammars = {number: tool.call_grammar(messages) for number, messages in read.items() if guided}
    for calls in range(MOST_CALLS + 1):
        choosing = calls < MOST_CALLS  # after so many searches it must answer
        prompts = {}
        for number, messages in open_talks.items():
            try:
                prompts[number] = prompt_ids(loaded, messages, choosing)
            except TooLong:
                if not tool.beyond:
                    raise
                yield [Said(number, "assistant", tool.beyond, [])]
        if not prompts:
            return
        numbers = list(prompts)
        guides = [guide_of(loaded, grammars.get(number)) if choosing else None for number in numbers]
        roles: dict[int, str | None] = dict.fromkeys(numbers, None if choosing else "assistant")
        said, ids = dict.fromkeys(numbers, ""), {number: [] for number in numbers}
        decoders, end_ids = [loaded.tokenizer.decoder() for _ in numbers], loaded.tokenizer.end_ids
        asked = list(prompts.values())
        drawn = generate(loaded.model, asked, max_new_tokens, sampling, end_ids, guides=guides, batch=loaded.batch)
        for tokens, _ in drawn:
            step = []
            for number, token, decoder in zip(numbers, tokens, decoders):
                if token is None:
                    continue
                piece = decoder.decode([token])
                said[number] += piece
                ids[number].append(token)
                if roles[number] is None and len(said[number]) >= LONGEST_MARKER:
                    roles[number] = role = role_of(said[number])
                    piece = said[number] = said[number].removeprefix(MARKERS[role])
                if role := roles[number]:
                    step.append(Said(number, role, piece, ids[number]))
                    ids[number] = []
            yield step
        step, called = [], {}
        for number in numbers:
            if roles[number] is None:  # shorter than a marker
                step.append(Said(number, "assistant", said[number], ids[number]))
            elif roles[number] == "search":
                found, places = tool.look(said[number], read[number])
                step.append(Said(number, "return", found, [], places))
                asked = {"role": "search", "content": said[number]}
                called[number] = [*open_talks[number], asked, {"role": "return", "content": found}]
                if guided:
                    grammars[number] = tool.answer_grammar(said[number], places, read[number])
        yield step
        open_talks = called
        if not open_talks:
            return


LONGEST_MARKER = max(len(MARKERS[role]) for role in LEARNED)


def role_of(said: str) -> str:
    """Whether what a model said begins a call or an answer."""
    return next((role for role in LEARNED if said.startswith(MARKERS[role])), "assistant")


def guide_of(loaded: Loaded, grammar: Grammar | None) -> Guide | None:
    """What leads the model through a grammar; None where there is none, or a token's bytes are not known."""
    ranks = getattr(loaded.tokenizer, "ranks", None)
    return Guide(grammar, trie_of(loaded.tokenizer)) if grammar and ranks else None


@functools.lru_cache(maxsize=4)
def trie_of(tokenizer: Tokenizer) -> Trie:
    """The tokens of a tokenizer by their bytes."""
    return Trie(tokenizer.ranks, tokenizer.end_id)


class Source(NamedTuple):
    """Where an answer stands in a book."""

    number: int  # of the sentence in the book
    where: str  # the chapter, and who is meant by the names in it
    text: str
    quoted: bool | None  # whether what the answer quotes stands there word for word; None where it quotes nothing

    def __str__(self):
        mark = {True: "✓", False: "·", None: "·"}[self.quoted]
        return f"{mark} {self.where}：{self.text}" if self.where else f"{mark} {self.text}"


def sources(book: BookReader, question: str, answer: str, places: Sequence[Place]) -> list[Source]:
    """What an answer rests on: the places that were looked up, else those that bear it out."""
    quotes = re.findall("「(.+?)」", answer)
    found = places or book.passages.bearing(question, answer)
    return [
        Source(place.number, place.where, place.text, any(quote in place.text for quote in quotes) if quotes else None)
        for place in found
    ]


def unborne(book: BookReader, question: str, answer: str, found: Sequence[Source]) -> list[str]:
    """What an answer adds to its question and the book does not bear out: it is in none of the places found.

    A quotation must stand in the book word for word.
    """
    shown = "".join(f"{source.text}{source.where}" for source in found)
    added = book.passages.added(question, answer)
    return [word for word in added if word not in shown and (len(word) < 5 or not book.passages.is_verbatim(word))]


def grow(messages: Messages, role: str, piece: str) -> bool:
    """Add a piece of what answer_with yields to a list of messages, in place; whether it begins a new one."""
    begins = not messages or messages[-1]["role"] != role
    if begins:
        messages.append({"role": role, "content": ""})
    messages[-1]["content"] += piece
    return begins


def look_inside(
    loaded: Loaded, prompt: list[int], max_new_tokens: int, kept_k: int, kept_p: float, sampling: Sampling
) -> Iterator[Choice | None]:
    """Generate for one prompt; yields at each step the Choice, with the five likeliest Candidates, or None.

    With None it waits for its batch. The probabilities are those at the temperature (at 1 where it is 0).
    kept_k, kept_p: the top-k and the top-p by which candidates are marked, each alone; what is chosen follows
    `sampling`.
    """
    heat = sampling.temperature or 1.0
    end_ids = loaded.tokenizer.end_ids
    for (token,), (logits,) in generate(loaded.model, [prompt], max_new_tokens, sampling, end_ids, batch=loaded.batch):
        if token is None or logits is None:
            yield None
            continue
        probabilities, ids = (logits / heat).softmax(-1).topk(5)
        by_k = filter_logits(logits[None], heat, top_k=kept_k)[0].isfinite()
        by_p = filter_logits(logits[None], heat, top_p=kept_p)[0].isfinite()
        candidates = [
            Candidate(each, probability, bool(by_k[each]), bool(by_p[each]))
            for each, probability in zip(ids.tolist(), probabilities.tolist())
        ]
        yield Choice(token, candidates)


def complete(
    loaded: Loaded,
    prompts: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling,
    num_samples: int = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> list[Completion]:
    """num_samples Completions for each of the prompts, one prompt's after the other's, BATCH at a time.

    num_beams above 1 searches for the likeliest texts, the best first, instead of drawing; num_samples is at most
    num_beams then, and of sampling the penalties are heeded.
    """
    end_ids, ends = loaded.tokenizer.end_ids, [[end] for end in loaded.tokenizer.end_ids]
    if num_beams == 1:
        prompts = [prompt for prompt in prompts for _ in range(num_samples)]
    completions = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        started = time.perf_counter()
        if num_beams > 1:
            generated = []
            for prompt in batch:
                found = beams(loaded, prompt, max_new_tokens, sampling, num_beams, length_penalty)
                generated += list(found)[-1][:num_samples]
        else:
            drawn = generate(loaded.model, batch, max_new_tokens, of_batch(sampling, start), end_ids)
            steps = zip(*(step.ids for step in drawn))
            generated = [[token for token in row if token is not None] for row in steps]
        seconds = (time.perf_counter() - started) / len(generated)
        completions += [
            Completion(loaded.tokenizer.decode(ids), len(ids), ids[-1:] in ends, seconds, said=[ids])
            for ids in generated
        ]
    return completions


def complete_with(
    tool: Tool,
    loaded: Loaded,
    talks: Sequence[Messages],
    max_new_tokens: int,
    sampling: Sampling,
    guided: bool = True,
) -> list[Completion]:
    """A Completion of each conversation, BATCH at a time, in which the model looks things up as it likes.

    guided: see answer_with.
    """
    completions = []
    for start in range(0, len(talks), BATCH):
        batch, started = talks[start : start + BATCH], time.perf_counter()
        turns: list[Messages] = [[] for _ in batch]
        said: list[list[list[int]]] = [[] for _ in batch]
        places: list[Sequence] = [()] * len(batch)
        for step in answer_with(tool, loaded, batch, max_new_tokens, of_batch(sampling, start), guided):
            for number, role, text, ids, found in step:
                if grow(turns[number], role, text) and role != "return":
                    said[number].append([])
                if role == "return":
                    places[number] = found
                else:
                    said[number][-1] += ids
        seconds = (time.perf_counter() - started) / len(batch)
        for number in range(len(batch)):
            text = "".join(turn["content"] for turn in turns[number] if turn["role"] == "assistant")
            looked_up = [turn for turn in turns[number] if turn["role"] != "assistant"]
            tokens, last = sum(map(len, said[number])), said[number][-1]
            ended = not last or last[-1] in loaded.tokenizer.end_ids
            completions.append(Completion(text, tokens, ended, seconds, looked_up, places[number], said[number]))
    return completions


def of_batch(sampling: Sampling, start: int) -> Sampling:
    """How the batch is sampled that begins with prompt number `start`: by another seed, or all would draw the same."""
    return sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + start) % 2**63)


def beams(
    loaded: Loaded, prompt: list[int], max_new_tokens: int, sampling: Sampling, num_beams: int, length_penalty: float
) -> Iterator[list[list[int]]]:
    """Search for the likeliest texts after a prompt; yields at each step those found so far, last all, the best first.

    Of sampling the penalties are heeded.
    """
    steps = beam_search(
        loaded.model,
        prompt,
        max_new_tokens,
        num_beams,
        loaded.tokenizer.end_ids,
        length_penalty,
        sampling.repetition_penalty,
        sampling.no_repeat_ngram_size,
    )
    for found in steps:
        yield [ids for ids, _ in found or ()]
