"""Measuring: losses against a plain computation, answers against known ones, and the pictures of both."""

import json
import math
import random
import shutil

import pytest
import torch
from conftest import TALK
from PIL import Image
from torch.nn import functional as F


def test_held_out_loss_is_the_mean_over_the_whole_split(project, pretrained):
    """Equal to a plain loop over the windows; bits per character follow from it; the trigram stands beside."""
    import numpy as np

    from checkpoint import load_model

    project.run("evaluations.py", "--out_dir=out/small", "--save_path=split.json")
    metrics = json.loads((project.folder / "split.json").read_text(encoding="utf-8"))
    model, tokenizer, _ = load_model(pretrained)
    ids = torch.tensor(np.fromfile(project.folder / "data/sanguo_bpe/val.bin", dtype=np.uint16).astype("int64"))
    nats, done = 0.0, 0  # tokens predicted so far
    with torch.no_grad():
        while done < len(ids) - 1:
            start = min(max(0, done - 64), len(ids) - 129)
            logits = model(ids[None, start : start + 128])[0][0]
            each = F.cross_entropy(logits, ids[start + 1 : start + 129], reduction="none")
            nats += each[done - start :].sum().item()
            done = start + 128
    characters = len(tokenizer.decode(ids.tolist()))
    assert metrics["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-4)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["bits_per_char"] == pytest.approx(nats / math.log(2) / characters, rel=1e-4)
    assert metrics["bits_per_byte"] < metrics["bits_per_char"] / 2.5
    assert 7.0 < metrics["trigram_bits_per_char"] < 7.15  # known from elsewhere: 7.06


def evaluate(project, records, *words):
    """The metrics of the chat model on records."""
    project.write("ask.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    project.run(
        "evaluations.py", "--out_dir=out/talk", "--eval_file=ask.jsonl", "--save_path=out/talk/metrics.json", *words
    )
    return json.loads((project.folder / "out/talk/metrics.json").read_text(encoding="utf-8"))


def test_right_answers_score_full_and_wrong_ones_do_not(project, chat):
    """By group and over all: keys, exact match, ROUGE-L, BLEU-4, loops, quotations."""
    right = [{"Question": q, "Answer": a, "Key": a[:-1], "Group": "seen"} for q, a in TALK]
    wrong = [{"Question": q, "Answer": "曹操是汉相。", "Key": ["曹操", "汉相"], "Group": "wrong"} for q, _ in TALK]
    metrics = evaluate(project, right + wrong, "--book=data/sanguo/input.txt", "--answers_path=answers.jsonl")
    seen, bad = metrics["groups"]["seen"], metrics["groups"]["wrong"]
    assert seen["n"] == 4 and seen["accuracy"] == seen["exact_match"] == seen["rouge_l"] == 1.0
    assert seen["bleu_4"] == pytest.approx(1.0) and seen["loop_share"] == 0.0 and seen["quotes_in_book"] == 1.0
    assert bad["accuracy"] == bad["exact_match"] == 0.0 and bad["rouge_l"] < 0.5
    assert metrics["all"]["accuracy"] == 0.5 and metrics["all"]["n"] == 8 and metrics["all"]["tokens_per_second"] > 0
    first = json.loads((project.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["Model"] == TALK[0][1]


def test_looping_answers_are_counted(project, pretrained):
    """A model that was never taught to end its answers is seen to run on."""
    folder = project.folder / "out/endless"
    shutil.copytree(pretrained, folder)
    checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
    torch.save(checkpoint | {"chat": True}, folder / "ckpt.pt")
    project.write("ask.jsonl", '{"Question": "张飞字什么？", "Answer": "翼德"}\n')
    project.run("evaluations.py", "--out_dir=out/endless", "--eval_file=ask.jsonl", "--save_path=endless.json")
    metrics = json.loads((project.folder / "endless.json").read_text(encoding="utf-8"))
    assert metrics["all"]["loop_share"] == 1.0 and metrics["all"]["accuracy"] is None


def test_pictures_are_drawn(project, chat):
    """loss.png and metrics.png, each with lines or bars in colour; several runs on one picture; a run still going."""
    evaluate(project, [{"Question": q, "Answer": a, "Key": a, "Group": random.choice("ab")} for q, a in TALK])
    with open(chat / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"iter": 120, "split": "tr')
    out = project.run("visualize.py", "--out_dir=out/talk", "--out_dir=out/small").stdout
    assert "out/talk/loss.png" in out.replace("\\", "/") and "metrics.png" in out
    for name in ("loss.png", "metrics.png"):
        picture = Image.open(chat / name).convert("RGB")
        coloured = sum(max(p) - min(p) > 60 for p in picture.resize((200, 120)).get_flattened_data())
        assert picture.width > 600 and coloured > 100
    text = (chat / "log.jsonl").read_text(encoding="utf-8")
    (chat / "log.jsonl").write_text(text[: text.rindex("\n") + 1], encoding="utf-8")


@pytest.mark.parametrize(
    "script, words, told",
    [
        ("evaluations.py", ["--eval_file=nowhere.jsonl"], "no file nowhere.jsonl"),
        ("evaluations.py", ["--eval_file=bad.jsonl"], "bad.jsonl line 2"),
        ("evaluations.py", ["--eval_file=broken.jsonl"], "no JSON lines"),
        ("evaluations.py", ["--dataset=nowhere"], "data/prepare.py"),
        ("evaluations.py", ["--dataset=sanguo"], "another tokenizer"),
        ("evaluations.py", ["--eval_file=good.jsonl", "--book=nowhere.txt"], "no book in UTF-8"),
        ("visualize.py", ["--out_dir=out/nowhere"], "no log"),
        ("visualize.py", ["--out_dir=out/badlog"], "line 1 is no log line"),
    ],
)
def test_mistakes_are_told(project, chat, script, words, told):
    """In one line each."""
    project.write("good.jsonl", '{"Question": "甲", "Answer": "乙"}\n')
    project.write("bad.jsonl", '{"Question": "甲", "Answer": "乙"}\n{"Question": "甲"}\n')
    project.write("broken.jsonl", '{"Question": ')
    project.write("out/badlog/log.jsonl", '{"loss": 3}\n{"iter": 0, "split": "val", "loss": 3}\n')
    out_dir = [] if script == "visualize.py" else ["--out_dir=out/talk"]
    assert told in project.fails(script, *out_dir, *words)
