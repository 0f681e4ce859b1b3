"""Exported models in the programs they are meant for."""

import json
import math
import urllib.request

import numpy as np
import onnxruntime
import pytest
import torch

from miniglm import origin
from miniglm.chat import complete, prompt_ids
from miniglm.decoding import Sampling
from tools import TALK, assert_llama_knows_the_talk, llama_server, onnx_step


def test_llama_cpp_answers_as_we_do(project, chat):
    """In its chat form, greedy, in float32: what was taught, and there it stops."""
    project.run("export.py", "--out_dir=out/talk", "--to=gguf", "--save_path=talk.gguf")
    assert_llama_knows_the_talk(project.folder / "talk.gguf")


def test_llama_cpp_goes_on_with_the_novel_as_we_do(project, pretrained):
    """Token ids of a passage of the book are the same, and so is what follows it, greedy, in float32."""
    project.run("export.py", "--out_dir=out/small", "--to=gguf", "--save_path=deep/small.gguf")
    server = llama_server(project.folder / "deep/small.gguf")
    loaded = origin.load(pretrained)
    passage = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")[5000:9000]
    body = json.dumps({"content": passage}).encode()
    with urllib.request.urlopen(f"{server.listening_address}/tokenize", body) as reply:
        assert json.load(reply)["tokens"] == loaded.tokenizer.encode(passage)
    start = passage[:40]
    reply = server.handle_completions({"prompt": start, "max_tokens": 40, "temperature": 0})
    ours = complete(loaded, [prompt_ids(loaded, start)], 40, Sampling(temperature=0))
    assert reply["choices"][0]["text"].rstrip("\ufffd") == ours[0].text


