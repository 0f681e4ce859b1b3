"""Runs that are killed, stopped, or fall over: what they leave, and that they end as if nothing had happened."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
import torch
from conftest import SMALL, events

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills with signals that Windows does not have")

BOOK = ["--dataset=sanguo_bpe", "--max_iters=30", "--eval_interval=3", "--eval_iters=1", "--log_interval=1"]
TALK = ["--dataset=talk", "--init_from=auto", "--ckpt_dir=out/small", *BOOK[1:]]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
VARIANTS = {
    "adamw": [*BOOK, "--dropout=0.1"],
    "muon-bf16-accumulation": [
        *BOOK,
        "--optimizer=muon",
        "--dtype=bfloat16",
        "--gradient_accumulation_steps=2",
        "--dropout=0.1",
    ],
    "adamw-f16-scaler": [*BOOK, "--dtype=float16"],
    "talk-muon": [*TALK, "--optimizer=muon", "--dropout=0.1", "--gradient_accumulation_steps=2"],
    "talk-adamw-bf16": [*TALK, "--dtype=bfloat16", "--keep_last=2"],
    "two-processes": [*BOOK, "--gradient_accumulation_steps=2", "--dropout=0.1"],
}


def threads(name):
    """What a variant's processes need in their environment, so that two of them do not fight for the cores."""
    return {"OMP_NUM_THREADS": "1" if name == "two-processes" else "2"}


def command(name, out_dir):
    """The words of one variant's run into out_dir, which goes on where there is something to go on from."""
    torchrun = TORCHRUN if name == "two-processes" else []
    return [
        *torchrun,
        "train.py",
        *SMALL,
        "--warmup_iters=5",
        *VARIANTS[name],
        f"--out_dir={out_dir}",
        "--init_from=auto",
    ]


def start(project, words, **environment):
    """Begin `python WORDS`; what it says on stderr can be read by `said`."""
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=os.environ | environment,
    )
    process.errors = errors
    return process


def said(process):
    """What a process of `start` has said on stderr until now."""
    process.errors.seek(0)
    return process.errors.read()


def wait_until(condition, process, seconds=300):
    """Wait until condition() holds of a process that goes on running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, said(process)
        time.sleep(0.01)


def wait_for(path, process):
    """Wait until a file is there."""
    wait_until(path.exists, process)


def kill(process, out_dir):
    """SIGKILL for a run, and for the processes that torchrun has started in sessions of their own."""
    subprocess.run(["pkill", "-9", "-f", f"out_dir={out_dir} "])
    process.wait()


def state(directory, file="ckpt.pt"):
    """What a checkpoint holds, without the time it took and the settings of the call."""
    checkpoint = torch.load(directory / file, weights_only=True)
    return {key: value for key, value in checkpoint.items() if key not in ("seconds", "settings")}


def same(one, two):
    """Whether two nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def assert_same_run(whole, other):
    """Two runs ended with the same losses, weights, optimizer states and best checkpoint."""
    for split in ("train", "train_eval", "val"):
        losses = [[(event["iter"], event["loss"]) for event in events(run, split)] for run in (whole, other)]
        assert losses[0] == losses[1] and losses[0]
    assert same(state(whole), state(other))
    assert same(state(whole, "best.pt"), state(other, "best.pt"))
    assert not list(other.glob("*.partial"))


@pytest.mark.parametrize("name", ["muon-bf16-accumulation", "talk-adamw-bf16", "two-processes"])
def test_a_killed_run_ends_as_one_left_alone(project, chat, name):
    """Killed after its first checkpoint and started again by the same command: the same losses, weights and states."""
    project.run(*command(name, f"out/whole-{name}"), **threads(name))
    killed = project.folder / f"out/killed-{name}"
    process = start(project, command(name, killed), **threads(name))
    wait_for(killed / "ckpt.pt", process)
    kill(process, killed)
    assert state(killed)["iter_num"] < 30
    project.run(*command(name, killed), **threads(name))
    assert_same_run(project.folder / f"out/whole-{name}", killed)
    if "--keep_last=2" in VARIANTS[name]:
        assert sorted(path.name for path in killed.glob("ckpt-*")) == ["ckpt-00000027.pt", "ckpt-00000030.pt"]


@pytest.mark.long
def test_a_hundred_kills(project, chat):
    """SIGKILL at a hundred random points, while starting, training or saving; none changes a loss."""
    drawn, runs = random.Random(0), 0
    for name in VARIANTS:
        whole, killed = (project.folder / f"out/{kind}-hundred-{name}" for kind in ("whole", "killed"))
        project.run(*command(name, whole), **threads(name))
        kills = 0
        while kills < 17:
            shutil.rmtree(killed, ignore_errors=True)
            process = start(project, command(name, killed), **threads(name))
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(drawn.uniform(2, 8) if kills < 17 else 600)
                    break
                kill(process, killed)
                kills += 1
                process = start(project, command(name, killed), **threads(name))
            assert process.returncode == 0, said(process)
            assert_same_run(whole, killed)
            runs += 1
        print(f"\n{name}: {kills} kills, {runs} runs so far")
