"""Questions about the book: every answer is checked against the book itself, by other code than that which made it."""

import json
import re
from collections import Counter

import pytest

from miniglm.search import search


@pytest.fixture(scope="module")
def book(project):
    """{第N回: (heading, text)} of the real book."""
    text = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    parts = re.split(r"^(第\S+回) (.*)\n", text, flags=re.MULTILINE)[1:]
    return {label: (heading, body) for label, heading, body in zip(parts[::3], parts[1::3], parts[2::3])}


@pytest.fixture(scope="module")
def questions(project):
    """All trained questions."""
    return [
        json.loads(line)
        for line in (project.folder / "data/sanguo_sft/questions.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def evaluation(project):
    """All evaluation questions."""
    return [
        json.loads(line)
        for line in (project.folder / "data/sanguo_sft/eval.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_there_are_enough_and_few_about_pairs(questions):
    """At least 3,000 facts, all but 4 % of them trained, and 8,000 questions; pairs of people at most 30 %."""
    answers = {(q["Kind"], q["Answer"]) for q in questions if q["Kind"] != "absent"}
    kinds = Counter(kind for kind, _ in answers)
    assert len(questions) >= 8000 and len(answers) >= 0.96 * 3000
    assert kinds["pair"] <= 0.3 * len(answers) and len(kinds) == 11


def test_what_the_book_does_not_have_is_answered_so(book, questions, evaluation):
    """Nobody and no chapter that is said not to be there is; none that is asked in the evaluation was trained."""
    text = "".join(heading + body for heading, body in book.values())
    subjects = {}
    for group, records in (("trained", questions), ("asked", evaluation)):
        answers = [q["Answer"] for q in records if q["Kind"] == "absent"]
        subjects[group] = [
            re.fullmatch("第(.+)回书中没有，全书共一百二十回。|(.+)，书中没有这个人。", a) for a in answers
        ]
        names = {match[2] for match in subjects[group] if match[2]}
        numbers = {match[1] for match in subjects[group] if match[1]}
        assert len(names) > 100 and len(numbers) > 15
        assert not any(name in text for name in names) and not any(f"第{n}回" in book for n in numbers)
        assert all(not n.isdigit() or int(n) > 120 for n in numbers)
        subjects[group] = names | numbers
    assert not subjects["trained"] & subjects["asked"]
    assert {"贾宝玉", "孙悟空", "林黛玉"} <= subjects["asked"]


def test_quotations_are_the_books_own_words(book, questions):
    """Whatever stands between 「 and 」 stands in the chapter that the answer names."""
    for q in questions:
        label = re.search(r"第[^回]+回", q["Answer"])
        for quote in re.findall("「(.+?)」", q["Answer"]):
            heading, body = book[label[0]]
            assert quote in (heading if q["Kind"] in ("title", "heading") else body), q


def test_first_chapters_are_first(project, book, questions):
    """No earlier chapter names the person, not as 姓X名Y either; 张翼 in 张翼德 is another person's name."""
    people = json.loads((project.folder / "data/sanguo/entities.json").read_text(encoding="utf-8"))
    spellings = {word for name, aliases in people.items() for word in (name, *aliases)} | {
        "张翼德"
    }  # the list has 张益德
    answers = {q["Answer"] for q in questions if q["Kind"] == "first"}
    assert len(answers) > 400
    for answer in answers:
        name, label = re.fullmatch("(.+)最早见于(第.+回)。", answer).groups()
        named = "|".join([name, *(f"姓{name[:n]}，?名{name[n:]}" for n in (1, 2) if name[n:])])
        longer = "|".join(["\0", *(word for word in spellings if name in word and word != name)])
        chapters = ((chapter, re.sub(longer, "＊", body)) for chapter, (_, body) in book.items())
        assert next(chapter for chapter, body in chapters if re.search(named, body)) == label, answer


def test_pairs_are_first_named_together_where_it_is_told(project, book, questions):
    """No earlier sentence has both full names."""
    people = json.loads((project.folder / "data/sanguo/entities.json").read_text(encoding="utf-8"))
    every = [(chapter, s) for chapter, (_, body) in book.items() for s in re.findall("[^。！？\n]+", body)]
    asked = {q["Answer"]: q["Question"] for q in questions if q["Kind"] == "pair"}
    assert len(asked) >= 100
    for answer, question in asked.items():
        label, quote = re.fullmatch(".+最早同见于(第.+回)：「(.+)」。", answer).groups()
        names = [name for name in people if name in question and name in quote]
        names = [name for name in names if not any(name in other != name for other in names)]
        assert len(names) == 2, answer
        chapter, sentence = next((w, s) for w, s in every if all(name in s for name in names))
        assert chapter == label and quote in sentence, answer


def test_courtesy_names_are_given_by_the_book(book, questions):
    """字 and the name stand in the book; 翼德 is the novel's, 益德 the list's; 孔明 is 诸葛亮, not 胡昭."""
    text = "".join(body for _, body in book.values())
    courtesy = dict(
        re.fullmatch("(.+)字(..)。", a).groups() for a in {q["Answer"] for q in questions if q["Kind"] == "courtesy"}
    )
    assert len(courtesy) > 100
    for name, zi in courtesy.items():
        assert f"字{zi}" in text or f"后改{zi}" in text, name
    known = {
        "张飞": "翼德",
        "诸葛亮": "孔明",
        "赵云": "子龙",
        "吕布": "奉先",
        "孙权": "仲谋",
        "司马懿": "仲达",
        "关羽": "云长",
        "马超": "孟起",
    }
    assert {name: courtesy[name] for name in known if name in courtesy}.items() <= known.items()
    assert len(known.keys() & courtesy.keys()) >= 6
    assert not any("益德" in q["Answer"] or "胡昭" in q["Answer"] for q in questions)


def test_chapters_are_asked_in_several_numerals(questions):
    """一百六, 一百零六 and 106 are the same chapter."""
    asked = {q["Question"] for q in questions if "「公孙渊兵败死襄平」「司马懿诈病赚曹爽」" in q["Answer"]}
    assert {form for form in ("一百六", "一百零六", "106") if any(f"第{form}回" in q for q in asked)} == {
        "一百六",
        "一百零六",
        "106",
    }


def test_talks_find_in_the_table_what_they_answer(project, evaluation):
    """Each call finds the very record that is shown; nobody else is found; some people are left to ask about."""
    folder = project.folder / "data/sanguo_sft"
    table = [json.loads(line) for line in (folder / "people.jsonl").read_text(encoding="utf-8").splitlines()]
    found = Counter()
    for line in (folder / "talks.jsonl").read_text(encoding="utf-8").splitlines():
        question, call, result, answer = json.loads(line)["messages"]
        assert search(table, json.dumps(call["arguments"])) == result["records"]
        wanted = next(iter(call["arguments"].values()))
        assert wanted in question["content"] and wanted in answer["content"]
        assert result["records"] or "书中没有" in answer["content"]
        found.update(record["姓名"] for record in result["records"])
        found["nobody"] += not result["records"]
    assert len(found) > 600 and 200 < found["nobody"] < 500
    unseen = {e["Answer"].split("最早")[0] for e in evaluation if e["Group"] == "unseen" and e["Kind"] == "first"}
    assert len(unseen) > 10 and not unseen & found.keys() and unseen <= {row["姓名"] for row in table}


def in_chinese(number):
    """一千一百零六."""
    digits = str(number)
    places = ("零一二三四五六七八九"[int(d)] + unit for d, unit in zip(digits, "千百十 "[-len(digits) :]))
    text = re.sub("零+", "零", re.sub("零[千百十]", "零", "".join(places).replace(" ", ""))).strip("零")
    return text.removeprefix("一") if text.startswith("一十") else text


def test_chapters_numbered_otherwise_are_not_denied(project):
    """A second volume, from 第101章 on, and 1,200 chapters: no chapter that there is is said to be missing."""
    for first, count in ((101, 60), (1, 1200)):
        labels = [f"第{number}章" for number in range(first, first + count)]
        project.write("data/volume/input.txt", "".join(f"{label} 题{label}\n一日无事。\n" for label in labels))
        project.run("data/build_sft.py", "volume", "--wordings=1")
        lines = (project.folder / "data/volume_sft/questions.jsonl").read_text(encoding="utf-8").splitlines()
        denied = [re.match("第(.+?)章书中没有", json.loads(line)["Answer"]) for line in lines]
        denied = {match[1] for match in denied if match}
        there_are = {form for n in range(first, first + count) for form in (str(n), in_chinese(n))}
        assert len(denied) > 10 and not denied & there_are


def test_groups_are_what_they_say(project, questions, evaluation):
    """seen: the very question was trained; reworded, new_wording: only its fact; unseen: not even that."""
    trained = {q["Question"] for q in questions}
    lines = (project.folder / "data/sanguo_sft/val.jsonl").read_text(encoding="utf-8").splitlines()
    validation = {json.loads(line)["Question"] for line in lines}
    assert len(validation) > 300 and not validation & trained
    facts = {(q["Kind"], q["Answer"]) for q in questions}
    for e in evaluation:
        assert (e["Question"] in trained) == (e["Group"] == "seen"), e
        assert e["Question"] not in validation, e
        assert ((e["Kind"], e["Answer"]) in facts) == (e["Group"] not in ("unseen", "absent")), e
        keys = [e["Key"]] if isinstance(e["Key"], str) else e["Key"]
        assert keys and all(key in e["Answer"] for key in keys), e
    assert Counter(e["Group"] for e in evaluation).keys() == {"seen", "reworded", "new_wording", "unseen", "absent"}


def test_the_same_seed_gives_the_same_questions(project, questions):
    """And the files are repeatable, by another process, whose sets have another order."""
    before = (project.folder / "data/sanguo_sft/questions.jsonl").read_bytes()
    project.run("data/build_sft.py", process=True)
    assert (project.folder / "data/sanguo_sft/questions.jsonl").read_bytes() == before


def test_a_book_of_ones_own(project):
    """Any book with chapter headings, with or without a list of people."""
    chapters = "".join(
        f"第{n}章 标题{n}\n{'王五' if n > 3 else '李四'}曰：“今日乃第{n}日。”李四，字子明，笑之。\n"
        for n in range(1, 9)
    )
    project.write("data/own/input.txt", chapters)
    assert "nobody to ask about" in project.run("data/build_sft.py", "own").stdout
    project.write("people.json", '{"李四": ["李四", "子明"], "王五": []}')
    project.run("data/build_sft.py", "own", "--entities=people.json", "--min_mentions=1")
    answers = (project.folder / "data/own_sft/questions.jsonl").read_text(encoding="utf-8")
    assert "李四字子明。" in answers and "王五最早见于第4章" in answers
    assert "第4章的标题是「标题4」。" in answers and "回" not in answers


@pytest.mark.parametrize(
    "book_text, people, message",
    [
        ("没有章回的书。\n", None, "no chapter headings"),
        ("第一回\n文\n第二回\n文\n", None, "nothing to ask about"),
        ("第一回 甲\n文\n第一回 乙\n文\n", None, "several headings 第一回"),
        ("第一回 甲\n文\n", "[1, 2]", "is broken"),
        ("第一回 甲\n文\n", '{"甲": 3}', "no list of people"),
        ("第一回 甲\n文\n", "{", "is broken"),
    ],
)
def test_bad_input_is_told(project, book_text, people, message):
    """In one line."""
    project.write("data/badbook/input.txt", book_text)
    words = ["data/build_sft.py", "badbook"]
    if people:
        project.write("badpeople.json", people)
        words.append("--entities=badpeople.json")
    assert message in project.fails(*words)
