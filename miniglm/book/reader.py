"""The book as a tool in a talk, see chat.py: what may be asked of it, what it gives, what may be answered.

问：董卓是谁杀的？
查：["董卓", "杀"]                                           # a call holds words of the question alone
果：["布从车后厉声出曰：…（第九回，布：吕布）", …]             # up to three places
答：「…」（第九回，布：吕布）。                               # a quotation is a piece of one of them
"""

import functools
import json
import re
from collections.abc import Sequence
from itertools import pairwise

from miniglm.book.asking import (
    CAST,
    CAST_ASIDE,
    CHAPTER,
    IN_IT,
    LAST_CHAPTER,
    OF_SOMEBODY,
    QUESTION_WORDS,
    SUPPOSED,
    asks_first,
    asks_who,
    in_both,
    kinds_of,
    known_words,
    meanings,
)
from miniglm.book.mentions import any_of
from miniglm.book.passages import Passages, Place
from miniglm.book.quoting import clause_edges
from miniglm.conversation import Messages
from miniglm.grammar import Grammar
from miniglm.template import MARKERS

MOST_WORDS = 5  # in a call
OF_NAMES = "字叫称号名稱號"  # ask how somebody is called; without one, and no 最早, they are asked for themselves
DEGREES = "最更很太"  # 谁最厉害 names nobody
BESIDE = "和与與跟同、"  # stand between two who are named together
HE = ("他", "她", "它", "此人", "这人", "那人", "这个人", "那个人", "这位", "那位")  # stand for somebody named before
MOST_READ = 2  # places that the model is shown; a reader is shown all


