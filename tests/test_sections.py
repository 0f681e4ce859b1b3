"""Books as they come: what is a heading, and what a section is called."""

import random
import re
from itertools import islice

import pytest

from miniglm.book.absence import Absence
from miniglm.book.facts import book_facts
from miniglm.book.sections import (
    chinese_number,
    headings_in,
    in_digits,
    number_of,
    numbers_named,
    sections_of,
    unit_of,
    writings,
)
from miniglm.book.wordings import Words

STORY = "次日一早，众人出了山门，往东而行。\n"


def book(*headings):
    """A text with these headings and a line of story below each."""
    return "".join(f"{heading}\n{STORY}" for heading in headings)


def labels(text, pattern=""):
    """The labels of a book's sections."""
    return [section.label for section in sections_of(text, pattern)]


@pytest.mark.parametrize(
    "numeral", ["一百零六", "一百六", "一〇六", "一零六", "一○六", "106", "１０６", "0106", "壹佰零陆"]
)
def test_a_number_is_one_number_in_any_writing(numeral):
    """106, as in 第一百零六回."""
    assert number_of(numeral) == 106


def test_more_numbers():
    """Tens and hundreds with and without 一, 两百, 廿 and 卅; what is no numeral has no number."""
    numerals = {
        "十": 10,
        "二十": 20,
        "一百一十六": 116,
        "一百十六": 116,
        "两百零一": 201,
        "廿三": 23,
        "卅": 30,
        "〇": 0,
    }
    numerals |= {"一千零一": 1001, "三千六百": 3600, "一万二千": 12000, "六二": 62, "1200": 1200}
    assert {numeral: number_of(numeral) for numeral in numerals} == numerals
    assert number_of("") is None and number_of("甲") is None


def test_a_label_is_asked_for_in_several_writings():
    """The book's own first; a volume's number is rewritten, too."""
    assert writings("第一百六回") == ["第一百六回", "第一百零六回", "第106回"]
    assert writings("第二卷第1章") == ["第二卷第1章", "第二卷第一章", "第2卷第1章"]
    assert writings("楔子") == ["楔子"]


@pytest.mark.parametrize(
    "line",
    [
        "　　第十二章 少年下山",
        "第十二章少年下山",
        "第 12 章 少年下山",
        "第012章　少年下山",
        "第１２章：少年下山",
        "第十二章、少年下山",
        "第12章.少年下山",
        "第十二章\t少年下山",
        "正文 第十二章 少年下山",
        "正文：第十二章 少年下山",
        "【第十二章】少年下山",
        "【第十二章 少年下山】",
        "《第十二章》少年下山",
        "## 第十二章 少年下山",
        "☆、第十二章 少年下山",
        "== 第十二章 少年下山 ==",
        "第十二章—少年下山",
        "\ufeff第十二章 少年下山",
        "第十二章 · 少年下山",
    ],
)
def test_a_heading_is_recognised_as_books_write_it(line):
    """Indented, joined, padded, framed."""
    (heading,) = headings_in(line)
    assert (heading.number, heading.title) == (12, "少年下山")


@pytest.mark.parametrize(
    "line",
    [
        "第一回合，两人大战。",
        "第一回合",
        "第三节课开始了",
        "第二天一早",
        "第一回他来了。",
        "后记这本书写了三年。",
        "序幕拉开了",
        "上部队出发了",
        "第十章说的是什么？",
        "第一章 甲 第二章 乙 第三章 丙",
        "他说第一章很好",
        "第三部分是这样的，",
        "第二章 他写道：人不可貌相。",
        "且听第七回分解",
        "“第一章”是什么",
    ],
)
def test_prose_is_no_heading(line):
    """Nor are several headings on a line, as in a table of contents."""
    assert headings_in(line) == []


