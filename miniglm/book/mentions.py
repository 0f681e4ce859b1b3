"""Who is meant where a book names somebody: by a name, by another one, or by the given name alone.

    云长斩颜良于马下，良军大败。    # 关羽, 颜良, 颜良

The given name alone counts from where its bearer was named in full, until the section ends or another bearer comes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from miniglm.book.sections import Section
from miniglm.typed import TRADITIONAL, in_script

SENTENCE = r"[^。！？\n]+[。！？]?"
HANZI = r"[\u4e00-\u9fff]"


def in_both_scripts(pattern: str) -> str:
    """A regular expression in simplified characters that finds the same words in traditional ones, too."""
    return f"(?:{pattern}|{in_script(pattern, TRADITIONAL)})"


# What stands behind a name where a person is meant.
ACTS = in_both_scripts(
    "曰|道[：，“「]|说[：，道]|笑道|问道|答道|点头|摇头|字|引兵|引军|领兵|领军|大怒|大喜|大惊|大叫|出马|挺枪|拍马|等|乃|拜|"
    "奏|谏|叩|听|闻|、"
)

STRONG, WEAK = 0xF0000, 0x100000  # where the characters begin that stand for a name, and for a given name alone
PERSON = f"[{chr(STRONG)}-{chr(WEAK + 0xFFFD)}]"  # a regular expression for either
NAMED = f"[{chr(STRONG)}-{chr(WEAK - 1)}]"  # for a name alone
INTRODUCED = re.compile(f"姓({HANZI}{{1,2}})，?名({HANZI}{{1,2}}?)(?=[，。；：字]|$)")  # 姓张名飞
CLAUSE_MARKS, EDGE_MARKS = "，；：。！？“”\n", "，；：。！？、“”‘’「」『』 \u3000"
QUOTE = (8, 26)  # characters of a quotation, from whole clauses where they fit
# Beside a given name alone somebody is meant; else it is a word: 飞曰, 斩飞, but 飞马.
BEFORE = "斩刺杀射被令使谓见与遣封拜召问教命助救遇擒迎劝嘱封赐传请引是乃"
BEHIND = (
    "曰大引急见闻听自亦遂令乃使拜与被知回入至欲怒喜笑惊问长次幼之子父弟妻已既在立为即又从出上"
    "，。；：、斩刺杀不无有率领提挺拍抵措"
)
CALLED_SHARE = 0.05  # of a character's places; less, and it is a word


class Mention(NamedTuple):
    """A place where somebody is named."""

    person: str  # by their first name on the list
    written: str  # as the book has it there


class Marked(NamedTuple):
    """A section's text in which one character, matched by PERSON, stands for each mention."""

    label: str  # of the section
    text: str
    mentions: dict[str, Mention]  # by that character

    def who(self, character: str) -> str:
        """The person that a character of the text stands for."""
        return self.mentions[character].person

    def plain(self, text: str) -> str:
        """A piece of the text as the book has it."""
        return re.sub(PERSON, lambda match: self.mentions[match[0]].written, text)


