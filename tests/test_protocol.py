"""OpenAI's protocol: the official client against the running page, and all that a client may get wrong."""

import asyncio
import json
import random
import re
import socket
import time
from pathlib import Path

import httpx
import openai
import pytest
import requests
from starlette.applications import Starlette
from starlette.testclient import TestClient

from miniglm import origin
from miniglm.decoding import Sampling, generate
from miniglm.page.models import Models
from miniglm.page.protocol import LARGEST_BODY, Protocol, before_stop
from miniglm.page.visitors import Visitors
from tools import TALK, idle, serve_page

QUESTION, ANSWER = TALK[0]
ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def page(project, chat, adapted):
    """(address, process) of a running page with a small chat model in float32."""
    yield from serve_page(project, "out/talk", "--dtype=float32")


@pytest.fixture(scope="module")
def served(page):
    """(an official client, the model's id) of that page."""
    return openai.OpenAI(base_url=f"{page[0]}/v1", api_key="any", max_retries=0, timeout=60), "out/talk"


@pytest.fixture(scope="module")
def client(chat):
    """A client of the routes without a server, with a password."""
    models = Models(Visitors(), str(chat), [], "cpu", "float32", False)
    routes = Protocol(models, lambda loaded: None, "me:secret").routes
    with TestClient(Starlette(routes=routes), headers={"Authorization": "Bearer secret"}) as client:
        client.name = str(chat)
        yield client


def test_the_official_client_is_answered(served):
    """Whole, in a stream and drawn; what a model says there is what it says anywhere."""
    client, name = served
    assert name in [model.id for model in client.models.list()]
    whole = client.chat.completions.create(model=name, messages=ASKED, temperature=0)
    assert whole.choices[0].message.content == ANSWER and whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 10
    stream = client.chat.completions.create(
        model=name, messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage == whole.usage
    drawn = [
        client.chat.completions.create(model=name, messages=ASKED, temperature=2, seed=seed, n=3, max_tokens=8)
        for seed in (5, 5, 6)
    ]
    texts = [[choice.message.content for choice in each.choices] for each in drawn]
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0])) == 3
    assert {choice.finish_reason for choice in drawn[0].choices} <= {"stop", "length"}


def test_a_text_is_gone_on_from(served, project):
    """As the model goes on by itself; several prompts at once; the probabilities of what it says."""
    client, name = served
    loaded = origin.load(project.folder / "out/talk", "cpu", "float32")
    ids = loaded.tokenizer.encode("却说曹操")
    steps = list(generate(loaded.model, [ids], 6, Sampling(temperature=0), loaded.tokenizer.end_ids))
    alone = loaded.tokenizer.decode([step.ids[0] for step in steps])
    done = client.completions.create(
        model=name, prompt=["却说曹操", "却说曹操"], max_tokens=6, temperature=0, logprobs=2
    )
    assert [choice.text for choice in done.choices] == [alone, alone]
    logprobs = done.choices[0].logprobs
    said = [step for step in steps if step.ids[0] not in loaded.tokenizer.end_ids]
    known = [step.logits[0].log_softmax(-1)[step.ids[0]].item() for step in said]
    assert logprobs.token_logprobs == pytest.approx(known, abs=1e-4)
    assert all(len(top) == 2 and max(top.values()) == pytest.approx(own) for top, own in
               zip(logprobs.top_logprobs, logprobs.token_logprobs))  # fmt: skip


def test_choices_are_said_at_once(served):
    """Each in pieces between the others', and drawn by its own seed as it is when it is asked for alone."""
    client, name = served

    def drawn(**more):
        return client.chat.completions.create(model=name, messages=ASKED, temperature=2, max_tokens=40, **more)

    alone = [drawn(seed=5 + number).choices[0].message.content for number in range(3)]
    chunks = [chunk.choices[0] for chunk in drawn(seed=5, n=3, stream=True)]
    texts = ["".join(each.delta.content for each in chunks if each.index == number) for number in range(3)]
    assert texts == alone == [choice.message.content for choice in drawn(seed=5, n=3).choices]
    told = [each.index for each in chunks]
    assert max(map(told.index, range(3))) < min(told.index(number, told.index(number) + 1) for number in range(3))
    many = client.completions.create(model=name, prompt=["却说"] * 4, n=8, max_tokens=2, temperature=0)
    assert [choice.index for choice in many.choices] == list(range(32))
    assert len({choice.text for choice in many.choices}) == 1


