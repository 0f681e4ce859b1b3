"""Measuring: losses against a plain computation, answers against known ones, and the pictures of both."""

import base64
import io
import json
import math
import random
import re
import shutil

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from miniglm.metrics import read_questions
from miniglm.plots import overfitting_point
from tools import TALK


def test_held_out_loss_is_the_mean_over_the_whole_split(project, pretrained):
    """Equal to a plain loop over the windows; bits per character follow from it; the trigram stands beside."""
    import numpy as np

    from miniglm import origin

    project.run("evaluations.py", "--out_dir=out/small", "--save_path=split.json")
    metrics = json.loads((project.folder / "split.json").read_text(encoding="utf-8"))
    loaded = origin.load(pretrained)
    ids = torch.tensor(np.fromfile(project.folder / "data/sanguo_bpe/val.bin", dtype=np.uint16).astype("int64"))
    nats, done = 0.0, 0  # tokens predicted so far
    with torch.no_grad():
        while done < len(ids) - 1:
            start = min(max(0, done - 64), len(ids) - 129)
            logits = loaded.model(ids[None, start : start + 128])[0][0]
            each = F.cross_entropy(logits, ids[start + 1 : start + 129], reduction="none")
            nats += each[done - start :].sum().item()
            done = start + 128
    characters = len(loaded.tokenizer.decode(ids.tolist()))
    assert metrics["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-4)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["bits_per_char"] == pytest.approx(nats / math.log(2) / characters, rel=1e-4)
    assert metrics["bits_per_byte"] < metrics["bits_per_char"] / 2.5
    assert 7.0 < metrics["trigram_bits_per_char"] < 7.15  # known from elsewhere: 7.06
    assert 6.4 < metrics["ppmd_bits_per_char"] < 6.6
    samples = metrics["samples"]
    assert samples["n"] == 16 and 0 < samples["copied_share"] < 0.5 and samples["length"] > 100
    assert 0 < samples["distinct_1"] < samples["distinct_2"] < 1


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


def test_some_questions_of_each_group_are_asked(project, chat):
    """At most so many, spread over the group: the same ones each time."""
    records = [{"Question": q, "Answer": a, "Key": a, "Group": group} for group in "ab" for q, a in TALK]
    metrics = evaluate(project, [*records, records[0] | {"Group": "c"}], "--most=2", "--answers_path=some.jsonl")
    assert {group: each["n"] for group, each in metrics["groups"].items()} == {"a": 2, "b": 2, "c": 1}
    asked = [json.loads(line)["Question"] for line in (project.folder / "some.jsonl").read_text("utf-8").splitlines()]
    assert asked == [TALK[0][0], TALK[2][0], TALK[0][0], TALK[2][0], TALK[0][0]]


def conversation(question, answer):
    """A record as ShareGPT has it."""
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


WRITTEN = {  # a file of the questions that the model knows
    "lower case": lambda q, a: {"question": q, "answer": a, "key": a, "group": "seen"},
    "prompts and completions": lambda q, a: {"prompt": q, "completion": a, "KEY": [a], "GROUP": "seen"},
    "conversations": lambda q, a: {**conversation(q, a), "Key": a, "Group": "seen"},
    "keys alone": lambda q, a: {"Question": q, "Key": a, "Group": "seen", "Note": "none"},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", WRITTEN)
def test_questions_are_read_in_every_form(project, chat, form, indent):
    """As prepare_sft.py reads them, here one JSON list; Key and Group in any capitals; without an Answer by its Key."""
    project.write("ask.json", json.dumps([WRITTEN[form](*pair) for pair in TALK], ensure_ascii=False, indent=indent))
    words = ["--eval_file=ask.json", "--save_path=form.json", "--answers_path=form.jsonl"]
    project.run("evaluations.py", "--out_dir=out/talk", *words)
    seen = json.loads((project.folder / "form.json").read_text(encoding="utf-8"))["groups"]["seen"]
    assert seen["n"] == 4 and seen["accuracy"] == 1.0
    assert seen["exact_match"] == seen["rouge_l"] == (None if form == "keys alone" else 1.0)
    first = json.loads((project.folder / "form.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["Question"], first["Model"]) == TALK[0] and first["Group"] == "seen"


def test_an_empty_key_wants_an_honest_answer(project, chat):
    """Not the answer to something; where there is no Key at all, nothing is said of what is right."""
    (first, answer), (second, _) = TALK[:2]
    records = [{"Question": first, "Key": answer, "Group": "a"}, {"Question": second, "Key": "", "Group": "b"}]
    metrics = evaluate(project, records)
    assert metrics["all"]["n"] == 2 and metrics["all"]["accuracy"] == 0.5 and metrics["all"]["bleu_4"] is None
    assert metrics["groups"]["b"]["accuracy"] == 0.0
    told = evaluate(project, [{"Question": second, "Answer": answer, "Group": "c"}])
    assert told["groups"]["c"]["accuracy"] is None


def test_a_conversation_is_asked_with_its_turns(project, chat):
    """Up to its last answer; what was left out is told."""
    turns = [{"role": "user", "content": TALK[0][0]}, {"role": "assistant", "content": TALK[0][1]}]
    project.write("talks.jsonl", json.dumps({"messages": [*turns, *turns, {"role": "user", "content": "谢谢"}]}))
    words = ["--out_dir=out/talk", "--eval_file=talks.jsonl", "--answers_path=talks-answers.jsonl"]
    done = project.run("evaluations.py", *words)
    assert "talks.jsonl: changed 1, each had its trailing question left out" in done.stderr
    row = json.loads((project.folder / "talks-answers.jsonl").read_text(encoding="utf-8"))
    assert (row["Question"], row["Answer"]) == TALK[0] and row["Turns"] == [*turns, turns[0]]


ASKED = [{"role": "user", "content": "甲？"}, {"role": "assistant", "content": "乙。"}]
FOUND = [{"role": "search", "content": "子"}, {"role": "return", "content": "丑"}]


@pytest.mark.parametrize(
    "record, question",
    [
        ({"messages": [*ASKED, {"role": "user", "content": "丙？"}], "Key": "丁"}, ("丙？", "", 3)),
        ({"messages": [*ASKED, {"role": "user", "content": "谢谢"}], "Key": ""}, ("甲？", "乙。", None)),
        ({"messages": [ASKED[0], *FOUND, ASKED[1]]}, ("甲？", "乙。", 3)),
        ({"question": "甲？", "Key": 3, "Group": 1}, ("甲？", "", None)),
        ({"question": "甲？", "Key": None, "Group": "greeting"}, ("甲？", "", None)),
    ],
)
def test_what_is_asked_is_the_last_thing_that_the_user_says(tmp_path, record, question):
    """Not a tool's result; one that trails where there is a Key to it. A Key of 3 is "3", of nothing it is empty."""
    (tmp_path / "asked.jsonl").write_text(json.dumps(record), encoding="utf-8")
    (found,) = read_questions(tmp_path / "asked.jsonl")
    turns = len(found["Turns"]) if "Turns" in found else None
    assert (found["Question"], found["Answer"], turns) == question
    assert found.get("Key") == (str(record["Key"] or "") if any(name.lower() == "key" for name in record) else None)
    assert found.get("Group") == (str(record["Group"]) if "Group" in record else None)


def test_several_models_are_compared_on_a_page(project, chat):
    """One file with all in it: curves, scores with intervals, answers with the Key marked, the settings that differ."""
    project.run(
        "train.py", "--init_from=finetune", "--ckpt_dir=out/small", "--dataset=talk", "--out_dir=out/brief",
        "--batch_size=4", "--max_iters=4", "--eval_interval=2", "--eval_iters=1", "--dtype=float32", "--log_interval=1",
    )  # fmt: skip
    records = [{"Question": q, "Answer": a, "Key": a[:-1], "Group": "seen<b>"} for q, a in TALK]
    records.append({"Question": "<b>谁？", "Answer": "<b>a&amp;</b>", "Key": ["<b>", "a", "b", ""], "Group": "seen<b>"})
    project.write("ask.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    words = ["--eval_file=ask.jsonl", "--save_path=both.json", "--report=pages/both.html", "--answers_path=both.jsonl"]
    project.run("evaluations.py", "--out_dir=out/talk", "--out_dir=out/brief", *words)
    metrics = json.loads((project.folder / "both.json").read_text(encoding="utf-8"))
    assert metrics["out/talk"]["all"]["accuracy"] == 0.8 > metrics["out/brief"]["all"]["accuracy"]
    low, high = metrics["out/talk"]["all"]["intervals"]["accuracy"]
    assert 0.3 < low < 0.5 and 0.9 < high < 1  # five answers tell little
    said = json.loads((project.folder / "both.jsonl").read_text(encoding="utf-8").splitlines()[0])["Models"]
    assert said["out/talk"] == TALK[0][1] != said["out/brief"]
    page = (project.folder / "pages/both.html").read_text(encoding="utf-8")
    text = re.sub('base64,[^"]+', "", page)
    assert "http" not in text and "<b>" not in text and "seen&lt;b&gt;" in text and "&lt;b&gt;谁？" in text
    assert "<mark>&lt;b&gt;</mark><mark>a</mark>&amp;<mark>a</mark>mp;&lt;/<mark>b</mark>&gt;" in text
    pictures = [base64.b64decode(data) for data in re.findall('base64,([^"]+)', page)]
    assert len(pictures) == 3 and all(Image.open(io.BytesIO(data)).width > 600 for data in pictures)
    beside = {path.read_bytes() for path in (project.folder / "pages").glob("both-*.png")}
    assert beside == set(pictures)
    assert page.count('<tr class="answer">') == 5 and f"<mark>{TALK[0][1][:-1]}</mark>" in page
    assert 'class="wrong"' in page and "<td>max_iters</td>" in page and "<td>seed</td>" not in page
    assert f"{100 * low:.1f}–{100 * high:.1f}" in page


def test_overfitting_is_where_the_validation_loss_was_lowest():
    """And nowhere while it still falls."""

    def log(*losses):
        return {"val": [{"iter": 10 * i, "loss": loss} for i, loss in enumerate(losses)]}

    assert overfitting_point(log(3, 2, 1.5, 1.7, 2.5)) == {"iter": 20, "loss": 1.5}
    assert overfitting_point(log(3, 2, 1.5)) is None and overfitting_point(log(3, 1.5, 1.501)) is None
    assert overfitting_point(log(-0.9, -0.9)) is None and overfitting_point(log(-0.5, -0.9, -0.8))  # rewards
    assert overfitting_point({"train": []}) is None


def test_classification_has_a_bag_of_words_beside_it(project, chat):
    """Fitted on the training records, measured on the same questions."""
    records = [{"Question": f"张{i}字什么？", "Answer": "甲" if i % 2 else "乙", "Key": "甲"} for i in range(10)]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    project.write("classes.jsonl", lines)
    words = ["--eval_file=classes.jsonl", "--yardstick=classes.jsonl", "--save_path=classes.json"]
    assert "bag_of_words" in project.run("evaluations.py", "--out_dir=out/talk", *words).stdout
    metrics = json.loads((project.folder / "classes.json").read_text(encoding="utf-8"))
    assert metrics["bag_of_words"]["accuracy"] == 1.0 > metrics["all"]["accuracy"]


def test_a_question_too_long_to_read_stops_or_counts_as_wrong(project, chat):
    """As asked for."""
    question, answer = TALK[0]
    records = [
        {"Question": question, "Answer": answer, "Key": answer},
        {"Question": "甲" * 200, "Answer": "乙", "Key": "乙"},
    ]
    project.write("long.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    words = ["evaluations.py", "--out_dir=out/talk", "--eval_file=long.jsonl"]
    assert "ask a shorter one" in project.fails(*words)
    out = project.run(*words, "--too_long=wrong", "--save_path=long.json").stdout
    assert "1 questions are too long" in out
    assert json.loads((project.folder / "long.json").read_text(encoding="utf-8"))["all"]["accuracy"] == 0.5


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
    for name in ("loss.png", "training.png", "metrics.png"):
        picture = Image.open(chat / name).convert("RGB")
        coloured = sum(max(p) - min(p) > 60 for p in picture.resize((200, 120)).get_flattened_data())
        assert picture.width > 600 and coloured > 100
    text = (chat / "log.jsonl").read_text(encoding="utf-8")
    (chat / "log.jsonl").write_text(text[: text.rindex("\n") + 1], encoding="utf-8")


def test_before_and_after_on_any_list_of_questions(project, chat):
    """Base and fine-tuned model side by side, of some kinds alone, with or without answers; a line each will do."""
    questions = [question for question, _ in TALK[:3]]
    kinds = ["甲", "乙", "甲"]
    rows = [json.dumps({"prompt": each, "type": kind}) for each, kind in zip(questions, kinds)]
    project.write("asked.jsonl", "\n".join(rows))
    project.write("asked.txt", "\n".join(questions))
    words = ["--out_dir=out/small", "--out_dir=out/talk", "--save_path=both.json", "--report=both.html"]
    done = project.run("evaluations.py", *words, "--eval_file=asked.jsonl", "--where=type=甲")
    assert "2 questions without answers: nothing is counted as right or wrong" in done.stdout
    metrics = json.loads((project.folder / "both.json").read_text(encoding="utf-8"))
    assert [metrics[place]["all"]["n"] for place in ("out/small", "out/talk")] == [2, 2]
    assert metrics["out/talk"]["all"]["accuracy"] is None and metrics["out/talk"]["all"]["loop_share"] == 0
    page = (project.folder / "both.html").read_text(encoding="utf-8")
    assert TALK[0][1] in page and TALK[2][1] in page and questions[1] not in page
    done = project.run("evaluations.py", "--out_dir=out/talk", "--eval_file=asked.txt", "--answers_path=said.jsonl")
    said = [json.loads(line) for line in (project.folder / "said.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(each["Question"], each["Model"]) for each in said] == TALK[:3]
    words = ["--out_dir=out/talk", "--eval_file=asked.jsonl"]
    assert "asked.jsonl has no such record" in project.fails("evaluations.py", *words, "--where=type=丙")
    assert "is no choice" in project.fails("evaluations.py", *words, "--where=type")


@pytest.mark.parametrize(
    "script, words, message",
    [
        ("evaluations.py", ["--eval_file=nowhere.jsonl"], "no file nowhere.jsonl"),
        (
            "evaluations.py",
            ["--eval_file=bad.jsonl"],
            'bad.jsonl line 2 has no known form: "Question" without an answer',
        ),
        ("evaluations.py", ["--eval_file=broken.jsonl"], "broken.jsonl line 1 is no JSON"),
        ("evaluations.py", ["--eval_file=empty.jsonl"], "empty.jsonl is empty"),
        (
            "evaluations.py",
            ["--eval_file=key.jsonl"],
            'key.jsonl line 1 has true or false for "Key" where a text was to be',
        ),
        ("evaluations.py", ["--dataset=nowhere"], "data/prepare.py"),
        ("evaluations.py", ["--dataset=sanguo"], "another tokenizer"),
        ("evaluations.py", ["--eval_file=good.jsonl", "--book=nowhere.txt"], "no book in UTF-8"),
        ("evaluations.py", ["--eval_file=good.jsonl", "--yardstick=bad.jsonl"], "bad.jsonl line 2"),
        ("evaluations.py", ["--yardstick=good.jsonl"], "--yardstick needs questions"),
        ("evaluations.py", ["--eval_file=good.jsonl", "--yardstick=keys.jsonl"], "questions without an answer"),
        ("evaluations.py", ["--eval_file=good.jsonl", "--yardstick=good.jsonl"], "has 1 different answers"),
        ("evaluations.py", ["--report=out"], "out is no file name"),
        ("visualize.py", ["--out_dir=out/badmetrics"], "holds no metrics"),
        ("evaluations.py", ["--answers_path=a.jsonl"], "no answers to write"),
        ("evaluations.py", ["--out_dir=out/talk"], "twice"),
        ("visualize.py", ["--out_dir=out/nowhere"], "no log"),
        ("visualize.py", ["--out_dir=out/badlog"], "line 1 is no log line"),
    ],
)
def test_mistakes_are_told(project, chat, script, words, message):
    """In one line each."""
    project.write("good.jsonl", '{"Question": "甲", "Answer": "乙"}\n')
    project.write("bad.jsonl", '{"Question": "甲", "Answer": "乙"}\n{"Question": "甲"}\n')
    project.write("broken.jsonl", '{"Question": ')
    project.write("empty.jsonl", "\n")
    project.write("key.jsonl", '{"Question": "甲", "Answer": "乙", "Key": true}')
    project.write("keys.jsonl", '{"Question": "甲", "Key": "乙"}')
    project.write("out/badmetrics/log.jsonl", '{"iter": 0, "split": "val", "loss": 3}\n')
    project.write("out/badmetrics/metrics.json", '{"groups": {"a": {"n": 3}}}')
    project.write("out/badlog/log.jsonl", '{"loss": 3}\n{"iter": 0, "split": "val", "loss": 3}\n')
    out_dir = [] if script == "visualize.py" else ["--out_dir=out/talk"]
    assert message in project.fails(script, *out_dir, *words)
