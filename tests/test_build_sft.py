"""Questions about the book: every answer is checked against the book itself, by other code than that which made it."""

import json
import re
from collections import Counter

import pytest

from miniglm.book.absence import Absence
from miniglm.book.questions import record, without_denials
from miniglm.book.sections import number_of, sections_of
from miniglm.book.wordings import GREETINGS, Words
from miniglm.metrics import is_right
from miniglm.typed import Normalisation

ROLES = {"Call": "search", "Found": "return"}
BESIDE = ("greeting", "beyond", "untold", "change")  # kinds of records that are about no fact of the book, or several


@pytest.fixture(scope="module")
def book(project):
    """{第N回: (heading, text)} of the real book."""
    text = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    parts = re.split(r"^(第\S+回) (.*)\n", text, flags=re.MULTILINE)[1:]
    return {label: (heading, body) for label, heading, body in zip(parts[::3], parts[1::3], parts[2::3])}


@pytest.fixture(scope="module")
def questions(project):
    """All trained questions, as `asked` gives them; talks that change the subject are made of these."""
    return [each for each in asked(project, "sanguo_sft/questions") if each["Kind"] != "change"]


def asked(project, name):
    """The records of data/NAME.jsonl as questions with answers: of a talk the first question and the last answer.

    "Call" has the words that are looked for in it, "Found" what is found.
    """
    records = []
    for line in (project.folder / f"data/{name}.jsonl").read_text(encoding="utf-8").splitlines():
        each = json.loads(line)
        if messages := each.pop("messages", None):
            each |= {"Question": messages[0]["content"], "Answer": messages[-1]["content"]}
            said = {message["role"]: message["content"] for message in messages}
            each |= {field: json.loads(said[role]) for field, role in ROLES.items() if role in said}
        records.append(each)
    return records


