"""What readers type: one question in many spellings is one question to the model."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from miniglm import origin
from miniglm.chat import prompt_ids
from miniglm.conversation import encode_prompt
from miniglm.errors import UserError
from miniglm.typed import SIMPLIFIED, TRADITIONAL, Normalisation, in_script, script_of
from miniglm.vocabulary import load_tokenizer

SIMPLE, COMPLEX = Normalisation(SIMPLIFIED, "乾"), Normalisation(TRADITIONAL)


@pytest.mark.parametrize(
    "typed",
    [
        "张飞字什么?",
        " 张飞字什么？ ",
        "张飞 字 什么 ？",
        "张飞字什么？？？",
        "张飞字什么?!",
        "張飛字什麼？",
        "\ufeff张飞字什么？",
        "张飞\u200b字什么？",
        "张飞\u3000字什么？",
        "张飞字什么？\r\n",
        "张飞字什么？～～",
    ],
)
def test_a_question_is_one_in_many_spellings(typed):
    """Half width, spaces, repeated marks, traditional characters, byte order marks, what nobody sees."""
    assert SIMPLE(typed) == "张飞字什么？"


def test_marks_and_quotes_become_chinese_ones():
    """Commas, colons, brackets and quotation marks beside Chinese characters, digits and letters in half width."""
    assert SIMPLE("你好,请问(急):第１０６回叫什么?谢谢!!") == "你好，请问（急）：第106回叫什么？谢谢！"
    for quoted in ('"舌战群儒"', "「舌戰群儒」", "'舌战群儒'", "”舌战群儒“", "＂舌战群儒＂", "“舌战群儒”"):
        assert SIMPLE(f"{quoted}是第几回?") == "“舌战群儒”是第几回？"
    assert SIMPLE("他说『张飞』") == "他说‘张飞’"
    assert SIMPLE("介绍一下张飞.") == "介绍一下张飞。"


@pytest.mark.parametrize(
    "text", ["What is this? (yes, that)", "def f(x):\n    return x", "3.14", "http://a.b/?c=1,2", "12:30", ""]
)
def test_what_is_not_chinese_stays_as_it_is(text):
    """English, code, numbers, addresses."""
    assert SIMPLE(text) == text == COMPLEX(text)


def test_numbers_and_addresses_within_chinese_keep_their_marks():
    """3.14, 12:30, an address, 1,000."""
    assert SIMPLE("圆周率是3.14,对吗?") == "圆周率是3.14，对吗？"
    assert SIMPLE("12:30看 http://a.b/?c=1,2 好吗?") == "12:30看http://a.b/?c=1,2好吗？"


@pytest.mark.parametrize(
    "typed, read",
    [
        ("it's 张飞's weapon, isn't it?", "it's张飞's weapon, isn't it？"),
        ("f(张飞)和`g(张飞)?`是什么?", "f(张飞)和`g(张飞)?`是什么？"),
        ("看 https://a.b/?x=1&y=(3) 好吗?", "看https://a.b/?x=1&y=(3)好吗？"),
        ("哈利·波特 是谁", "哈利·波特是谁"),
        ("👨\u200d👩\u200d👧 是谁?", "👨\u200d👩\u200d👧是谁？"),
        ("张飞...是谁，？", "张飞……是谁？"),
        ("((张飞))", "（（张飞））"),
        ("\ud800张飞", "张飞"),
    ],
)
def test_what_stands_beside_chinese_is_not_broken(typed, read):
    """Apostrophes, code, addresses, names of others, joined pictures; half a character is none."""
    assert SIMPLE(typed) == read


def test_a_long_question_takes_no_time():
    """Brackets and quotation marks that do not close, many marks and spaces."""
    for text in ("(" + "张" * 50_000, "'" + "张" * 50_000, "!" * 50_000 + "a", "张" + " " * 50_000 + "a"):
        assert len(SIMPLE(text)) > 1


def test_a_character_that_the_book_writes_is_not_taken_for_the_other_script():
    """孙乾 is not 孙干 where the book tells of 孙乾; 於, once in a long book, is 于."""
    characters = Counter("孙乾" * 30 + "干" * 60 + "于" * 900 + "於" + "说话这个们来对时会学国" * 50)
    normalisation = Normalisation.of(characters)
    assert normalisation == Normalisation(SIMPLIFIED, "乾")
    assert normalisation("孫乾於是來了嗎?") == "孙乾于是来了吗？"


def test_the_script_of_a_text_is_told():
    """Simplified, traditional, or neither: English, and a text half in one and half in the other."""
    simplified = "却说曹操闻报大惊，问众谋士：这个时候怎么办？"
    traditional = in_script(simplified, TRADITIONAL)
    assert traditional == "卻說曹操聞報大驚，問眾謀士：這個時候怎麼辦？"
    assert script_of(Counter(simplified)) == SIMPLIFIED and script_of(Counter(traditional)) == TRADITIONAL
    assert script_of(Counter("nothing")) == script_of(Counter(simplified * 2 + traditional)) == ""


def test_a_book_in_traditional_characters_is_asked_in_them():
    """By whoever types simplified ones, and in the spellings of any place."""
    assert COMPLEX("贾宝玉在书里是谁?") == COMPLEX("賈寶玉在書裏是誰？") == "賈寶玉在書裡是誰？"


def test_normalising_twice_is_normalising_once():
    """What is trained may be asked again as it stands."""
    for text in ("你好,张飞 字什么??", '"甲"...', "孫乾(字公祐)", "…………", "甲:乙;丙,丁。。。"):
        assert SIMPLE(SIMPLE(text)) == SIMPLE(text) and COMPLEX(COMPLEX(text)) == COMPLEX(text)


def test_it_belongs_to_the_model(chat):
    """It stands in config.json; what is typed is read as what was trained, and an answer's words are not touched."""
    config = json.loads((chat / "config.json").read_text(encoding="utf-8"))
    assert config["normalisation"]["script"] == SIMPLIFIED
    loaded = origin.load(chat, "cpu")
    asked = [{"role": "user", "content": "张飞字什么？"}]
    assert prompt_ids(loaded, "張飛 字什麼??") == encode_prompt(loaded.tokenizer, asked)
    talk = [{"role": "user", "content": "张飞?"}, {"role": "assistant", "content": "張飛?"}, *asked]
    talk_read = [{"role": "user", "content": "张飞？"}, *talk[1:]]
    assert prompt_ids(loaded, talk) == encode_prompt(loaded.tokenizer, talk_read)


