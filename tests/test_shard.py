"""Weights that are shared out among processes: the same training as in one, in less memory each."""

import os
import subprocess
import sys

import pytest
import torch

from tools import ROOT, SMALL, TORCHRUN, events, state

BOOK = ["--dataset=sanguo_bpe", "--warmup_iters=2", "--gradient_accumulation_steps=2", "--lr_decay_iters=12"]
EACH = ["--eval_interval=6", "--eval_iters=1", "--log_interval=1", "--dtype=float32"]
TALK = ["--ckpt_dir=out/talk", "--dataset=swapped", "--batch_size=4", *BOOK[1:], *EACH]
LORA = ["--lora_rank=4", "--lora_dropout=0.1", "--merge_lora=True"]
KINDS = {
    "all": [*SMALL, *BOOK, *EACH, "--dropout=0.1", "--gradient_checkpointing=True"],
    "muon": [*SMALL, *BOOK, *EACH, "--optimizer=muon"],
    "lora": [*TALK, *LORA],
    "qlora": [*TALK, *LORA, "--quantize=nf4"],
}
GATE = (("all", True), ("qlora", False))
SIZES = """
import torch
from miniglm.optimizers import Optimizers
from miniglm.parallel import join
from model import GLMConfig, MiniGLM
group = join("cpu", "gloo", "fsdp")
model = group.place(MiniGLM(GLMConfig(64, 4096, 4, 4, 128)))
optimizers = Optimizers(model, "adamw", 0.1, (0.9, 0.95), 5, "float32")
scaler = torch.amp.GradScaler("cpu", enabled=False)
ids = torch.arange(64)[None]
model(ids, ids)[1].backward()
optimizers.step(1e-3, optimizers.unscaled_norm(scaler), 1.0, scaler)
states = [each for one in optimizers.all for values in one.state.values() for each in values.values()]
gradients = [parameter.grad for parameter in model.parameters()]
held = [getattr(each, "_local_tensor", each).untyped_storage() for each in [*model.parameters(), *gradients, *states]]
print("bytes", sum({each.data_ptr(): each.nbytes() for each in held}.values()), flush=True)
"""


def shared(first):
    """Where a run has two processes with half the weights each, the words before its own."""
    return [*(TORCHRUN if first else []), "train.py", *(["--shard=fsdp"] if first else [])]


@pytest.mark.parametrize(
    "kind, together_first",
    [
        pytest.param(kind, first, marks=pytest.mark.long if (kind, first) not in GATE else ())
        for kind in KINDS
        for first in (True, False)
    ],
)
def test_two_processes_with_half_the_weights_train_as_one(project, chat, adapted, kind, together_first):
    """The first half of a run by two, the second by one, or the other way: the losses of a run by one alone.

    What is left is the same, too: weights, adapter, the adapter merged, and the optimizer's states.
    """
    words, begun = KINDS[kind], "finetune" if kind.endswith("lora") else "scratch"
    whole, mixed = (project.folder / f"out/{name}-{kind}-{together_first}" for name in ("one", "mixed"))
    project.run("train.py", *words, f"--out_dir={whole}", f"--init_from={begun}", "--max_iters=12")
    project.run(*shared(together_first), *words, f"--out_dir={mixed}", f"--init_from={begun}", "--max_iters=6")
    project.run(*shared(not together_first), *words, f"--out_dir={mixed}", "--init_from=resume", "--max_iters=12")
    for split, number in (("train", 12), ("train_eval", 3), ("val", 3)):
        told, others = ({event["iter"]: event["loss"] for event in events(folder, split)} for folder in (whole, mixed))
        assert len(told) == number and others == pytest.approx(told, abs=1e-6)
    left, other = (dict(tensors(state(folder))) for folder in (whole, mixed))
    assert left.keys() == other.keys() and any("exp_avg" in place or "momentum" in place for place in left)
    for place, part in left.items():
        assert torch.allclose(part, other[place], atol=1e-4), place


def tensors(tree, place=""):
    """(place, tensor) of a nested state."""
    if isinstance(tree, torch.Tensor):
        yield place, tree.float()
    elif isinstance(tree, dict | list | tuple):
        for key, each in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from tensors(each, f"{place}/{key}")


def test_two_processes_keep_half_each():
    """Of weights, gradients and the optimizer's state."""
    held = []
    for launcher in ([], TORCHRUN):
        done = subprocess.run(
            [sys.executable, *launcher, "--no-python", sys.executable, "-c", SIZES] if launcher else
            [sys.executable, "-c", SIZES],
            cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        held.append([int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("bytes")])
    (alone,), halves = held
    assert alone > 4 * 4 * 4096 * 128 and len(halves) == 2 and max(halves) <= 0.6 * alone


@pytest.mark.parametrize(
    "words, message",
    [
        (["--objective=grpo", "--ckpt_dir=out/talk", "--init_from=finetune"], "each process needs all weights"),
        (["--dtype=float16"], "choose --dtype=bfloat16"),
    ],
)
def test_what_is_not_shared_is_told(project, pretrained, words, message):
    """In one line."""
    assert message in project.fails("train.py", *SMALL, *BOOK[:1], "--shard=fsdp", "--out_dir=out/never", *words)