def any_of(words: Iterable[str]) -> re.Pattern:
    """A pattern that finds the longest of some words.

    It goes by their first character, which is far faster than to try one word after the other.
    """
    rests = defaultdict(list)
    for word in sorted(words, key=lambda word: (-len(word), word)):
        rests[re.escape(word[0])].append(re.escape(word[1:]))
    return re.compile("|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in rests.items()))


def clauses_at(text: str, start: int, stop: int) -> str:
    """The whole clauses of a text in which a piece of it stands, without the marks around."""
    begin = max((text.rfind(mark, 0, start) + 1 for mark in CLAUSE_MARKS), default=0)
    ends = [end for mark in CLAUSE_MARKS if (end := text.find(mark, stop)) >= 0]
    return text[begin : min(ends, default=len(text))].strip(EDGE_MARKS)


def quotation(sentence, words):
    """The clauses of `sentence` around `words`, a list of texts in it, word for word, of about QUOTE characters.

    None where they are longer, or quote somebody themselves.
    """
    shortest, longest = QUOTE
    edges = [0] + [m.end() for m in re.finditer("[，；：。！？、]", sentence)]
    if edges[-1] < len(sentence):
        edges.append(len(sentence))
    first, last = min(map(sentence.find, words)), max(sentence.find(word) + len(word) for word in words)
    start = max(edge for edge in edges if edge <= first)
    stop = min(edge for edge in edges if edge >= last)
    for edge in edges:
        if edge > stop and stop - start < shortest and edge - start <= longest:
            stop = edge
    quoted = sentence[start:stop].strip("，；：。！？、“”‘’「」『』 \u3000")
    return quoted if len(quoted) <= longest and not re.search("[“”‘’「」]", quoted) else None


def given_name(name: str) -> str:
    """The last part of a full name, by which a story goes on: 操 of 曹操, 懿 of 司马懿; "" where it is longer."""
    return name[-1] if len(name) in (2, 3) else ""


def is_called(character: str, text: str) -> bool:
    """Whether a character is often followed by what a person does: 操 is, 人 is a word."""
    followed = re.findall(f"{character}(.?.?)", text)
    return sum(bool(re.match(ACTS, each)) for each in followed) >= CALLED_SHARE * len(followed)


def words_of(givens, sections, spellings, known) -> dict[str, set[str]]:
    """{given name: characters that make a word with it}: those behind it in sections that do not name its bearers."""
    found = {given: Counter() for given in givens}
    for section in sections:
        here = {given_name(spellings.get(name, "")) for name in set(known.findall(section.text))}
        pairs = set(re.findall(f"(?=([{''.join(givens - here)}].))", section.text)) if givens - here else ()
        for given, behind in pairs:
            found[given][behind] += 1
    return {given: {behind for behind, count in counts.items() if count > 1} for given, counts in found.items()}


def mark(sections: Sequence[Section], spellings: Mapping[str, str], known: re.Pattern) -> Iterator[Marked]:
    """Each section with its mentions marked.

    spellings: {name as written: person}. known: a pattern that finds all names, of others too.
    """
    text = "\n".join(section.text for section in sections)
    givens = {given_name(person) for person in spellings.values()} - {""}
    givens = {given for given in givens if is_called(given, text)}
    words_with = words_of(givens, sections, spellings, known)
    for section in sections:
        yield Marker(section, spellings, givens, words_with).marked(known)


class Marker:
    """Marks the mentions in one section, see mark."""

    def __init__(self, section: Section, spellings: Mapping[str, str], givens: set[str], words_with: dict):
        """givens: the given names that count alone. words_with: see words_of."""
        self.section, self.spellings, self.givens, self.words_with = section, spellings, givens, words_with
        self.mentions: dict[str, Mention] = {}
        self.called: dict[str, str] = {}  # {given name: whom it means from here on}

    def marked(self, known: re.Pattern) -> Marked:
        """The section with its mentions marked."""
        parts, end, text = [], 0, self.section.text
        for match in known.finditer(text):
            parts.append(self.by_given_name(text[end : match.start()]))
            end = match.end()
            person = self.spellings.get(match[0])
            if not person:
                parts.append(match[0])
                continue
            parts.append(self.character(person, match[0], STRONG))
            if (given := given_name(person)) in self.givens:
                self.called[given] = person
        parts.append(self.by_given_name(text[end:]))
        return Marked(self.section.label, "".join(parts), self.mentions)

    def character(self, person: str, written: str, first: int) -> str:
        """The character that stands for one more mention. first: STRONG or WEAK."""
        character = chr(first + len(self.mentions) % 0xFFFD)
        self.mentions[character] = Mention(person, written)
        return character

    def by_given_name(self, text: str) -> str:
        """A piece of text between two names, in which people are called by their given names, or introduced."""
        introduced = INTRODUCED.search(text)
        if introduced and (person := self.spellings.get(introduced[1] + introduced[2])):
            self.called.setdefault(given_name(person) or introduced[2], person)
            before, behind = text[: introduced.start(2)], text[introduced.end() :]
            return before + self.character(person, introduced[2], STRONG) + self.by_given_name(behind)
        if not self.called:
            return text
        given = f"[{''.join(self.called)}]"
        meant = f"(?<=[{BEFORE}]){given}|{given}(?=[{BEHIND}]|$)|(?:(?<=[{CLAUSE_MARKS}])|^){given}(?=(.))"
        return re.sub(meant, self.by_match, text)

    def by_match(self, match: re.Match) -> str:
        """What stands for a given name; the name itself where it makes a word with the character behind it."""
        if match[1] and match[1] in self.words_with.get(match[0], ()):
            return match[0]
        return self.character(self.called[match[0]], match[0], WEAK)
