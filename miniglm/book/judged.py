"""Questions about a book whose answers can be judged by it, and pairs of a right answer and a wrong one."""

from collections.abc import Collection, Iterator, Sequence
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

from miniglm.book.questions import Book, bare, record
from miniglm.book.reader import words_of
from miniglm.conversation import Messages

ABSENT, BEYOND = 0.35, 0.3  # shares of questions about what the book does not have, and about what is beyond it


class Prompt(NamedTuple):
    """A question to be answered and judged, and how it ought to be answered."""

    record: dict  # "Question", "Answer", "Key", "Kind"
    talk: Messages  # from the question to the right answer, with what is looked up between them


def prompts(
    book: Book, held_out: Collection[str], absent: Iterator[dict], avoided: Collection[str], count: int, rng: Random
) -> list[Prompt]:
    """At most `count` different Prompts, in the words that are trained, in random order.

    held_out: who is not asked about. absent: facts about what the book does not have, see Absence.facts. avoided:
    questions that are not asked, see questions.bare.
    """
    facts = [fact for fact in book.facts if fact["about"] not in held_out]
    sources = {
        "facts": (asked(book, rng.choice(facts), rng) for _ in range(3 * count if facts else 0)),
        "absent": (asked(book, fact, rng) for fact in absent),
        "beyond": beyond(book, rng),
    }
    wanted = {"absent": round(ABSENT * count), "beyond": round(BEYOND * count)}
    wanted = {"facts": count - sum(wanted.values()), **wanted}
    found: dict[str, Prompt] = {}
    for name, source in sources.items():
        fresh = (each for each in source if each and bare(each.record["Question"]) not in avoided)
        found |= {each.record["Question"]: each for each in islice(fresh, wanted[name])}
    return rng.sample(list(found.values()), len(found))


def asked(book: Book, fact: dict, rng: Random) -> Prompt | None:
    """A question about a fact, in one of the trained wordings; None where nothing answers it."""
    questions = book.ask(fact, rng)
    told = book.told(fact, book.words.as_typed(questions[0], rng)) if questions else None
    return prompt_of(told, told.get("Key") or fact["Key"]) if told else None


def beyond(book: Book, rng: Random) -> Iterator[Prompt]:
    """Courtesies, and questions that a book cannot answer, of those that may be trained."""
    courtesies, beyonds = book.talk.courtesies(rng), book.talk.beyonds(rng)
    for kind in cycle(("beyond", "greeting", "beyond")):
        said = next(courtesies if kind == "greeting" else beyonds, None)
        if said is None:
            return
        typed, answer, held = said
        if not held:
            yield prompt_of(record(typed, answer, kind), "")


def prompt_of(told: dict, key) -> Prompt:
    """The Prompt of a record as it is trained."""
    if "messages" in told:
        talk = told["messages"]
    else:
        talk = [{"role": "user", "content": told["Question"]}, {"role": "assistant", "content": told["Answer"]}]
    return Prompt(record(talk[0]["content"], talk[-1]["content"], told["Kind"], Key=key), talk)


def side_of(book: Book, prompt: Prompt) -> str:
    """What a question is about: known, what the book has; absent, what it has not; beyond, what no book answers."""
    key = prompt.record["Key"]
    return "absent" if key == book.words.absent else "known" if key else "beyond"


def made_pair(book: Book, prompt: Prompt, courtesies: Sequence[str], rng: Random) -> dict:
    """A pair without a model: a refusal against an invention, or a right answer against a needless refusal.

    Both answers look the same things up, so that what is learnt is the answer alone. courtesies: said to greetings.
    """
    looked_up, key = prompt.talk[1:-1], prompt.record["Key"]
    question = prompt.record["Question"]
    names = book.reader.passages.names.findall(question) or [bare(question)[:4]]
    refused, denied = book.talk.beyond, book.words.answer("absent", x=names[0])
    if side_of(book, prompt) == "absent":
        wrong = [refused]
    elif key:  # where something was found, to refuse is wrong here and right beyond the book: that is not pushed
        wrong = [denied] if looked_up else [refused, denied]
    elif prompt.record["Kind"] == "beyond":
        wrong = quotations(book, prompt) or [denied, rng.choice(courtesies or [denied])]
    else:
        wrong = [refused, denied]
    return pair(prompt, [*looked_up, {"role": "assistant", "content": rng.choice(wrong)}], "made")


def quotations(book: Book, prompt: Prompt) -> list[str]:
    """How what was looked up for a question would be quoted."""
    calls = [turn["content"] for turn in prompt.talk if turn["role"] == "search"]
    return [
        place.answer
        for call in calls
        for place in book.reader.places(words_of(call), prompt.record["Question"])
        if place.answer
    ]


def pair(prompt: Prompt, wrong: Messages, source: str) -> dict:
    """A record of a pair. source: made, or the model that said what is wrong."""
    about = {"Kind": prompt.record["Kind"], "Source": source}
    return {"messages": prompt.talk[:1], "chosen": prompt.talk[1:], "rejected": list(wrong), **about}
