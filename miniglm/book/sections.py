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
    joined: bool = False  # whether the title follows the name without a space or a mark
    lines: list[str] = field(default_factory=list)  # behind the heading

    @property
    def text(self) -> str:
        """What stands behind the heading, "" where it is white space alone."""
        text = "\n".join(self.lines)
        return text if text.strip() else ""


LEVELS = dict.fromkeys("卷部册冊编編集篇季辑輯", VOLUME) | {"部分": VOLUME}
LEVELS |= dict.fromkeys("回囘章话話折幕", CHAPTER) | dict.fromkeys("节節", PART)
UNIT = f"部分|[{''.join(LEVELS)}]"
DIGIT = r"[\d〇零○一二三四五六七八九两兩壹贰貳叁參肆伍陆陸柒捌玖十百千万廿卅卌拾佰仟]"
NUMERAL = rf"{DIGIT}(?:[ \u3000]?{DIGIT}){{0,8}}"
NUMERIC = str.maketrans("○两oOＯ", "〇二〇〇〇", " \u3000")  # as Unicode's table of numeric characters has them
NUMBERED = re.compile(rf"第\s*({NUMERAL})\s*({UNIT})")
ANOTHER = re.compile(rf"(?:^|(?<=[\s:：、.．·・|丨])){NUMBERED.pattern}")  # behind a label on its line
VOLUMES = re.compile(rf"卷之?\s*({NUMERAL})|[上中下][卷部册冊篇集]|卷[上中下]")  # without 第
NAMES = (
    "楔子 引首 引子 引言 序章 序幕 序曲 序言 自序 代序 序 前言 卷首 尾声 尾聲 终章 終章 最终章 最終章 大结局 大結局 "
    "番外篇 番外 外传 外傳 后记 後記 跋 附录 附錄 结语 結語"
)
NAME = "|".join("[ \u3000]?".join(name) for name in NAMES.split())  # 楔 子, too
NAMED = re.compile(rf"(?:{NAME})(?:\s*之?[（(]?({NUMERAL})[）)]?(?!\w))?")
FRAME = "、#＃*＊☆★◆◇●■□▲△=＝~～_—–-> \t\x0b\x0c\x85\xa0\u200b\u2028\u3000\ufeff"  # around a heading
BRACKETS = re.compile(r"([【〖\[〔（(《])([^】〗\]〕）)》]*)[】〗\]〕）)》]")
BEFORE = re.compile(r"(?:正文|VIP|默认|作品相关|《[^》]*》)卷?(?:章节)?[\s:：·]*")
BEHIND = re.compile(r"[\s:：∶﹕、.．·・‧•|｜丨/／~～_>–—-]+")  # between a label and its title
ENDED = re.compile(r"[（(\s]*(?:完|终|終|完结|完結)[）)\s]*")  # 第一章完, behind a chapter
FEWEST_ENTRIES = 3  # of a table of contents
LONGEST_TITLE, LONGEST_JOINED = 60, 30  # characters; of one that follows its label without a space
PROSE = re.compile("[。！？；，、：…“”]")  # in what follows a label without a space: the line is no heading
HALVES = re.compile(r"(\w{4,12})[，、；](\w{4,12})")  # but for 第一回宴桃园豪杰三结义，斩黄巾英雄首立功
OTHER_WORDS = re.compile("[合节课程法份队长团辑宗文题头]")  # 第一回合, 第三节课: behind a label, it is none


def number_of(numeral: str) -> int | None:
    """The number that a numeral writes: 106 for 一百零六, 一百六, 一〇六, 106, １０６ and 0106; None where it is none.

    The last digit behind 百 or 千 counts ones: the novels write 第一百六回 for the 106th.
    """
    values = [int(unicodedata.numeric(character, -1)) for character in numeral.translate(NUMERIC)]
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
    """0 to 9999 in Chinese, more in digits. `zero` marks a skipped place: 106 is 一百零六, with zero="" 一百六."""
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
    return text.removeprefix("一") if text.startswith("一十") else text or "零"


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
    """The numbers of all that may be a chapter in a text, in any numeral, in prose and in damaged headings too.

    第九張 and 第 三 十 章 count, 第四-五章, 百零六回 without 第, 7、 at a line's beginning: what is in doubt is there.
    """
    numeral = f"(?:{DIGIT}|[oOＯ]){{1,9}}"
    whole = "".join(text.split())
    found = re.findall(rf"第({numeral})|[-—~～、,，至到]({numeral})(?={UNIT})|({numeral})(?=[章回囘节節话話])", whole)
    found += re.findall(rf"(?m)^\s*({numeral})()()[、.．\s]", text)
    found += [(match[1], "", "") for match in VOLUMES.finditer(text) if match[1]]
    numbers = (number_of(numeral) for numerals in found for numeral in numerals if numeral)
    return {number for number in numbers if number is not None}


