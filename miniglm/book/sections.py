"""A book as its sections: chapters, and what stands before, between and behind them (楔子, 番外).

    [section.label for section in sections_of(text)]    # ["楔子", "第一章", "第二章", "番外"]

A heading is a line of its own: 第一回 宴桃园豪杰三结义, 正文 第001章：少年下山, 【第十二章】, 第一卷 山中 第一章 少年,
卷二, 楔子.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from miniglm.errors import UserError, refuse
from miniglm.files import read_text


class Section(NamedTuple):
    """A part of a book, from its heading to the next one."""

    label: str  # how the book calls it: 第一回, 第二卷第一章, 楔子; "" without a name of its own
    number: int | None  # of a chapter, as its heading has it
    title: list[str]  # the parts of its heading behind the label
    text: str


VOLUME, CHAPTER, PART = range(3)  # levels of headings


@dataclass
class Block:
    """Lines of a book up to the next heading."""

    level: int | None = None  # of the heading that they begin with; None at the book's beginning
    name: str = ""  # 第一回, 第二卷, 楔子
    number: int | None = None  # of a volume or chapter; None for 楔子
    title: str = ""
    line: str = ""  # the heading itself
    lines: list[str] = field(default_factory=list)  # behind the heading

    @property
    def text(self) -> str:
        """What stands behind the heading, "" where it is white space alone."""
        text = "\n".join(self.lines)
        return text if text.strip() else ""


LEVELS = dict.fromkeys("卷部册冊编編集篇", VOLUME) | {"部分": VOLUME}
LEVELS |= dict.fromkeys("回囘章话話折幕", CHAPTER) | dict.fromkeys("节節", PART)
NUMERAL = r"[\d〇零○一二三四五六七八九两兩壹贰貳叁參肆伍陆陸柒捌玖十百千万廿卅卌拾佰仟]{1,9}"
NOT_NUMERIC = str.maketrans("○两", "〇二")  # to Unicode
NUMBERED = re.compile(rf"第\s*({NUMERAL})\s*(部分|[{''.join(LEVELS)}])")
ANOTHER = re.compile(rf"(?:^|(?<=[\s:：、.．·・|丨])){NUMBERED.pattern}")  # behind a label on its line
VOLUMES = re.compile(rf"卷之?\s*({NUMERAL})|[上中下][卷部册冊篇集]")  # without 第
NAMED = re.compile(
    "(?:楔子|引首|引子|引言|序章|序幕|序曲|序言|自序|代序|序|前言|尾声|尾聲|终章|終章|番外篇?|外传|外傳|后记|後記|跋|附录|附錄|结语|結語)"
    rf"(?:\s*[（(]?({NUMERAL})[）)]?(?!\w))?"
)
FRAME = "、#＃*＊☆★◆◇●■□▲△=＝~～_—–- \t\u3000\xa0\ufeff\u200b"  # what a heading may be set in
BRACKETS = re.compile(r"[【〖\[〔（(《「『]\s*([^】〗\]〕）)》」』]*?)\s*[】〗\]〕）)》」』]\s*")
BEFORE = re.compile(r"正文卷?[\s:：·]*")
BEHIND = re.compile(r"[\s:：、.．·・|丨–—-]+")  # between a label and its title
FEWEST_ENTRIES = 3  # of a table of contents
LONGEST_TITLE, LONGEST_JOINED = 60, 30  # characters; of one that follows its label without a space
PROSE = re.compile("[。！？；，、：…“”]")  # in what follows a label without a space: the line is no heading
OTHER_WORDS = re.compile("[合节课程法份队长团辑宗文题头]")  # 第一回合, 第三节课: behind a label, it is none


def number_of(numeral: str) -> int | None:
    """The number that a numeral writes: 106 for 一百零六, 一百六, 一〇六, 106, １０６ and 0106; None where it is none.

    The last digit behind 百 or 千 counts ones: the novels write 第一百六回 for the 106th.
    """
    values = [int(unicodedata.numeric(character, -1)) for character in numeral.translate(NOT_NUMERIC)]
    if not values or min(values) < 0:
        return None
    if max(values) < 10:  # digits, each in its place
        return int("".join(map(str, values)))
    total = digit = 0
    for value in values:
        if value < 10:
            digit = 10 * digit + value
        elif value >= 10_000:
            total, digit = (total + digit or 1) * value, 0
        elif value in (20, 30, 40):
            total, digit = total + value, 0
        else:
            total, digit = total + (digit or 1) * value, 0
    return total + digit


def chinese_number(number: int, zero="零") -> str:
    """1 to 9999 in Chinese, more in digits. `zero` marks a skipped place: 106 is 一百零六, with zero="" 一百六."""
    if number > 9999:
        return str(number)
    text, skipped = "", False
    for value, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, value)
        if digit and skipped and text:
            text += zero
        if digit:
            text += "零一二三四五六七八九"[digit] + unit
        skipped = not digit
    return text.removeprefix("一") if text.startswith("一十") else text


def writings(label: str) -> list[str]:
    """The ways to write a label: as it is, and with its numbers as in 第一百零六回 and 第106回."""
    return list(dict.fromkeys([label, with_numbers(label, chinese_number), in_digits(label)]))


def in_digits(label: str) -> str:
    """A label with its numbers in digits, to compare it by."""
    return with_numbers(label, str)


def with_numbers(label: str, write: Callable[[int], str]) -> str:
    """A label with each of its numbers as `write` gives it."""
    return re.sub(NUMERAL, lambda match: write(number_of(match[0]) or 0), label)


def numbers_named(text: str) -> set[int]:
    """The numbers of all chapters and other parts that a text names anywhere, in any numeral."""
    numerals = (match[1] for label in (NUMBERED, VOLUMES) for match in label.finditer(text))
    return {number for numeral in numerals if numeral and (number := number_of(numeral)) is not None}


def sections_of(text: str, pattern: str = "") -> list[Section]:
    """The sections of a book, in order; their texts leave out its headings and a table of contents.

    pattern: a regular expression; the lines that begin with it are the headings of chapters then, and no others. What
    stands before the first heading has no label, as has a book without headings, and as have sections whose heading
    stands at several places. Raises UserError where the pattern is none, or fits nowhere.
    """
    blocks = custom_blocks(text, pattern) if pattern else blocks_of(text)
    blocks = without_contents(as_chapters(blocks))
    labels = labels_of(blocks)
    sections: list[Section] = []
    for block, label in zip(blocks, labels):
        if block.level == VOLUME:
            if block.text:
                sections.append(Section(label + "开头", None, [], block.text))
        elif label and sections and in_digits(label) == in_digits(sections[-1].label):  # 第三章 上, 第三章 下
            before = sections.pop()
            title = list(dict.fromkeys(before.title + block.title.split()))
            sections.append(before._replace(title=title, text=before.text + "\n" + block.text))
        elif block.level is not None or block.text:
            number = block.number if block.level == CHAPTER else None
            sections.append(Section(label, number, block.title.split(), block.text))
    counts = Counter(in_digits(section.label) for section in sections)
    return [section._replace(label="") if counts[in_digits(section.label)] > 1 else section for section in sections]


def blocks_of(text: str) -> list[Block]:
    """The lines of a text in Blocks, at each line that reads as a heading."""
    blocks = [Block()]
    for line in text.split("\n"):
        headings = headings_in(line)
        blocks += headings
        if not headings:
            blocks[-1].lines.append(line)
    return blocks


def headings_in(line: str) -> list[Block]:
    """The headings that a line consists of: one, a volume's and its first chapter's, or none."""
    words = line.strip(FRAME)
    if bracketed := BRACKETS.match(words):
        words = f"{bracketed[1]} {words[bracketed.end() :]}"
    if before := BEFORE.match(words):
        words = words[before.end() :]
    label = NUMBERED.match(words) or VOLUMES.match(words) or NAMED.match(words)
    if not label:
        return []
    name, rest = plain_name(label[0]), words[label.end() :]
    if label.re is NAMED:
        level, number = CHAPTER, None
        if inner := NUMBERED.match(BEHIND.sub("", rest, count=1)):  # 番外 第一章 多年以后
            name += plain_name(inner[0])
            rest = rest[rest.index(inner[0]) + len(inner[0]) :]
    else:
        level = LEVELS[label[2]] if label.re is NUMBERED else VOLUME
        number = number_of(label[1]) if label[1] else None
    following = []
    if inner := ANOTHER.search(rest):
        following = headings_in(rest[inner.start() :]) if level == VOLUME else []
        if not following:
            return []  # several on a line: a table of contents
        rest = rest[: inner.start()]
    if not is_title(rest, may_join=label.re is NUMBERED or name.startswith("番外")):
        return []
    return [Block(level, name, number, BEHIND.sub("", rest, count=1).strip(), line), *following]


def plain_name(label: str) -> str:
    """A label without spaces, full-width digits and leading zeros: 第6章 for 第 ００6 章."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", "".join(unicodedata.normalize("NFKC", label).split()))


