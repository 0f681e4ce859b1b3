"""The parts of the chat page, without a browser; with one: test_gradio.py."""

import asyncio
import itertools
import re
import time
from contextlib import aclosing

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from miniglm.chat import Candidate, Choice
from miniglm.errors import UserError
from miniglm.page.lessons import ROUTES, links
from miniglm.page.markup import characters, inside_html
from miniglm.page.models import Models
from miniglm.page.talks import failed, messages_of, read_talks, shown
from miniglm.page.visitors import Visitors
from miniglm.page.words import TEXTS, Trouble
from miniglm.tokenizer import Tokenizer

SEARCH = [
    {"role": "user", "content": "住哪里？<b>&amp;"},
    {"role": "search", "content": '{"型": "<i>"}'},
    {"role": "return", "content": '[{"名": "如家"}]'},
    {"role": "assistant", "content": "住如家。"},
]


@pytest.fixture(scope="module")
def gpt2():
    """GPT-2's tokenizer, which cuts Chinese characters in two."""
    return Tokenizer.gpt2()


def choices(tokenizer, text):
    """A text as choices that were certain."""
    return [Choice(token, [Candidate(token, 1.0, True, True)]) for token in tokenizer.encode(text)]


def test_tokens_that_share_a_character_stand_under_it_together(gpt2):
    """No bytes are shown where a character came about."""
    text = "「曹操」 a\n"  # 曹 is three tokens
    pieces = characters(gpt2, choices(gpt2, text))
    assert "".join(piece for piece, _ in pieces) == text
    assert sum(len(group) for _, group in pieces) == len(gpt2.encode(text)) > len(pieces)
    table = inside_html(gpt2, choices(gpt2, text), None)
    assert "\\x" not in table and "<th scope='row' rowspan='3'>曹</th>" in table


def test_a_part_of_a_character_is_shown_with_what_it_would_complete(gpt2):
    """Another second half makes another character; another first half is bytes."""
    first, second = gpt2.encode("下")
    up, part = gpt2.ranks[b"\x8a"], gpt2.ranks[b"\xe6"]  # the second half of 上, the first third of 曹
    seen = [
        Choice(first, [Candidate(first, 0.9, True, True), Candidate(part, 0.1, False, False)]),
        Choice(second, [Candidate(second, 0.9, True, True), Candidate(up, 0.1, False, False)]),
    ]
    cells = re.findall("<b>(.+?)</b>", inside_html(gpt2, seen, None))
    assert cells == ["下<sub>1</sub>", "<small>e6</small>", "下<sub>2</sub>", "上"]


def test_what_the_chatbot_shows_is_what_was_said():
    """A search is one turn, HTML is escaped, and what went wrong is no part of the talk."""
    turns = shown(SEARCH)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "assistant"]
    assert not re.search("<[bi]>", str(turns)) and messages_of(turns) == SEARCH
    question = shown([{"role": "user", "content": "谁？"}])
    assert messages_of([*turns, *question, failed("太长了")]) == SEARCH


def test_a_talk_is_read_back_in_any_form_that_is_trained(tmp_path):
    """Questions and answers of other data sets, too."""
    path = tmp_path / "talks.jsonl"
    path.write_text('{"instruction": "谁？", "output": "曹操。"}\n', encoding="utf-8")
    assert read_talks(path) == [[{"role": "user", "content": "谁？"}, {"role": "assistant", "content": "曹操。"}]]
    path.write_text("", encoding="utf-8")
    with pytest.raises(Trouble):
        read_talks(path)


def test_a_setting_leads_to_its_lesson():
    """Each setting's explanation links to a page of the course, in both languages, and nothing else is served."""
    client = TestClient(Starlette(routes=ROUTES), follow_redirects=False)
    for setting, texts in links().items():
        assert f"{setting}_info" in TEXTS
        for text in texts:
            page = client.get("/" + re.search(r"\((.+)\)", text)[1])
            assert page.status_code == 200 and "<h1>" in page.text and "$$" not in page.text
            assert "<math" in page.text or "tokens" in text  # that lesson has no formula
    assert client.get("/lessons/pictures/01_circle.png").headers["content-type"] == "image/png"
    assert "def " in client.get("/lessons/01_function.py").text
    for path in ("/lessons/..%2Ftrain.py", "/docs/nothing.md", "/lessons/", "/lessons/pictures"):
        assert client.get(path).headers["location"] == "/lessons/README.md"
    assert client.get("/requirements.txt").status_code == 404


def test_all_visitors_are_computed_for_at_the_same_time():
    """A newcomer gets an item a round like everybody; who goes away gets no more, and an error reaches who waits."""
    computed = []

    def items(name, silent, fails=False):
        for number in range(40):
            computed.append(name)
            time.sleep(0.01)
            yield "" if number < silent else name
        if fails:
            raise UserError("the model is gone", "open it again")

    async def listen(name, silent=0, begun=None, most=41, **how):
        heard = []
        async with aclosing(visitors.gathered(items(name, silent, **how), bool)) as lists:
            async for each in lists:
                heard += each
                if begun:
                    begun.set()
                if len(heard) >= most:
                    break
        return heard

    async def both():
        begun = asyncio.Event()
        old = asyncio.create_task(listen("old", begun=begun))
        await begun.wait()
        assert await listen("new", 10) == [*[""] * 10, *["new"] * 30] and await old == ["old"] * 40
        await listen("gone", most=3)
        with pytest.raises(UserError, match="the model is gone"):
            await listen("failing", fails=True)

    visitors = Visitors()
    asyncio.run(both())
    first, last = computed.index("new"), len(computed) - 1 - computed[::-1].index("old")
    assert first < 20 and computed[first : last + 1].count("new") in range(20, 41)
    assert all(len(list(group)) == 1 for _, group in itertools.groupby(computed[first : last + 1]))
    assert computed.count("gone") < 10 and computed.count("failing") == 40 and not visitors.visiting


def test_the_page_has_every_word_in_both_languages():
    """Chinese words in the one, none in the other."""
    for key, (zh, en) in TEXTS.items():
        assert not re.search("[\u4e00-\u9fff]", en), key
        assert re.search("[\u4e00-\u9fff]", zh) or zh == en, key


def test_a_model_of_others_is_called_by_its_name(chat, exported):
    """One of ours by what it does."""
    ours, theirs = (Models(Visitors(), str(place), [], "cpu", "auto", False) for place in (chat, exported))
    assert theirs.called(str(exported), 1) == "talk-hf"
    assert ours.called(str(chat), 1) != "talk"
