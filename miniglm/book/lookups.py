"""Talks in which the assistant looks into the book before it answers, made of what the book itself says.

    问：貂蝉最早在第几回出现？
    查：["貂蝉", "最早"]
    果：["允潜步窥之，乃府中歌伎貂蝉也（第八回，允：王允）", …]
    答：「允潜步窥之，乃府中歌伎貂蝉也」（第八回，允：王允）。

What a call is to hold follows from the question; what it finds, and what may be quoted of it, are the real search's.
In many talks a person is replaced by one who was invented for that talk alone: what is left to learn is to read.
"""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from random import Random

from miniglm.book.absence import FAMILIES, GIVEN, Absence
from miniglm.book.asking import EARLIEST, in_both, meanings
from miniglm.book.passages import Passages, Place
from miniglm.book.reader import BookReader, read, shown
from miniglm.book.wordings import Words

OPEN_QUESTIONS = (  # about a sentence of the book; {x} somebody in it, {c} a piece of it
    "书里怎么写{x}{c}？ {x}{c}是怎么回事？ {x}{c}是什么时候的事？ {x}{c}在哪一回？ {x}{c}的事？ 说说{x}{c}。 "
    "{x}{c}吗？ {x}什么时候{c}？ {x}在哪里{c}？ {x}{c}出自哪里？ {x}怎么{c}的？ "
    "谁{c}？ 是谁{c}？ {c}的是谁？ {c}的人是谁？ {c}的是哪个？ 哪个人{c}？ {c}是谁干的？ {c}是什么意思？ "
    "{c}是第几回的事？ {c}出自第几回？ {c}怎么回事？ {c}是什么？ “{c}”是谁说的？ “{c}”出自哪里？ "
    "“{c}”是哪一回的话？ 哪里写了{c}？ 关于{c}，书里怎么说？ "
    "有没有写{x}{c}？ 讲讲{c}。 {x}{c}，后来呢？"
)
STOP = "的了吗呢啊是有没谁什么怎样哪里几回书中里请问告诉我说讲一下这那个人"


def asked_words(question: str, subjects: Sequence[str]) -> list[str]:
    """What a call for a question is to hold: what it is about, and the words that say what is asked, in their order.

    subjects: what it is about, pieces of the question.
    """
    places = {question.find(subject): subject for subject in subjects if subject in question}
    covered = [(start, start + len(word)) for start, word in places.items()]
    for word in (word for word in known_longest_first() if word in question):
        for match in re.finditer(re.escape(word), question):
            inside = any(match.start() < stop and start < match.end() for start, stop in covered)
            if not inside and word != "谁":
                covered.append(match.span())
                places[match.start()] = word
    words = [places[start] for start in sorted(places)]
    first = [word for word in words if word in subjects]
    return [*first, *(word for word in words if word not in first)][:4]


@functools.cache
def known_longest_first() -> list[str]:
    """The words that say what is asked."""
    return sorted({*meanings(), *in_both(EARLIEST)}, key=lambda word: (-len(word), word))


def lookup(question: str, call: Sequence[str], found: Sequence[Place], answer: str, kind: str = "lookup") -> dict:
    """A talk with one look into the book. kind: of the fact that is looked up."""
    return {
        "Kind": kind,
        "messages": [
            {"role": "user", "content": question},
            {"role": "search", "content": json.dumps(list(call), ensure_ascii=False)},
            {"role": "return", "content": shown(found)},
            {"role": "assistant", "content": answer},
        ],
    }


def sayable(reader: BookReader, question: str, call: Sequence[str]) -> bool:
    """Whether the grammar of calls lets the words of a call be said to a question."""
    starts, stops = map(set, reader.edges(question))
    firsts = reader.first_words(question)
    if firsts and call and call[0] not in firsts:
        return False
    others = reader.named_with(call[0], firsts) if firsts and call else []
    if others and (len(call) < 2 or call[1] not in others):
        return False
    return all(
        any(match.start() in starts and match.end() in stops for match in re.finditer(re.escape(word), question))
        for word in call
    )


def telling(found: Sequence[Place], keys: Sequence[str]) -> Place | None:
    """The first place, of those that the model reads, that holds all of some keys."""
    return next((place for place in read(found) if all(key in place.record for key in keys)), None)


class Inventor:
    """Names of people who are not in a book."""

    def __init__(self, people: Sequence[str], absence: Absence, passages: Passages):
        self.families = [name[: 2 if len(name) > 3 else 1] for name in people] or list(FAMILIES)
        self.givens = [name[1:] for name in people] or list(GIVEN)
        self.absence, self.passages = absence, passages

    def name(self, rng: Random) -> str:
        """A name that the book does not have."""
        while True:
            name = self.absence.invented(self.families, self.givens, rng)
            if name not in self.passages.text:
                return name

    def renamed(self, talk: dict, names: Sequence[str], rng: Random) -> dict:
        """A talk in which somebody has an invented name, wherever one of their `names` stands."""
        name = self.name(rng)
        known = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        messages = [{**message, "content": known.sub(name, message["content"])} for message in talk["messages"]]
        return {**talk, "messages": messages, "Invented": name}


def open_lookups(reader: BookReader, inventor: Inventor, words: Words, rng: Random) -> Iterator[dict]:
    """Talks about sentences of the book, in random order without an end."""
    passages, templates = reader.passages, words.fitting(OPEN_QUESTIONS.split(), True)
    numbers = [
        number
        for number, sentence in enumerate(passages.sentences)
        if sentence.place and 10 <= len(sentence.text) <= 80 and (sentence.people or not passages.people)
    ]
    for _ in range(100 * len(numbers)):
        number = rng.choice(numbers)
        sentence = passages.sentences[number]
        clauses = [each for each in re.findall(r"\w+", sentence.text) if 3 <= len(each) <= 9]
        named = [name for name in (*sentence.people, *sentence.who) if len(name) > 1 and name in sentence.text]
        template = rng.choice(templates)
        if not clauses or "{x}" in template and not named:
            continue
        piece = rng.choice(clauses)
        if rng.random() < 0.6:
            start = rng.randrange(0, max(1, len(piece) - 2))
            piece = piece[start : start + rng.randrange(2, 6)]
        x = rng.choice(named) if named else ""
        if "{x}" in template and (x in piece or piece in x):
            continue
        question = words.own(template).format(x=x, c=piece)
        call = [x, piece] if "{x}" in template else [piece]
        if not sayable(reader, question, call):
            continue
        found = reader.places(call, question)
        place = next((each for each in read(found) if each.number == number), None)
        if not place:
            continue
        talk = lookup(question, call, found, place.answer)
        person = passages.person(x)
        if person and "{x}" in template and rng.random() < 0.5:
            talk = inventor.renamed(talk, [name for name in passages.people[person] if len(name) > 1], rng)
        yield talk