def is_title(rest: str, may_join: bool) -> bool:
    """Whether what follows a label on its line can be a title. may_join: without a space or mark between them."""
    rest = rest.rstrip()
    if not rest or BEHIND.match(rest):
        return len(rest) <= LONGEST_TITLE and "。" not in rest
    return may_join and len(rest) <= LONGEST_JOINED and not PROSE.search(rest) and not OTHER_WORDS.match(rest)


def custom_blocks(text: str, pattern: str) -> list[Block]:
    """The lines of a text in Blocks, at each line that begins with a regular expression. Raises UserError.

    A chapter has the number in what the expression finds, without one its place among the chapters; its title is what
    follows, or where nothing does what follows the number.
    """
    try:
        heading = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--heading={pattern} is no regular expression ({error})", "see Python's re; quote it"
        ) from error
    blocks = [Block()]
    for line in text.split("\n"):
        words = line.strip(FRAME)
        found = heading.match(words)
        if not words or not found:
            blocks[-1].lines.append(line)
        elif named := headings_in(line):
            blocks += named
        else:
            numeral = re.search(NUMERAL, found[0])
            number = number_of(numeral[0]) if numeral else len(blocks)
            behind = found.end() if found.end() < len(words) or not numeral else numeral.end()
            title = words[behind:] or found[0]
            name = plain_name(f"第{numeral[0] if numeral else number}章")
            blocks.append(Block(CHAPTER, name, number, BEHIND.sub("", title, count=1).strip(), line))
    refuse(len(blocks) == 1, f"no line of the book begins with --heading={pattern}", "try the expression on a heading")
    return blocks