def ask(server, path, **body):
    """What the server's HTTP interface gives to a request."""
    request = urllib.request.Request(
        f"{server.listening_address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_its_server_speaks_openais_interface(project, chat):
    """/v1/chat/completions over HTTP, with the conversation's earlier turns, streams nothing and stops."""
    project.run("export.py", "--out_dir=out/talk", "--save_path=talk.gguf")
    server = llama_server(project.folder / "talk.gguf")
    question, answer = TALK[1]
    reply = ask(server, "/v1/chat/completions", messages=[{"role": "user", "content": question}], temperature=0)
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": answer}
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_narrow_files_keep_the_perplexity(project, pretrained):
    """llama.cpp's own probabilities of a held-out passage: within 0.1 % of ours in f32, 1 % in f16, 2 % in q8_0."""
    loaded = origin.load(pretrained)
    ids = np.fromfile(project.folder / "data/sanguo_bpe/val.bin", dtype=np.uint16)[1000:1060].tolist()
    with torch.no_grad():
        _, loss = loaded.model(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    for dtype, close in (("f32", 1e-3), ("f16", 1e-2), ("q8_0", 2e-2)):
        project.run("export.py", "--out_dir=out/small", f"--save_path={dtype}.gguf", f"--dtype={dtype}")
        server, nats = llama_server(project.folder / f"{dtype}.gguf"), 0.0
        for end in range(1, len(ids)):
            reply = ask(
                server, "/completion", prompt=ids[:end], n_predict=1, n_probs=loaded.tokenizer.vocab_size, temperature=1
            )
            likely = reply["completion_probabilities"][0]["top_logprobs"]
            nats -= next(each["logprob"] for each in likely if each["id"] == ids[end])
        assert abs(math.exp(nats / (len(ids) - 1) - loss.item()) - 1) < close, dtype


@pytest.fixture(scope="module")
def onnx_session(chat, maker):
    """The small chat model in onnxruntime."""

    def make(project):
        project.run("export.py", "--out_dir=out/talk", "--to=onnx", "--save_path=made/talk.onnx")

    return onnxruntime.InferenceSession(maker(make, "made/talk.onnx"))


def test_onnxruntime_gives_our_logits(chat, onnx_session):
    """Any number of rows and tokens, with and without what went before: 1e-3."""
    loaded = origin.load(chat)
    for rows, before, new in ((1, 0, 1), (1, 0, 30), (3, 7, 1), (2, 20, 5), (5, 0, 128)):
        ids = torch.randint(
            loaded.tokenizer.vocab_size, (rows, before + new), generator=torch.Generator().manual_seed(before)
        )
        past = None
        if before:
            _, past = onnx_step(onnx_session, ids[:, :before], np.ones((rows, before), np.int64))
        logits, past = onnx_step(onnx_session, ids[:, before:], np.ones((rows, before + new), np.int64), past)
        with torch.no_grad():
            assert np.abs(logits - loaded.model(ids)[0][:, before:].numpy()).max() < 1e-3
        assert past[0].shape[2] == before + new


def test_onnxruntime_answers_as_we_do(chat, onnx_session):
    """Greedy, all questions at once, padded on the left, a token a time from the cache."""
    loaded = origin.load(chat)
    prompts = [prompt_ids(loaded, question) for question, _ in TALK]
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    said, past = [[] for _ in prompts], None
    for _ in range(60):
        logits, past = onnx_step(onnx_session, ids, mask, past)
        ids = logits[:, -1].argmax(-1)[:, None].tolist()
        mask = [[*row, 1] for row in mask]
        for row, (token,) in zip(said, ids):
            row.append(token)
    ours = complete(loaded, prompts, 60, Sampling(temperature=0))
    for row, completion, (_, answer) in zip(said, ours, TALK):
        assert loaded.tokenizer.decode(row[: row.index(loaded.tokenizer.end_id)]) == completion.text == answer


@pytest.mark.parametrize("dtype, share", [("f16", 0.55), ("bf16", 0.55), ("q8_0", 0.35), ("q4_0", 0.25)])
def test_narrow_files_are_smaller_and_still_know(project, chat, dtype, share):
    """Matrices in 16, 8 and 4 bits: the file shrinks; down to 8 bits the answers stay."""
    project.run("export.py", "--out_dir=out/talk", "--save_path=exact.gguf")
    project.run("export.py", "--out_dir=out/talk", f"--save_path={dtype}.gguf", f"--dtype={dtype}")
    exact, narrow = (project.folder / name for name in ("exact.gguf", f"{dtype}.gguf"))
    vocabulary = 150_000  # bytes that the tokenizer takes in each
    assert narrow.stat().st_size - vocabulary < share * exact.stat().st_size
    question, answer = TALK[0]
    request = {"messages": [{"role": "user", "content": question}], "max_tokens": 60, "temperature": 0}
    said = llama_server(narrow).handle_chat_completions(request)["choices"][0]["message"]["content"]
    assert said == answer if dtype != "q4_0" else said


def test_a_models_gpt2_tokens_keep_their_merges():
    """Joining pairs in the order of merges() gives the ids that tiktoken gives."""
    from miniglm.tokenizer import Tokenizer

    tokenizer = Tokenizer.gpt2()
    merges = tokenizer.merges()
    assert len(merges) == 50000 and merges[0] == (b" ", b"t")
    assert all(tokenizer.ranks[left + right] == 256 + i for i, (left, right) in enumerate(merges))


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no place to write to is named"),
        (["--save_path=out"], "out is no file name"),
        (["--save_path=a.gguf", "--to=gguff"], "--to=gguff"),
        (["--save_path=a.gguf", "--dtype=int8"], "--dtype=int8"),
        (["--save_path=a.gguf", "--out_dir=out/nowhere"], "train first"),
        (["--save_path=a.gguf", "--lora=out/small"], "give the directory of a LoRA adapter"),
        (["--save_path=a.onnx", "--to=onnx", "--dtype=bf16"], "knows no bf16"),
        (["--save_path=a.gguf", "--merge=False"], "add --to=gguf --lora=DIR"),
        (["--save_path=a.gguf", "--merge=False", "--lora=out/lora", "--dtype=q8_0"], "not written in q8_0"),
    ],
)
def test_mistakes_are_told(project, chat, words, message):
    """In one line each, before anything is written."""
    assert message in project.fails("export.py", "--out_dir=out/talk", *words)
    assert not (project.folder / "a.gguf").exists()
