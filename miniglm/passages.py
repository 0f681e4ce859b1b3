"""The sentences of a book, and how those are found that tell what somebody asks.

    book = Passages.load("out/demo-chat")
    book.search(["曹操", "死"])       # up to three Places: chapter, sentence, who is meant by a name in it
    book.search(["貂蝉", "最早"])     # where all of it stands first
    book.search(["第五十回"])         # a chapter's heading

A name stands for its person, however the book calls them there; a typing slip that sounds like a name stands for it,
too. Question words stand for what a book says in their place (死: 亡 斩 薨). The rest is BM25 over characters.
"""

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import bm25s
import numpy as np
from pypinyin import lazy_pinyin

from miniglm.book.mentions import EDGE_MARKS, PERSON, SENTENCE, any_of
from miniglm.book.relations import last_acts
from miniglm.book.sections import NUMERAL, number_of
from miniglm.conversation import MARKERS, Messages
from miniglm.errors import refuse
from miniglm.files import link_whole, read_json, read_json_lines, write_json, write_whole
from miniglm.grammar import Grammar

SENTENCES, ABOUT = "book.jsonl", "book.json"
MOST = 3  # places given back
MOST_WORDS = 5  # in a call
STARTS, STOPS = "，；：。！？“‘”’ \u3000", "，；。！？”’ \u3000"  # where a quotation may begin and end
SHOWN = (60, 140)  # characters of a place, about: a short sentence is shown with those beside it
QUOTED = (12, 34)  # characters of what may be quoted of it
# ASKED | TOLD | KINDS: what questions ask for, the words by which a book tells it, and the kinds of facts that do.
MEANINGS = """
死 亡 去世 过世 离世 丧命 丧生 送命 性命 结局 下场 死因 身亡 | 死 亡 卒 薨 崩 斩 杀 害 刎 缢 绝 归天 | death slain
没了 死去 死法 牺牲 阵亡 病逝 亡故 离开人世 归宿 | 死 亡 卒 薨 崩 斩 杀 害 刎 缢 绝 归天 | death slain
杀 斩 打死 害死 所杀 杀害 被杀 杀死 斩杀 刺杀 干掉 刺 砍 | 斩 杀 刺 砍 害 戮 射死 | slain slew
结果了 凶手 手里 手上 之手 打败 | 斩 杀 刺 砍 害 戮 射死 | slain slew
儿子 孩子 公子 后代 子嗣 长子 大儿子 小儿子 次子 | 子 之子 长子 次子 | sons father
儿女 子女 后人 膝下 娃 崽 生了 | 子 之子 长子 次子 | sons father
父亲 爸爸 爹 父 老爸 爹爹 老子 令尊 他爹 他爸 生父 爸 | 父 之子 | father sons
妻子 老婆 夫人 太太 媳妇 嫁 娶 妻 丈夫 老公 夫君 | 妻 夫人 娶 嫁 主妇 | wife husband
爱人 娘子 配偶 妻室 成亲 结婚 夫妻 夫婿 | 妻 夫人 娶 嫁 主妇 | wife husband
兄弟 弟弟 哥哥 弟 兄 弟兄 手足 大哥 二哥 | 弟 兄 | brothers
结拜 结义 拜把子 义兄 义弟 | 结义 结为兄弟 | brothers
关系 什么人 啥人 亲戚 什么亲 一家人 | 子 弟 兄 妻 父 侄 | kin sons father brothers wife
哪里人 哪儿人 什么地方人 何处人 何地人 家乡 老家 籍贯 故乡 | 人也 人氏 | native
祖籍 原籍 出生地 人氏 出身 来自 生长 生在 家住 从哪里来 | 人也 人氏 | native
官 官职 职位 职务 做官 封 拜 当官 官衔 头衔 官位 什么侯 何职 | 封 拜 为 将军 太守 | office
担任 当过 做过 任过 曾任 | 封 拜 为 将军 太守 | office
兵器 武器 兵刃 家伙 武艺 刀枪 | 手执 手持 枪 刀 戟 矛 剑 | arms bearer
马 坐骑 战马 骑 | 马 骑 坐下 名为 |
样子 相貌 长相 外貌 模样 面貌 身材 长什么样 长得 身高 多高 | 身长 面如 生得 | look
容貌 什么样 生得 形容 描写 好看 | 身长 面如 生得 | look
字 表字 | 字 | courtesy
手下 部下 主公 投靠 跟随 效力 | 归 降 投 主公 |
小名 乳名 小字 外号 绰号 | 小字 乳名 号 |
老师 师父 师傅 | 师 |
皇帝 君主 国君 天子 | 帝 即皇帝位 天子 |
东风 | 东南风 |
"""
EARLIEST = re.compile("最早|首次|第一次|最先|初次|出场|登场|露面|头一次|第1次|首先|出现")
CHAPTER = re.compile(f"第({NUMERAL}|[0-9]+)[回章节]")
LAST_CHAPTER = re.compile("(最后|末尾|末|最末)(一|1)?[回章]")
WEIGHTS = {"person": 6, "told": 8, "heading": 2}  # how often a token of that kind counts in a question


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

    @property
    def where(self) -> str:
        """The chapter, and who is meant by the names in the quote: 第四回，操：曹操."""
        return "，".join(
            filter(None, [self.chapter, *(f"{written}：{person}" for written, person in self.who.items())])
        )