@pytest.fixture(scope="module")
def evaluation(project):
    """All evaluation questions; of a talk the last question and its answer."""
    lines = (project.folder / "data/sanguo_sft/eval.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for each in records:
        if messages := each.get("messages"):
            each |= {"Question": messages[-2]["content"], "Answer": messages[-1]["content"]}
    return records


def test_there_are_enough_and_few_about_pairs(questions):
    """At least 2,000 facts of 30 kinds in 10,000 questions; pairs of people at most 30 %."""
    beside = ("absent", "lookup", "follow-up", "slip", *BESIDE)
    answers = {(q["Kind"], q["Answer"]) for q in questions if q["Kind"] not in beside and "Invented" not in q}
    kinds = Counter(kind for kind, _ in answers)
    assert len(questions) >= 10000 and len(answers) >= 2000
    assert kinds["pair"] <= 0.3 * len(answers) and len(kinds) == 30


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
        assert len(names) > 100 and len(numbers) > 10
        assert not any(name in text for name in names) and not any(f"第{n}回" in book for n in numbers)
        assert all(not n.isdigit() or int(n) > 120 for n in numbers)
        subjects[group] = names | numbers
    assert not subjects["trained"] & subjects["asked"]
    assert {"贾宝玉", "孙悟空", "林黛玉"} <= subjects["asked"]


def test_quotations_are_the_books_own_words(book, questions):
    """Whatever stands between 「 and 」 stands in the chapter that the answer names."""
    for q in questions:
        labels = re.findall(r"第[^回]+回", re.sub("「.+?」", "", q["Answer"]))
        for quote in () if "Invented" in q else re.findall("「(.+?)」", q["Answer"]):
            assert any(quote in part for label in labels for part in book[label]), q
        if "Found" in q and q["Kind"] not in ("absent", "cast", *BESIDE):
            quoted = [re.sub("^(.+?)(（第[^「]+）)?$", r"「\1」\2。", found) for found in q["Found"]]
            counted = [f"{found}。" for found in q["Found"]] if q["Kind"] == "episode" else []
            assert q["Answer"] in [*quoted, *counted], q


def test_first_chapters_are_first(project, book, questions):
    """No earlier chapter names the person, not as 姓X名Y either; 张翼 in 张翼德 is another person's name."""
    people = json.loads((project.folder / "data/sanguo/entities.json").read_text(encoding="utf-8"))
    spellings = {word for name, aliases in people.items() for word in (name, *aliases)} | {
        "张翼德"
    }  # the list has 张益德
    by_heart = {re.fullmatch("(.+)最早见于(第.+回)。", q["Answer"]) for q in questions if q["Kind"] == "first"}
    firsts = {match.groups() for match in by_heart if match}
    looked_up = [q for q in questions if q["Kind"] == "first" and "Call" in q]
    firsts |= {(q["Call"][0], re.search("（(第.+?回)[，）][^「]*$", q["Answer"])[1]) for q in looked_up}
    assert len(by_heart) > 100 and len(firsts) > 250
    for answer in firsts:
        name, label = answer
        named = "|".join([name, *(f"姓{name[:n]}，?名{name[n:]}" for n in (1, 2) if name[n:])])
        longer = "|".join(["\0", *(word for word in spellings if name in word and word != name)])
        chapters = ((chapter, re.sub(longer, "＊", body)) for chapter, (_, body) in book.items())
        assert next(chapter for chapter, body in chapters if re.search(named, body)) == label, answer


def test_pairs_are_first_named_together_where_it_is_told(project, book, questions):
    """No earlier sentence has both full names."""
    people = json.loads((project.folder / "data/sanguo/entities.json").read_text(encoding="utf-8"))
    every = [(chapter, s) for chapter, (_, body) in book.items() for s in re.findall("[^。！？\n]+", body)]
    pairs = {q["Answer"]: q["Call"] for q in questions if q["Kind"] == "pair"}
    assert len(pairs) >= 80
    for answer, call in pairs.items():
        quote, label = re.fullmatch("「(.+)」（(第.+?回).*）。", answer).groups()
        names = [word for word in call if word in people]
        assert len(names) == 2, answer
        chapter, sentence = next((w, s) for w, s in every if all(name in s for name in names))
        assert chapter == label and quote in sentence, answer


def test_courtesy_names_are_given_by_the_book(book, questions):
    """字 and the name stand in the book; 翼德 is the novel's, 益德 the list's; 孔明 is 诸葛亮, not 胡昭."""
    text = "".join(body for _, body in book.values())
    answers = {re.fullmatch("(.+)字(..)。", q["Answer"]) for q in questions if q["Kind"] == "courtesy"}
    courtesy = dict(match.groups() for match in answers if match)
    looked_up = [q for q in questions if q["Kind"] == "courtesy" and "Call" in q and "Invented" not in q]
    courtesy |= {q["Call"][0]: q["Key"] for q in looked_up}
    assert len({q["Answer"] for q in questions if q["Kind"] == "courtesy"}) > 120 and len(courtesy) > 80
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
    assert not any("益德" in q["Answer"] or "字孔明的是胡昭" in q["Answer"] for q in questions)


def test_chapters_are_asked_in_several_numerals(questions):
    """一百六, 一百零六 and 106 are the same chapter, and the last one is 第一百二十回."""
    titles = [(q["Call"][0], re.findall("第.+?回", q["Answer"])[-1]) for q in questions if q["Kind"] == "title"]
    numbers = [(number_of(re.sub("[第回章]", "", asked)), number_of(told[1:-1])) for asked, told in titles]
    assert all(asked == told or asked is None and told == 120 for asked, told in numbers) and len(titles) > 150
    assert {True, False} == {asked[1:-1].isdigit() for asked, _ in titles}
    assert any("百零" in asked for asked, _ in titles) and any(asked.endswith("章") for asked, _ in titles)


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
        denied = [re.match("第(.+?)章书中没有", q["Answer"]) for q in asked(project, "volume_sft/questions")]
        denied = {match[1] for match in denied if match}
        there_are = {form for n in range(first, first + count) for form in (str(n), in_chinese(n))}
        assert len(denied) > 10 and not denied & there_are


def test_groups_are_what_they_say(project, questions, evaluation):
    """seen: the very question was trained; reworded, new_wording: only its fact; unseen: not even that."""
    trained = {q["Question"] for q in questions}
    validation = {q["Question"] for q in asked(project, "sanguo_sft/val")}
    assert len(validation) > 300 and not validation & trained
    facts = {(q["Kind"], q["Answer"]) for q in questions}
    for e in evaluation:
        assert (e["Question"] in trained) == (e["Group"] == "seen"), e
        assert e["Question"] not in validation, e
        if e["Group"] == "seen":
            assert (e["Kind"], e["Answer"]) in facts, e
        if e["Group"] == "unseen":
            assert (e["Kind"], e["Answer"]) not in facts, e
        assert bool(e["Key"]) == (e["Group"] not in ("greeting", "beyond")), e
    told = [e for e in evaluation if e["Key"]]
    assert sum(is_right(e["Answer"], e) for e in told) > 0.99 * len(told)  # in some wordings nothing is found
    groups = "seen reworded new_wording typed unseen absent greeting beyond later"
    assert {e["Group"] for e in evaluation} == set(groups.split())


def test_the_same_seed_gives_the_same_questions(project):
    """The files of six chapters are repeatable, by another process, whose sets have another order."""
    text = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    project.write("data/six/input.txt", text.partition("第七回")[0])
    words = ["data/build_sft.py", "six", "--entities=data/sanguo/entities.json"]
    project.run(*words)
    before = (project.folder / "data/six_sft/questions.jsonl").read_bytes()
    project.run(*words, process=True)
    assert (project.folder / "data/six_sft/questions.jsonl").read_bytes() == before and before.count(b"\n") > 500


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
    assert "「标题4」（第4章）。" in answers and "第4回" not in answers


@pytest.mark.parametrize(
    "book_text, people, message",
    [
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


PEOPLE = {"李大山": ["李大山"], "王小河": ["王小河"], "赵铁牛": ["赵铁牛"]}
SCENE = "山下炊烟四起。{}推门进来，看见众人坐在灯下。{}笑道：“来得正好。”\n"


def questions_about(project, book_text, *words, people=PEOPLE):
    """(what build_sft.py prints, the records of questions.jsonl and eval.jsonl) of a book with a list of people."""
    project.write("data/brought/input.txt", book_text)
    project.write("data/brought/entities.json", json.dumps(people))
    printed = project.run("data/build_sft.py", "brought", "--wordings=6", *words).stdout
    return printed, [each for file in ("questions", "eval") for each in asked(project, f"brought_sft/{file}")]


def denied_chapters(records):
    """The numerals of the chapters that some records say are not there."""
    answers = [re.match("第(.+?)[章回]书中没有", record["Answer"]) for record in records]
    return {match[1] for match in answers if match}


@pytest.mark.parametrize(
    "numerals",
    [
        [f"{n:03}" for n in range(1, 131)],
        ["".join("〇一二三四五六七八九"[int(d)] for d in str(n)) for n in range(1, 131)],
        [str(n).translate(str.maketrans("0123456789", "０１２３４５６７８９")) for n in range(1, 131)],
        [in_chinese(n).replace("零", "") for n in range(1, 131)],
    ],
    ids=["第001章", "第一〇六章", "第１０６章", "第一百六章"],
)
def test_no_chapter_is_denied_however_its_number_is_written(project, numerals):
    """Numbers are compared as numbers: none of the 130 is said to be missing, in any writing."""
    book = "".join(f"第{numeral}章 题{n}\n{SCENE.format('李大山', '李大山')}" for n, numeral in enumerate(numerals, 1))
    _, records = questions_about(project, book, "--lookups=0", "--small_talk=0", "--follow_ups=0", "--max_pairs=10")
    there_are = {*numerals, *(str(n) for n in range(1, 131)), *(in_chinese(n) for n in range(1, 131))}
    denied = denied_chapters(records)
    assert len(denied) > 20 and not denied & there_are
    assert all("一百三十章" in r["Answer"] for r in records if re.match("第.+?章书中没有", r["Answer"]))


def test_who_stands_in_the_prologue_is_not_said_to_come_later(project):
    """楔子 and 番外 are sections of their own; who is first named there is first named there."""
    chapters = "".join(f"第{n}章 事{n}\n{SCENE.format('李大山', '王小河')}" for n in "一二三四五")
    book = f"楔子\n{SCENE.format('王小河', '王小河')}{chapters}番外 灰猫\n{SCENE.format('赵铁牛', '赵铁牛')}"
    printed, records = questions_about(project, book)
    answers = {record["Answer"] for record in records}
    assert "5 chapters, 第一章 to 第五章; 2 other sections: 楔子、番外" in printed
    assert {
        "王小河最早见于楔子。",
        "李大山最早见于第一章。",
        "赵铁牛最早见于番外。",
        "「灰猫」（番外）。",
    } <= answers
    assert not any(name in answer and "第五章" in answer for name in ("赵铁牛",) for answer in answers)


def test_chapters_that_begin_anew_in_each_volume_are_told_apart(project):
    """第一卷第一章 is not 第二卷第一章, and neither is asked for as 第一章."""
    book = "".join(
        f"第{volume}卷 山中\n" + "".join(f"第{n}章 {volume}之{n}\n{SCENE.format('李大山', '王小河')}" for n in "一二三")
        for volume in "一二"
    )
    _, records = questions_about(project, book)
    answers = {record["Answer"] for record in records}
    assert {"「一之二」（第一卷第二章）。", "「二之二」（第二卷第二章）。"} <= answers
    assert any("第2卷第2章" in record["Question"] for record in records)
    assert not any(answer.startswith(("第一章", "第二章", "第三章")) for answer in answers)
    assert not denied_chapters(records) & {"一", "二", "三", "1", "2", "3"}


@pytest.mark.parametrize("beginning", ["没有题目的书。", "1.下山\n"])
def test_a_book_without_headings_is_asked_about_without_chapters(project, beginning):
    """People and sentences are; no answer and no question speaks of a chapter, and it is said."""
    printed, records = questions_about(project, beginning + SCENE.format("李大山", "王小河"))
    assert "no chapters" in printed and "--heading=REGEX" in printed
    assert any(r["Kind"] == "sentence" and re.fullmatch("「.*李大山.*」。", r["Answer"]) for r in records)
    assert any("书中没有这个人" in record["Answer"] for record in records)
    assert not any(re.search("[回章]", r["Question"] + r["Answer"]) for r in records if r["Kind"] not in BESIDE)


def test_headings_of_ones_own_are_told_by_an_expression(project):
    """1.下山 is chapter 1 with --heading='[0-9]+'; an expression that is none, or fits nowhere, is refused."""
    book = "".join(f"{n}.题{n}\n{SCENE.format('李大山', '王小河')}" for n in range(1, 6))
    printed, records = questions_about(project, book, "--heading=[0-9]+")
    assert "5 chapters, 第1章 to 第5章" in printed
    assert "「题3」（第3章）。" in {record["Answer"] for record in records}
    assert "no regular expression" in project.fails("data/build_sft.py", "brought", "--heading=(")
    assert "no line of the book" in project.fails("data/build_sft.py", "brought", "--heading=Chapter")


def test_nobody_is_denied_who_stands_in_a_broken_line_or_in_the_other_script(project):
    """A name that a line's end cuts, in front of the first chapter, in a title, as 賈寶玉: it is in the book."""
    book = (
        "作者读过林黛玉的诗。\n第一章 孙悟空大闹\n话说宋\n　江来了，賈寶玉也在。\n"
        + SCENE.format("李大山", "王小河") * 20
    )
    _, records = questions_about(project, book, "--eval_questions=1000")
    denied = {answer.removesuffix("，书中没有这个人。") for answer in (record["Answer"] for record in records)}
    assert {"武松", "段誉"} <= denied
    assert not denied & {"林黛玉", "孙悟空", "宋江", "贾宝玉"}


def test_a_refusal_that_the_book_contradicts_is_left_out():
    """However it came to be: the check does not ask who made the record, nor how badly a heading is written."""
    text = (
        "第一章 甲\n哈利·波特和阿Ｑ来了，孙乾坤不在。\n第106章 乙\n文\n第 二 百 章\n第三百O一章\n第四百零二張\n赵云\n"
    )
    absence = Absence(text, sections_of(text), {"赵云": ["子龙"]}, Words(unit="章"))
    there = ["哈利波特", "阿Q", "孙乾", "赵云", "赵子龙"]
    answers = [f"{name}，书中没有这个人。" for name in [*there, "王五"]]
    answers += [f"第{n}章书中没有，全书共五章。" for n in ("一百零六", "一〇六", "7", "二百", "301", "402", "五百")]
    kept, denials = without_denials({"questions": [record("？", answer, "absent") for answer in answers]}, absence)
    assert [each["Answer"][:4] for each in kept["questions"]] == ["王五，书", "第五百章"]
    assert denials == len(answers) - 2


def test_how_many_chapters_there_are_is_not_said_where_one_may_be_missing(project):
    """A book from which 第三章 is missing is not said to have five chapters, nor to lack any."""
    chapters = "".join(f"第{n}章 题{n}\n{SCENE.format('李大山', '王小河')}" for n in "一二四五六")
    _, records = questions_about(project, chapters)
    assert not denied_chapters(records) and any("没有这个人" in record["Answer"] for record in records)


def test_where_somebody_is_first_named_is_not_told_in_doubt(project):
    """The heading of an earlier chapter names them, or a line's end cuts their name there."""
    book = (
        "第一章 李大山出山\n却说王小\n河来了，风声渐紧。\n"
        f"第二章 乙\n{SCENE.format('李大山', '王小河')}第三章 丙\n{SCENE.format('赵铁牛', '李大山')}"
    )
    _, records = questions_about(project, book)
    answers = {record["Answer"] for record in records}
    assert "赵铁牛最早见于第三章。" in answers
    assert not any(answer.startswith(("李大山最早", "王小河最早")) for answer in answers)


def test_a_book_in_traditional_characters_is_asked_in_them(project):
    """Our own words too, 書中沒有 among them."""
    chapters = "".join(
        f"第{n}回 題{n}\n卻說李鐵山聽了大怒，對眾人說道：「來得正好。」{n}日無話。\n" for n in "一二三四五"
    )
    _, records = questions_about(project, chapters, people={"李鐵山": []})
    asked = [record for record in records if record.get("Group") != "typed"]
    text = "".join(record["Question"] + record["Answer"] for record in asked)
    assert "李鐵山最早見於第一回" in text and "書中沒有這個人" in text
    assert not re.search("[这说话谁请问见没书题么铁]", text)


def test_some_questions_are_typed_as_people_type(questions, evaluation):
    """Greeted, thanked, without a mark at their end: of those that are trained, not of those that are held out."""
    trained = [q["Question"] for q in questions]
    greetings = tuple(GREETINGS.split())
    greeted = [q for q in trained if q.startswith(greetings)]
    assert 0.1 * len(trained) < len(greeted) < 0.4 * len(trained)
    assert any(q.endswith("谢谢。") for q in trained) and sum(q[-1] not in "。？！" for q in trained) > 100
    others = [e["Question"] for e in evaluation if e["Group"] in ("reworded", "new_wording", "unseen", "absent")]
    assert not any(q.startswith(greetings) for q in others)
    typed = [e["Question"] for e in evaluation if e["Group"] == "typed"]
    normal = Normalisation("simplified")
    assert len(typed) > 300 and not set(typed) & set(trained)
    normalised = set(map(normal, trained))
    same_once_normalised = sum(normal(q) in normalised for q in typed)
    assert 0.1 * len(typed) < same_once_normalised < 0.9 * len(typed)  # the others have words that are never trained


def test_a_talk_may_change_its_subject(project, evaluation):
    """What was said before has nothing to do with the last question; it was answered without looking anything up."""
    lines = (project.folder / "data/sanguo_sft/questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    changes = [each["messages"] for each in records if each["Kind"] == "change"]
    alone = {(each["Question"], each["Answer"]) for each in records if "Question" in each}
    for messages in changes:
        roles = [message["role"] for message in messages]
        last = len(roles) - 1 - roles[::-1].index("user")
        before = [message["content"] for message in messages[:last]]
        assert last > 1 and roles[:last] == ["user", "assistant"] * (last // 2)
        assert (before[0], before[1]) in alone
    greeted = sum(any(word in messages[1]["content"] for word in ("你好", "答不了", "客气")) for messages in changes)
    later = [each for each in evaluation if each["Group"] == "later"]
    assert 0.2 < greeted / len(changes) < 0.9 and len(changes) > 500 and len(later) > 100
    assert all(each["Key"] and len(each["messages"]) in (4, 6) for each in later)