def test_an_answer_stops_where_it_is_told_to(served):
    """Before the stop, which may come in pieces; in a stream no more is told either."""
    client, name = served
    stop = ANSWER[3:5]
    for stream in (False, True):
        said = client.chat.completions.create(
            model=name, messages=ASKED, temperature=0, stop=["never", stop], stream=stream
        )
        if stream:
            chunks = list(said)
            assert "".join(chunk.choices[0].delta.content for chunk in chunks) == ANSWER[:3]
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            assert said.choices[0].message.content == ANSWER[:3] and said.choices[0].finish_reason == "stop"
    assert before_stop("一二三", ["三四"]) == ("一二", "三", False)
    assert before_stop("一二三四五", ["四五", "三四"]) == ("一二", "", True)
    assert before_stop("一二三", []) == ("一二三", "", False)


@pytest.mark.parametrize(
    "changes, param",
    [
        ({"messages": []}, "messages"),
        ({"messages": "张飞"}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "问" * 500}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 100}, "n"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"tools": "search"}, "tools"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_is_wrong_is_told(client, changes, param):
    """With the status 400, and the name of what is wrong."""
    response = client.post("/v1/chat/completions", json={"model": client.name, "messages": ASKED} | changes)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"].startswith(param) and error["message"]
    assert error["type"] == "invalid_request_error"


def test_other_mistakes_have_their_own_status(client):
    """No JSON, too much, another model, another path, another key; after all of it the server answers."""
    path, asked = "/v1/chat/completions", {"model": client.name, "messages": ASKED, "temperature": 0}
    for body in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        assert client.post(path, content=body).status_code == 400
    assert client.post(path, content=b" " * (LARGEST_BODY + 1)).status_code == 413
    missing = client.post(path, json=asked | {"model": "gpt-5"})
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
    assert client.get("/v1/files").status_code == 404 and "error" in client.get("/v1/files").json()
    long = client.post("/v1/completions", json={"model": client.name, "prompt": "字" * 500})
    assert long.json()["error"]["code"] == "context_length_exceeded"
    for key in ("", "Bearer wrong", "Bearer me", "secret wrong"):
        refused = client.post(path, json=asked, headers={"Authorization": key})
        assert refused.status_code == 401 and "secret" not in refused.text
    for key in ("Bearer secret", "Bearer me:secret"):
        assert client.post(path, json=asked, headers={"Authorization": key}).status_code == 200
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    said = client.post(path, content=json.dumps(asked | {"messages": parts}))
    assert said.json()["choices"][0]["message"]["content"] == ANSWER


def test_who_goes_away_leaves_the_batch(page, served):
    """Streams that are left in the middle take no more of the server's time; others are answered."""
    client, name = served
    for _ in range(5):
        stream = client.completions.create(model=name, prompt="却说", max_tokens=100_000, temperature=1, stream=True)
        next(iter(stream))
        stream.close()
    assert idle(page[1]) or idle(page[1])
    whole = client.with_options(timeout=20).chat.completions.create(model=name, messages=ASKED, temperature=0)
    assert whole.choices[0].message.content == ANSWER


MALFORMED = [
    {"messages": []}, {"temperature": "warm"}, {"max_tokens": -1}, {"model": "gpt-5"}, {"stop": [""]}, {"n": 1e9},
    {"seed": 1 << 80}, {"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": "问" * 2000}]},
]  # fmt: skip