def test_a_prologue_and_an_epilogue_are_sections_of_their_own():
    """楔子, 引首, 番外, 后记 are no chapters: they have no number, and no chapter has their text."""
    sections = sections_of(book("引首", "楔子", "第一章 甲", "第二章 乙", "番外 第一章 多年以后", "番外 灰猫", "后记"))
    assert [section.label for section in sections] == ["引首", "楔子", "第一章", "第二章", "番外第一章", "番外", "后记"]
    assert [section.number for section in sections] == [None, None, 1, 2, None, None, None]
    assert [section.title for section in sections][4:6] == [["多年以后"], ["灰猫"]]
    assert {section.text.strip() for section in sections} == {STORY.strip()}


def test_volumes_stand_before_chapters():
    """Where chapters go on counting they have names of their own; where they begin anew, their volume's is in front."""
    assert labels(book("第一卷 山中 第一章 甲", "第二章 乙", "第二卷 江湖 第三章 丙")) == ["第一章", "第二章", "第三章"]
    anew = "第一卷 山中\n" + book("第一章 甲", "第二章 乙") + "卷二 江湖\n" + STORY + book("第1章 丙", "第2章 丁")
    assert labels(anew) == ["第一卷第一章", "第一卷第二章", "卷二开头", "卷二第1章", "卷二第2章"]
    assert labels("正文\n" + book("第一章 甲") + "番外\n" + book("第一章 乙")) == ["", "第一章", "番外第一章"]


def test_what_is_below_a_chapter_is_its_text():
    """节 under 章; where there are only 节 or only 卷, those are the chapters."""
    sections = sections_of(book("第一章 甲", "第一节 起", "第二节 承", "第二章 乙", "第一节 起"))
    assert [section.label for section in sections] == ["第一章", "第二章"] and "第二节 承" in sections[0].text
    assert labels(book("第一节 起", "第二节 承")) == ["第一节", "第二节"]
    assert labels(book("卷一 考城隍", "卷二 某公")) == ["卷一", "卷二"]


@pytest.mark.parametrize("preface", ["", "这本书写了三年，献给母亲。\n"])
@pytest.mark.parametrize(
    "contents", ["第一章 甲\n第二章 乙\n第三章 丙\n", "　第1章 甲……1\n　第2章 乙……9\n　第3章 丙……17\n"]
)
def test_a_table_of_contents_is_no_chapter(contents, preface):
    """Neither its headings nor the preface behind it."""
    sections = sections_of("目录\n" + contents + preface + book("第一章 甲", "第二章 乙", "第三章 丙"))
    assert [section.label for section in sections] == ["", "第一章", "第二章", "第三章"]
    assert preface.strip() in sections[0].text and "第三章" not in sections[0].text
    assert all(section.text.strip() == STORY.strip() for section in sections[1:])


def test_a_table_of_contents_of_volumes_is_none_either():
    """Chapters that begin anew, listed in front."""
    volumes = [("第一卷", ["第一章 甲", "第二章 乙"]), ("第二卷", ["第一章 丙", "第二章 丁"])]
    contents = "".join("\n".join([volume, *chapters]) + "\n" for volume, chapters in volumes)
    text = contents + "".join(f"{volume}\n{book(*chapters)}" for volume, chapters in volumes)
    assert labels(text) == ["第一卷第一章", "第一卷第二章", "第二卷第一章", "第二卷第二章"]


def test_a_heading_that_stands_at_several_places_names_none_of_them():
    """In two writings, too; halves of one chapter that follow each other are one."""
    assert labels(book("第一章 甲", "第二章 乙", "第1章 丙")) == ["", "第二章", ""]
    (first, second) = sections_of(book("第一章 上", "第一章 下", "第二章 乙"))
    assert (first.label, first.title, second.label) == ("第一章", ["上", "下"], "第二章")


CHAPTERS = [f"第{n}章 事{n}" for n in "一二三四五六七八"]
LISTED = "\n".join(["目录", *CHAPTERS]) + "\n"


