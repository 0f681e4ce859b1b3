"""Scores against other libraries, known values and plain definitions."""

import math
import random

import pytest
from torchmetrics.functional.text import bleu_score, rouge_score

from miniglm.chat import Completion
from miniglm.metrics import (
    answer_scores,
    bag_of_words,
    bleu_4,
    copied_share,
    distinct,
    interval,
    is_right,
    loops,
    ppmd,
    rouge_l,
    summary,
)


@pytest.fixture(scope="module")
def pairs(project):
    """(right, answer) texts: pieces of the book, and the same with characters left out, exchanged and added."""
    text = "".join((project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8").split())
    rng, found = random.Random(1), []
    for _ in range(60):
        start = rng.randrange(len(text) - 100)
        right = text[start : start + rng.randrange(12, 60)]
        answer = [c if rng.random() < 0.8 else rng.choice(["", "曹", c + c]) for c in right]
        found.append((right, "".join(answer)))
    return found


def test_rouge_and_bleu_are_those_of_another_library(pairs):
    """By character, as torchmetrics counts them."""
    for right, answer in pairs:
        theirs = rouge_score(answer, right, rouge_keys="rougeL", tokenizer=list, normalizer=str)
        assert rouge_l(right, answer) == pytest.approx(theirs["rougeL_fmeasure"].item(), abs=1e-6)
    rights, answers = zip(*pairs)
    theirs = bleu_score([" ".join(a) for a in answers], [[" ".join(r)] for r in rights]).item()
    assert 0.2 < theirs < 0.9 and bleu_4(rights, answers) == pytest.approx(theirs, abs=1e-6)
    same = "张飞字翼德。"
    assert rouge_l(same, same) == pytest.approx(1) == bleu_4([same], [same])


def test_distinct_loops_and_copies_by_their_definitions(pairs):
    """Different n-grams among all; four characters four times; the longest piece that stands in the training text."""
    assert distinct(["甲乙甲", "乙"], 1) == 0.5 and distinct(["甲乙甲乙"], 2) == pytest.approx(2 / 3)
    assert (
        distinct([], 1) == 0 and not loops("一二三四" * 3, True) and loops("一二三四" * 4, True) and loops("一", False)
    )
    text = "".join(right for right, _ in pairs)
    for _, answer in pairs:
        pieces = (answer[i:j] for i in range(len(answer)) for j in range(i + 1, len(answer) + 1))
        longest = max((len(piece) for piece in pieces if piece in text), default=0)
        assert copied_share(answer, text) == longest / len(answer)
    assert copied_share("", text) == 1.0 and copied_share(text[5:50], text) == 1.0


def test_intervals_hold_the_mean_as_often_as_they_say():
    """Wilson's for yes and no, equal to its formula; the bootstrap's covers the true mean in about 95 of 100 draws."""
    n, p, z = 100, 0.98, 1.959964
    middle, reach = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    expected = ((middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n))
    assert interval([True] * 98 + [False] * 2) == pytest.approx(expected, abs=1e-5)
    low, high = interval([True] * 50)
    assert low < 0.95 and high == pytest.approx(1)  # even where all were right
    rng, held = random.Random(3), 0
    for _ in range(100):
        low, high = interval([rng.random() ** 2 for _ in range(80)])
        held += low <= 1 / 3 <= high
    assert 85 <= held <= 100
    assert interval([None, 1.0]) is None and interval([0.5, 0.5, None]) == (0.5, 0.5) and interval([1.0] * 9) == (1, 1)


def test_ppmd_knows_what_it_has_read(project):
    """Text that it has read costs less than text it has not, and that less than without any reading."""
    text = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    read, new = text[:200_000], text[300_000:310_000]
    known, unknown, first = ppmd(read, read[50_000:60_000]), ppmd(read, new), ppmd("", new)
    assert 0 < known < 0.7 * unknown and unknown < 0.9 * first < 9


def test_a_bag_of_words_learns_to_classify():
    """Words that tell the class are found; an answer is one of those it has seen."""
    train = [{"Question": f"第{i}次买，很好", "Answer": "正面"} for i in range(20)]
    train += [{"Question": f"第{i}次买，太差", "Answer": "负面"} for i in range(20)]
    assert bag_of_words(train, [{"Question": "太差了"}, {"Question": "真的很好"}]) == ["负面", "正面"]


def test_answers_are_scored_and_summed_up():
    """Keys, quotations, refusals; the mean leaves out what has no score."""
    records = [
        {"Question": "一", "Answer": "甲「乙」。", "Key": ["甲", "乙"]},
        {"Question": "二", "Answer": "书中没有丙。", "Key": "书中没有"},
        {"Question": "三", "Answer": "丁"},
    ]
    texts = ["甲「乙」。", "丙书中没有。", "「戊」"]
    completions = [Completion(text, 4, True, 0.5) for text in texts]
    scores = [answer_scores(m, r, "甲「乙」。丁", "乙", {"书中没有"}) for m, r in zip(completions, records)]
    metrics = summary(completions, scores, records)
    assert metrics["n"] == 3 and metrics["accuracy"] == 1.0 and metrics["exact_match"] == pytest.approx(1 / 3)
    assert metrics["quotes_in_book"] == 0.5 and metrics["refusal_share"] == pytest.approx(1 / 3)
    assert metrics["tokens_per_second"] == 8 and metrics["length"] == pytest.approx(14 / 3)
    assert metrics["copied_share"] == pytest.approx((1 + 1 / 6 + 1 / 3) / 3)  # all; 。; 「
    low, high = metrics["intervals"]["exact_match"]
    assert 0 < low < 1 / 3 < high < 1


PEOPLE = {"诸葛亮": ["诸葛亮", "孔明"], "刘备": ["刘备", "玄德"]}
RIGHT = [  # what is asked for, the answer, whether it is right
    ({"Key": "诸葛亮"}, "孔明借的。", True),  # by any of their names
    ({"Key": "诸葛亮"}, "刘备借的。", False),
    ({"Key": ["刘备", "诸葛亮"]}, "玄德和孔明。", True),  # all of them
    ({"Key": ["刘备", "诸葛亮"]}, "玄德。", False),
    ({"Key": ["孙悟空", "书中没有"]}, "孙悟空，书中没有这个人。", True),
    ({"Key": ["孙悟空", "书中没有"]}, "孙悟，书中没有这个人。", False),
    ({"Key": ""}, "这个我答不了。可以问我书里的人。", True),
    ({"Key": ""}, "我是一个小模型。", False),
    ({"Key": "", "Group": "greeting"}, "我是一个小模型。", True),
    ({"Key": "", "Group": "natural", "Kind": "greeting"}, "不客气。", True),
    ({"Key": "", "Group": "greeting"}, "我字文若，最早见于第一回。", False),  # a fact is no courtesy
    ({"Key": "", "Group": "greeting"}, "刘备。", False),
    ({"Answer": "好"}, "好", None),  # nothing is said of what is right
]


@pytest.mark.parametrize("record, answer, right", RIGHT)
def test_an_answer_is_right_where_it_holds_what_it_must(record, answer, right):
    """By the Key; without one, where it says that it cannot answer, or greets back."""
    assert is_right(answer, record, PEOPLE) is right
