"""People in any prose: found by how a book speaks of them, or given in a list, which is believed."""

import json

import pytest

from miniglm.book.people import find_people, left_out, read_people
from tools import TALK_OF_TODAY

NAMES = {"林小满", "陈大川", "苏晴"}


def test_people_are_found_by_what_they_say_and_do():
    """Modern prose names them before 说, 问, 走; words that begin like surnames, and pronouns, are nobody."""
    assert set(find_people(TALK_OF_TODAY)) == NAMES
    assert find_people("马上说不清，高兴地笑着，于是问他，方才走了。" * 20) == {}
    assert find_people("") == {}


def test_who_is_named_most_comes_first():
    """The order of the people is by how often they are named."""
    counts = [TALK_OF_TODAY.count(name) for name in find_people(TALK_OF_TODAY)]
    assert counts == sorted(counts, reverse=True)


def test_a_list_is_believed_and_what_is_left_out_is_told():
    """老槐 does nothing that people do; on a list of the reader's it is somebody, unless the book lacks the name."""
    listed = {"老槐": ["老槐"], "林小满": ["林小满", "小满"], "赵无极": ["赵无极"], "川": ["川"]}
    kept = read_people(listed, TALK_OF_TODAY, 1, trusted=listed)
    assert kept == {"老槐": [], "林小满": ["小满"]}
    assert "老槐" not in read_people(listed, TALK_OF_TODAY, 1)
    reasons = left_out(listed, kept, TALK_OF_TODAY, 1)
    assert list(reasons.values()) == [["赵无极"], ["川"]]
    assert list(left_out({"老槐": []}, {}, TALK_OF_TODAY, 99)) == ["the book has the name fewer than 99 times"]


@pytest.mark.parametrize("given", [False, True])
def test_a_modern_book_is_asked_about(project, given):
    """With a list or without one there are questions about its people, and the command says whom it took and why."""
    project.write("data/today/input.txt", TALK_OF_TODAY)
    words = ["data/build_sft.py", "today", "--title=今天"]
    if given:
        project.write("mine.json", json.dumps({"老槐": ["老槐"], "苏晴": ["苏晴"], "赵无极": ["赵无极"]}))
        words.append("--entities=mine.json")
    said = project.run(*words).stdout
    if given:
        assert "left out of the list: 赵无极: the book does not have the name" in said
    else:
        assert "3 people, by how the book speaks of them:" in said
    lines = (project.folder / "data/today_sft/questions.jsonl").read_text(encoding="utf-8")
    book = json.loads((project.folder / "data/today_sft/book.json").read_text(encoding="utf-8"))
    assert set(book["people"]) == ({"老槐", "苏晴"} if given else NAMES)
    assert all(name in lines for name in book["people"])
