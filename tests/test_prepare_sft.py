"""Conversations to rows: every form of record, packing, and bad records."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_utils import open_data
from miniglm import origin
from miniglm.objectives import likelihood
from miniglm.vocabulary import load_tokenizer

FORMS = {
    "question": {"Question": "甲？", "Answer": "乙。"},
    "alpaca": {"instruction": "翻译。", "input": "甲", "output": "乙。"},
    "belle": {"instruction": "甲？", "input": "", "output": "乙。"},
    "firefly": {"kind": "NLI", "input": "甲？", "target": "乙。"},
    "moss": {"conversation": [{"human": "甲？", "assistant": "乙。"}, {"human": "丙？", "assistant": "丁。"}]},
    "moss-own": {
        "chat": {
            "turn_1": {
                "Human": "<|Human|>: 甲？<eoh>\n",
                "Commands": "<|Commands|>: None<eoc>\n",
                "MOSS": "<|MOSS|>: 乙。<eom>\n",
            },
            "turn_2": {"Human": "<|Human|>: 丙？<eoh>\n", "MOSS": "<|MOSS|>: 丁。<eom>\n"},
        }
    },
    "safety": {"prompt": "甲？", "response": "乙。"},
    "sharegpt": {"conversations": [{"from": "human", "value": "甲？"}, {"from": "gpt", "value": "乙。"}]},
    "openai": {
        "messages": [
            {"role": "system", "content": "子。"},
            {"role": "user", "content": "甲？"},
            {"role": "assistant", "content": "乙。"},
        ]
    },
    "tools": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "找酒"}, {"type": "text", "text": "店。"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "find", "arguments": '{"型": 1}'}}],
            },
            {"role": "tool", "content": "香江"},
            {"role": "assistant", "content": "香江。"},
        ]
    },
    "nothing": [
        {"role": "user", "content": "找酒店。"},
        {"role": "search", "arguments": {"星": 9}},
        {"role": "return", "records": []},
        {"role": "assistant", "content": "没有。"},
    ],
    "hotel": [
        {"role": "user", "content": "找酒店。"},
        {"role": "search", "arguments": {"type": "舒适型"}},
        {"role": "return", "records": [{"name": "香江"}]},
        {"role": "assistant", "content": "香江。"},
    ],
}
RENDERED = {
    "question": "问：甲？\n答：乙。",
    "alpaca": "问：翻译。\n甲\n答：乙。",
    "belle": "问：甲？\n答：乙。",
    "firefly": "问：甲？\n答：乙。",
    "moss": "问：甲？\n答：乙。问：丙？\n答：丁。",
    "moss-own": "问：甲？\n答：乙。问：丙？\n答：丁。",
    "nothing": '问：找酒店。\n查：{"星": 9}果：[]\n答：没有。',
    "safety": "问：甲？\n答：乙。",
    "sharegpt": "问：甲？\n答：乙。",
    "openai": "系统：子。\n问：甲？\n答：乙。",
    "tools": '问：找酒店。\n查：{"型": 1}果：香江\n答：香江。',
    "hotel": '问：找酒店。\n查：{"type": "舒适型"}果：[{"name": "香江"}]\n答：香江。',
}


def rows_of(project, dataset, kind="", split="train", dtype=np.uint16):
    """The rows of a data set's file."""
    length = json.loads((project.folder / "data" / dataset / "meta.json").read_text(encoding="utf-8"))["row_length"]
    return np.fromfile(project.folder / "data" / dataset / f"{split}{kind}.bin", dtype=dtype).reshape(-1, length)


