"""Talking to a model on the command line."""

import json
import shutil

import pytest

from miniglm.chat import recent_turns
from miniglm.origin import load
from tools import TALK


@pytest.mark.parametrize("question, answer", TALK)
def test_a_chat_model_answers_what_it_was_taught(project, chat, question, answer):
    """The answer, greedy, as it was taught, and then it stops."""
    out = project.run("sample.py", "--out_dir=out/talk", f"--start={question}", "--temperature=0").stdout
    assert out.splitlines() == [question, answer]


def test_a_novel_model_goes_on_from_the_text(project, pretrained):
    """The text itself comes first; the same seed gives the same samples, another one others."""
    words = ["sample.py", "--out_dir=out/small", "--start=却说曹操", "--max_new_tokens=30"]
    first = project.run(*words, "--num_samples=2").stdout
    assert first.startswith("却说曹操") and first.count("却说曹操") >= 2 and "\ufffd" not in first
    assert (
        project.run(*words, "--num_samples=2").stdout
        == first
        != project.run(*words, "--num_samples=2", "--seed=2").stdout
    )


def test_many_samples_are_all_different(project, pretrained):
    """Also those that do not fit into one batch; and the seed repeats them."""
    words = ["sample.py", "--out_dir=out/small", "--start=却说", "--num_samples=70", "--max_new_tokens=20"]
    for name in ("many", "again"):
        project.run(*words, f"--save_path={name}.jsonl", "--temperature=1")
    rows, again = (
        [json.loads(line)["completion"] for line in (project.folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("many.jsonl", "again.jsonl")
    )
    assert len(set(rows)) == 70 and rows == again


def test_prompts_from_a_file_are_answered_in_one_file(project, chat):
    """One prompt a line in, one record a line out."""
    project.write("ask.txt", "\n".join(question for question, _ in TALK) + "\n")
    project.run("sample.py", "--out_dir=out/talk", "--start=FILE:ask.txt", "--save_path=told.jsonl", "--temperature=0")
    rows = [json.loads(line) for line in (project.folder / "told.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["prompt"], row["completion"]) for row in rows] == TALK
    assert all(row["tokens"] > 3 and row["seconds"] > 0 for row in rows)
    project.run("sample.py", "--out_dir=out/talk", "--start=FILE:ask.txt", "--save_path=told.txt", "--temperature=0")
    assert all(answer in (project.folder / "told.txt").read_text(encoding="utf-8") for _, answer in TALK)


ASKED = {  # a file with the questions of TALK
    "questions alone": "\n".join(json.dumps({"question": question}) for question, _ in TALK),
    "with their answers": "\n".join(json.dumps({"Question": question, "Answer": "乙"}) for question, _ in TALK),
    "a list of prompts": json.dumps([{"prompt": question} for question, _ in TALK], indent=1),
    "a list of texts": json.dumps([question for question, _ in TALK]),
    "conversations": "\n".join(
        json.dumps({"conversations": [{"from": "human", "value": question}]}, indent=2) for question, _ in TALK
    ),
    "lines of Windows": "\r\n".join(question for question, _ in TALK),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("form", ASKED)
def test_a_record_s_question_is_asked(project, chat, form, encoding):
    """And not its JSON, in whatever form prepare_sft.py reads."""
    project.write("asked.txt", ASKED[form], encoding)
    words = ["--start=FILE:asked.txt", "--save_path=asked.jsonl", "--temperature=0"]
    project.run("sample.py", "--out_dir=out/talk", *words)
    rows = [json.loads(line) for line in (project.folder / "asked.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["prompt"], row["completion"]) for row in rows] == TALK


def test_a_conversation_in_a_file_is_asked_with_its_turns(project, chat):
    """Its last question, after all that was said before; to a model that is no chat model it is a beginning."""
    (first, answer), (second, _) = TALK[:2]
    project.write("talk.json", json.dumps({"question": second, "history": [[first, answer]], "answer": "乙"}))
    for model in ("talk", "small"):
        words = [f"--out_dir=out/{model}", "--start=FILE:talk.json", "--max_new_tokens=5"]
        assert project.run("sample.py", *words).stdout.startswith(f"{first}\n{answer}\n{second}")


def test_lines_that_only_look_like_records_are_prompts(project, pretrained):
    """A line that begins with a brace and is no JSON is what the model goes on from."""
    project.write("plain.txt", "{却说曹操\n[且说]玄德\n 次日\n")
    words = ["--start=FILE:plain.txt", "--max_new_tokens=3", "--save_path=plain.jsonl"]
    project.run("sample.py", "--out_dir=out/small", *words)
    rows = (project.folder / "plain.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["{却说曹操", "[且说]玄德", " 次日"]
    project.write("texts.jsonl", '{"text": "却说"}\n')
    assert project.run("sample.py", "--out_dir=out/small", "--start=FILE:texts.jsonl").stdout.startswith("却说")


def test_beam_search_answers_too(project, chat):
    """The likeliest answer is the one that was taught."""
    question, answer = TALK[3]
    words = ["sample.py", "--out_dir=out/talk", f"--start={question}", "--num_beams=3"]
    assert project.run(*words).stdout.splitlines() == [question, answer]
    project.run(*words, "--num_samples=3", "--save_path=best.jsonl")
    rows = [json.loads(line) for line in (project.folder / "best.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["completion"] == answer and len({row["completion"] for row in rows}) == 3


def test_a_talk_of_several_turns(project, chat):
    """--chat answers line by line until an empty one; a question that is too long is told, and the talk goes on."""
    (first, answer), (second, other) = TALK[:2]
    words = ["sample.py", "--out_dir=out/talk", "--chat", "--temperature=0"]
    out = project.run(*words, typed=f"{first}\n{'曹操' * 200}\n{second}\n\n").stdout
    assert f"答：{answer}\n" in out and "ask a shorter one" in out and f"答：{other}\n" in out
    assert f"答：{answer}\n" in project.run(*words, "--turns=2", typed=first).stdout, (
        "the end of the input ends it, too"
    )


def test_earlier_turns_are_shown_as_far_as_there_is_room(chat):
    """The last question always; before it whole exchanges, the newest first, and only answered ones."""
    loaded = load(chat)

    def said(role, content):
        return {"role": role, "content": content}

    talk = [said("user", "甲？"), said("assistant", "乙。"), said("user", "没有答的？"), said("user", "丙？")]
    talk += [said("assistant", "丁。"), said("user", "戊？")]
    assert [turn["content"] for turn in recent_turns(loaded, talk, 0)] == ["戊？"]
    assert [turn["content"] for turn in recent_turns(loaded, talk, 1)] == ["丙？", "丁。", "戊？"]
    assert [turn["content"] for turn in recent_turns(loaded, talk, 9)] == [
        "甲？",
        "乙。",
        "丙？",
        "丁。",
        "戊？",
    ]
    talk[1]["content"] = "长" * 200
    assert [turn["content"] for turn in recent_turns(loaded, talk, 9)] == ["丙？", "丁。", "戊？"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_narrow_weights_know_it_too(project, chat, dtype):
    """What was learnt by heart survives the rounding."""
    words = ["sample.py", "--out_dir=out/talk", f"--start={TALK[3][0]}", "--temperature=0", f"--dtype={dtype}"]
    assert project.run(*words).stdout.splitlines() == list(TALK[3])


def test_generation_goes_on_beyond_the_block(project, pretrained):
    """More tokens than the block of 128 holds."""
    project.run("sample.py", "--out_dir=out/small", "--start=却说", "--max_new_tokens=300", "--save_path=long.jsonl")
    assert json.loads((project.folder / "long.jsonl").read_text(encoding="utf-8"))["tokens"] == 300


def test_out_dir_alone_can_be_moved(project, chat):
    """Nothing outside it is needed."""
    moved = project.folder / "elsewhere/model"
    shutil.copytree(chat, moved)
    out = project.run("sample.py", "--out_dir=elsewhere/model", "--start=张飞字什么？", "--temperature=0").stdout
    assert "张飞字翼德。" in out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--out_dir=out/nowhere"], "train first"),
        (["--start=" + "曹操" * 200], "ask a shorter one"),
        (["--start=FILE:nowhere.txt"], "no file nowhere.txt"),
        (["--start=FILE:nothing.txt"], "nothing.txt is empty"),
        (["--start=FILE:unknown.jsonl"], 'unknown.jsonl line 2 has no known form; it has "some"'),
        (["--start=   "], "the question is empty"),
        (["--top_p=0"], "--top_p=0.0 is out of range"),
        (["--temperature=-1"], "at least 0"),
        (["--max_new_tokens=0"], "at least 1"),
        (["--num_beams=2", "--num_samples=3"], "--num_beams as large"),
        (["--chat", "--start=张飞"], "asks for its questions itself"),
        (["--chat", "--out_dir=out/small"], "has not learnt to talk"),
        (["--dtype=int4"], "--dtype=int4"),
        (["--topk=5"], "did you mean --top_k?"),
    ],
)
def test_mistakes_are_told(project, chat, words, message):
    """In one line each."""
    project.write("nothing.txt", "\n")
    project.write("unknown.jsonl", '{"question": "甲？"}\n{"some": "thing"}\n')
    assert message in project.fails("sample.py", "--out_dir=out/talk", *words)