def sections_of(text: str, pattern: str = "") -> list[Section]:
    """The sections of a book, in order; their texts leave out its headings and a table of contents.

    pattern: a regular expression; the lines that begin with it are the headings then, and no others. What stands before
    the first heading has no label, as has a book without headings, and as have sections whose heading stands at several
    places. Raises UserError where the pattern is none, or fits nowhere.
    """
    blocks = custom_blocks(text, pattern) if pattern else without_prose(blocks_of(text))
    blocks = as_chapters(without_contents(blocks))
    sections: list[Section] = []
    for block, label in zip(blocks, labels_of(blocks)):
        if block.level == VOLUME:
            if block.text:
                sections.append(Section(label + "开头", None, [], block.text))
        elif sections and label and goes_on(sections[-1], block, label):
            before = sections.pop()
            title = list(dict.fromkeys(before.title + block.title.split()))
            sections.append(before._replace(title=title, text=before.text + "\n" + block.text))
        elif block.level is not None or block.text:
            number = block.number if block.level == CHAPTER else None
            sections.append(Section(label, number, block.title.split(), block.text))
    counts = Counter(in_digits(section.label) for section in sections)
    return [section._replace(label="") if counts[in_digits(section.label)] > 1 else section for section in sections]


def goes_on(section: Section, block: Block, label: str) -> bool:
    """Whether a block is more of the section before it: 第三章 下 behind 第三章 上, no 番外 白狗 behind 番外 灰猫."""
    title = block.title.split()
    same = in_digits(label) == in_digits(section.label)
    return same and (block.number is not None or not title or title == section.title)


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
    if len(words) > 2 * LONGEST_TITLE:
        return []
    label, words = label_in(words)
    if not label:
        return []
    name, rest = plain_name(label[0]), words[label.end() :]
    if label.re is NAMED:
        level, number = CHAPTER, None
        behind = BEHIND.sub("", rest, count=1)
        if inner := NUMBERED.match(behind):  # 番外 第一章 多年以后
            name, rest = name + plain_name(inner[0]), behind[inner.end() :]
    else:
        level = LEVELS[label[2]] if label.re is NUMBERED else VOLUME
        number = number_of(label[1]) if label[1] else None
    following: list[Block] = []
    while inner := ANOTHER.search(rest):
        again = plain_name(inner[0]) == name or (level, LEVELS[inner[2]]) == (CHAPTER, PART)
        if level == VOLUME:
            following = headings_in(rest[inner.start() :])
            rest = rest[: inner.start()]
        if level == VOLUME and following:
            break
        if not again or inner.start() > 2:
            return []  # several on a line: a table of contents
        rest = rest[inner.end() :]  # 第一章 第一章 少年, and 第一章 第一节 少年
    joined = bool(rest.strip()) and not BEHIND.match(rest)
    may_join = label.re is NUMBERED or name.startswith("番外")
    if ENDED.fullmatch(rest) or not (is_joined_title(rest) and may_join if joined else is_title(rest)):
        return []
    return [Block(level, name, number, BEHIND.sub("", rest, count=1).strip(), line, joined), *following]


def label_in(words: str) -> tuple[re.Match | None, str]:
    """The label that a line begins with, and the line from there on; None where it begins with none.

    The label may stand in brackets, or behind a word such as 正文.
    """
    forms = [words, BEFORE.sub("", words, count=1)]
    if bracketed := BRACKETS.match(words):
        inside, behind = bracketed[2].strip(), words[bracketed.end() :]
        forms.append(inside + (" " if bracketed[1] in "【〖[〔" else "") + behind)
    for form in forms:
        if label := NUMBERED.match(form) or VOLUMES.match(form) or NAMED.match(form):
            return label, form
    return None, words


