"""Things that go wrong from outside: a full disk, a failing one, signals, numbers, a process that dies, two at once."""

import builtins
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from miniglm.origin import open_model
from tools import (
    SMALL,
    TALK_OF_TODAY,
    TORCHRUN,
    assert_same_run,
    events,
    kill,
    said,
    start,
    state,
    wait_for,
    wait_until,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and mounts that Windows does not have")

QUICK = [*SMALL, "--dataset=sanguo_bpe", "--eval_interval=4", "--eval_iters=1", "--log_interval=1", "--warmup_iters=2"]
TWELVE = ["train.py", *QUICK, "--max_iters=12"]


@pytest.fixture
def small_disk(project):
    """A function that mounts a file system of so many bytes on a folder of the project, or makes it larger."""
    mounted = []

    def mount(folder, size):
        path = project.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        again = ["-o", f"remount,size={size}"] if path in mounted else ["-o", f"size={size}"]
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", str(path)], capture_output=True)
        if done.returncode:
            pytest.skip("only root can mount a small file system")
        mounted.append(path)
        return path

    yield mount
    for path in set(mounted):
        subprocess.run(["umount", str(path)], check=True)
        shutil.rmtree(path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(project, chat, small_disk):
    """The second checkpoint finds no room: one line, the first stays, and with more room the run ends as any other."""
    project.run(*TWELVE, "--out_dir=out/roomy")
    size = (project.folder / "out/roomy/ckpt.pt").stat().st_size
    full = small_disk("out/full", size * 3 // 2)
    message = project.fails(*TWELVE, "--out_dir=out/full")
    assert (
        message == "cannot write out/full/ckpt.pt: No space left on device; free some space or choose another place"
        or ("best.pt" in message and "No space left" in message)
    )
    assert state(full)["iter_num"] == 4 and not list(full.glob("*.partial"))
    small_disk("out/full", size * 4)
    project.run(*TWELVE, "--out_dir=out/full", "--init_from=resume")
    assert_same_run(project.folder / "out/roomy", full)


@pytest.mark.parametrize(
    "words, written",
    [
        (["data/fetch_data.py", "full", "--from=data/sanguo/input.txt"], "data/full/input.txt"),
        (["data/prepare.py", "sanguo", "--dataset=full"], "data/full/train.bin"),
        (["data/prepare_sft.py", "data/sanguo_sft/questions.jsonl", "--dataset=full"], "data/full/train.bin"),
        (["data/build_sft.py", "today", "--dataset=full"], "data/full/questions.jsonl"),
        (["export.py", "--out_dir=out/talk", "--save_path=data/full/model.gguf"], "data/full/model.gguf"),
        (["visualize.py", "--out_dir=data/full"], "data/full/loss.png"),
    ],
)
def test_a_full_disk_never_costs_what_was_there(project, chat, small_disk, words, written):
    """Whatever is written, it takes the old one's place whole or not at all."""
    full = small_disk("data/full", 200_000)
    project.write("data/today/input.txt", TALK_OF_TODAY)
    shutil.copy(project.folder / "out/talk/log.jsonl", full)
    (project.folder / written).write_text("旧的", encoding="utf-8")
    (full / "other").write_bytes(bytes(os.statvfs(full).f_bavail * os.statvfs(full).f_bsize - 12_000))
    assert "No space left" in project.fails(*words)
    assert (project.folder / written).read_text(encoding="utf-8") == "旧的"
    assert not list(full.glob("*.partial"))


def test_a_failing_disk_is_told_and_the_last_checkpoint_stays(project, chat, monkeypatch):
    """EIO on the way to the disk is no success."""
    real, count = os.fsync, []

    def fsync(fd):
        count.append(fd)
        if len(count) > 8:
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    message = project.fails(*TWELVE, "--out_dir=out/failing")
    assert "Input/output error" in message and "cannot write out/failing/" in message
    assert state(project.folder / "out/failing")["iter_num"] in (4, 8)


SLOW = """
import os, runpy, sys, time
real = os.fsync
def fsync(fd):
    time.sleep(1)
    real(fd)
os.fsync = fsync
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_killed_while_a_checkpoint_is_written(project, chat):
    """The second one is half there: the first stays, and the run ends as any other."""
    torn = project.folder / "out/torn"
    words = [*TWELVE, f"--out_dir={torn}", "--init_from=auto"]
    process = start(project, ["-c", SLOW, *words])  # a disk that takes a second for each file
    wait_for(torn / "config.json", process)
    wait_until(lambda: list(torn.glob("*.pt.partial")), process)
    kill(process, torn)
    assert list(torn.glob("*.pt.partial")) and state(torn)["iter_num"] == 4
    project.run(*words)
    project.run(*TWELVE, "--out_dir=out/untorn")
    assert_same_run(project.folder / "out/untorn", torn)


class Short(io.FileIO):
    """A file that takes half of each write."""

    def write(self, data):
        """How much of it was written."""
        return super().write(bytes(data)[: max(1, len(data) // 2)])


def test_short_writes_are_gone_on_with(project, chat, monkeypatch):
    """A system that takes half of each write at a time gets all of it in the end."""
    project.run(*TWELVE, "--out_dir=out/long-writes")
    real, count = open, []

    def short(path, mode="r", *words, **more):
        count.append(path)
        return io.BufferedWriter(Short(path, "wb")) if mode == "wb" else real(path, mode, *words, **more)

    monkeypatch.setattr(builtins, "open", short)
    project.run(*TWELVE, "--out_dir=out/short-writes")
    monkeypatch.undo()
    assert count
    assert_same_run(project.folder / "out/long-writes", project.folder / "out/short-writes")


def test_a_second_process_on_the_same_directory_is_refused(project, chat):
    """One trains, prepares or runs the demo; another one is told, and the first is not disturbed."""
    first = start(project, [*TWELVE, "--max_iters=4000", "--out_dir=out/shared"])
    wait_for(project.folder / "out/shared/ckpt.pt", first)
    message = project.fails(*TWELVE, "--out_dir=out/shared", "--init_from=resume")
    assert message.startswith("another process is writing to out/shared; wait")
    assert project.run("sample.py", "--out_dir=out/shared", "--start=却说", "--max_new_tokens=4").stdout  # may read
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    project.run(*TWELVE, "--out_dir=out/shared", "--init_from=resume", "--max_iters=5000", "--max_minutes=0.001")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_ends_well(project, chat, number):
    """Ctrl-C, or SIGTERM from whoever lends the machine: the step is finished and saved, and going on is exact."""
    name = f"out/asked-{number.name}"
    process = start(project, [*TWELVE, "--max_iters=4000", "--eval_interval=4000", f"--out_dir={name}"])
    log = project.folder / name / "log.jsonl"
    wait_until(lambda: log.exists() and log.read_bytes().count(b'"split": "train"') >= 5, process)
    process.send_signal(number)
    assert process.wait(60) == 0
    step = state(project.folder / name)["iter_num"]
    assert step >= 5 and events(project.folder / name)[-1]["iter"] == step - 1
    assert "Ctrl-C again stops at once" in said(process)


def test_a_second_ctrl_c_stops_at_once(project, chat):
    """Status 130 and no traceback, whatever the loop is at."""
    process = start(
        project, [*TWELVE, "--max_iters=4000", "--eval_interval=2", "--eval_iters=4000", "--out_dir=out/twice"]
    )
    wait_until(lambda: "0/4000" in said(process), process)  # and in the midst of a long estimate now
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C again stops at once" in said(process), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in said(process) and said(process).strip().endswith("stopped")


@pytest.fixture
def broken_steps(monkeypatch):
    """A function that says which steps from now on, the first is 1, have a gradient that is no number."""
    real = torch.nn.utils.get_total_norm

    def choose(steps):
        count = []

        def total_norm(gradients):
            count.append(1)
            if len(count) in steps:
                gradients[0].fill_(math.nan)
            return real(gradients)

        monkeypatch.setattr(torch.nn.utils, "get_total_norm", total_norm)

    return choose


def test_a_step_gone_wrong_is_skipped_and_counted(project, chat, broken_steps):
    """The weights stay what they were; the step is named, and its batch can be looked at."""
    broken_steps({6, 7})
    out = project.run(*TWELVE, "--out_dir=out/skipping")
    assert "step 5 skipped" in out.stdout + out.stderr and "2 steps were skipped: 5, 6" in out.stdout
    log = events(project.folder / "out/skipping")
    assert [event["iter"] for event in log] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11] and log[-1]["skipped"] == 2
    before = (
        (project.folder / "out/skipping/ckpt.pt").read_bytes(),
        (project.folder / "out/skipping/log.jsonl").read_bytes(),
    )
    words = [*TWELVE, "--out_dir=out/skipping", "--init_from=resume", "--replay=5"]
    broken_steps(())
    out = project.run(*words).stdout
    rows = [line for line in out.splitlines() if line.startswith("batch 5 row ")]
    assert len(rows) == 8 and "loss" in rows[0] and "gradient not finite in: none" in out
    broken_steps({1})
    out = project.run(*words).stdout
    assert "gradient norm nan" in out and out.strip().endswith("gradient not finite in: transformer.wte.weight")
    after = (
        (project.folder / "out/skipping/ckpt.pt").read_bytes(),
        (project.folder / "out/skipping/log.jsonl").read_bytes(),
    )
    assert before == after


def test_a_batch_that_breaks_the_numbers_is_found(project, chat):
    """Rows without one token to learn divide nothing by nothing: the step is left out, and replaying it shows why."""
    shutil.copytree(project.folder / "data/talk", project.folder / "data/hollow")
    mask = bytearray((project.folder / "data/hollow/train_mask.bin").read_bytes())
    mask[: len(mask) // 2] = bytes(len(mask) // 2)
    project.write("data/hollow/train_mask.bin", bytes(mask))
    words = [
        *TWELVE,
        "--dataset=hollow",
        "--init_from=auto",
        "--ckpt_dir=out/small",
        "--batch_size=1",
        "--out_dir=out/hollow",
    ]
    project.run(*words)
    skipped = state(project.folder / "out/hollow")["skipped"]
    assert skipped
    out = project.run(*words, f"--replay={skipped[0]}").stdout
    assert "loss nan" in out and "over 0 tokens" in out and "transformer.wte.weight" in out


def test_many_steps_gone_wrong_go_back_at_half_the_rate(project, chat, broken_steps):
    """Eight in a row: the last checkpoint again, half the learning rate, and the run ends."""
    words = [*TWELVE, "--max_iters=24", "--decay_lr=False", "--out_dir=out/back"]
    broken_steps(range(11, 19))
    out = project.run(*words)
    assert "gone back to the checkpoint of step 8, with 0.5 of the learning rate" in out.stdout + out.stderr
    log = events(project.folder / "out/back")
    assert [event["iter"] for event in log] == list(range(24))
    assert {event["lr"] for event in log if event["iter"] >= 8} == {5e-4}
    assert state(project.folder / "out/back")["rate"] == 0.5


def test_numbers_that_stay_wrong_end_the_run(project, chat, broken_steps):
    """Nothing to go back to, or going back does not help: one line, and the whole checkpoint stays."""
    broken_steps(range(1, 99))
    message = project.fails(*TWELVE, "--out_dir=out/never")
    assert "not finite for 8 steps in a row" in message and "lower --learning_rate" in message
    broken_steps(range(6, 99))
    message = project.fails(*TWELVE, "--max_iters=24", "--out_dir=out/wrong")
    assert "even at 0.125 of the rate" in message
    checkpoint = state(project.folder / "out/wrong")
    assert checkpoint["iter_num"] == 4 and all(weight.isfinite().all() for weight in checkpoint["model"].values())


def test_resuming_with_other_settings_says_which(project, chat):
    """Batch size, data, weight decay: told, and those of now are used."""
    words = [*TWELVE, "--max_iters=8", "--out_dir=out/others"]
    project.run(*words)
    again = [*words, "--init_from=resume", "--max_iters=12"]
    assert "max_iters 12 (was 8); the losses will not be" in project.run(*again).stdout
    out = project.run(*again, "--max_iters=14", "--batch_size=4", "--weight_decay=0.5", "--n_layer=3").stdout
    assert "not what it was: batch_size 4 (was 8), max_iters 14 (was 12), weight_decay 0.5 (was 0.1);" in out
    checkpoint = torch.load(project.folder / "out/others/ckpt.pt", weights_only=True)
    assert checkpoint["optimizers"][0]["param_groups"][0]["weight_decay"] == 0.5
    assert checkpoint["settings"]["n_layer"] == 2 and checkpoint["settings"]["processes"] == 1
    assert "not what it was" not in project.run(*again, "--max_iters=14", "--batch_size=4", "--weight_decay=0.5").stdout


def test_best_and_numbered_checkpoints_can_be_used(project, chat):
    """Their files stand for the directory; a run that replaces another keeps that one's newest aside."""
    words = [*TWELVE, "--keep_last=2", "--out_dir=out/several"]
    project.run(*words)
    folder = project.folder / "out/several"
    assert sorted(path.name for path in folder.glob("*.pt")) == [
        "best.pt",
        "ckpt-00000008.pt",
        "ckpt-00000012.pt",
        "ckpt.pt",
    ]
    lowest = min(events(folder, "val")[1:], key=lambda event: event["loss"])
    assert state(folder, "best.pt")["iter_num"] == lowest["iter"]
    assert project.run("sample.py", "--out_dir=out/several/ckpt-00000008.pt", "--start=却说").stdout.startswith("却说")
    assert [open_model(place)[0].state.step for place in (folder / "ckpt-00000008.pt", folder)] == [8, 12]
    project.run(*TWELVE, "--init_from=finetune", "--ckpt_dir=out/several/best.pt", "--out_dir=out/from-best")
    project.write("out/several/ckpt-backup.pt", "mine")  # no checkpoint of the run's, and never touched
    out = project.run(*words, "--overwrite=True", "--max_iters=4").stdout
    assert "replaced.pt" in out and state(folder, "replaced.pt")["iter_num"] == 12
    assert sorted(path.name for path in folder.glob("*.pt")) == [
        "best.pt",
        "ckpt-00000004.pt",
        "ckpt-backup.pt",
        "ckpt.pt",
        "replaced.pt",
    ]


def workers(out_dir):
    """The process ids of the ranks that train into out_dir, in the order of their ranks."""
    found = subprocess.run(
        ["pgrep", "-f", f"^[^ ]*python[^ ]* -u train.py .*out_dir={out_dir}"], capture_output=True, text=True
    )
    return [int(number) for number in found.stdout.split()]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_others(project, chat, rank):
    """Within 30 seconds, and torchrun names the one that was killed; the others say one line each."""
    out = project.folder / f"out/dies-{rank}"
    words = [*TWELVE, "--max_iters=4000", "--gradient_accumulation_steps=2", f"--out_dir={out}"]
    run = start(project, [*TORCHRUN, *words])
    wait_for(out / "ckpt.pt", run)
    os.kill(workers(out)[rank], signal.SIGKILL)
    assert run.wait(30) != 0
    assert not workers(out)
    assert f"rank      : {rank} (local_rank: {rank})\n  exitcode  : -9" in said(run)
    assert "error: another process of this run has died" in said(run)


@pytest.mark.long
def test_torchruns_restart_resumes_by_itself(project, chat):
    """--max_restarts=1: a rank is killed, both begin again where the checkpoint is, and end as if nothing had been."""
    words = [*TWELVE, "--max_iters=40", "--gradient_accumulation_steps=2"]
    project.run(*TORCHRUN, *words, "--out_dir=out/left-alone")
    run = start(
        project,
        [*TORCHRUN, "--max_restarts=1", *words, f"--out_dir={project.folder}/out/restarted"],
    )
    wait_for(project.folder / "out/restarted/ckpt.pt", run)
    os.kill(workers(project.folder / "out/restarted")[1], signal.SIGKILL)
    assert run.wait(240) == 0, said(run)
    assert_same_run(project.folder / "out/left-alone", project.folder / "out/restarted")


def test_the_demo_is_not_run_twice_at_once(project, chat):
    """The second make demo is told of the first."""
    code = "import time; from miniglm.files import claim; claim('out'); print(1, flush=True); time.sleep(60)"
    claimed = subprocess.Popen([sys.executable, "-c", code], cwd=project.folder, stdout=subprocess.PIPE)
    assert claimed.stdout.readline() == b"1\n"
    assert project.fails("demo.py").startswith("another process is writing to out;")
    claimed.kill()
    claimed.wait()
    assert json.loads((project.folder / "data/sanguo_bpe/meta.json").read_text(encoding="utf-8"))