def as_chapters(blocks: list[Block]) -> list[Block]:
    """Blocks whose chapters are on the level CHAPTER: 章 or 回, where there are none 节, where there are none 卷.

    What is below that, 节 under 章, becomes text of its chapter again. A heading such as 番外 over chapters of its own
    becomes a volume's.
    """
    levels = {block.level for block in blocks if block.number is not None}
    lowest = next((level for level in (CHAPTER, PART, VOLUME) if level in levels), CHAPTER)
    kept = []
    for block in blocks:
        if kept and block.level is not None and block.level > lowest and block.number is not None:
            kept[-1].lines += [block.line, *block.lines]
        else:
            level = CHAPTER if block.level == lowest else block.level
            kept.append(replace(block, level=level))
    for block, following in pairwise(kept):
        if block.level == CHAPTER and block.number is None and not block.text and following.number is not None:
            block.level = VOLUME
    return kept


def without_contents(blocks: list[Block]) -> list[Block]:
    """Blocks without those of a table of contents: headings with nothing behind them that stand again elsewhere.

    What stands behind the last of them is no chapter's.
    """
    keys = [in_digits(block.name) for block in blocks]
    start = 0
    while start < len(blocks):
        stop = start
        while stop < len(blocks) and blocks[stop].level is not None and not blocks[stop].text:
            stop += 1
        for end in range(min(stop + 1, len(blocks)), start + FEWEST_ENTRIES - 1, -1):  # its last entry may have text
            others = iter(keys[:start] + keys[end:])
            if start and all(key in others for key in keys[start:end]):  # in this order
                blocks[start - 1].lines += blocks[end - 1].lines
                return blocks[:start] + blocks[end:]
        start = stop + 1
    return blocks


def labels_of(blocks: list[Block]) -> list[str]:
    """What to call each block: its name, behind that of its volume where another volume has one of the same name."""
    volumes, volume, places = [], "", defaultdict(set)
    for block in blocks:
        volume = block.name if block.level == VOLUME else volume
        volumes.append(volume)
        if block.level == CHAPTER:
            places[in_digits(block.name)].add(volume)
    begin_anew = any(block.number is not None and len(places[in_digits(block.name)]) > 1 for block in blocks)
    labels = []
    for block, volume in zip(blocks, volumes):
        shared = begin_anew if block.number is not None else len(places[in_digits(block.name)]) > 1
        labels.append(volume + block.name if block.level == CHAPTER and shared else block.name)
    return labels


def read_book(path: Path, pattern: str = "") -> tuple[str, list[Section]]:
    """(the text, its sections) of the book in `path`. pattern: see sections_of. Raises UserError."""
    refuse(not path.is_file(), f"no book {path}", f"run python data/fetch_data.py {path.parent.name}")
    text = read_text(path, "fetch it with data/fetch_data.py, which recognises encodings")
    return text, sections_of(text, pattern)


def unit_of(sections: Sequence[Section]) -> str:
    """What most chapters of a book are called, 回 or 章; "" where none has a label of its own."""
    units = Counter(section.label[-1] for section in sections if section.label and section.number is not None)
    return units.most_common(1)[0][0] if units else ""


def describe(sections: Sequence[Section]) -> str:
    """What was found in a book, in a line for its reader."""
    chapters = [section.label for section in sections if section.label and section.number is not None]
    named = [section.label for section in sections if section.label and section.number is None]
    unclear = sum(section.number is not None and not section.label for section in sections)
    found = f"{len(chapters):,} chapters, {chapters[0]} to {chapters[-1]}" if chapters else "no chapters"
    if named:
        found += f"; {len(named)} other sections: {'、'.join(named[:12])}"
    if unclear:
        found += f"; {unclear:,} headings that stand several times, what is below them is asked about without a chapter"
    if not chapters:
        found += "; people and sentences are asked about without them (--heading=REGEX tells how headings begin)"
    return found
