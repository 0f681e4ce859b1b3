"""The whole way from nothing to a chat model, on a tiny model: finished stages are kept, interrupted ones resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tools import Project

TINY = """
n_layer, n_head, n_embd, batch_size, max_iters, eval_interval, eval_iters = 1, 1, 32, 2, 40, 10, 1
epochs, fit_minutes = 0.0, 0.0
"""
FEWER_CHAPTERS = """
from pathlib import Path
book = Path("data/sanguo/input.txt")
book.write_text(book.read_text(encoding="utf-8").partition("第三十一回")[0], encoding="utf-8")
"""
STAGES = ["data/sanguo", "data/sanguo_bpe", "data/sanguo_sft", "out/demo-pretrain", "out/demo-chat"]


def change(path, pattern, new):
    """Replace in a file what a regular expression finds."""
    text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, (path, pattern)
    path.write_text(text, encoding="utf-8")


def small_project(folder, *configs):
    """A project whose configs make tiny models; it asks few questions: they know nothing and answer at length."""
    project = Project(folder)
    for config in configs:
        with open(project.folder / f"config/{config}.py", "a", encoding="utf-8") as file:
            file.write(TINY)
    for setting in ("eval_questions", "small_talk", "lookups", "follow_ups"):
        change(project.folder / "data/build_sft.py", rf"^({setting}\b.*?= )\d+", r"\g<1>5")
    natural = project.folder / "tests/natural.jsonl"
    natural.write_text("".join(natural.read_text(encoding="utf-8").splitlines(keepends=True)[:5]), encoding="utf-8")
    return project


@pytest.mark.skipif(os.name == "nt", reason="kills a process group")
def test_the_demo_survives_being_killed(tmp_path):
    """Killed while pretraining and started again, it ends with all that README promises; a third time does nothing."""
    project = small_project(tmp_path / "clone", "demo_pretrain", "demo_chat")
    with open(project.folder / "data/fetch_data.py", "a", encoding="utf-8") as file:
        file.write(FEWER_CHAPTERS)
    demo = subprocess.Popen(
        [sys.executable, "demo.py"],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (project.folder / "out/demo-pretrain/ckpt.pt").exists():
        assert demo.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(demo.pid, signal.SIGKILL)
    demo.wait()
    assert (project.folder / "data/sanguo_bpe/done.json").exists()
    assert not (project.folder / "out/demo-pretrain/done.json").exists()

    out = project.run("demo.py", process=True).stdout
    assert "data/sanguo: finished before" in out and "resume at step" in out and "finetune at step 0" in out
    for stage in STAGES:
        assert json.loads((project.folder / stage / "done.json").read_text(encoding="utf-8"))["seconds"] >= 0
    for file in ("out/demo-pretrain/loss.png", "out/demo-chat/loss.png", "out/demo-chat/metrics.png"):
        assert (project.folder / file).stat().st_size > 5000
    metrics = json.loads((project.folder / "out/demo-chat/metrics.json").read_text(encoding="utf-8"))
    assert metrics["groups"].keys() >= {"seen", "reworded", "new_wording", "typed", "unseen", "absent", "natural"}
    assert (project.folder / "out/demo-chat/book.jsonl").exists()
    steps = [
        json.loads(line)["iter"] for line in (project.folder / "out/demo-pretrain/log.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)

    assert project.run("demo.py", process=True).stdout.count("finished before") == len(STAGES)
    assert "choose one of chat, report, reviews" in project.fails("demo.py", "nothing")
    with open(project.folder / "config/demo_chat.py", "a", encoding="utf-8") as file:
        file.write("max_iters = 41\n")
    assert "delete out/demo-chat to make it anew" in project.fails("demo.py")


@pytest.mark.long
def test_the_reports_experiment_is_compared(tmp_path):
    """All the way at a toy size: two lengths of fine-tuning, one page."""
    project = small_project(tmp_path / "clone", "demo_pretrain")
    with open(project.folder / "data/fetch_data.py", "a", encoding="utf-8") as file:
        file.write(FEWER_CHAPTERS)
    change(project.folder / "demo.py", "eval_questions=100", "eval_questions=10")
    change(project.folder / "demo.py", r"--max_iters=\{steps\}", "--max_iters={steps // 100}")
    assert "open out/report/report.html" in project.run("demo.py", "report", process=True).stdout
    page = (project.folder / "out/report/report.html").read_text(encoding="utf-8")
    assert "out/report-1000" in page and page.count('<tr class="answer">') == 20 and "<td>max_iters</td>" in page


@pytest.mark.long
def test_the_desk_is_built_and_played(tmp_path):
    """All the way at a toy size: the table, the talks, the tokenizer, the model, its figures."""
    project = small_project(tmp_path / "clone", "hotel")
    change(project.folder / "data/build_hotel.py", r"^(talks\b.*?= )\d+", r"\g<1>300")
    change(project.folder / "data/build_hotel.py", r"^(eval_talks\b.*?= )\d+", r"\g<1>3")
    project.run("demo.py", "hotel", process=True)
    metrics = json.loads((project.folder / "out/hotel/metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() >= {"call_exact", "slot_f1", "answer_values", "bleu_4", "all", "groups"}


@pytest.mark.long
def test_paths_may_hold_spaces_and_chinese(tmp_path):
    """The clone's and the models': all stages end, and are known to be finished when it is run again."""
    project = small_project(tmp_path / "我的 clone", "demo_pretrain", "demo_chat")
    with open(project.folder / "data/fetch_data.py", "a", encoding="utf-8") as file:
        file.write(FEWER_CHAPTERS)
    words = ["demo.py", "--out_dir=out/我 的"]
    assert "sample_gradio.py --out_dir='out/我 的'/demo-chat" in project.run(*words, process=True).stdout
    assert (project.folder / "out/我 的/demo-chat/metrics.json").exists()
    assert project.run(*words, process=True).stdout.count("finished before") == len(STAGES)


@pytest.mark.long
def test_adapters_are_compared(tmp_path):
    """All the way at a toy size: full fine-tuning, three ranks and 4 bits, then one table of cost and accuracy."""
    project = small_project(tmp_path / "clone", "demo_pretrain", "demo_chat", "lora")
    out = project.run("demo.py", "lora", timeout=1200, process=True).stdout
    table = [line for line in out.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in table[0].split("|")[2:-1]] == [
        f"out/{name}" for name in ("demo-chat", "lora-4", "lora-8", "lora-32", "qlora-8")
    ]
    assert all("–" not in line for line in table) and len(table) == 12
    assert (project.folder / "out/lora-report/report.html").stat().st_size > 50_000


@pytest.mark.long
def test_reviews_are_classified(tmp_path):
    """All the way at a toy size: fetched for real, learnt, measured beside the bag of words."""
    project = small_project(tmp_path / "clone", "reviews_pretrain", "reviews")
    project.run("demo.py", "reviews", timeout=1200, process=True)
    metrics = json.loads((project.folder / "out/reviews/metrics.json").read_text(encoding="utf-8"))
    assert metrics["all"]["n"] == metrics["bag_of_words"]["n"] > 1500 and metrics["bag_of_words"]["accuracy"] > 0.8