def plain_name(label: str) -> str:
    """A label without spaces, full-width digits and leading zeros: 第6章 for 第 ００6 章."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", "".join(unicodedata.normalize("NFKC", label).split()))


def is_title(rest: str) -> bool:
    """Whether what follows a label, and a space or a mark, can be a title."""
    return len(rest) <= LONGEST_TITLE and "。" not in rest


def is_joined_title(rest: str) -> bool:
    """Whether what follows a label without a space can be a title."""
    if halves := HALVES.fullmatch(rest):
        return len(halves[1]) == len(halves[2])
    return len(rest) <= LONGEST_JOINED and not PROSE.search(rest) and not OTHER_WORDS.match(rest)


def custom_blocks(text: str, pattern: str) -> list[Block]:
    """The lines of a text in Blocks, at each line that begins with a regular expression. Raises UserError.

    A chapter has the number in what the expression finds where all have one and they rise, else its place among the
    chapters. Its title is what follows, or where nothing does what follows the number.
    """
    try:
        heading = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--heading={pattern} is no regular expression ({error})", "see Python's re; quote it"
        ) from error
    lines = text.split("\n")
    found = {}  # {number of a line: what the expression finds in it}
    for place, line in enumerate(lines):
        matches = (heading.match(form) for form in (line, line.strip(), line.strip(FRAME)))
        if match := next((match for match in matches if match and match.end()), None):
            found[place] = match
    refuse(not found, f"no line of the book begins with --heading={pattern}", "try the expression on a heading")
    numerals = [re.search(NUMERAL, match[0]) for match in found.values()]
    numbers = [number_of(numeral[0]) if numeral else None for numeral in numerals]
    counted = all(numbers) and all(b == 1 or (a or 0) < (b or 0) for a, b in pairwise(numbers))
    blocks = [Block()]
    for place, line in enumerate(lines):
        if place not in found:
            blocks[-1].lines.append(line)
        elif named := headings_in(line):
            blocks += named
        else:
            count, match = len(blocks) - 1, found[place]
            number, numeral = (numbers[count], numerals[count]) if counted else (count + 1, None)
            rest = match.string[match.end() :] or match.string[numeral.end() if numeral else 0 :]
            name = plain_name(f"第{numeral[0] if numeral else number}章")
            blocks.append(Block(CHAPTER, name, number, rest.strip(FRAME + ".．:：【】〖〗[]〔〕（）()《》"), line))
    return blocks


def put_back(blocks: list[Block], is_text: Callable[[Block], bool]) -> list[Block]:
    """Blocks without those whose heading is text of the block before it."""
    kept: list[Block] = []
    for block in blocks:
        if kept and is_text(block):
            kept[-1].lines += [block.line, *block.lines]
        else:
            kept.append(replace(block, lines=list(block.lines)))
    return kept


def without_prose(blocks: list[Block]) -> list[Block]:
    """Blocks without lines of prose that read as a heading (第三回家), since most headings of that level do not.

    They are those whose title follows without a space, in a book whose other titles do not.
    """
    levels = Counter(block.level for block in blocks)
    joined = Counter(block.level for block in blocks if block.joined)
    doubtful = {level for level, count in joined.items() if 2 * count < levels[level] + (level == VOLUME)}
    return put_back(blocks, lambda block: block.joined and block.level in doubtful)


def as_chapters(blocks: list[Block]) -> list[Block]:
    """Blocks whose chapters are on the level CHAPTER: 章 or 回, where there are none 节, where there are none 卷.

    What is below that, 节 under 章, becomes text of its chapter, as does a level that stands once among many headings.
    A heading such as 番外 over chapters of its own becomes a volume's.
    """
    levels = Counter(block.level for block in blocks if block.number is not None)
    most = max(levels.values(), default=0)
    common = [level for level, count in levels.items() if 10 * count >= most and (count > 1 or len(levels) == 1)]
    lowest = next((level for level in (CHAPTER, PART, VOLUME) if level in common), CHAPTER)

    def is_text(block):
        return block.number is not None and block.level not in (lowest, VOLUME)

    kept = put_back(blocks, is_text)
    for block in kept:
        if block.level == lowest:
            block.level = CHAPTER
    for block, following in pairwise(kept):
        over_chapters = following.level == CHAPTER and following.number is not None
        if block.level == CHAPTER and block.number is None and not block.text and over_chapters:
            block.level = VOLUME
    return kept


def without_contents(blocks: list[Block]) -> list[Block]:
    """Blocks without those of a table of contents: headings with nothing behind them, most of which stand again.

    What stands behind the last of them, a preface, is no chapter's.
    """
    keys = [in_digits(block.name) for block in blocks]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    last = {key: place for place, key in enumerate(keys)}
    kept, start = [], 0
    while start < len(blocks):
        stop = start
        while stop < len(blocks) and blocks[stop].level is not None and not blocks[stop].text:
            stop += 1
        run = range(start, min(stop + 1, len(blocks)))  # and the first heading with text, which may be the last entry
        again = [place for place in run if blocks[place].level is not None and last[keys[place]] > place]
        if again and again[-1] == stop and keys[stop] in keys[start:stop]:
            again.pop()  # the first chapter itself
        again = again or [place for place in range(start, stop) if first[keys[place]] < start]  # behind the book
        end = again[-1] + 1 if again else start
        if not kept or len(again) < FEWEST_ENTRIES or 2 * len(again) < end - start:
            kept += blocks[start : stop + 1]
            start = stop + 1
            continue
        while end in run and keys[end] not in keys[start:end] and follows(blocks[end - 1], blocks[end]):
            end += 1  # of chapters that the book does not have
        kept[-1].lines += blocks[end - 1].lines
        start = end
    return kept


def follows(block: Block, following: Block) -> bool:
    """Whether the second of two headings has the next number."""
    return block.number is not None and following.number == block.number + 1


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
    labels = [section.label for section in sections if section.label and section.number is not None]
    units = Counter(found[1] if (found := re.search(f"({UNIT})$", label)) else "卷" for label in labels)
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
