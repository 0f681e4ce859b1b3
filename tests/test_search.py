"""A model that searches: the lesson's talk with a hotel desk, learnt, then played over a table."""

import json

import pytest

from miniglm.search import search
from tools import HOTELS


@pytest.mark.parametrize(
    "call, names",
    [
        ('{"型": "舒适"}', ["香江酒店"]),
        ('{"有": ["暖气", "泳池"]}', ["万豪酒店"]),
        ('{"有": "暖气", "价": 150}', ["如家酒店"]),
        ('{"名": "酒店"}', ["香江酒店"]),  # the first of several
        ('{"型": "民宿"}', []),
        ('{"星": 5}', []),
        ("{}", []),
        ('{"型"', []),
        ("[1]", []),
        ("[" * 100_000, []),
    ],
)
def test_a_search_finds_the_first_record_that_holds_all_that_is_asked(call, names):
    """Texts by their parts, lists by their items, numbers by their value; nothing where the call is none."""
    assert [hotel["名"] for hotel in search(HOTELS, call)] == names


def test_only_what_the_assistant_says_and_asks_is_learnt(hotel):
    """The call and the answers, with their markers, count in the loss; what was found does not."""
    import numpy as np

    from miniglm.vocabulary import load_tokenizer

    folder = hotel.folder / "data/hotel"
    length = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["row_length"]
    ids = np.fromfile(folder / "train.bin", dtype=np.uint16).reshape(-1, length)[0]
    mask = np.fromfile(folder / "train_mask.bin", dtype=np.uint8).reshape(-1, length)[0]
    learned = load_tokenizer(folder).decode(ids[mask == 1].tolist())
    assert any(learned == f'查：{{"型": "{h["型"]}"}}答：请住{h["名"]}。答：每晚{h["价"]}元。' for h in HOTELS)


def test_the_command_line_plays_the_talk(hotel):
    """The model searches, is shown what is found, answers, and remembers in the next turn; no search, no call."""
    hotel.write("hotels.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in HOTELS))
    for each in HOTELS:
        words = ["--out_dir=out/hotel", "--chat", "--turns=4", "--temperature=0", "--table=hotels.jsonl"]
        out = hotel.run("sample.py", *words, typed=f"我要住{each['型']}酒店。\n多少钱？\n\n").stdout
        found = json.dumps([each], ensure_ascii=False)
        assert f'查：{{"型": "{each["型"]}"}}\n果：{found}\n答：请住{each["名"]}。\n' in out
        assert f"答：每晚{each['价']}元。\n" in out and out.count("查：") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--table=nowhere.jsonl", "--chat"], "no file nowhere.jsonl"),
        (["--table=bad.jsonl", "--chat"], "bad.jsonl is no JSON lines"),
        (["--table=list.jsonl", "--chat"], "list.jsonl is no table"),
        (["--table=list.jsonl"], "add --chat"),
        (["--table=good.jsonl", "--chat", "--num_beams=2"], "leave --num_beams away"),
        (["--table=good.jsonl", "--chat"], "has not learnt to search"),
    ],
)
def test_mistakes_are_told(project, chat, words, message):
    """In one line each."""
    project.write("bad.jsonl", '{"a": 1}\n{"a"\n')
    project.write("list.jsonl", "[1, 2]\n")
    project.write("good.jsonl", '{"a": 1}\n')
    assert message in project.fails("sample.py", "--out_dir=out/talk", *words)
