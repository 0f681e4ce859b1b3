"""The book as a tool in a talk: whatever a model prefers, what it calls for and what it answers is allowed."""

import json
import re

import pytest
import torch

from miniglm.book.passages import MOST, Passages
from miniglm.book.reader import BookReader
from miniglm.chat import complete_with, sources, unborne
from miniglm.decoding import Sampling
from miniglm.origin import Loaded
from miniglm.typed import Normalisation
from miniglm.vocabulary import load_tokenizer
from model import GLMConfig, MiniGLM

ASKED = [
    "曹操是怎么死的？",
    "董卓被谁杀了",
    "第一百零六回讲什么？",
    "贾宝玉是谁？",
    "第二百回呢？",
    "空城計是哪一回",
    "张非字什么？",
    "你好！",
    "？？？",
    "😂😂",
    'say "hi" to \\ me',
    "Who is Liu Bei?",
    "草船借箭是谁的主意" * 8,
]


@pytest.fixture(scope="module")
def reader(project):
    """The real book's BookReader."""
    return BookReader(Passages.load(project.folder / "data/sanguo_sft"))


@pytest.fixture(scope="module")
def untrained(project, reader):
    """A model that has learnt nothing, so that it prefers anything."""
    torch.manual_seed(3)
    tokenizer = load_tokenizer(project.folder / "data/sanguo_bpe")
    config = GLMConfig(block_size=512, vocab_size=4096, n_layer=1, n_head=2, n_embd=32, positions="rope")
    return Loaded(MiniGLM(config).eval(), tokenizer, True, True, {}, Normalisation("simplified"), reader)


def test_whatever_is_preferred_nothing_is_made_up(untrained, reader):
    """Words of a call are the question's own; a quotation is a piece of a place; who is denied is not there."""
    talks = [[{"role": "user", "content": question}] for question in ASKED * 4]
    said = complete_with(reader, untrained, talks, 120, Sampling(temperature=1.5, seed=5))
    calls = [(turns[0]["content"], each) for turns, each in zip(talks, said) if each.call.endswith("]")]
    assert len(calls) > 10
    kinds = set()
    for question, each in calls:
        question = untrained.normalisation(question)
        words = json.loads(each.call)
        assert words and all(word in question for word in words)
        assert len(each.places) <= MOST
        if not each.ended:
            continue
        if quote := re.fullmatch("「(.+)」（(.+?)）。", each.text, re.DOTALL):
            assert any(quote[1] in place.quote and quote[2] == place.where for place in each.places)
            assert reader.passages.is_verbatim(quote[1])
        elif denied := re.fullmatch("(.+?)(，书中没有这个人。|书中没有，全书共一百二十回。)", each.text):
            assert not each.places and reader.passages.is_missing(denied[1])
        else:
            assert each.text in (reader.passages.forms.beyond, *(place.answer for place in each.places))
        kinds.add(each.text[:2])
    assert len(kinds) > 3


@pytest.mark.parametrize(
    "question, must",
    [
        ("曹操是谁", False),
        ("曹操字什么", False),
        ("空城计是哪一回", True),
        ("关于是谁", True),
        ("liubei shi shei", True),
        ("曹丕是曹操的什么人", True),
        ("曹操怎么死的", True),
        ("诸葛亮是哪里人", True),
        ("最后一回", True),
        ("林冲是谁", True),
        ("刘艾是谁", True),
        ("你好", False),
        ("今天天气怎么样", False),
        ("应该问什么", False),
    ],
)
def test_what_is_not_learnt_by_heart_must_be_looked_up(reader, question, must):
    """Chapters, what is told in passing, and who is not in the book."""
    assert reader.must_look(question) == must


@pytest.mark.parametrize(
    "question, word, may",
    [
        ("洪七公的字是什么？", "洪七公", True),
        ("书中的虚竹是什么人物？", "虚竹", True),
        ("叫至植的是谁", "至植", True),
        ("关于牛顿，说几句", "牛顿", True),
        ("蜀国的皇帝是谁", "蜀国", False),
        ("最帅的人是谁", "最帅", False),
        ("曹操的字是什么", "曹操", False),
        ("怎样煮面条", "面条", False),
    ],
)
def test_who_may_be_denied(reader, question, word, may):
    """Whoever is asked for by a name that the book does not have; not what somebody belongs to."""
    assert reader.may_be_nobody(word, question) == may


@pytest.mark.parametrize(
    "question, first", [("牛魔王初次登场是第几回？", "牛魔王"), ("请问哈利波特的字是什么？", "哈利波特")]
)
def test_a_call_begins_with_whom_a_question_is_about(untrained, reader, question, first):
    """Not with what is asked of them, whatever is preferred, and no word goes on into that."""
    talks = [[{"role": "user", "content": question}]] * 16
    calls = [each.call for each in complete_with(reader, untrained, talks, 60, Sampling(temperature=2.0, seed=1))]
    assert {json.loads(call)[0] for call in calls if call.endswith("]")} == {first}


def test_nothing_is_found_where_one_of_two_is_not_there(reader):
    """Two who are named together, one of them not in the book, though no name is like theirs."""
    assert reader.places(["种辑", "思楷"], "引用最先同时写到种辑和思楷的句子") == []
    assert reader.places(["种辑", "王子服"], "引用最先同时写到种辑和王子服的句子")


def test_what_says_nothing_is_not_answered(untrained, reader):
    """Signs, emoji, one key held down: what cannot be answered, whatever the model prefers."""
    talks = [[{"role": "user", "content": question}] for question in ("？", "😂😂", "啊啊啊啊", "…！", "曹操" * 60)]
    said = complete_with(reader, untrained, talks, 120, Sampling(temperature=1.5, seed=5))
    assert {each.text for each in said} == {reader.passages.forms.beyond}


def test_an_answer_by_heart_is_borne_out_too(reader):
    """The places that it rests on are found; of what the book does not say there are none."""
    (first, *_) = sources(reader, "张飞字什么？", "张飞字翼德。", ())
    assert first.where.startswith("第一回") and "翼德" in first.text
    assert not sources(reader, "你好", "你好，我是读过《三国演义》的小模型。", ())
    quoted = sources(reader, "貂蝉？", "貂蝉最早见于第八回：「乃府中歌伎貂蝉也」。", ())
    assert quoted[0].quoted and str(quoted[0]).startswith("✓ 第八回")


@pytest.mark.parametrize(
    "question, answer, told",
    [
        ("张飞字什么？", "张飞字翼德。", []),
        ("张飞字什么？", "张飞字子龙。", ["子龙"]),
        ("貂蝉？", "貂蝉最早见于第八回：「乃府中歌伎貂蝉也」。", []),
        ("貂蝉？", "貂蝉最早见于第八回：「乃府中歌伎小乔也」。", ["乃府中歌伎小乔也"]),
        ("你好", "你好，我是读过《三国演义》的小模型。", []),
    ],
)
def test_what_the_book_does_not_bear_out_is_told(reader, question, answer, told):
    """Where memory and book disagree: a name that no place has beside the one asked about, a quotation that is none."""
    assert unborne(reader, question, answer, sources(reader, question, answer, ())) == told
