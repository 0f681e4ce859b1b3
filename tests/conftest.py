"""The project with the real book, and small models: each is made once in a test run, and every worker has a copy."""

import json
import os
import random
import shutil

import pytest
import torch
from filelock import FileLock

from tools import HOTELS, LORA, MODERN, SMALL, SWAPPED, TALK, Project, lines, talk

SLOWEST = ["gradio", "demo", "smollm2", "faults", "resume", "fuzz", "bench", "families", "safety", "train", "hf", "llm"]


def pytest_collection_modifyitems(items):
    """One worker runs all of a file: the longest come first, so that both have something to do until the end."""
    places = {f"test_{name}": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(SLOWEST)))


@pytest.fixture(autouse=True)
def same_numbers():
    """Tests draw the same numbers whatever ran before."""
    random.seed(0)
    torch.manual_seed(0)


class Maker:
    """A worker's project, and the one that all workers share, in which what is copied into theirs is made once."""

    def __init__(self, shared, folder):
        self.shared, self.project = shared, Project(folder)

    def __call__(self, make, *paths):
        """Have `paths` made by make(the shared project), by the first worker; give this one's copy of the last."""
        original, name = self.shared / "miniglm", paths[0].replace("/", "-")
        with FileLock(self.shared / "miniglm.lock"):
            original = Project(original)
        with FileLock(self.shared / f"{name}.lock"):
            if not (self.shared / f"{name}.made").exists():
                make(original)
                (self.shared / f"{name}.made").touch()
        for path in paths:
            source, copy = original.folder / path, self.project.folder / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copyfile(source, copy)
        return self.project.folder / paths[-1]


@pytest.fixture(scope="session")
def maker(tmp_path_factory):
    """See Maker."""
    own = tmp_path_factory.getbasetemp()
    return Maker(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own, own / "project")


@pytest.fixture(scope="session")
def project(maker):
    """This worker's project: data/sanguo, data/sanguo_bpe, data/sanguo_sft are made from the real book."""

    def make(project):
        project.run("data/fetch_data.py")
        project.run("data/prepare.py", "sanguo")
        project.run("data/prepare.py", "sanguo", "--tokenizer=bpe")
        project.run("data/build_sft.py", "sanguo")
        project.run(
            "data/prepare_sft.py", "data/sanguo_sft/questions.jsonl", "--val_file=data/sanguo_sft/val.jsonl",
            "--dataset=sanguo_sft", "--block_size=128",
        )  # fmt: skip

    maker(make, "data/sanguo", "data/sanguo_bpe", "data/sanguo_sft")
    return maker.project


@pytest.fixture(scope="session")
def pretrained(project, maker):
    """out/small: a model of 0.4M parameters that has read the book for a few seconds."""

    def make(project):
        project.run(
            "train.py", *SMALL, "--dataset=sanguo_bpe", "--out_dir=out/small", "--max_iters=60", "--optimizer=muon",
            "--eval_interval=30", "--eval_iters=4", "--learning_rate=5e-3", "--warmup_iters=5", "--log_interval=1",
        )  # fmt: skip

    return maker(make, "out/small")


@pytest.fixture(scope="session")
def chat(pretrained, maker):
    """out/talk: the small model fine-tuned until it knows the questions of TALK by heart."""

    def make(project):
        project.write("data/talk.jsonl", lines(TALK) * 8)
        project.run("data/prepare_sft.py", "data/talk.jsonl", "--dataset=talk", "--block_size=128")
        project.run(
            "train.py", "--init_from=finetune", "--ckpt_dir=out/small", "--dataset=talk", "--out_dir=out/talk",
            "--batch_size=4", "--max_iters=120", "--eval_interval=60", "--eval_iters=1", "--optimizer=muon",
            "--learning_rate=5e-3", "--dtype=float32", "--warmup_iters=5", "--min_lr=1e-4",
        )  # fmt: skip

    return maker(make, "data/talk.jsonl", "data/talk", "out/talk")


@pytest.fixture(scope="session")
def modern(chat, maker):
    """out/modern: a model of the demo's kind that knows the questions of TALK by heart."""

    def make(project):
        project.run(
            "train.py", *SMALL, *MODERN, "--n_kv_head=1", "--dataset=talk", "--out_dir=out/modern", "--batch_size=4",
            "--max_iters=200", "--eval_interval=200", "--eval_iters=1", "--optimizer=muon", "--learning_rate=1e-2",
            "--warmup_iters=5", "--min_lr=1e-4",
        )  # fmt: skip

    return maker(make, "out/modern")


@pytest.fixture(scope="session")
def adapted(chat, maker):
    """out/lora: an adapter of rank 4 for out/talk that has learnt other answers to its questions."""

    def make(project):
        project.write("data/swapped.jsonl", lines(SWAPPED) * 8)
        project.run("data/prepare_sft.py", "data/swapped.jsonl", "--dataset=swapped", "--block_size=128")
        project.run(*LORA, "--out_dir=out/lora", "--max_iters=60", "--eval_interval=60")

    return maker(make, "data/swapped", "out/lora")


@pytest.fixture(scope="session")
def exported(chat, maker):
    """made/talk-hf: out/talk as a Hugging Face folder."""

    def make(project):
        project.run("export.py", "--out_dir=out/talk", "--to=hf", "--save_path=made/talk-hf")

    return maker(make, "made/talk-hf")


@pytest.fixture(scope="session")
def hotel(project, maker):
    """The project with out/hotel: a small model that knows by heart how to search for hotels and answer."""

    def make(project):
        records = [json.dumps(talk(each), ensure_ascii=False) + "\n" for each in HOTELS * 8]
        project.write("data/hotel.jsonl", "".join(records))
        project.run("data/prepare_sft.py", "data/hotel.jsonl", "--dataset=hotel", "--block_size=256")
        project.run(
            "train.py", "--dataset=hotel", "--out_dir=out/hotel", "--n_layer=2", "--n_head=2", "--n_embd=64",
            "--block_size=256", "--batch_size=4", "--max_iters=120", "--eval_interval=120", "--eval_iters=1",
            "--optimizer=muon", "--learning_rate=1e-2", "--warmup_iters=5", "--dtype=float32",
        )  # fmt: skip

    maker(make, "data/hotel", "out/hotel")
    return project