@pytest.mark.parametrize(
    "text, expected",
    [
        (LISTED.replace("目录", "目录\n序言") + book(*CHAPTERS), ["", *"一二三四五六七八"]),
        (LISTED + book(*CHAPTERS[:3], *CHAPTERS[4:]), ["", *"一二三五六七八"]),
        (LISTED + "序言说李大山。\n" + book(*CHAPTERS[:4]), ["", *"一二三四"]),
        (book(*CHAPTERS) + LISTED, [*"一二三四五六七八"]),
        ("上册\n" + "\n".join(CHAPTERS[:4]) + "\n" + book(*CHAPTERS[:4]) + "\n".join(CHAPTERS[4:]) + "\n"
         + book(*CHAPTERS[4:]), [*"一二三四五六七八"]),
    ],
    ids=["an entry of its own", "a missing heading", "more entries than chapters", "behind the book", "two tables"],
)  # fmt: skip
def test_a_table_of_contents_need_not_be_the_books(text, expected):
    """It lists more, or fewer, stands behind the book, or there are several."""
    assert labels(text) == [f"第{n}章" if n else "" for n in expected]


def test_a_table_of_contents_lists_sections_too():
    """章 and 节, in the table and in the book."""
    headings = ["第一章 甲", "第一节 起", "第二章 乙", "第一节 承"]
    assert labels("目录\n" + "\n".join(headings) + "\n" + book(*headings)) == ["", "第一章", "第二章"]


def test_the_end_of_a_chapter_is_no_heading():
    """（第一章完） and an author's note behind it are text."""
    sections = sections_of(
        book("第一章 甲") + "（第一章完）\n" + book("第二章 乙") + "第二章 完\n（第一卷 终）\n求月票。\n"
    )
    assert [(section.label, section.title) for section in sections] == [("第一章", ["甲"]), ("第二章", ["乙"])]


def test_a_line_of_prose_does_not_divide_a_book():
    """第三回家 among headings that have a space; a lone 第一回 among 节; 第四节车厢 among 卷."""
    assert labels(book("第一章 甲", "第二章 乙", "第三回家的路上", "第三章 丙")) == ["第一章", "第二章", "第三章"]
    assert labels(book(*[f"第{n}节 甲" for n in "一二三四五"], "第一回 来到京城")) == [f"第{n}节" for n in "一二三四五"]
    assert labels(book("卷一 甲", "卷二 乙", "第四节车厢里")) == ["卷一", "卷二"]


@pytest.mark.parametrize(
    "line, label, title",
    [
        ("第一回宴桃园豪杰三结义，斩黄巾英雄首立功", "第一回", "宴桃园豪杰三结义，斩黄巾英雄首立功"),
        ("正文 第一章 第一章 少年", "第一章", "少年"),
        ("第 一 百 零 六 回 甲", "第一百零六回", "甲"),
        ("\x0c第二章 甲", "第二章", "甲"),
        ("《三国演义》第一回 甲", "第一回", "甲"),
        ("楔 子", "楔子", ""),
        ("序 章", "序章", ""),
        ("最终章 归来", "最终章", "归来"),
        ("第1章_少年", "第1章", "少年"),
    ],
)
def test_more_ways_to_write_a_heading(line, label, title):
    """As scrapers, converters and typesetters leave them."""
    assert [(block.name, block.title) for block in headings_in(line)] == [(label, title)]


def test_several_extras_of_one_name_are_told_apart():
    """番外 灰猫 is not 番外 白狗: none is called 番外 then."""
    assert labels(book("第一章 甲", "番外 灰猫", "番外 白狗")) == ["第一章", "", ""]


def test_an_expression_tells_headings_with_and_without_numbers():
    """Their numbers count where all have one and they rise; what is framed is found as it stands."""
    found = sections_of(book("【千里之外】", "【一个人】", "【乙】"), "【.*】")
    assert [(section.label, section.title) for section in found] == [
        ("第1章", ["千里之外"]), ("第2章", ["一个人"]), ("第3章", ["乙"]),
    ]  # fmt: skip
    assert labels(book("## 甲", "## 乙"), "## ") == ["第1章", "第2章"]
    assert labels(book("3.甲", "4.乙"), "[0-9]+") == ["第3章", "第4章"]


def test_headings_of_a_large_book_take_no_time():
    """Lines of many spaces or brackets, and thousands of headings."""
    assert headings_in("【" + " " * 100_000 + "x") == [] and headings_in("第" + "一" * 100_000) == []
    assert len(labels(book(*[f"第{n}章 甲" for n in range(1, 3001)]))) == 3000


