"""The sentences of a book, and how those are found that tell what somebody asks.

    book = Passages.load("out/demo-chat")
    book.search(["曹操", "死"])       # up to three Places: chapter, sentence, who is meant by a name in it
    book.search(["貂蝉", "最早"])     # where all of it stands first
    book.search(["第五十回"])         # a chapter's heading

A name stands for its person, however the book calls them there; a typing slip that sounds like a name stands for it,
too. Question words stand for what a book says in their place (死: 亡 斩 薨), and for the facts that are known. The rest
is BM25 over characters.
"""

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import bm25s
import numpy as np
from pypinyin import lazy_pinyin

from miniglm.book.absence import COMPOUND, FAMILIES, compact
from miniglm.book.asking import (
    ASIDE,
    CAST_ASIDE,
    CHAPTER,
    LAST_CHAPTER,
    QUESTION_WORDS,
    asks_first,
    chapter_number,
    in_both,
    kinds_of,
    meanings,
    told_by,
)
from miniglm.book.mentions import any_of
from miniglm.book.quoting import quoted
from miniglm.book.sections import writings
from miniglm.errors import UserError, refuse
from miniglm.files import link_whole, read_json, read_json_lines, write_json, write_whole

SENTENCES, ABOUT = "book.jsonl", "book.json"
MOST = 3  # places given back
MEANT = 3  # people at most, who are told beside a quotation to be meant by a name in it
SHOWN = (60, 140)  # characters of a place, about: a short sentence is shown with those beside it
PERSON, NEAR, TOLD, WORD = 6, 1, 8, 2  # how often a token counts: somebody, them nearby, a fact, what was asked
WELL_KNOWN = 100  # people, whose names are known by their sound, too
FATAL = 1.3  # times as much counts where somebody acts last, if their death is asked for


@dataclass(frozen=True)
class Sentence:
    """One sentence of a book, as book.jsonl has it."""

    chapter: str  # the label of its section, "" where it has none
    place: int  # its number in the section, from 1; 0 is the heading
    text: str
    who: dict[str, str] = field(default_factory=dict)  # {as written: person}, of those not called by their first name
    people: list[str] = field(default_factory=list)  # everybody in it
    tells: list[list[str]] = field(default_factory=list)  # the facts it bears out: [kind, about whom, the clauses]


@dataclass(frozen=True)
class Place:
    """Where something stands in a book."""

    number: int  # of the sentence
    chapter: str
    text: str  # the sentence, with its neighbours where it is short
    quote: str  # the clauses of it that fit the question
    who: dict[str, str]  # {as written: person} of those in the quote who are not called by their first name
    counted: bool = False  # it is a sentence of ours about what was counted, and no quotation
    told: bool = False  # it is known to tell what was asked for

    @property
    def where(self) -> str:
        """The chapter, and who is meant by the names in the quote: 第四回，操：曹操."""
        meant = (f"{written}：{person}" for written, person in self.who.items())
        return "，".join(filter(None, [self.chapter, *meant]))

    @property
    def record(self) -> str:
        """What the model is shown: the quote, and in brackets where it stands."""
        return f"{self.quote}（{self.where}）" if self.where and not self.counted else self.quote

    @property
    def answer(self) -> str:
        """The answer that says no more than this."""
        if self.counted:
            return f"{self.quote}。"
        return f"「{self.quote}」（{self.where}）。" if self.where else f"「{self.quote}」。"


@dataclass(frozen=True)
class Forms:
    """How is said, in the book's script, what a search did not find."""

    absent: str = "，书中没有这个人。"  # behind a name
    absent_chapter: str = ""  # behind a chapter's label; "" where chapters cannot be counted
    beyond: str = "这个我答不了。"  # what was not taught, or is beyond the book, and what can be asked
    by_heart: int = 0  # people, the best known, of whom the model has learnt something by heart
    mentioned: Sequence[str] = ()  # those of them of whom it has not learnt who they are