class Crowd:
    """Sixteen clients who come and go, and what they saw; each turn of theirs is drawn by chance."""

    def __init__(self, address: str, model: str, drawn: dict[int, str]):
        """drawn: what the model says alone to DRAWN, by the seed."""
        self.address, self.model, self.drawn = address, model, drawn
        self.seen, self.wrong = dict.fromkeys(("whole", "stream", "cut", "drawn_alike", "malformed", "junk"), 0), []

    async def live(self, number: int, until: float):
        """One client, in many turns."""
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=self.address, timeout=60) as client:
            while time.monotonic() < until:
                kind = chance.choice(list(self.seen))
                try:
                    await getattr(self, kind)(client, chance)
                except Exception as error:
                    self.wrong.append(f"{kind}: {error!r}")
                self.seen[kind] += 1
                await asyncio.sleep(chance.expovariate(5))

    def about(self, question: str, **more) -> dict:
        """A request."""
        return {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0} | more

    def expect(self, *pair):
        """Note two things that should be the same."""
        if pair[0] != pair[1]:
            self.wrong.append(f"{pair[0]!r} for {pair[1]!r}")

    async def whole(self, client, chance):
        """A question, answered at once."""
        question, answer = chance.choice(TALK)
        response = await client.post("/v1/chat/completions", json=self.about(question))
        self.expect(response.json()["choices"][0]["message"]["content"], answer)

    async def stream(self, client, chance, most=1000):
        """A question, answered in a stream of which so many lines are read at most."""
        question, answer = chance.choice(TALK)
        said = ""
        async with client.stream("POST", "/v1/chat/completions", json=self.about(question, stream=True)) as lines:
            async for line in lines.aiter_lines():
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["delta"]["content"]
                most -= 1
                if not most:
                    break
        self.expect(said, answer if most else answer[: len(said)])

    async def cut(self, client, chance):
        """A stream that is left in the middle."""
        await self.stream(client, chance, chance.randint(1, 3))

    async def drawn_alike(self, client, chance):
        """An answer that is drawn by a seed."""
        seed = chance.choice(list(self.drawn))
        response = await client.post("/v1/chat/completions", json=self.about(QUESTION, **DRAWN, seed=seed))
        self.expect(response.json()["choices"][0]["message"]["content"], self.drawn[seed])

    async def malformed(self, client, chance):
        """A request that cannot be answered."""
        response = await client.post("/v1/chat/completions", json=self.about(QUESTION) | chance.choice(MALFORMED))
        self.expect(response.status_code in (400, 404) and "error" in response.json(), True)

    async def junk(self, client, chance):
        """Half a request, or none, and no more."""
        port = int(self.address.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            chance.choice([b"GET", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{", b"\0"])
        )
        await writer.drain()
        await asyncio.sleep(chance.random() / 5)
        writer.close()


DRAWN = {"temperature": 1.5, "max_tokens": 12}


@pytest.mark.parametrize("minutes", [1, pytest.param(60, marks=pytest.mark.long)])
def test_sixteen_clients_come_and_go(page, served, minutes):
    """Each gets what it gets alone; some leave in the middle, some send nonsense; the server's memory stays."""
    address, process = page
    client, name = served

    def memory():
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024

    def alone(seed):
        asked = client.chat.completions.create(model=name, messages=ASKED, seed=seed, **DRAWN)
        return asked.choices[0].message.content

    crowd = Crowd(address, name, {seed: alone(seed) for seed in range(8)})

    async def come_and_go():
        until = time.monotonic() + 60 * minutes
        clients = [asyncio.create_task(crowd.live(number, until)) for number in range(16)]
        await asyncio.sleep(20 * minutes)
        before = memory()
        await asyncio.gather(*clients)
        return before, memory()

    before, after = asyncio.run(come_and_go())
    print(f"\n{crowd.seen}, {before:.0f} MiB after a third, {after:.0f} at the end")
    assert not crowd.wrong, crowd.wrong[:5]
    assert min(crowd.seen.values()) > 20 and process.poll() is None
    assert after < before + 16


def test_what_never_ends_is_refused(page, served):
    """A header of any length, and a body of 100 MB: an error, no memory, and others are answered."""
    address, process = page
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=20) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nX-Long: ")
        with pytest.raises(OSError):  # it is closed
            for _ in range(1000):
                line.sendall(b"a" * (1 << 20))
    assert requests.post(f"{address}/v1/completions", data=b"x" * (100 << 20), timeout=60).status_code == 413
    client, name = served
    whole = client.chat.completions.create(model=name, messages=ASKED, temperature=0)
    assert whole.choices[0].message.content == ANSWER and process.poll() is None
