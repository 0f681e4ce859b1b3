"""A real model of others, SmolLM2-135M-Instruct: fetched, talked to, fine-tuned, written for other programs."""

import copy
import json
import math
import urllib.request

import numpy as np
import peft
import pytest
import torch
import transformers

from miniglm import origin
from miniglm.chat import complete, prompt_ids
from miniglm.conversation import encode_prompt
from miniglm.decoding import Sampling
from tools import llama_server, logits_differ

PLACE = "models/smollm2"
TEXT = "The sun had set behind the hills when the old man came back to the village with a small bag of rice."
ASKED = [{"role": "user", "content": "Who are you?"}]
ANSWER = "I am MiniGLM, a small model that lives in a book."


@pytest.fixture(scope="module")
def smollm2(project, maker):
    """models/smollm2, as data/fetch_model.py writes it."""

    def make(project):
        project.run("data/fetch_model.py", "smollm2")

    return maker(make, PLACE)


@pytest.fixture(scope="module")
def theirs(smollm2):
    """The same folder in transformers, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


def perplexity_in(server, ids):
    """Of ids, as llama.cpp's own probabilities have it."""
    nats = 0.0
    for end in range(1, len(ids)):
        for seed in range(20):  # where it draws the end it tells nothing
            body = {"prompt": ids[:end], "n_predict": 1, "n_probs": 49152, "temperature": 1.0, "seed": seed}
            request = urllib.request.Request(
                f"{server.listening_address}/completion",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as reply:
                told = json.load(reply).get("completion_probabilities")
            if told:
                break
        nats -= next(each["logprob"] for each in told[0]["top_logprobs"] if each["id"] == ids[end])
    return math.exp(nats / (len(ids) - 1))


def test_transformers_computes_the_same(project, smollm2, theirs):
    """Logits in float32 as near to the exact ones as its own; ids of the book, of the chat form; greedy answers."""
    loaded = origin.load(smollm2, dtype="float32")
    assert loaded.chat and loaded.family == "Llama" and loaded.model.num_parameters() > 134e6
    exact, their_logits = copy.deepcopy(theirs).double(), lambda ids: [theirs(ids).logits]
    of_theirs = logits_differ(exact, their_logits, 49152)  # kinds of processors round differently
    assert of_theirs < 2e-3 and logits_differ(exact, loaded.model, 49152) < 2 * of_theirs
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    assert tokenizer(book[:100_000])["input_ids"] == loaded.tokenizer.encode(book[:100_000])
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(loaded.tokenizer, ASKED) == ids
    said = theirs.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    ours = complete(loaded, [prompt_ids(loaded, ASKED)], 24, Sampling(temperature=0))[0]
    assert ours.text == tokenizer.decode(said, skip_special_tokens=True)


def test_perplexity_is_llama_cpps(project, smollm2):
    """On the file that we write for it, in 16 bits: within 1 %; what it is asked it reads in the same form."""
    loaded = origin.load(smollm2, dtype="float32")
    ids = loaded.tokenizer.encode(TEXT)
    with torch.no_grad():
        ours = math.exp(loaded.model(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))[1].item())
    project.run("export.py", f"--out_dir={PLACE}", "--dtype=f16", "--save_path=smollm2.gguf")
    server = llama_server(project.folder / "smollm2.gguf")
    body = json.dumps({"content": TEXT}).encode()
    with urllib.request.urlopen(f"{server.listening_address}/tokenize", body) as reply:
        assert json.load(reply)["tokens"] == ids
    assert abs(perplexity_in(server, ids) / ours - 1) < 0.01
    request = {"messages": ASKED, "max_tokens": 24, "temperature": 0}
    said = server.handle_chat_completions(request)["choices"][0]["message"]["content"]
    assert said == complete(loaded, [prompt_ids(loaded, ASKED)], 24, Sampling(temperature=0))[0].text


TRAIN = [
    "train.py", "--init_from=hf", f"--ckpt_dir={PLACE}", "--dataset=me", "--lora_rank=8", "--batch_size=2",
    "--max_iters=12", "--eval_interval=12", "--eval_iters=1", "--learning_rate=2e-3", "--warmup_iters=2",
    "--min_lr=2e-4", "--dtype=float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def me(project, smollm2):
    """data/me: who it is, in its own chat form; only what it says counts."""
    record = {"messages": [*ASKED, {"role": "assistant", "content": ANSWER}]}
    project.write("data/me.jsonl", (json.dumps(record) + "\n") * 8)
    project.run(
        "data/prepare_sft.py", "data/me.jsonl", "--dataset=me", f"--tokenizer_from={PLACE}", "--block_size=64",
        "--pack=False",
    )  # fmt: skip
    meta = json.loads((project.folder / "data/me/meta.json").read_text("utf-8"))
    assert (meta["dtype"], meta["vocab_size"], meta["normalisation"]) == ("uint16", 49152, None)
    row = np.fromfile(project.folder / "data/me/train.bin", dtype=np.uint16)[:65]
    mask = np.fromfile(project.folder / "data/me/train_mask.bin", dtype=np.uint8)[:65]
    tokenizer = origin.load(smollm2).tokenizer
    assert tokenizer.decode(row[mask == 1].tolist()) == ANSWER and row[mask == 1][-1] == tokenizer.end_id
    return project


@pytest.mark.long
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_it_learns_who_it_is_by_lora(me, theirs, smollm2, quantize):
    """Twelve steps, its own template, the base in 16 or in 4 bits: sample.py says it, peft gives the same logits."""
    out = f"out/me-{quantize}"
    me.run(*TRAIN, f"--out_dir={out}", f"--quantize={quantize}")
    said = me.run(
        "sample.py", f"--out_dir={PLACE}", f"--lora={out}", "--start=Who are you?", "--temperature=0"
    ).stdout.splitlines()[1]
    assert said == ANSWER
    again = me.run("sample.py", f"--out_dir={out}", "--start=Who are you?", "--temperature=0").stdout.splitlines()[1]
    assert again == ANSWER  # it finds its base itself
    if quantize == "none":
        base = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
        adapted = peft.PeftModel.from_pretrained(base, me.folder / out).merge_and_unload().eval()
        ours = origin.load(smollm2, dtype="float32", lora=str(me.folder / out)).model
        assert logits_differ(adapted, ours, 49152) < 5e-3 and logits_differ(theirs, ours, 49152) > 1


@pytest.mark.long
def test_a_book_is_prepared_and_measured_in_its_tokens(project, smollm2):
    """prepare.py takes its tokenizer, evaluations.py gives loss and perplexity."""
    project.write("data/english/input.txt", (TEXT + "\n") * 5)
    project.run("data/prepare.py", "english", f"--tokenizer_from={PLACE}", "--dataset=english_smol")
    said = project.run("evaluations.py", f"--out_dir={PLACE}", "--dataset=english_smol").stdout
    assert "perplexity" in said
