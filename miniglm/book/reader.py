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

from miniglm.book.asking import CHAPTER, QUESTION_WORDS, in_both, known_words
from miniglm.book.mentions import any_of
from miniglm.book.passages import Passages, Place
from miniglm.book.quoting import clause_edges
from miniglm.conversation import MARKERS, Messages
from miniglm.grammar import Grammar

MOST_WORDS = 5  # in a call
MOST_READ = 2  # places that the model is shown; a reader is shown all
NAMED, MISSING = "named", "missing"
UNSAID = 1  # characters of 这个我答不了 by which it is told from other answers


class BookReader:
    """Looks things up in a book."""

    def __init__(self, passages: Passages):
        self.passages = passages
        self.beyond = passages.forms.beyond

    def look(self, call: str) -> tuple[str, list[Place]]:
        """(what a call found, as the model reads it, the Places). The call is a JSON list of words."""
        places = self.passages.search(words_of(call))
        return shown(places), places

    def call_grammar(self, messages: Messages) -> Grammar:
        """What may be said to the last question: an answer, or a call for words of the questions and answers so far.

        A word of a call is a whole one: 孙悟 is none in 孙悟空是谁, but 孙悟空 is, between the words of a question.
        Where somebody of the book is named, the first word names them, and 这个我答不了 is no answer before the book
        was asked; where somebody is named whom the book does not have, nothing is.
        """
        grammar, subject = Grammar(), self.subject(messages[-1]["content"])
        if subject != MISSING:
            begin = grammar.literal(grammar.start, MARKERS["assistant"])
            if subject:
                grammar.anything_but(begin, self.passages.forms.beyond[:UNSAID])
            else:
                grammar.free.add(begin)
        said = [message["content"] for message in messages if message["role"] in ("user", "assistant")]
        pieces = [(piece, *self.edges(piece)) for text in said for piece in re.split(r'["\\\s]+', text) if piece]
        pieces = [(piece, starts, stops) for piece, starts, stops in pieces if starts]
        if not pieces:
            return grammar
        state, end = grammar.literal(grammar.start, MARKERS["search"] + '["'), grammar.state()
        grammar.ends.add(end)
        for number in range(MOST_WORDS):
            behind = grammar.state()
            for piece, starts, stops in pieces:
                names = [match.span() for match in self.passages.names.finditer(piece)] if number == 0 else []
                if names:
                    starts = [start for start in starts if any(start <= begin for begin, _ in names)]
                    stops = [stop for stop in stops if any(stop >= last for _, last in names)]
                grammar.join(grammar.span(state, piece, starts, stops), behind)
            closed = grammar.literal(behind, '"')
            grammar.join(grammar.literal(closed, "]"), end)
            if number < MOST_WORDS - 1:
                state = grammar.literal(closed, ', "')
        return grammar

    def answer_grammar(self, call: str, places: Sequence[Place]) -> Grammar:
        """What may be answered to what a call found: a quotation of a place, or that nobody is there, or neither."""
        grammar, forms = Grammar(), self.passages.forms
        begin, end = grammar.literal(grammar.start, MARKERS["assistant"]), grammar.state()
        grammar.ends.add(end)
        grammar.join(grammar.literal(begin, forms.beyond), end)
        for place in places[:MOST_READ]:
            if place.counted:
                grammar.join(grammar.literal(begin, place.answer), end)
                continue
            piece = grammar.span(grammar.literal(begin, "「"), place.quote, *clause_edges(place.quote))
            grammar.join(grammar.literal(piece, f"」（{place.where}）。" if place.where else "」。"), end)
        for word in words_of(call) if not places else ():
            form = forms.absent_chapter if CHAPTER.fullmatch(word) else forms.absent
            if form and self.passages.is_missing(word):
                grammar.join(grammar.literal(begin, word + form), end)
        return grammar

    def subject(self, question: str) -> str:
        """NAMED where a question names somebody or something of the book, MISSING where it names nobody else; or ""."""
        starts, stops = self.edges(question)
        words = [question[start:stop] for start, stop in zip(starts, stops)]
        known = [word for word in words if len(word) > 1 and word in self.passages.person_of]
        if known or any(word in self.passages.episodes or self.passages.chapter_of(word) for word in words):
            return NAMED
        strange = (self.passages.is_like_name(word) and self.passages.is_missing(word) for word in words)
        return MISSING if any(strange) else ""

    @functools.cached_property
    def vocabulary(self) -> re.Pattern:
        """A pattern that finds the longest known word: names, what questions are asked with, episodes."""
        names = {name for name in self.passages.person_of if len(name) > 1}
        return any_of({*names, *self.passages.labels_written, *self.passages.episodes, *known_words()})

    def edges(self, text: str) -> tuple[list[int], list[int]]:
        """Where words that may be called for begin in a text, and where they end.

        Words that are known are held to be whole; marks and what only makes a question of a text are left out.
        """
        asking, starts, stops, end = in_both(QUESTION_WORDS), [], [], 0
        for match in self.vocabulary.finditer(text):
            if match.start() > end:  # what is not known
                starts, stops = [*starts, end], [*stops, match.start()]
            if match[0] not in asking and re.search(r"\w", match[0]):
                starts, stops = [*starts, match.start()], [*stops, match.end()]
            end = match.end()
        return ([*starts, end], [*stops, len(text)]) if end < len(text) else (starts, stops)


def shown(places: Sequence[Place]) -> str:
    """What the model reads of some places, JSON."""
    return json.dumps([place.record for place in places[:MOST_READ]], ensure_ascii=False)


def words_of(call: str) -> list[str]:
    """The words of a call, a JSON list; none where it is no list."""
    try:
        words = json.loads(call)
    except (ValueError, RecursionError):
        return []
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
