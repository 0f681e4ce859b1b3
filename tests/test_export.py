"""Exported models in the programs they are meant for."""

import json
import urllib.request

import pytest
import xllamacpp
from conftest import TALK

from checkpoint import load_model
from generation import complete, prompt_ids


def serve(path):
    """llama.cpp's server on a GGUF file."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.verbosity = 1, 0
    return xllamacpp.Server(params)


def test_llama_cpp_answers_as_we_do(project, chat):
    """In its chat form, greedy, in float32: what was taught, and there it stops."""
    project.run("export.py", "--out_dir=out/talk", "--to=gguf", "--save_path=talk.gguf")
    server = serve(project.folder / "talk.gguf")
    for question, answer in TALK:
        request = {"messages": [{"role": "user", "content": question}], "max_tokens": 60, "temperature": 0}
        reply = server.handle_chat_completions(request)["choices"][0]
        assert (reply["message"]["content"], reply["finish_reason"]) == (answer, "stop")


def test_llama_cpp_goes_on_with_the_novel_as_we_do(project, pretrained):
    """Token ids of a passage of the book are the same, and so is what follows it, greedy, in float32."""
    project.run("export.py", "--out_dir=out/small", "--to=gguf", "--save_path=deep/small.gguf")
    server = serve(project.folder / "deep/small.gguf")
    model, tokenizer, _ = load_model(pretrained)
    passage = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")[5000:9000]
    body = json.dumps({"content": passage}).encode()
    with urllib.request.urlopen(f"{server.listening_address}/tokenize", body) as reply:
        assert json.load(reply)["tokens"] == tokenizer.encode(passage)
    start = passage[:40]
    reply = server.handle_completions({"prompt": start, "max_tokens": 40, "temperature": 0})
    ours = complete(model, tokenizer, [prompt_ids(model, tokenizer, start, False)], 40, temperature=0)
    assert reply["choices"][0]["text"].rstrip("\ufffd") == ours[0].text


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
    told = serve(narrow).handle_chat_completions(request)["choices"][0]["message"]["content"]
    assert told == answer if dtype != "q4_0" else told


def test_a_models_gpt2_tokens_keep_their_merges():
    """Joining pairs in the order of merges() gives the ids that tiktoken gives."""
    from tokenizer import Tokenizer

    tokenizer = Tokenizer.gpt2()
    merges = tokenizer.merges()
    assert len(merges) == 50000 and merges[0] == (b" ", b"t")
    assert all(tokenizer.ranks[left + right] == 256 + i for i, (left, right) in enumerate(merges))


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "no file to write is named"),
        (["--save_path=out"], "out is no file name"),
        (["--save_path=a.gguf", "--to=gguff"], "--to=gguff"),
        (["--save_path=a.gguf", "--dtype=int8"], "--dtype=int8"),
        (["--save_path=a.gguf", "--out_dir=out/nowhere"], "train first"),
    ],
)
def test_mistakes_are_told(project, chat, words, told):
    """In one line each, before anything is written."""
    assert told in project.fails("export.py", "--out_dir=out/talk", *words)
    assert not (project.folder / "a.gguf").exists()