def test_what_config_json_says_counts(chat, tmp_path):
    """Without a normalisation there a question is read as it is typed; with one that is none it is told."""
    moved = shutil.copytree(chat, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text(encoding="utf-8"))
    (moved / "config.json").write_text(json.dumps(config | {"normalisation": None}), encoding="utf-8")
    loaded = origin.load(moved, "cpu")
    typed = [{"role": "user", "content": "張飛 字什麼??"}]
    assert prompt_ids(loaded, "張飛 字什麼??") == encode_prompt(loaded.tokenizer, typed)
    (moved / "config.json").write_text(json.dumps(config | {"normalisation": "any"}), encoding="utf-8")
    with pytest.raises(UserError, match="config.json is broken"):
        origin.load(moved, "cpu")


def test_sample_and_evaluation_read_what_is_typed(project, chat):
    """The same answer, and the same score, with ? for ？, in traditional characters, with spaces."""
    right = project.run("sample.py", "--out_dir=out/talk", "--start=张飞字什么？", "--temperature=0").stdout
    typed = project.run("sample.py", "--out_dir=out/talk", "--start=張飛 字什麼??", "--temperature=0").stdout
    assert right.splitlines()[1:] == typed.splitlines()[1:] and "翼德" in typed
    project.write("typed.jsonl", json.dumps({"Question": "張飛 字什麼?", "Answer": "张飞字翼德。", "Key": "翼德"}))
    project.run("evaluations.py", "--out_dir=out/talk", "--eval_file=typed.jsonl", "--save_path=typed.json")
    assert json.loads((project.folder / "typed.json").read_text(encoding="utf-8"))["all"]["accuracy"] == 1


def test_open_weights_and_going_on_get_their_text_as_it_is(project, pretrained, exported):
    """A pretrained model has no normalisation, nor has a data set with the tokenizer of a Hugging Face folder."""
    loaded = origin.load(pretrained, "cpu")
    assert loaded.normalisation is None
    assert prompt_ids(loaded, "張飛 字什麼??") == loaded.tokenizer.encode("張飛 字什麼??")
    project.write("sacred.jsonl", json.dumps({"Question": "張飛 字什麼??", "Answer": "翼德"}) * 1)
    for words in (["--tokenizer_from=made/talk-hf"], ["--normalise=False"]):
        project.run("data/prepare_sft.py", "sacred.jsonl", "--dataset=sacred", "--block_size=64", *words)
        meta = json.loads((project.folder / "data/sacred/meta.json").read_text(encoding="utf-8"))
        assert meta["normalisation"] is None
        rows = np.fromfile(project.folder / "data/sacred/train.bin", "uint16")
        assert "張飛 字什麼??" in load_tokenizer(project.folder / "data/sacred").decode(rows.tolist())


def test_a_talking_model_that_learns_more_keeps_its_own(project, chat):
    """What it is asked is normalised as before, whatever script the new records have."""
    project.write("more.jsonl", json.dumps({"Question": "賈寶玉是誰?", "Answer": "書中沒有這個人。"}))
    project.run("data/prepare_sft.py", "more.jsonl", "--dataset=more", "--block_size=64", "--tokenizer_from=out/talk")
    before = json.loads((chat / "config.json").read_text(encoding="utf-8"))["normalisation"]
    assert json.loads((project.folder / "data/more/meta.json").read_text(encoding="utf-8"))["normalisation"] == before