class BookReader:
    """Looks things up in a book."""

    def __init__(self, passages: Passages):
        self.passages = passages
        self.beyond = passages.forms.beyond

    def look(self, call: str, messages: Messages) -> tuple[str, list[Place]]:
        """(what a call found, as the model reads it, the Places). The call is a JSON list of words."""
        places = self.places(words_of(call), messages[-1]["content"])
        return shown(places), places

    def places(self, call: Sequence[str], question: str) -> list[Place]:
        """What is found for the words of a call, and for the words of the question that say what is asked for.

        Nothing where somebody is named with others and the book does not have them.
        """
        if any(word in call and self.passages.is_missing(word) for word in self.first_words(question)):
            return []
        asking = [word for word in self.words_in(question) if is_asking(word)]
        if any(word in question for word in in_both(CAST)):
            asking.append(CAST_ASIDE)
        return self.passages.search([*call, *asking])

    def call_grammar(self, messages: Messages) -> Grammar:
        """What may be said to the last question: an answer, or a call for words of the questions and answers so far.

        A word of a call is a whole one: 孙悟 is none in 孙悟空是谁, but 孙悟空 is, between the words of a question.
        Where an episode is named, or somebody of the book, that is the first word; who is named with them is the
        second. If the last question does that, without a word for somebody named before, all words are its own. Where
        something is asked for that is not learnt by heart, or somebody whom the book does not have, there is no answer
        before the book was asked. Where nothing is said, that cannot be answered.
        """
        grammar = Grammar()
        if says_nothing(messages[-1]["content"]):
            grammar.ends.add(grammar.literal(grammar.start, MARKERS["assistant"] + self.beyond))
            return grammar
        if not self.must_look(messages[-1]["content"]):
            grammar.free.add(grammar.literal(grammar.start, MARKERS["assistant"]))
        pieces = self.pieces([messages[-1]["content"]])
        if any(word in messages[-1]["content"] for word in HE) or not any(self.first_words(each[0]) for each in pieces):
            pieces = self.pieces([each["content"] for each in messages if each["role"] in ("user", "assistant")])
        if not pieces:
            return grammar
        state, end = grammar.literal(grammar.start, MARKERS["search"] + '["'), grammar.state()
        grammar.ends.add(end)
        for number in range(MOST_WORDS):
            behind = grammar.state()
            for piece, parts in pieces:
                firsts = self.first_words(piece) if number == 0 else []
                firsts = [word for word in firsts if word in self.passages.episodes] or firsts
                for word in firsts:
                    others = self.named_with(word, firsts)
                    after = grammar.literal(state, word)
                    if not others:
                        grammar.join(after, behind)
                    for other in others:
                        grammar.join(grammar.literal(after, f'", "{other}'), behind)
                if not firsts:
                    about = [part for part in parts if number > 0 or not is_asking(part[0])] or parts
                    for part, starts, stops in about:
                        grammar.join(grammar.span(state, part, starts, stops), behind)
            closed = grammar.literal(behind, '"')
            grammar.join(grammar.literal(closed, "]"), end)
            if number < MOST_WORDS - 1:
                state = grammar.literal(closed, ', "')
        return grammar

    def pieces(self, texts: Sequence[str]) -> list[tuple[str, list[tuple[str, list[int], list[int]]]]]:
        """The pieces of texts whose words may be called for, each with its parts and the edges of these, see edges.

        A part ends before and behind the longer words that questions are asked with: 牛魔王 初次 登场.
        """
        found = []
        for piece in (piece for text in texts for piece in re.split(r'["\\\s]+', text)):
            cuts = {0, len(piece)}
            for match in self.vocabulary.finditer(piece):
                asking = is_asking(match[0]) and (len(match[0]) > 1 or kinds_of([match[0]]) == ["courtesy"])
                cuts |= set(match.span()) if asking else set()
            parts = (piece[start:stop] for start, stop in pairwise(sorted(cuts)))
            edged = [(part, starts, stops) for part in parts for starts, stops in [self.edges(part)] if starts]
            found += [(piece, edged)] if edged else []
        return found

    def named_with(self, name: str, firsts: Sequence[str]) -> list[str]:
        """Who is named beside somebody in a question, of its first words: the second word of a call."""
        return [
            word
            for word in firsts
            if word not in name and name not in word and not CHAPTER.fullmatch(word) and not CHAPTER.fullmatch(name)
            if word not in self.passages.episodes and name not in self.passages.episodes
        ]

    def answer_grammar(self, call: str, places: Sequence[Place], messages: Messages) -> Grammar:
        """What may be answered to what a call found: a quotation of a place, or that nobody is there, or neither.

        What a place is known to tell, if it is asked for, cannot be denied; where there is no such place, and a word of
        the call stands nowhere in the book, nothing is quoted. Whom a question asks for by a name is there, or is not.
        What would be if something else were is in no book.
        """
        grammar, book, question = Grammar(), self.passages, messages[-1]["content"]
        begin, end = grammar.literal(grammar.start, MARKERS["assistant"]), grammar.state()
        grammar.ends.add(end)
        if any(word in question for word in in_both(SUPPOSED)):
            grammar.join(grammar.literal(begin, book.forms.beyond), end)
            return grammar
        told, words = any(place.told for place in places) and self.asks_fact(question), words_of(call)
        strange = any(not book.knows(word) and not book.in_part(word) for word in words)
        nobody = [word for word in words if self.may_be_nobody(word, question)] if not places else []
        whole = [word for word in self.words_in(question) if word in nobody]
        if not told and not (asks_who(question) and any(map(book.is_like_name, whole))):
            grammar.join(grammar.literal(begin, book.forms.beyond), end)
        for place in read(places) if told or not strange else ():
            if place.counted:
                grammar.join(grammar.literal(begin, place.answer), end)
                continue
            piece = grammar.span(grammar.literal(begin, "「"), place.quote, *clause_edges(place.quote))
            grammar.join(grammar.literal(piece, f"」（{place.where}）。" if place.where else "」。"), end)
        for word in nobody:
            form = book.forms.absent_chapter if CHAPTER.fullmatch(word) else book.forms.absent
            grammar.join(grammar.literal(begin, word + form), end)
        return grammar

    def asks_fact(self, question: str) -> bool:
        """Whether a question asks for what a book tells of its people: by a word for that, or who somebody is."""
        for clause in re.split("[，。！？,.!?]+", question):
            words = self.words_in(clause)
            people = [word for word in words if self.passages.person(word)]
            if any(kinds_of([word]) or asks_first(word) or word in self.passages.episodes for word in words):
                return True
            if people and len(people) == len(words) and (len(people) > 1 or asks_who(question)):
                return True
        return False

    def may_be_nobody(self, word: str, question: str) -> bool:
        """Whether a word of a question names somebody, or a chapter, that the book does not have.

        That is what looks like a name, and what is asked for as somebody: 哪吒 in 哪吒是谁, not 蜀国 in 蜀国的皇帝是谁.
        """
        book = self.passages
        if not book.is_missing(word) or CHAPTER.fullmatch(word) and not book.forms.absent_chapter:
            return False
        if CHAPTER.fullmatch(word) or book.is_like_name(word):
            return True
        if not asks_who(question) or word not in self.words_in(question) or word[0] in DEGREES:
            return False
        before, _, behind = question.partition(word)
        of_it = behind.startswith("的") and not behind[1:].startswith(OF_SOMEBODY)
        return not of_it and (not before.endswith("的") or before.endswith(IN_IT))

    def must_look(self, question: str) -> bool:
        """Whether what a question asks for is not learnt by heart.

        That is a chapter, an episode, what the book tells of somebody in passing, and who is not well known, or not
        there.
        """
        book, words = self.passages, self.words_in(question)
        slip = any(word not in book.person_of and book.person(word) for word in words)
        if slip or any(word in book.episodes for word in words):
            return True
        people = {book.person(word) for word in words if len(word) > 1} - {""}
        if people:
            told = any(word in meanings() and kinds_of([word]) != ["courtesy"] for word in words)
            known = people & self.by_heart
            if not any(word in question for word in OF_NAMES) and not any(asks_first(word) for word in words):
                known -= set(book.forms.mentioned)
            return told or len(people) > 1 or not known
        chapter = any(CHAPTER.fullmatch(word) or LAST_CHAPTER.fullmatch(word) for word in words)
        strange = any(book.is_like_name(word) and book.is_missing(word) for word in words)
        return chapter or strange and asks_who(question)

    def first_words(self, text: str) -> list[str]:
        """The people, episodes and chapters that a text names, and who is named with them and is not in the book.

        张飞燕 may be such a one, as 晏来三 is in 晏来三和严纲; 张非 sounds like 张飞. Empty where a text names nobody.
        """
        book, found, missing, end = self.passages, [], [], 0
        ends = set(self.edges(text)[1])
        for match in self.vocabulary.finditer(text):
            missing.append((text[end : match.start()], text[end - 1 : end] + match[0][:1]))
            end = match.end()
            if match[0] in book.person_of or match[0] in book.episodes:
                found.append(match[0])
                longer = text[match.start() : end + 1]
                if longer[-1] not in meanings() and book.is_like_name(longer) and end + 1 in ends:
                    found.append(longer)
            elif CHAPTER.fullmatch(match[0]):
                found.append(match[0])
        found += [word for word in self.words_in(text) if word not in found and book.person(word)]
        for word, around in missing if found else ():
            if 1 < len(word) < 5 and set(around) & set(BESIDE) and book.is_missing(word):
                found.append(word)
        return found

    def words_in(self, question: str) -> list[str]:
        """The words of a question that may be called for."""
        return [question[start:stop] for start, stop in zip(*self.edges(question))]

    @functools.cached_property
    def by_heart(self) -> set[str]:
        """The people of whom the model has learnt something by heart."""
        return set(list(self.passages.people)[: self.passages.forms.by_heart])

    @functools.cached_property
    def vocabulary(self) -> re.Pattern:
        """A pattern that finds the longest known word: names, what questions are asked with, episodes."""
        names = {name for name in self.passages.person_of if len(name) > 1}
        known = any_of({*names, *self.passages.labels_written, *self.passages.episodes, *known_words()})
        return re.compile(f"{CHAPTER.pattern}|{known.pattern}")

    def edges(self, text: str) -> tuple[list[int], list[int]]:
        """Where words that may be called for begin in a text, and where they end.

        Words that are known are held to be whole; marks and what only makes a question of a text are left out. 的 does
        not begin a text: 的卢 is a word. 关于 is one, for 关羽, where there is no other.
        """
        asking, starts, stops, end = in_both(QUESTION_WORDS), [], [], 0
        found = [match for match in self.vocabulary.finditer(text) if match.span() != (0, 1) or match[0] != "的"]
        for match in found:
            if match.start() > end:  # what is not known
                starts, stops = [*starts, end], [*stops, match.start()]
            if match[0] not in asking and re.search(r"\w", match[0]):
                starts, stops = [*starts, match.start()], [*stops, match.end()]
            end = match.end()
        if end < len(text):
            starts, stops = [*starts, end], [*stops, len(text)]
        for left, start in enumerate(starts[1:]):  # 马云 is no horse
            word = text[starts[left] : stops[left + 1]]
            joined = stops[left] == start == starts[left] + 1 and self.passages.is_like_name(word)
            if joined and self.passages.is_missing(word):
                del starts[left + 1], stops[left]
                break
        if not starts:
            slips = [match.span() for match in found if len(match[0]) > 1 and self.passages.person(match[0])]
            starts, stops = [start for start, _ in slips], [stop for _, stop in slips]
        return starts, stops


def is_asking(word: str) -> bool:
    """Whether a word says what is asked for: 妻子, 初次."""
    return word in meanings() or asks_first(word)


def says_nothing(text: str) -> bool:
    """Whether a text is signs alone, or the same again and again: 😂, 啊啊啊啊, 曹操曹操曹操曹操."""
    said = "".join(re.findall(r"\w", text))
    return not said or bool(re.fullmatch(r"(.)\1{2,}|(.{2,9}?)\2{3,}", said))


def read(places: Sequence[Place]) -> list[Place]:
    """The places, of those found, that the model is shown: which are known to tell what is asked for, else the best."""
    return [place for place in places if place.told][:MOST_READ] or list(places[:MOST_READ])


def shown(places: Sequence[Place]) -> str:
    """What the model reads of some places, JSON."""
    return json.dumps([place.record for place in read(places)], ensure_ascii=False)


def words_of(call: str) -> list[str]:
    """The words of a call, a JSON list; none where it is no list."""
    try:
        words = json.loads(call)
    except (ValueError, RecursionError):
        return []
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
