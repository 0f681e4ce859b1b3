"""Books as they come: what is a heading, and what a section is called."""

import pytest

from miniglm.book.sections import headings_in, number_of, numbers_named, sections_of, writings

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


def test_what_a_text_names_is_found_in_any_writing():
    """To tell what must not be called missing."""
    assert numbers_named("第一百零六回，且听第7回分解。第００9章 卷十二") == {106, 7, 9, 12}


def test_a_text_without_headings_is_one_section():
    """Of no name; so is an empty book, as far as that goes."""
    assert labels(STORY * 3) == [""]
    assert labels("") == []