def test_what_a_text_names_is_found_in_any_writing():
    """To tell what must not be called missing."""
    assert {106, 7, 9, 12} <= numbers_named("第一百零六回，且听第7回分解。第００9章 卷十二")
    assert {30, 5, 106, 8, 9} <= numbers_named("第 三 十 章\n第四-五章\n第一百O六章\n8、己\n第九張\n")


def test_a_text_without_headings_is_one_section():
    """Of no name; so is an empty book, as far as that goes."""
    assert labels(STORY * 3) == [""]
    assert labels("") == []


STYLES = [
    "第{n}{unit} {title}", "第{n}{unit}　{title}", "第{n}{unit}{title}", "　　第{n}{unit} {title}",
    "第{n}{unit}：{title}", "第{n}{unit}.{title}", "正文 第{n}{unit} {title}", "【第{n}{unit}】{title}",
    "【第{n}{unit} {title}】", "第{n}{unit}、{title}", "第{n}{unit}\t{title}", "第 {n} {unit} {title}",
    "《书》 第{n}{unit} {title}",
]  # fmt: skip
NUMERALS = [
    chinese_number, lambda n: chinese_number(n, zero=""), str, "{:03}".format,
    lambda n: "".join("〇一二三四五六七八九"[int(digit)] for digit in str(n)),
    lambda n: str(n).translate(str.maketrans("0123456789", "０１２３４５６７８９")),
]  # fmt: skip
PEOPLE = {name: [name] for name in ("李大山", "王小河", "赵铁牛", "孙二娘")}


@pytest.mark.parametrize("seed", range(120))
def test_nothing_false_is_taught_about_a_book_of_any_make(seed):
    """Headings, numerals, volumes, contents, prologues are drawn: no chapter is denied, nobody first elsewhere."""
    rng = random.Random(seed)
    style, numeral, unit = rng.choice(STYLES), rng.choice(NUMERALS), rng.choice("章回节话")
    count, volumes, anew = rng.choice([3, 12, 40, 125]), rng.choice([0, 0, 1, 2]), rng.random() < 0.5
    anew = anew and volumes == 2
    headings, number = [], 0  # (the line, the label in digits, "" of a volume)
    for place in range(count):
        volume = place * volumes // count
        if volumes and (place == 0 or volume > (place - 1) * volumes // count):
            headings.append((f"第{chinese_number(volume + 1)}卷 卷名", ""))
            number = 0 if anew else number
        number += 1
        label = f"第{volume + 1}卷" * anew + f"第{number}{unit}"
        headings.append((style.format(n=numeral(number), unit=unit, title=rng.choice("甲乙丙丁") + "事"), label))
    if prologue := rng.choice(["", "", "楔子", "引首"]):
        headings.insert(0, (prologue, prologue))
    if epilogue := rng.choice(["", "", "番外 灰猫", "后记"]):
        headings.append((epilogue, epilogue.split()[0]))
    lines, first = ["目录", *(line for line, _ in headings)] if rng.random() < 0.4 else ["书名：某书"], {}
    for line, label in headings:
        lines.append(line)
        if label and rng.random() < 0.5:
            first.setdefault(name := rng.choice(list(PEOPLE)), label)
            lines.append(f"{name}听了大怒，一掌拍在桌上。")
        if label:
            lines.append(STORY)
    text = "\n".join(lines)
    sections = sections_of(text)
    chapters = [in_digits(section.label) for section in sections if section.number is not None]
    assert chapters == [label for _, label in headings if label.startswith("第")]
    words = Words(unit=unit_of(sections))
    known = book_facts(sections, PEOPLE, 1, 20, words)
    told = {fact["about"]: in_digits(fact["Key"]) for fact in known.facts if fact["kind"] == "first"}
    assert told == {name: first[name] for name in told} and len(told) >= len(first) - 1
    for fact in islice(Absence(text, sections, known.people, words).facts(rng), 40):
        assert not (found := re.match(r"第(.+?)[章回节话]书中没有", fact["Answer"])) or number_of(found[1]) > number