class Passages:
    """The sentences of a book with an index over them."""

    def __init__(
        self,
        sentences: Sequence[Sentence],
        people: dict[str, list[str]],
        forms: Forms = Forms(),
        ends: Mapping[str, str] | None = None,
        beside: str = "",
    ):
        """people: {name: all their names}, the best known first. ends: {name: the chapter in which they act last}.

        beside: names that the book bears out without having them, compact: 赵子龙, who is 赵云, 字子龙.
        """
        self.sentences, self.people, self.forms, self.ends, self.beside = sentences, people, forms, ends or {}, beside
        self.person_of = {name: person for person, names in reversed(people.items()) for name in names}
        self.names = any_of(self.person_of) if people else re.compile("(?!)")  # finds the longest
        self.text = "\n".join(sentence.text for sentence in sentences)
        self.chapters = np.array([sentence.chapter for sentence in sentences])
        self.labels, self.headings, self.by_person, self.facts = {}, defaultdict(list), defaultdict(list), {}
        for number, sentence in enumerate(sentences):
            if sentence.place == 0:
                self.headings[sentence.chapter].append(number)
            for person in dict.fromkeys(sentence.people):
                self.by_person[person].append(number)
            for kind, subject, _ in sentence.tells:
                self.facts.setdefault((kind, subject), []).append(number)
        for label in filter(None, dict.fromkeys(self.chapters.tolist())):
            self.labels |= dict.fromkeys([*writings(label), chapter_number(label) or label], label)
        self.labels_written = {label for label in self.labels if isinstance(label, str)}
        self.episodes = {subject for kind, subject in self.facts if kind == "episode"}
        self.seen: dict[str, bool] = {}  # words that were asked for, and whether they stand in the book
        self.index = bm25s.BM25(k1=1.2, b=0.5)
        if sentences:
            self.index.index([self.tokens(number) for number in range(len(sentences))], show_progress=False)

    @classmethod
    def load(cls, folder) -> "Passages | None":
        """The book in a directory; None where it has none. Raises UserError where it is broken."""
        path, todo = Path(folder, SENTENCES), "copy the directory again"
        if not path.exists():
            return None
        rows = [row for _, row in read_json_lines(path, todo)]
        about = read_json(Path(folder, ABOUT), todo)
        try:
            sentences = [Sentence(**row) for row in rows]
            fine = all(isinstance(each.text, str) and isinstance(each.place, int) for each in sentences)
            forms = Forms(**about.get("forms", {}))
        except (TypeError, AttributeError) as error:
            raise UserError(f"{path} is no book", todo) from error
        refuse(not fine, f"{path} is no book", todo)
        return cls(sentences, about.get("people", {}), forms, about.get("ends"), about.get("beside", ""))

    def save(self, folder):
        """Write the book into a directory."""
        with write_whole(Path(folder, SENTENCES)) as file:
            for each in self.sentences:
                row = {
                    key: value for key, value in asdict(each).items() if value or key in ("chapter", "place", "text")
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        about = {"people": self.people, "forms": asdict(self.forms), "ends": self.ends, "beside": self.beside}
        write_json(Path(folder, ABOUT), about)

    def tokens(self, number: int) -> list[str]:
        """What a sentence is found by: its characters and their pairs, its people, those shortly before, its facts."""
        sentence = self.sentences[number]
        told = [f"#{kind}@{subject}" for kind, subject, _ in sentence.tells]
        before = [each for each in self.sentences[max(0, number - 2) : number] if each.chapter == sentence.chapter]
        near = {f"~{person}" for each in before for person in each.people}
        return [*grams(sentence.text), *(f"@{person}" for person in sentence.people), *near, *told] or [""]

    def stands(self, word: str) -> bool:
        """Whether a word stands anywhere in the book, in either script, across lines too."""
        if word not in self.seen:
            plain = compact(word)
            text = self.clauses if len(plain) == len(word) else self.compacted
            self.seen[word] = bool(plain) and (plain in text or plain in self.beside)
        return self.seen[word]

    @functools.cached_property
    def compacted(self) -> str:
        """The whole text without marks and lines, in simplified characters."""
        return compact(self.text)

    @functools.cached_property
    def clauses(self) -> str:
        """The whole text in simplified characters, a clause a line: 下马，云长 has no 马云."""
        return "\n".join(map(compact, re.split("[，。；：！？、“”‘’「」『』]+", self.text)))

    def person(self, word: str) -> str:
        """Whom a word names, by any of their names, or by what sounds like one; "" for nobody."""
        if word in self.person_of:
            return self.person_of[word]
        if len(word) > 1 and not self.stands(word):
            return self.sounding.get(sound(word), "")
        return ""

    @functools.cached_property
    def sounding(self) -> dict[str, str]:
        """{how a name sounds: the best known person of that name}, of the WELL_KNOWN, whom slips are about."""
        known = set(list(self.people)[:WELL_KNOWN])
        names = ((name, person) for name, person in reversed(self.person_of.items()) if len(name) > 1)
        return {sound(name): person for name, person in names if person in known}

    def chapter_of(self, word: str) -> str:
        """The label of the section that a word names; "" where the book has none such."""
        if LAST_CHAPTER.fullmatch(word):
            numbered = [number for number in self.labels if isinstance(number, int)]
            return self.labels[max(numbered)] if numbered else ""
        return self.labels.get(word) or self.labels.get(chapter_number(word) or "", "")

    def knows(self, word: str) -> bool:
        """Whether a word stands in the book, or for something in it."""
        asked = word in meanings() or asks_first(word) or word in self.episodes
        return bool(self.stands(word) or self.person(word) or self.chapter_of(word) or asked)

    def is_missing(self, word: str) -> bool:
        """Whether the book has nobody of a name, and no chapter of a number."""
        return not self.chapter_of(word) if CHAPTER.fullmatch(word) else not self.knows(word)

    @functools.cached_property
    def families(self) -> set[str]:
        """The surnames of the people, and those of our time."""
        return {name[: 2 if len(name) > 3 else 1] for name in self.people} | {*FAMILIES, *COMPOUND.split()}

    def is_like_name(self, word: str) -> bool:
        """Whether a word looks like somebody's name."""
        return 1 < len(word) < 5 and (word[0] in self.families or word[:2] in self.families)

    def in_part(self, word: str) -> bool:
        """Whether half of the pairs of characters of a longer word stand in the book: 草船借箭."""
        pairs = [word[i : i + 2] for i in range(len(word) - 1)]
        return len(word) > 3 and sum(map(self.stands, pairs)) * 2 >= len(pairs)

    def search(self, words: Sequence[str]) -> list[Place]:
        """The places, MOST at most, that fit some words best.

        None where the book does not have the first of them, or a chapter, or what looks like a name.
        """
        words = list(dict.fromkeys(filter(None, words)))
        words = [word for word in words if word not in in_both(ASIDE) or word == CAST_ASIDE] or words
        unknown = [word for word in words if not self.knows(word) and not self.in_part(word)]
        if not words or words[0] in unknown or any(self.is_like_name(word) for word in unknown):
            return []
        people = [person for word in words if (person := self.person(word))]
        chapters = [chapter for word in words if (chapter := self.chapter_of(word))]
        if any(CHAPTER.fullmatch(word) and not self.chapter_of(word) for word in words):
            return []
        rest = [word for word in words if not self.person(word) and not self.chapter_of(word)]
        if chapters and not people and all(word in in_both(ASIDE) or asks_first(word) for word in rest):
            return [place for chapter in chapters for place in self.of_chapter(chapter, words)][:MOST]
        if any(map(asks_first, rest)) and (people or len(rest) > 1):
            found = self.earliest(people, [word for word in rest if not asks_first(word)])
        else:
            found = self.best(people, rest, chapters)
        return [self.place(number, words) for number in list(dict.fromkeys([*self.telling(words), *found]))[:MOST]]

    def of_chapter(self, chapter: str, words: Sequence[str]) -> list[Place]:
        """A chapter's heading, or its beginning where it has none, and who is in it; or that alone, if it is asked."""
        numbers = self.headings[chapter] or np.flatnonzero(self.chapters == chapter)[:1].tolist()
        places = [self.place(number, words) for number in numbers]
        for number in self.facts.get(("cast", chapter), ()):  # counted, not quoted
            (names,) = (told for kind, _, told in self.sentences[number].tells if kind == "cast")
            places.append(Place(number, chapter, names, names, {}, counted=True))
        return places[-1:] if CAST_ASIDE in words else places

    def asked(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """(kinds of facts, what they are about) that some words ask for."""
        people = list(dict.fromkeys(person for word in words if (person := self.person(word))))
        rest = [word for word in words if not self.person(word)]
        subjects = ["、".join(people), "、".join(reversed(people)), *people] if len(people) > 1 else people
        if any(map(asks_first, rest)):
            return (["pair"] if len(people) > 1 else ["sentence", "first"]), subjects
        kinds = kinds_of(rest)
        if len(people) > 1 and "kin" in kinds:
            kinds, subjects = ["kin", "pair"], subjects[:2]
        sure = {kind for word in rest for kind in kinds_of([word]) if len(kinds_of([word])) == 1}
        if "slew" in sure:  # 枪下死过哪些人
            kinds = ["slew"]
        elif "slain" in sure or "death" in kinds:  # 死在谁手里, 被谁害死
            kinds = [kind for kind in dict.fromkeys([*kinds, "death"]) if kind != "slew"]
        if people and not kinds and all(word in in_both(f"{ASIDE} {QUESTION_WORDS}") for word in rest):
            kinds = ["kin", "pair"] if len(people) > 1 else ["courtesy", "who", "sentence"]
        return [*kinds, "episode"], [*subjects, *rest]

    def telling(self, words: Sequence[str]) -> list[int]:
        """The sentences that bear out a fact that is known, and that some words ask for."""
        kinds, subjects = self.asked(words)
        return [number for kind in kinds for subject in subjects for number in self.facts.get((kind, subject), ())]

    def earliest(self, people: Sequence[str], words: Sequence[str]) -> list[int]:
        """The first sentences that name all of some people by their first names, and have all of some words."""
        wanted = [set(self.by_person[person]) for person in people]
        candidates = sorted(set.intersection(*wanted)) if wanted else range(len(self.sentences))
        found = []
        for number in candidates:
            sentence = self.sentences[number]
            if sentence.place and all(word in sentence.text for word in (*people, *words)):
                found.append(number)
            if len(found) == MOST:
                break
        return found

    def best(self, people: Sequence[str], words: Sequence[str], chapters: Sequence[str]) -> list[int]:
        """The sentences that fit best by BM25, of some chapters where any are given."""
        query, kinds = Counter(), kinds_of(words)
        for person in people:
            query.update({f"@{person}": PERSON, f"~{person}": NEAR} | dict.fromkeys(grams(person), 1))
            query.update({f"#{kind}@{person}": TOLD for kind in kinds})
        for word in words:
            query.update(dict.fromkeys(grams(word), WORD))
            query.update(gram for told in told_by(word) for gram in grams(told))
        tokens = [token for token in query.elements() if token in self.index.vocab_dict]
        if not tokens:
            return []
        scores = self.index.get_scores(tokens)
        if {"death", "slain"} & set(kinds):
            last = [self.ends[person] for person in people if person in self.ends]
            scores = np.where(np.isin(self.chapters, last), FATAL * scores, scores)
        if people:  # somebody else's sentences say nothing of them
            near = np.zeros(len(scores), bool)
            for number in (number for person in people for number in self.by_person[person]):
                near[max(0, number - 1) : number + 3] = True
            scores = np.where(near, scores, 0)
        if chapters:
            scores = np.where(np.isin(self.chapters, chapters), scores, 0)
        some = min(4 * MOST, len(scores)) - 1
        order = np.argpartition(-scores, some)[: some + 1].tolist()
        return [number for number in sorted(order, key=lambda number: (-scores[number], number)) if scores[number] > 0]

    def place(self, number: int, words: Sequence[str]) -> Place:
        """A sentence with what is shown of it, and what may be quoted."""
        sentence, (kinds, subjects) = self.sentences[number], self.asked(words)
        tells = {(kind, subject): clauses for kind, subject, clauses in sentence.tells}
        told = next((each for kind in kinds for subject in subjects if (each := tells.get((kind, subject)))), "")
        if told and any(told == tells.get(("episode", subject)) for subject in subjects):
            return Place(number, sentence.chapter, sentence.text, told, {}, counted=True, told=True)
        if not sentence.place:
            return Place(number, sentence.chapter, sentence.text, sentence.text, {})
        people = {self.person(word) for word in words} - {""}
        wanted = {gram for word in words for gram in grams(word)} | {each for word in words for each in told_by(word)}
        wanted |= people | {written for written, person in sentence.who.items() if person in people}
        quote = quoted(sentence.text, wanted, told)
        first = self.begins(number, quote)
        meant = {written: person for each in self.sentences[first : number + 1] for written, person in each.who.items()}
        who = {written: person for written, person in meant.items() if written in quote}
        others = [written for written, person in who.items() if person not in people]
        for written in others[max(0, MEANT - len(who) + len(others)) :]:
            del who[written]
        return Place(number, sentence.chapter, self.shown(number, first), quote, who, told=bool(told))

    def begins(self, number: int, quote: str) -> int:
        """The sentence in which a quotation begins that ends in another one, of the same section."""
        first, text = number, self.sentences[number].text
        while quote not in text and first and self.chapters[first - 1] == self.chapters[number]:
            first -= 1
            text = self.sentences[first].text + text
            if len(text) > len(quote) + SHOWN[1]:
                return number  # it is not there
        return first

    def shown(self, number: int, first: int) -> str:
        """The sentences from `first` to another one; where they are short, with those behind and before them."""
        sentence, (shortest, longest) = self.sentences[number], SHOWN
        text = "".join(each.text for each in self.sentences[first : number + 1])
        before, behind = first - 1, number + 1

        def fits(other: int) -> bool:
            if not 0 <= other < len(self.sentences):
                return False
            each = self.sentences[other]
            return bool(each.place) and each.chapter == sentence.chapter and len(text) + len(each.text) <= longest

        while len(text) < shortest:
            if fits(behind):
                text, behind = text + self.sentences[behind].text, behind + 1
            elif fits(before):
                text, before = self.sentences[before].text + text, before - 1
            else:
                break
        return text

    def bearing(self, question: str, answer: str) -> list[Place]:
        """The places that bear out an answer given without looking: they hold what it adds to the question."""
        added = self.added(question, answer)
        if not added:
            return []
        labels = [word for word in added if CHAPTER.fullmatch(word)]
        words = list(dict.fromkeys([*self.names.findall(question), *added]))
        found = self.search([word for word in words if word not in labels] or labels)
        return [place for place in found if any(word in place.text + place.where for word in added)]

    def added(self, question: str, answer: str) -> list[str]:
        """The quotations, chapters and names that an answer adds to its question."""
        if self.forms.beyond in answer:
            return []
        quotes, labels = re.findall("「(.+?)」", answer), [match[0] for match in CHAPTER.finditer(answer)]
        named = [*quotes, *labels, *self.names.findall(answer)]
        return [word for word in dict.fromkeys(named) if word not in question]

    def around(self, number: int) -> tuple[str, str, str]:
        """(what stands before a sentence in its section, the sentence, what stands behind it)."""
        first = last = number
        while first and self.chapters[first - 1] == self.chapters[number]:
            first -= 1
        while last + 1 < len(self.sentences) and self.chapters[last + 1] == self.chapters[number]:
            last += 1
        texts = [sentence.text + "\n" * (sentence.place == 0) for sentence in self.sentences[first : last + 1]]
        here = number - first
        return "".join(texts[:here]), texts[here], "".join(texts[here + 1 :])

    def is_verbatim(self, quote: str) -> bool:
        """Whether a quotation stands in the book word for word, its marks and lines apart."""
        return compact(quote) in self.compacted


def copy_book(source, target):
    """Put the book of one directory into another, too, where it has one."""
    for name in (SENTENCES, ABOUT):
        if Path(source, name).exists() and Path(source).resolve() != Path(target).resolve():
            link_whole(Path(source, name), Path(target, name))


def grams(text: str) -> list[str]:
    """The characters of a text and their pairs, without marks."""
    pieces = re.findall(r"\w+", text)
    return [each for piece in pieces for i in range(len(piece)) for each in {piece[i], piece[i : i + 2]}]


def sound(word: str) -> str:
    """How a word sounds, without tones: zhangfei of 张非, and of zhang fei."""
    return "".join(lazy_pinyin(word)).replace(" ", "").lower()