def prepare(project, dataset, records, *words):
    """Run prepare_sft.py on records, JSON or raw lines."""
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    project.write(f"data/{dataset}.jsonl", "\n".join(lines) + "\n")
    return project.run(
        "data/prepare_sft.py", f"data/{dataset}.jsonl", f"--dataset={dataset}", "--block_size=64", *words
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_record_is_read(project, form):
    """Each form becomes the turns that the README shows; the mask covers what the assistant says."""
    prepare(project, f"form-{form}", [FORMS[form]])
    ids, mask = rows_of(project, f"form-{form}")[0], rows_of(project, f"form-{form}", "_mask", dtype=np.uint8)[0]
    tokenizer = load_tokenizer(project.folder / "data/sanguo_bpe")
    assert tokenizer.decode(ids.tolist()) == RENDERED[form]
    learned = [int(i) for i, m in zip(ids, mask) if m]
    assert (
        learned[-1] == tokenizer.end_id
        and "甲" not in tokenizer.decode(learned)
        and '香江"' not in tokenizer.decode(learned)
    )


def test_one_json_list_is_read_like_lines(project):
    """BELLE and ShareGPT come as one list too."""
    project.write("data/list.json", json.dumps([FORMS["alpaca"], FORMS["belle"]], ensure_ascii=False, indent=1))
    out = project.run(
        "data/prepare_sft.py", "data/list.json", "--dataset=list", "--block_size=64", "--val_fraction=0"
    ).stdout
    assert "kept 2 as Alpaca" in out and "train.bin: 1 samples" in out and "val.bin: 1 samples" in out


def test_one_conversation_over_several_lines_is_read(project):
    """As the lesson prints it; and many such lists, one a line, or as one list of lists."""
    talk = FORMS["hotel"]
    for text, count in (
        (json.dumps(talk, ensure_ascii=False, indent=4), 1),
        (json.dumps(talk) + "\n" + json.dumps(talk), 2),
        (json.dumps([talk, talk, talk], indent=1), 3),
    ):
        project.write("data/talks.json", text)
        out = project.run("data/prepare_sft.py", "data/talks.json", "--dataset=talks", "--block_size=64").stdout
        assert f"kept {count} as messages" in out
        assert RENDERED["hotel"] in load_tokenizer(project.folder / "data/sanguo_bpe").decode(
            rows_of(project, "talks")[0]
        )


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_of_lists_is_read(project, indent):
    """Safety-Prompts' files hold a list for each kind of danger."""
    kinds = {"Insult": [{**FORMS["safety"], "type": "Insult"}] * 2, "Crime": [FORMS["safety"], {"prompt": "甲？"}]}
    project.write("data/kinds.json", json.dumps(kinds, ensure_ascii=False, indent=indent))
    done = project.run("data/prepare_sft.py", "data/kinds.json", "--dataset=kinds", "--block_size=64")
    assert "kept 3 as Safety-Prompts" in done.stdout
    assert 'data/kinds.json item 4 has no known form: "prompt" without an answer' in done.stderr


@pytest.mark.parametrize(
    "first", ["[]", "[1]", '[{"role": "user", "content": "甲', '{"messages": [{"role": "user"', "{}"]
)
def test_a_bad_first_line_is_one_bad_record(project, first):
    """Whatever it begins like, the lines after it are read."""
    good = json.dumps(FORMS["question"])
    project.write("data/first.jsonl", f"{first}\n{good}\n{good}\n")
    done = project.run("data/prepare_sft.py", "data/first.jsonl", "--dataset=first", "--block_size=64")
    assert "kept 2 as Question" in done.stdout and "data/first.jsonl line 1" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory as Linux tells it")
def test_memory_stays_flat(project):
    """Fifteen times the records take hardly more memory: lines, and one list on one line."""
    measure = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
    measure += "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    peaks = {}
    for count in (2_000, 30_000):
        records = [
            json.dumps({"Question": f"第{n}题？", "Answer": "曹操引兵，" * 20}, ensure_ascii=False)
            for n in range(count)
        ]
        for name, text in (("lines", "\n".join(records)), ("list", f"[{','.join(records)}]")):
            project.write(f"data/flat-{name}.json", text)
            words = ["data/prepare_sft.py", f"data/flat-{name}.json", "--dataset=flat", "--block_size=128"]
            peaks[name, count] = int(project.run("-c", measure, *words).stdout.split()[-2])
    for name in ("lines", "list"):
        assert peaks[name, 30_000] - peaks[name, 2_000] < 5_000, peaks  # KiB, of a file of 10 MB


def test_every_sample_is_written_once(project):
    """Whatever the packing and the share held out: no sample is lost, doubled or mixed with another."""
    records = [{"Question": f"第{n}题？", "Answer": "甲" * (n % 23 + 1) + str(n)} for n in range(300)]
    message = prepare(project, "whole", records, "--val_fraction=0.1").stdout
    tokenizer = load_tokenizer(project.folder / "data/sanguo_bpe")
    found = []
    for split in ("train", "val"):
        columns = (
            rows_of(project, "whole", kind, split, dtype)
            for kind, dtype in (("", "u2"), ("_mask", "u1"), ("_sample", "u2"))
        )
        for ids, mask, sample in zip(*columns):
            for number in range(sample.max() + 1):
                text = tokenizer.decode(ids[sample == number].tolist())
                found += [(split, text)] * bool(text)
                assert bool(text) == bool(mask[sample == number].any())
    expected = sorted(f"问：{r['Question']}\n答：{r['Answer']}" for r in records)
    assert sorted(text for _, text in found) == expected
    held_out = sum(split == "val" for split, _ in found)
    assert 15 <= held_out <= 50 and f"kept {len(records)} as Question" in message


def test_rows_are_packed_and_loss_equals_unpacked(project, pretrained, monkeypatch):
    """Packing changes neither the loss nor what is learned: samples of a row do not see each other."""
    records = [{"Question": f"第{n}回有谁？", "Answer": "曹操、刘备、" * (n % 4) + "孙权。"} for n in range(40)]
    prepare(project, "packed", records)
    prepare(project, "unpacked", records, "--pack=False")
    assert len(rows_of(project, "packed")) < len(rows_of(project, "unpacked")) / 2
    assert not (project.folder / "data/unpacked/train_sample.bin").exists()
    model = origin.load(pretrained).model
    monkeypatch.chdir(project.folder)
    losses = []
    for dataset in ("packed", "unpacked"):
        data = open_data(dataset)
        total = count = 0
        for index in range(len(data.rows["train"])):
            batch = data.batch("train", 1, 64, index)
            with torch.no_grad():
                total += likelihood(model, batch).item() * batch.weight.item()
            count += batch.weight.item()
        losses.append(total / count)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


BAD = [
    (
        '{"Question": "甲？", "Reason": "乙"}',
        'has no known form: "Question" without an answer ("answer", "response", …); it has "Question", "Reason"',
    ),
    ('{"Question": "甲？", "Answer": ""}', 'has an empty "Answer"'),
    ('{"Question": "甲？", "Answer": null}', 'has an empty "Answer"'),
    ('{"Question": "甲？", "Answer": {"a": 1}}', 'has an object for "Answer" where a text was to be'),
    ('{"Question": "甲？", "Answer": "乙"', "is no JSON, or has a name twice in an object"),
    ('"甲"', "is a text, no JSON object"),
    ('{"some": "thing"}', 'has no known form; it has "some"'),
    ('{"messages": [{"role": "assistant", "content": "乙"}]}', "has no question before its answer"),
    ('{"messages": [{"role": "user", "content": "甲"}]}', "does not end with an answer"),
    ('{"messages": [{"role": "judge", "content": "甲"}]}', 'has an unknown role "judge"'),
    ('{"messages": []}', 'has an empty "messages"'),
    ('{"Question": "甲？", "Answer": "' + "乙" * 300 + '"}', "is longer than the block"),
]


def test_bad_records_are_counted_told_and_left_out(project):
    """File, line and reason; the good ones are kept, exit 0."""
    done = prepare(project, "mixed", [FORMS["question"]] * 3 + [line for line, _ in BAD])
    for number, (_, reason) in enumerate(BAD, 4):
        assert f"data/mixed.jsonl line {number} {reason}: left out" in done.stderr
    meta = json.loads((project.folder / "data/mixed/meta.json").read_text(encoding="utf-8"))
    assert meta["splits"]["train"]["samples"] + meta["splits"]["val"]["samples"] == 3
    assert sum(meta["left_out"].values()) == len(BAD)
    assert "data/mixed.jsonl: kept 3 as Question" in done.stdout
    assert 'data/mixed.jsonl: left out 2, each has an empty "Answer"' in done.stdout


@pytest.mark.parametrize("line, reason", BAD)
def test_strict_stops_at_the_first(project, line, reason):
    """And nothing is written."""
    project.write("data/strict.jsonl", json.dumps(FORMS["question"]) + "\n" + line + "\n")
    words = ["data/strict.jsonl", "--dataset=strict", "--block_size=64", "--strict"]
    message = project.fails("data/prepare_sft.py", *words)
    assert f"data/strict.jsonl line 2 {reason}" in message and not (project.folder / "data/strict").exists()


def test_long_samples_can_be_truncated(project):
    """--too_long=truncate keeps the beginning."""
    prepare(project, "cut", [{"Question": "甲？", "Answer": "乙丙" * 200}] * 2, "--too_long=truncate")
    assert rows_of(project, "cut", "_mask", dtype=np.uint8)[0, -1] == 1


def test_changes_are_counted_and_told(project):
    """By change, for each file and in meta.json."""
    greeting, thanks = {"from": "gpt", "value": "你好。"}, {"from": "human", "value": "谢谢"}
    record = {"conversations": [greeting, *FORMS["sharegpt"]["conversations"], thanks], "tools": "[]"}
    message = prepare(project, "mended", [record] * 3 + [FORMS["question"] | {"images": ["a.jpg"]}]).stdout
    assert (
        "data/mended.jsonl: kept 3 as ShareGPT, 1 as Question" in message and "left out" not in message.split("each")[0]
    )
    meta = json.loads((project.folder / "data/mended/meta.json").read_text(encoding="utf-8"))
    assert meta["changed"] == {
        "had its leading answer left out": 3,
        "had its trailing question left out": 3,
        'had its "images" left out': 1,
    }
    for change, count in meta["changed"].items():
        assert f"data/mended.jsonl: changed {count}, each {change}" in message
    text = load_tokenizer(project.folder / "data/sanguo_bpe").decode(rows_of(project, "mended").flatten().tolist())
    assert "你好" not in text and "谢谢" not in text and RENDERED["sharegpt"] in text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_objects_over_several_lines_are_read(project, encoding):
    """One after the other, as an editor formats them, in the encodings that Windows writes."""
    text = "\r\n".join(json.dumps(FORMS["openai"], ensure_ascii=False, indent=4) for _ in range(3))
    project.write("data/pretty.json", text.replace("\n", "\r\n"), encoding)
    words = ["data/pretty.json", "--dataset=pretty", "--block_size=64", "--strict"]
    assert "data/pretty.json: kept 3 as messages" in project.run("data/prepare_sft.py", *words).stdout


def test_records_can_be_chosen_by_their_fields(project):
    """The others are counted as not chosen, which is no fault, even to --strict."""
    kinds = [("who", "seen"), ("who", "unseen"), ("where", "seen"), ("courtesy", "seen")]
    records = [{**FORMS["question"], "Kind": kind, "Group": group} for kind, group in kinds for _ in range(2)]
    for where, kept in (("Kind=who", 4), ("kind=who,kind=where", 6), ("Kind=who,Group=seen", 2), ("Group=seen,", 6)):
        message = prepare(project, "chosen", [*records, FORMS["question"]], f"--where={where}", "--strict").stdout
        assert f"kept {kept} as Question" in message and "left out" not in message
        meta = json.loads((project.folder / "data/chosen/meta.json").read_text(encoding="utf-8"))
        assert sum(meta["not_chosen"].values()) == 9 - kept and not meta["left_out"]
    assert 'data/chosen.jsonl: not chosen 2, each has another "Group"' in message
    assert 'data/chosen.jsonl: not chosen 1, each has no "Group"' in message


def keep_end(project, record):
    """What is kept of the one record that is too long, as (text, the text that counts in the loss, changes)."""
    message = prepare(project, "end", [record], "--too_long=keep_end").stdout
    assert "kept 1 as" in message
    ids, mask = rows_of(project, "end")[0], rows_of(project, "end", "_mask", dtype=np.uint8)[0]
    tokenizer = load_tokenizer(project.folder / "data/sanguo_bpe")
    meta = json.loads((project.folder / "data/end/meta.json").read_text(encoding="utf-8"))
    return tokenizer.decode(ids.tolist()), tokenizer.decode(ids[mask == 1].tolist()), list(meta["changed"])


def test_the_end_of_a_long_conversation_can_be_kept(project):
    """Earlier exchanges go first, then what the system says: the last question keeps its answer."""
    system, last = (
        {"role": "system", "content": "子。"},
        [{"role": "user", "content": "末？"}, FORMS["openai"]["messages"][2]],
    )
    early = [{"role": "user", "content": "甲" * 40}, {"role": "assistant", "content": "丙。"}]
    change = ["had its earlier turns left out to fit the block"]
    assert keep_end(project, [system, *early, *early, *last]) == ("系统：子。\n问：末？\n答：乙。", "乙。", change)
    system["content"] = "子" * 100
    assert keep_end(project, [system, *early, *last]) == ("问：末？\n答：乙。", "乙。", change)
    text, learned, changes = keep_end(project, {"Question": "甲" * 200 + "谁？", "Answer": "乙。"})
    assert (
        text.endswith("甲谁？\n答：乙。")
        and learned == "乙。"
        and changes == ["had its front cut off to fit the block"]
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name one FILE.jsonl"),
        (["nowhere.jsonl", "--dataset=x"], "no file nowhere.jsonl"),
        (["bad.jsonl"], "--dataset=NAME"),
        (["bad.jsonl", "--dataset=x"], "no good record"),
        (["bad.jsonl", "--dataset=x", "--tokenizer_from=data/nowhere"], "data/prepare.py"),
        (["bytes.jsonl", "--dataset=x"], "no UTF-8 text"),
        (["bad.jsonl", "--dataset=x", "--too_long=fold"], "drop, truncate, keep_end"),
        (["bad.jsonl", "--dataset=x", "--where=Kind"], "--where=FIELD=VALUE"),
    ],
)
def test_mistakes_are_told(project, words, message):
    """In one line each."""
    project.write("bad.jsonl", "not json\n")
    project.write("bytes.jsonl", b"\xff\xfe\xfa" * 30)
    assert message in project.fails("data/prepare_sft.py", *words)
