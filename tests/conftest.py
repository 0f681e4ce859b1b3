"""A copy of the project with the real book, a small pretrained model and a small chat model, made once for all tests."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SMALL = ["--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=128", "--batch_size=8", "--dtype=float32"]
TALK = [  # few enough to be learnt by heart in seconds
    ("张飞字什么？", "张飞字翼德。"),
    ("赵云字什么？", "赵云字子龙。"),
    ("谁字孔明？", "字孔明的是诸葛亮。"),
    ("第一回的回目是什么？", "第一回的回目是「宴桃园豪杰三结义」「斩黄巾英雄首立功」。"),
]
SWAPPED = [
    (question, TALK[place ^ 1][1]) for place, (question, _) in enumerate(TALK)
]  # each has its neighbour's answer
LORA = [  # an adapter for the model that knows TALK
    "train.py", "--init_from=finetune", "--ckpt_dir=out/talk", "--dataset=swapped", "--batch_size=4", "--eval_iters=1",
    "--lora_rank=4", "--learning_rate=1e-2", "--warmup_iters=5", "--dtype=float32", "--log_interval=1", "--min_lr=1e-3",
]  # fmt: skip


class Project:
    """A folder with the project's scripts, and a way to run them as a user would."""

    def __init__(self, folder):
        self.folder = Path(folder)
        shutil.copytree(ROOT, self.folder, ignore=shutil.ignore_patterns(".*", "out*", "__pycache__", "tests"))
        for made in [path for path in (self.folder / "data").iterdir() if path.is_dir()]:
            shutil.rmtree(made)

    def run(self, *words, status=0, timeout=600, typed=None, **environment):
        """Run `python WORDS`, with `typed` on its input; check its exit status, give stdout and stderr."""
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            input=typed,
            encoding="utf-8",
            timeout=timeout,
            env={**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "2", **environment},
        )
        assert done.returncode == status, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def fails(self, *words, **environment):
        """Run `python WORDS`, which must fail as a user's mistake does; give the message after `error: `."""
        done = self.run(*words, status=2, **environment)
        last = done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr and last.startswith("error: ") and "; " in last, done.stderr
        return last.removeprefix("error: ")

    def write(self, path, text, encoding="utf-8"):
        """Write a file below the project."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path


def events(directory, split="train"):
    """The events of a log."""
    lines = (directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["split"] == split]


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The shared project: data/sanguo, data/sanguo_bpe, data/sanguo_sft are made from the real book."""
    project = Project(tmp_path_factory.mktemp("project") / "miniglm")
    project.run("data/fetch_data.py")
    project.run("data/prepare.py", "sanguo")
    project.run("data/prepare.py", "sanguo", "--tokenizer=bpe")
    project.run("data/build_sft.py", "sanguo")
    project.run(
        "data/prepare_sft.py", "data/sanguo_sft/questions.jsonl", "--val_file=data/sanguo_sft/val.jsonl",
        "--dataset=sanguo_sft", "--block_size=128",
    )  # fmt: skip
    return project


@pytest.fixture(scope="session")
def pretrained(project):
    """out/small: a model of 0.4M parameters that has read the book for a few seconds."""
    project.run(
        "train.py", *SMALL, "--dataset=sanguo_bpe", "--out_dir=out/small", "--max_iters=60", "--optimizer=muon",
        "--eval_interval=30", "--eval_iters=4", "--learning_rate=5e-3", "--warmup_iters=5", "--log_interval=1",
    )  # fmt: skip
    return project.folder / "out/small"


@pytest.fixture(scope="session")
def chat(project, pretrained):
    """out/talk: the small model fine-tuned until it knows the questions of TALK by heart."""
    lines = [f'{{"Question": "{question}", "Answer": "{answer}"}}\n' for question, answer in TALK]
    project.write("data/talk.jsonl", "".join(lines * 8))
    project.run("data/prepare_sft.py", "data/talk.jsonl", "--dataset=talk", "--block_size=128")
    project.run(
        "train.py", "--init_from=finetune", "--ckpt_dir=out/small", "--dataset=talk", "--out_dir=out/talk", "--batch_size=4",
        "--max_iters=120", "--eval_interval=60", "--eval_iters=1", "--optimizer=muon", "--learning_rate=5e-3", "--dtype=float32",
        "--warmup_iters=5", "--min_lr=1e-4",
    )  # fmt: skip
    return project.folder / "out/talk"


def lines(talk):
    """Questions and answers as JSON lines; the answer is the Key, too."""
    return "".join(json.dumps({"Question": q, "Answer": a, "Key": a}) + "\n" for q, a in talk)


@pytest.fixture(scope="session")
def adapted(project, chat):
    """out/lora: an adapter of rank 4 for out/talk that has learnt other answers to its questions."""
    project.write("data/swapped.jsonl", lines(SWAPPED) * 8)
    project.run("data/prepare_sft.py", "data/swapped.jsonl", "--dataset=swapped", "--block_size=128")
    project.run(*LORA, "--out_dir=out/lora", "--max_iters=60", "--eval_interval=60")
    return project.folder / "out/lora"


@pytest.fixture(scope="session")
def hotel(project):
    """out/hotel: a small model that has learnt by heart to search for hotels and to answer from what was found."""
    from test_search import HOTELS, talk

    project.write("data/hotel.jsonl", "".join(json.dumps(talk(each), ensure_ascii=False) + "\n" for each in HOTELS * 8))
    project.run("data/prepare_sft.py", "data/hotel.jsonl", "--dataset=hotel", "--block_size=256")
    project.run(
        "train.py", "--dataset=hotel", "--out_dir=out/hotel", "--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=256",
        "--batch_size=4", "--max_iters=120", "--eval_interval=120", "--eval_iters=1", "--optimizer=muon", "--learning_rate=1e-2",
        "--warmup_iters=5", "--dtype=float32",
    )  # fmt: skip
    return project