@dataclass(frozen=True)
class Forms:
    """How is said, in the book's script, what a search did not find."""

    absent: str = "，书中没有这个人。"  # behind a name
    absent_chapter: str = ""  # behind a chapter's label; "" where chapters cannot be counted
    beyond: str = "这个我答不了。"  # what was not taught, or is beyond the book, and what can be asked


class Passages:
    """The sentences of a book with an index over them."""

    def __init__(
        self,
        sentences: Sequence[Sentence],
        people: dict[str, list[str]],
        forms: Forms = Forms(),
        ends: dict[str, int] | None = None,
    ):
        """people: {name: all their names}, the best known first. ends: {name: the chapter in which they act last}."""
        self.sentences, self.people, self.forms, self.ends = sentences, people, forms, ends or {}
        self.person_of = {name: person for person, names in reversed(people.items()) for name in names}
        self.text = "\n".join(sentence.text for sentence in sentences)
        self.seen: dict[str, bool] = {}  # words that were asked for, and whether they stand in the text
        self.chapters = np.array([chapter_number(sentence.chapter) or 0 for sentence in sentences])
        self.headings = defaultdict(list)  # {chapter's number: its headings' sentences}
        self.by_person = defaultdict(list)
        for number, sentence in enumerate(sentences):
            if sentence.place == 0 and self.chapters[number]:
                self.headings[int(self.chapters[number])].append(number)
            for person in dict.fromkeys(sentence.people):
                self.by_person[person].append(number)
        self.facts = defaultdict(list)  # {(kind, about whom): the sentences that bear it out}
        for number, sentence in enumerate(sentences):
            for kind, subject, _ in sentence.tells:
                self.facts[kind, subject].append(number)
        self.index = bm25s.BM25(k1=1.2, b=0.5)
        self.index.index([self.tokens(number) for number in range(len(sentences))], show_progress=False)

    @classmethod
    def load(cls, folder) -> "Passages | None":
        """The book in a directory; None where it has none. Raises UserError where it is broken."""
        path = Path(folder, SENTENCES)
        if not path.exists():
            return None
        todo = "copy the directory again"
        rows = [row for _, row in read_json_lines(path, todo)]
        fine = all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows)
        refuse(not fine, f"{path} is no book", todo)
        sentences = [
            Sentence(
                str(row.get("chapter", "")),
                int(row.get("place", 0)),
                row["text"],
                dict(row.get("who", {})),
                list(row.get("people", ())),
                list(row.get("tells", ())),
            )
            for row in rows
        ]
        about = read_json(Path(folder, ABOUT), todo)
        return cls(sentences, about.get("people", {}), Forms(**about.get("forms", {})), about.get("ends"))

    def save(self, folder):
        """Write the book into a directory."""
        with write_whole(Path(folder, SENTENCES)) as file:
            for each in self.sentences:
                row = {"chapter": each.chapter, "place": each.place, "text": each.text}
                row |= {key: value for key in ("who", "people", "tells") if (value := getattr(each, key))}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        write_json(Path(folder, ABOUT), {"people": self.people, "forms": asdict(self.forms), "ends": self.ends})

    def tokens(self, number: int) -> list[str]:
        """What a sentence is found by: its characters and their pairs, its people, those shortly before, its facts."""
        sentence = self.sentences[number]
        told = []
        for kind, person, _ in sentence.tells:
            told += [f"#{kind}@{person}", f"#{kind}"]
        near = {person for other in self.sentences[max(0, number - 2) : number] for person in other.people}
        near = [f"~{person}" for person in near if self.sentences[number - 1].chapter == sentence.chapter]
        return [*grams(sentence.text), *(f"@{person}" for person in sentence.people), *near, *told] or [""]

    def stands(self, word: str) -> bool:
        """Whether a word stands anywhere in the book."""
        if word not in self.seen:
            self.seen[word] = word in self.text
        return self.seen[word]

    def person(self, word: str) -> str:
        """Whom a word names, by any of their names, or by what sounds like one; "" for nobody."""
        if word in self.person_of:
            return self.person_of[word]
        if len(word) > 1 and not self.stands(word):
            return self.sounding.get(sound(word), "")
        return ""

    @functools.cached_property
    def sounding(self) -> dict[str, str]:
        """{how a name sounds: the best known person of that name}."""
        return {sound(name): person for name, person in reversed(self.person_of.items()) if len(name) > 1}

    def knows(self, word: str) -> bool:
        """Whether a word stands in the book, or for something in it."""
        return bool(
            self.stands(word)
            or self.person(word)
            or (number := chapter_number(word))
            and number in self.headings
            or LAST_CHAPTER.fullmatch(word)
            or EARLIEST.fullmatch(word)
            or word in meanings()
            or f"#episode@{word}" in self.index.vocab_dict
        )

    def search(self, words: Sequence[str]) -> list[Place]:
        """The places, MOST at most, that fit some words best.

        None where the book does not have the first of them, or another one that looks like a name.
        """
        words = [word for word in words if word]
        unknown = [word for word in words if not self.knows(word) and not self.in_part(word)]
        if not words or words[0] in unknown or any(self.is_like_name(word) for word in unknown):
            return []
        people = [person for word in words if (person := self.person(word))]
        chapters = [number for word in words if (number := self.chapter_of(word))]
        if any(CHAPTER.fullmatch(word) and not self.chapter_of(word) for word in words):
            return []
        rest = [
            word
            for word in words
            if not self.person(word) and not CHAPTER.fullmatch(word) and not LAST_CHAPTER.fullmatch(word)
        ]
        told = self.telling(words)
        if chapters and not people and not [word for word in rest if word not in ASIDE.split()]:
            found = [number for chapter in chapters for number in self.headings[chapter]]
            return [place for number in found for place in (self.place(number, words), self.cast(number)) if place][
                :MOST
            ]
        elif any(EARLIEST.search(word) for word in rest) and (people or len(rest) > 1):
            found = [*told, *self.earliest(people, [word for word in rest if not EARLIEST.search(word)])]
        else:
            found = [*told, *self.best(people, rest, set(chapters))]
        return [self.place(number, words) for number in list(dict.fromkeys(found))[:MOST]]

    def telling(self, words: Sequence[str]) -> list[int]:
        """The sentences that bear out a fact that is known, and that some words ask for."""
        kinds, subjects = self.asked(words)
        return [number for kind in kinds for subject in subjects for number in self.facts.get((kind, subject), ())]

    def asked(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """(kinds of facts, what they are about) that some words ask for."""
        people = list(dict.fromkeys(person for word in words if (person := self.person(word))))
        rest = [word for word in words if not self.person(word)]
        subjects = ["、".join(people), "、".join(reversed(people)), *people] if len(people) > 1 else people
        if any(EARLIEST.search(word) for word in rest):
            return (["pair"] if len(people) > 1 else ["sentence", "first"]), subjects
        kinds = [said[1:] for word in rest for said in meanings().get(word, ()) if said.startswith("#")]
        if (
            people
            and not kinds
            and not [word for word in rest if word not in ASIDE.split() and word not in QUESTION_WORDS.split()]
        ):
            kinds = ["pair", "kin"] if len(people) > 1 else ["courtesy", "who", "sentence"]
        return list(dict.fromkeys([*kinds, "episode"])), [*subjects, *rest]

    def cast(self, number: int) -> Place | None:
        """Who is named most in the chapter of a heading, which is counted, not quoted; None where that is not known."""
        sentence = self.sentences[number]
        names = next((names for kind, _, names in sentence.tells if kind == "cast"), "")
        return Place(number, sentence.chapter, names, names, {}, True) if names else None

    def chapter_of(self, word: str) -> int | None:
        """The number of the chapter that a word names, where the book has it."""
        if LAST_CHAPTER.fullmatch(word):
            return max((number for number in self.headings if number), default=None)
        number = chapter_number(word)
        return number if number in self.headings else None

    @functools.cached_property
    def families(self) -> set[str]:
        """The surnames of the people."""
        return {name[: 2 if len(name) > 3 else 1] for name in self.people}

    def is_like_name(self, word: str) -> bool:
        """Whether a word looks like somebody's name."""
        return 1 < len(word) < 5 and (word[0] in self.families or word[:2] in self.families)

    def is_missing(self, word: str) -> bool:
        """Whether the book has nobody of a name, and no chapter of a number."""
        return not self.chapter_of(word) if CHAPTER.fullmatch(word) else not self.knows(word)

    def in_part(self, word: str) -> bool:
        """Whether half of the pairs of characters of a longer word stand in the book: 草船借箭."""
        pairs = [word[i : i + 2] for i in range(len(word) - 1)]
        return len(word) > 3 and sum(pair in self.text for pair in pairs) * 2 >= len(pairs)

    def earliest(self, people: Sequence[str], words: Sequence[str]) -> list[int]:
        """The first sentences that name all of some people and have all of some words, by their first names if any."""
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

    def best(self, people: Sequence[str], words: Sequence[str], chapters: set[int]) -> list[int]:
        """The sentences that fit best by BM25, of some chapters where any are given."""
        query = Counter()
        for person in people:
            query[f"@{person}"] += WEIGHTS["person"]
            query[f"~{person}"] += 1
            query.update(grams(person))
        kinds = []
        for word in words:
            query.update(dict.fromkeys(grams(word), 2))
            for meaning in meanings().get(word, ()):
                if meaning.startswith("#"):
                    kinds.append(meaning)
                else:
                    query.update(grams(meaning))
        if people and not words:
            kinds += ["#courtesy", "#courtesy", "#who"]
        query.update({f"#episode@{word}": WEIGHTS["told"] for word in words})
        for kind in kinds:
            for person in people:
                query[f"{kind}@{person}"] += WEIGHTS["told"]
            for word in words:
                query[f"{kind}@{word}"] += WEIGHTS["told"]
        known = self.index.vocab_dict
        tokens = [token for token, times in query.items() if token in known for _ in range(times)]
        if not tokens:
            return []
        scores = self.index.get_scores(tokens)
        if self.ends and {"#death", "#slain"} & set(kinds):  # somebody dies where they act last
            last = [self.ends[person] for person in people if person in self.ends]
            scores = np.where(np.isin(self.chapters, last), 1.3 * scores, scores)
        if people:  # somebody else's sentences say nothing of them
            near = np.zeros(len(scores), bool)
            for person in people:
                for number in self.by_person[person]:
                    near[max(0, number - 1) : number + 3] = True
            scores = np.where(near, scores, 0)
        if chapters:
            scores = np.where(np.isin(self.chapters, list(chapters)), scores, 0)
        order = np.argpartition(-scores, 4 * MOST)[: 4 * MOST] if len(scores) > 4 * MOST else np.arange(len(scores))
        order = sorted(order.tolist(), key=lambda number: (-scores[number], number))
        return [number for number in order if scores[number] > 0]

    def place(self, number: int, words: Sequence[str]) -> Place:
        """A sentence with what is shown of it, and what may be quoted."""
        sentence, (shortest, longest) = self.sentences[number], SHOWN
        text, before, behind = sentence.text, number - 1, number + 1
        while sentence.place and len(text) < shortest:
            after = self.sentences[behind] if behind < len(self.sentences) else None
            former = self.sentences[before] if before >= 0 else None
            if fits(after, sentence, longest - len(text)) and after:
                text, behind = text + after.text, behind + 1
            elif (
                former
                and former.place
                and former.chapter == sentence.chapter
                and len(text) + len(former.text) <= longest
            ):
                text, before = former.text + text, before - 1
            else:
                break
        quote = with_speaker(self.told(sentence, words) or self.quote(sentence, words), sentence.text)
        quote = widened(quote, sentence.text)
        who = {written: person for written, person in sentence.who.items() if written in quote}
        return Place(number, sentence.chapter, text, quote, who)

    def told(self, sentence: Sentence, words: Sequence[str]) -> str:
        """The clauses that tell what some words ask for, where that is a fact that is known; else ""."""
        kinds, subjects = self.asked(words)
        for kind in kinds:
            for told, subject, quote in sentence.tells:
                if quote and told == kind and subject in subjects:
                    return quote
        return ""

    def quote(self, sentence: Sentence, words: Sequence[str]) -> str:
        """The clauses of a sentence that have most of some words and what they stand for."""
        if not sentence.place:
            return sentence.text
        shortest, longest = QUOTED
        clauses = re.findall("[^，；：。！？]+[，；：。！？”’]*", sentence.text) or [sentence.text]
        wanted = {gram for word in words for gram in grams(word)}
        for word in words:
            wanted |= {meaning for meaning in meanings().get(word, ()) if not meaning.startswith("#")}
            person = self.person(word)
            wanted |= {written for written, who in sentence.who.items() if who == person} | ({person} - {""})
        best, chosen = -1.0, clauses[:1]
        for start in range(len(clauses)):
            piece = ""
            for stop in range(start, len(clauses)):
                piece += clauses[stop]
                if len(piece) > longest and stop > start:
                    break
                score = sum(len(each) for each in wanted if each in piece) - 0.02 * len(piece) - (len(piece) < shortest)
                if score > best:
                    best, chosen = score, clauses[start : stop + 1]
        return "".join(chosen).strip(EDGE_MARKS)[: 2 * longest]

    def bearing(self, question: str, answer: str) -> list[Place]:
        """The places that bear out an answer given without looking: they hold what it adds to the question."""
        named = any_name(self.person_of).findall(f"{question} {answer}") if self.person_of else []
        quotes, labels = re.findall("「(.+?)」", answer), [match[0] for match in CHAPTER.finditer(answer)]
        added = [word for word in dict.fromkeys([*quotes, *labels, *named]) if word not in question]
        words = list(dict.fromkeys([*(name for name in named if name in question), *added]))[:MOST_WORDS]
        if not added or self.forms.beyond in answer:
            return []
        found = self.search([word for word in words if word not in labels] or labels)
        return [place for place in found if any(word in place.text + place.where for word in added)]

    def around(self, number: int) -> tuple[str, str, str]:
        """(what stands before a sentence in its section, the sentence, what stands behind it)."""
        chapter = self.sentences[number].chapter
        first = last = number
        while first and self.sentences[first - 1].chapter == chapter:
            first -= 1
        while last + 1 < len(self.sentences) and self.sentences[last + 1].chapter == chapter:
            last += 1
        texts = [sentence.text + "\n" * (sentence.place == 0) for sentence in self.sentences[first : last + 1]]
        here = number - first
        return "".join(texts[:here]), texts[here], "".join(texts[here + 1 :])

    def is_verbatim(self, quote: str) -> bool:
        """Whether a quotation stands in the book word for word, its marks and lines apart."""
        return re.sub(r"\W", "", quote) in self.bare_text

    @functools.cached_property
    def bare_text(self) -> str:
        """The whole text without marks."""
        return re.sub(r"\W", "", self.text)

    def look(self, call: str) -> tuple[str, list[Place]]:
        """(what a call found, as the model reads it, the Places). The call is a JSON list of words, see search."""
        try:
            words = json.loads(call)
        except (ValueError, RecursionError):
            words = []
        words = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
        places = self.search(words)
        return json.dumps([place.record for place in places], ensure_ascii=False), places

    def call_grammar(self, messages: Messages) -> Grammar:
        """What may be said to the last question: an answer, or a call for words of the questions and answers so far.

        A word of a call is a whole one: 孙悟 is none in 孙悟空是谁, but 孙悟空 is, between the words of a question.
        Where somebody of the book is named, the first word names them.
        """
        grammar = Grammar()
        grammar.free.add(grammar.literal(grammar.start, MARKERS["assistant"]))
        said = [message["content"] for message in messages if message["role"] in ("user", "assistant")]
        pieces = [(piece, *self.edges(piece)) for text in said for piece in re.split(r'["\\\s]+', text) if piece]
        pieces = [(piece, starts, stops) for piece, starts, stops in pieces if starts]
        if not pieces:
            return grammar
        state = grammar.literal(grammar.start, MARKERS["search"] + '["')
        end = grammar.state()
        named = any_name(self.person_of)
        for number in range(MOST_WORDS):
            behind = grammar.state()
            for piece, starts, stops in pieces:
                names = [match.span() for match in named.finditer(piece)] if number == 0 else []
                if names:
                    starts = [start for start in starts if any(start <= begin for begin, _ in names)]
                    stops = [stop for stop in stops if any(stop >= end for _, end in names)]
                grammar.join(grammar.span(state, piece, starts, stops), behind)
            closed = grammar.literal(behind, '"')
            grammar.join(grammar.literal(closed, "]"), end)
            if number < MOST_WORDS - 1:
                state = grammar.literal(closed, ', "')
        grammar.ends.add(end)
        return grammar

    @functools.cached_property
    def vocabulary(self) -> re.Pattern:
        """A pattern that finds the longest known word: names, what questions are asked with, episodes."""
        episodes = {subject for each in self.sentences for kind, subject, _ in each.tells if kind == "episode"}
        names = {name for name in self.person_of if len(name) > 1}
        return any_of(
            {
                *names,
                *episodes,
                *meanings(),
                *EARLIEST.pattern.split("|"),
                *ASIDE.split(),
                *QUESTION_WORDS.split(),
                *MARKS,
            }
        )

    def edges(self, text: str) -> tuple[list[int], list[int]]:
        """Where words that may be called for begin in a text, and where they end.

        Words that are known are held to be whole; marks and what only makes a question of a text are left out.
        """
        asking, starts, stops, end = set(QUESTION_WORDS.split()), [], [], 0
        for match in self.vocabulary.finditer(text):
            if match.start() > end:  # what is not known
                starts, stops = [*starts, end], [*stops, match.start()]
            if match[0] not in asking and re.search(r"\w", match[0]):
                starts, stops = [*starts, match.start()], [*stops, match.end()]
            end = match.end()
        return ([*starts, end], [*stops, len(text)]) if end < len(text) else (starts, stops)

    def answer_grammar(self, call: str, places: Sequence[Place]) -> Grammar:
        """What may be answered to what a call found: a quotation of a place, or that nobody is there, or neither."""
        grammar = Grammar()
        begin = grammar.literal(grammar.start, MARKERS["assistant"])
        end = grammar.state()
        grammar.join(grammar.literal(begin, self.forms.beyond), end)
        grammar.ends.add(end)
        for place in places:
            if place.counted:
                grammar.join(grammar.literal(begin, place.answer), end)
                continue
            starts = [
                at
                for at, mark in enumerate(place.quote)
                if not at or place.quote[at - 1] in STARTS and mark not in STARTS
            ]
            stops = [
                at for at, mark in enumerate(place.quote) if at and mark in STOPS and place.quote[at - 1] not in STOPS
            ]
            stops.append(len(place.quote))
            piece = grammar.span(grammar.literal(begin, "「"), place.quote, starts, stops)
            where = f"（{place.where}）" if place.where else ""
            grammar.join(grammar.literal(piece, f"」{where}。"), end)
        if not places:
            for word in filter(self.is_missing, json.loads(call)):
                form = self.forms.absent_chapter if CHAPTER.fullmatch(word) else self.forms.absent
                if form:
                    grammar.join(grammar.literal(begin, word + form), end)
        return grammar


# What makes a question of a text, and is not looked for.
QUESTION_WORDS = (
    "请问 告诉我 我想知道 我想了解 我想问 我想 你知道 那么 再问一下 书中 书里 这本书 这部书 里 谁 什么 何 哪 哪个 "
    "哪个人 哪位 哪里 哪儿 怎么 怎样 如何 多少 几 吗 呢 啊 呀 吧 了 的 是 是谁 是什么 的是 在 有 有谁 叫 叫什么 "
    "叫做 被 把 和 与 跟 同 对 说 讲 写 关于 介绍 介绍一下 说说 讲讲 谈谈 说一说 讲一讲 给我 帮我 帮我查 一下 "
    "这个人 那个人 这人 那人 此人 他 她 那他 那她 哪些人 怎么回事 出自 为什么 为何 后来 最后 曾 都 也 还 又 到底 "
    "究竟 知道 认识 听说过 想 请 你好 您好 谢谢 第几回 哪一回 哪回 哪一章 第几章 哪一句 哪句 哪句话 哪一句话 原文 "
    "原句 原话 句子 引用 引出 写出 说出 列出 提到 写到 写 提 讲了 讲什么 写了 用什么 使什么 用 使 拿 算什么 算 "
    "是什么人 什么人物 何许人 名叫 叫的 所有 主要 从 起 才有 来着 什么样的 怎么样 是不是 有没有 是哪 我 你"
)
MARKS = "，。？！：；、“”‘’「」《》…～,.?!:;\"' \u3000"
ASIDE = "回目 标题 题目 名字 名称 内容 讲 叫 写 说 人物 故事"  # of a chapter, its heading tells them


def fits(other: Sentence | None, sentence: Sentence, room: int) -> bool:
    """Whether a sentence beside another is of the same section and not longer than so many characters."""
    return other is not None and other.chapter == sentence.chapter and len(other.text) <= room


def with_speaker(quote: str, text: str) -> str:
    """What is said with who says it, where that stands before it: 操曰：“宁教我负天下人."""
    said = re.search(r"[^，；。！？”“]{1,12}[：，]“$", text[: max(0, text.find(quote))])
    return said[0] + quote if said else quote


def widened(quote: str, text: str) -> str:
    """A short quotation with the clause before it, or behind, where both are not long."""
    shortest, longest = QUOTED
    position = text.find(quote)
    if len(quote) >= shortest or position < 0:
        return quote
    edges = [0, *(match.end() for match in re.finditer("[，；：。！？、\u3000][”’“‘]?", text)), len(text)]
    before = max((edge for edge in edges if edge < position), default=position)
    if position - before > 1 and position + len(quote) - before <= longest:
        return text[before : position + len(quote)].strip(EDGE_MARKS)
    behind = min((edge for edge in edges if edge > position + len(quote) + 1), default=len(text))
    if behind - position <= longest:
        return text[position:behind].strip(EDGE_MARKS)
    return quote


def copy_book(source, target):
    """Put the book of one directory into another, too, where it has one."""
    for name in (SENTENCES, ABOUT):
        if Path(source, name).exists() and Path(source).resolve() != Path(target).resolve():
            link_whole(Path(source, name), Path(target, name))


@functools.lru_cache(maxsize=4)
def known_names(names: tuple[str, ...]) -> re.Pattern:
    """A pattern that finds the longest of some names."""
    return any_of(names)


def any_name(person_of: dict[str, str]) -> re.Pattern:
    """A pattern that finds the names of people."""
    return known_names(tuple(person_of))


def grams(text: str) -> list[str]:
    """The characters of a text and their pairs, without marks."""
    pieces = re.findall(r"\w+", text)
    return [each for piece in pieces for i in range(len(piece)) for each in {piece[i], piece[i : i + 2]}]


@functools.cache
def meanings() -> dict[str, list[str]]:
    """{word of a question: what it stands for in a book, and #KIND for a kind of fact}."""
    rows = [[part.split() for part in line.split("|")] for line in MEANINGS.strip().splitlines()]
    return {word: [*told, *(f"#{kind}" for kind in kinds)] for asked, told, kinds in rows for word in asked}


@functools.lru_cache(maxsize=4096)
def chapter_number(word: str) -> int | None:
    """The number of a chapter that a word names: 50 of 第五十回; None for another word."""
    found = CHAPTER.fullmatch(word)
    return number_of(found[1]) if found else None


def sound(word: str) -> str:
    """How a word sounds, without tones: zhangfei of 张非, and of zhang fei."""
    return "".join(lazy_pinyin(word)).replace(" ", "").lower()


def passages_of(
    sections: Iterable, texts: Iterable, facts: Sequence[dict], people, spellings, forms: Forms
) -> Passages:
    """The Passages of a book, from its sections, who is meant where (see book/mentions.py), and what is known of it."""
    told, casts = defaultdict(list), defaultdict(list)
    for fact in facts:
        if fact.get("told"):
            for x in fact["x"] if fact["kind"] in ("bearer", "episode") else [fact["about"]]:
                told[fact["place"], fact["told"].strip()].append([fact["kind"], x, fact.get("quote", "")])
        if fact["kind"] == "cast":
            casts[fact["about"]].append(fact["Answer"].strip("。"))
    sentences = []
    marked = {id(section): text for section, text in zip(sections, texts)}
    for section in sections:
        heading = "　".join(section.title)
        if heading:
            inside = sorted({person for written, person in spellings.items() if written in heading})
            tells = [each for line in section.title for each in told.get((section.label, line), ())]
            tells += [["cast", section.label, cast] for cast in casts.get(section.label, ())]
            sentences.append(Sentence(section.label, 0, heading, {}, inside, tells))
        text = marked.get(id(section))
        pieces = re.finditer(SENTENCE, text.text if text else section.text)
        for place, match in enumerate(pieces, 1):
            who, inside = {}, []
            if text:
                for character in re.findall(PERSON, match[0]):
                    mention = text.mentions[character]
                    inside.append(mention.person)
                    if mention.written != mention.person:
                        who[mention.written] = mention.person
            plain = (text.plain(match[0]) if text else match[0]).strip()
            if plain:
                tells = told.get((section.label, plain), [])
                sentences.append(Sentence(section.label, place, plain, who, list(dict.fromkeys(inside)), tells))
    names = {person: [person, *(w for w, p in spellings.items() if p == person and w != person)] for person in people}
    ends = {person: chapter_number(label) or 0 for person, label in last_acts(texts).items()}
    return Passages(sentences, names, forms, ends)
