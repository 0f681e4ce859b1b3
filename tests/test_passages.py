"""Looking into the book: what is found of the real one, and what is said of what it does not have."""

import json
import re
from collections import Counter

import pytest

from miniglm.book.passages import Passages
from miniglm.book.questions import question_in
from miniglm.book.reader import BookReader


@pytest.fixture(scope="module")
def book(project):
    """The real book's Passages."""
    return Passages.load(project.folder / "data/sanguo_sft")


FOUND = [  # words of a call, what the first place tells, and where it is
    (["曹操", "小名"], "小字阿瞒", "第一回"),
    (["周瑜", "老婆"], "小乔", "第四十四回"),
    (["孙权", "父亲"], "孙坚", "第七回"),
    (["张飞", "武器"], "丈八", "第一回"),
    (["诸葛亮", "哪里人"], "琅琊", "第三十六回"),
    (["貂蝉", "最早"], "貂蝉", "第八回"),
    (["空城计"], "武侯弹琴退仲达", "第九十五回"),
    (["宁教我负天下人"], "操曰：“宁教我负天下人", "第四回"),
    (["第50回"], "诸葛亮智算华容", "第五十回"),
    (["第一章"], "宴桃园豪杰三结义", "第一回"),
    (["最后一回"], "三分归一统", "第一百二十回"),
    (["张非", "字"], "字翼德", "第一回"),  # sounds like 张飞
    (["liubei"], "姓刘名备", "第一回"),
    (["关羽", "死"], "孙权沉吟半晌，曰：“斯言是也。”遂命推出。于是关公父子皆遇害", "第七十七回"),  # three sentences
    (["周瑜", "死"], "既生瑜，何生亮", "第五十七回"),  # who is not named where he dies
    (["董卓", "是谁杀"], "吕布从车后", "第九回"),
    (["华雄", "被杀"], "云长提华雄之头", "第五回"),
    (["刘备", "关羽", "关系"], "既结为兄弟", "第一回"),
    (["温酒斩华雄"], "酒尚温时斩华雄", "第五回"),
]


@pytest.mark.parametrize("words, told, chapter", FOUND, ids=lambda value: "".join(value) if value else "")
def test_what_is_asked_for_is_found(book, words, told, chapter):
    """The first place tells it, word for word, and says who is meant by a name that is not the usual one."""
    place = book.search(words)[0]
    assert told in place.quote and place.chapter == chapter
    quote = re.search("「(.+)」", place.quote)[1] if place.counted else place.quote
    assert quote in place.text and book.is_verbatim(quote)
    assert all(written in place.quote and person in book.people for written, person in place.who.items())


def test_a_name_that_is_not_the_usual_one_is_explained(book):
    """操 is 曹操 in that sentence; 飞马 is nobody."""
    assert book.search(["宁教我负天下人"])[0].where == "第四回，操：曹操"
    (flying,) = (each for each in book.sentences if "抵敌吕布不住，飞马回阵" in each.text)
    assert "飞" not in flying.who and {"夏侯惇", "吕布"} <= set(flying.people)


def test_at_most_three_places_are_given(book):
    """However many words there are."""
    assert len(book.search(["曹操", "刘备", "孙权", "死", "杀"])) == 3


@pytest.mark.parametrize("words", [["贾宝玉"], ["林黛玉", "字"], ["刘备", "贾宝玉", "关系"], ["第二百回"], [], [""]])
def test_who_is_not_there_is_not_found(book, words):
    """Nor is a chapter that is not there, nor nothing."""
    assert book.search(words) == []


def test_nobody_who_is_in_the_book_is_missing(book):
    """By none of their names, in either script, nor across the end of a line."""
    names = [name for names in book.people.values() for name in names]
    assert len(names) > 1000 and not any(map(book.is_missing, names))
    assert not book.is_missing("張飛") and not book.is_missing("赵子龙") and book.is_missing("贾宝玉")


def test_it_is_kept_and_read_back(book, tmp_path):
    """All of it; and a file that is cut off is told."""
    book.save(tmp_path)
    again = Passages.load(tmp_path)
    assert (again.sentences, again.people, again.forms) == (book.sentences, book.people, book.forms)
    assert again.search(["关羽", "死"]) == book.search(["关羽", "死"])
    rows = (tmp_path / "book.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"chapter", "place", "text"} <= json.loads(rows[5]).keys()


def test_a_call_holds_whole_words(book):
    """What may be called for in a question: names and what is unknown, between the words of a question."""
    reader = BookReader(book)
    for question, words in (
        ("请问孙悟空是谁？", {"孙悟空"}),
        ("告诉我，司马懿的儿子叫什么？", {"司马懿", "儿子"}),
        ("？", set()),
    ):
        starts, stops = reader.edges(question)
        assert {question[a:b] for a, b in zip(starts, stops)} == words


ASKED = {  # kinds of facts, and words that ask for each
    "death": "怎么死的",
    "slain": "被谁杀了",
    "slew": "杀了谁",
    "sons": "儿子是谁",
    "father": "父亲是谁",
    "brothers": "兄弟是谁",
    "wife": "妻子是谁",
    "husband": "丈夫是谁",
    "native": "哪里人",
    "office": "官职是什么",
    "arms": "兵器是什么",
    "look": "相貌如何",
}


def test_the_best_known_are_known_best(book, project):
    """Of the thirty most named, what the book tells is found under each of their names, and who they are is trained."""
    reader, famous = BookReader(book), list(book.people)[:30]
    lines = (project.folder / "data/sanguo_sft/questions.jsonl").read_text(encoding="utf-8").splitlines()
    trained = [question_in(json.loads(line)) for line in lines]
    assert {"刘备", "关羽", "张飞", "诸葛亮", "曹操", "孙权", "赵云", "吕布", "周瑜", "司马懿"} <= set(famous)
    facts = Counter()
    for person in famous:
        names = [name for name in book.people[person] if len(name) > 1]
        assert names and all(any(name in question for question in trained) for name in names)
        for kind, words in ASKED.items():
            for name in names if (kind, person) in book.facts else ():
                question = f"{name}{words}？"
                found = reader.places([name], question)
                tells = [tell[:2] for place in found for tell in book.sentences[place.number].tells]
                assert [kind, person] in tells, (question, [place.record for place in found])
                facts[kind] += 1
    assert sum(facts.values()) > 150 and set(facts) >= {"death", "sons", "father", "native", "office", "arms"}
