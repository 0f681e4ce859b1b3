"""Runs that are killed, stopped, or fall over: what they leave, and that they end as if nothing had happened."""

import contextlib
import os
import random
import re
import shutil
import subprocess

import pytest

from miniglm import origin
from miniglm.checkpoint import Checkpoint
from miniglm.optimizers import Schedule
from miniglm.parallel import Group
from tools import SMALL, TORCHRUN, assert_same_run, events, kill, said, start, state, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills with signals that Windows does not have")

BOOK = ["--dataset=sanguo_bpe", "--max_iters=30", "--eval_interval=3", "--eval_iters=1", "--log_interval=1"]
TALK = ["--dataset=talk", "--init_from=auto", "--ckpt_dir=out/small", *BOOK[1:]]
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
    return {} if name == "two-processes" else {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}


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


@pytest.mark.parametrize(
    "name", ["talk-adamw-bf16", "two-processes", pytest.param("muon-bf16-accumulation", marks=pytest.mark.long)]
)
def test_a_killed_run_ends_as_one_left_alone(project, chat, name):
    """Killed after its first checkpoint and started again by the same command: the same losses, weights and states."""
    project.run(*command(name, f"out/whole-{name}"), process=True, **threads(name))
    killed = project.folder / f"out/killed-{name}"
    process = start(project, command(name, killed), **threads(name))
    wait_for(killed / "ckpt.pt", process)
    kill(process, killed)
    assert state(killed)["iter_num"] < 30
    project.run(*command(name, killed), process=True, **threads(name))
    assert_same_run(project.folder / f"out/whole-{name}", killed)
    if "--keep_last=2" in VARIANTS[name]:
        assert sorted(path.name for path in killed.glob("ckpt-*")) == ["ckpt-00000027.pt", "ckpt-00000030.pt"]


@pytest.mark.long
def test_a_hundred_kills(project, chat):
    """SIGKILL at a hundred random points, while starting, training or saving; none changes a loss."""
    drawn, runs = random.Random(0), 0
    for name in VARIANTS:
        untouched, killed = (project.folder / f"out/{kind}-hundred-{name}" for kind in ("whole", "killed"))
        project.run(*command(name, untouched), process=True, **threads(name))
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
            assert_same_run(untouched, killed)
            runs += 1
        print(f"\n{name}: {kills} kills, {runs} runs so far")


def test_a_run_that_fits_its_time_is_planned_once(project, pretrained):
    """--fit_minutes: the first steps tell how many fit; stopped and gone on with, it ends where it was planned to."""
    words = ["train.py", *SMALL, *BOOK[:1], "--eval_interval=1000", "--eval_iters=1", "--log_interval=1"]
    words += ["--warmup_iters=5", "--fit_minutes=0.1"]
    first = project.run(*words, "--out_dir=out/fitted", "--max_minutes=0.06").stdout
    planned, step = re.search(r"(\d+) steps of ([\d.]+) s fit into 0.1 minutes", first).groups()
    planned, timed = int(planned), 21  # steps that were timed: what was left of the 6 s after them is planned
    assert 0 < (planned - timed) * float(step) < 6.1
    stopped = state(project.folder / "out/fitted")
    assert timed < stopped["iter_num"] < planned == stopped["planned"]
    again = project.run(*words, "--out_dir=out/fitted", "--init_from=resume").stdout
    assert "fit into" not in again and "not what it was" not in again
    assert state(project.folder / "out/fitted")["iter_num"] == planned
    log = events(project.folder / "out/fitted")
    assert [event["iter"] for event in log] == list(range(planned))
    rate = Schedule(1e-3, 1e-4, warmup_iters=5, decay_iters=planned)  # the decay ends when the time does
    assert log[-2]["lr"] > log[-1]["lr"] == pytest.approx(rate.at(planned - 1))
    beyond = project.fails(*words, "--out_dir=out/fitted", "--init_from=resume", f"--replay={planned}")
    assert f"is none of the {planned} steps" in beyond
    whole = ["--init_from=resume", f"--max_iters={planned + 3}", "--fit_minutes=0"]
    project.run(*words, "--out_dir=out/fitted", *whole)  # left away, --max_iters counts again
    assert state(project.folder / "out/fitted")["iter_num"] == planned + 3
    project.run(*words, "--out_dir=out/few", "--max_iters=24")
    assert state(project.folder / "out/few")["iter_num"] == 24  # no more than these, however many fit
    assert "--fit_minutes lets the rate fall" in project.fails(*words, "--lr_decay_iters=9", "--out_dir=out/never")


def test_what_auto_means_is_decided_once_for_a_run(monkeypatch):
    """The time of a product may differ tomorrow, and in another process; the format of a run may not."""
    group = Group(0, 1, "cpu")
    for fast, begun in (("bfloat16", "float32"), ("float32", "bfloat16")):
        monkeypatch.setattr(origin, "pick_dtype", lambda dtype, device, fast=fast: fast if dtype == "auto" else dtype)
        checkpoint = Checkpoint({}, {}, {"dtype": begun, "device": "cpu"}, False, "")
        assert origin.decided_dtype("auto", None, group) == fast
        assert origin.decided_dtype("auto", checkpoint, group) == begun
        assert origin.decided_dtype("float16", checkpoint, group) == "float16"
        elsewhere = Checkpoint({}, {}, {"dtype": begun, "device": "cuda"}, False, "")
        assert origin.decided_dtype("auto", elsewhere, group) == fast
