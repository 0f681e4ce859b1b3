"""Training: what it writes, resuming, refusing, fine-tuning, many processes."""

import json
import math
import shutil
from functools import partial

import pytest
import torch

import data_utils
from miniglm.optimizers import Muon
from model import GLMConfig, MiniGLM
from tools import SMALL, events

QUICK = [
    *SMALL,
    "--dataset=sanguo_bpe",
    "--max_iters=12",
    "--eval_interval=4",
    "--eval_iters=1",
    "--log_interval=1",
    "--warmup_iters=2",
]


def test_what_a_run_leaves(pretrained, project):
    """A checkpoint that opens without pickle, the config, the tokenizer, and a log whose loss falls."""
    checkpoint = torch.load(pretrained / "ckpt.pt", weights_only=True)
    assert checkpoint["iter_num"] == 60
    config = json.loads((pretrained / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["vocab_size"] == 4096 and config["chat"] is False
    assert (pretrained / "tokenizer.tiktoken").read_bytes() == (
        project.folder / "data/sanguo_bpe/tokenizer.tiktoken"
    ).read_bytes()
    train = events(pretrained)
    assert [event["iter"] for event in train] == list(range(60))
    assert train[0]["loss"] == pytest.approx(math.log(4096), abs=0.3) and train[-1]["loss"] < 7.2
    assert train[0]["lr"] < train[5]["lr"] > train[-1]["lr"]
    assert events(pretrained, "val")[-1]["loss"] < events(pretrained, "val")[0]["loss"]
    assert train[-1]["tokens"] == 60 * 8 * 128 and train[-1]["seconds"] > train[0]["seconds"] >= 0


def test_fine_tuning_learns_by_heart_and_marks_the_model_as_chat(chat):
    """The loss on a few answers goes to almost nothing."""
    assert json.loads((chat / "config.json").read_text(encoding="utf-8"))["chat"] is True
    assert events(chat, "train_eval")[-1]["loss"] < 0.1


@pytest.mark.parametrize("shape", [(48, 16), (16, 16), (16, 48)])
def test_muon_is_pytorchs_and_more_exact_in_float32(shape):
    """In bfloat16 to the bit, over several steps; in float32 as near to float64 as that is."""
    first, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(4)]

    def moved(kind, dtype=torch.float32, **more):
        matrix = torch.nn.Parameter(first.to(dtype, copy=True))
        optimizer = kind([matrix], weight_decay=0.1, ns_steps=5, **more)
        for step, gradient in enumerate(gradients, 1):
            optimizer.param_groups[0]["lr"] = step / 100
            matrix.grad = gradient.to(dtype)
            optimizer.step()
        return matrix.detach()

    torchs = moved(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    assert torch.equal(moved(partial(Muon, dtype=torch.bfloat16)), torchs)
    exact = moved(partial(Muon, dtype=torch.float64), torch.float64).float()
    torch.testing.assert_close(moved(partial(Muon, dtype=torch.float32)), exact, atol=1e-5, rtol=0)
    assert (torchs - exact).abs().max() > 1e-4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_frozen_stays_as_it_is(project, pretrained, optimizer):
    """To the bit, with the embedding, of which the head is a part; all above it learns, also once it is resumed."""
    out = project.folder / "out" / f"frozen-{optimizer}"
    words = [
        "train.py",
        *QUICK,
        f"--out_dir={out}",
        f"--ckpt_dir={pretrained}",
        "--freeze=1",
        f"--optimizer={optimizer}",
    ]
    told = project.run(*words, "--init_from=finetune", "--max_iters=8").stdout
    project.run(*words, "--init_from=resume", "--overwrite=True")
    before, after = (torch.load(path / "ckpt.pt", weights_only=True)["model"] for path in (pretrained, out))
    same = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name in before if ".h.0." in name or "wte" in name or "wpe" in name or "lm_head" in name}
    assert same == frozen
    trained = sum(before[name].numel() for name in before.keys() - frozen)
    assert f"{trained:,} of them are trained" in told


def test_auto_resumes_scratch_refuses_and_overwrite_replaces(project):
    """A finished model is never lost by repeating a command."""
    words = ["train.py", *QUICK, "--out_dir=out/again"]
    assert "scratch at step 0" in project.run(*words, "--init_from=auto").stdout
    assert "resume at step 12" in project.run(*words, "--init_from=auto").stdout
    assert "--overwrite=True" in project.fails(*words)
    assert "scratch at step 0" in project.run(*words, "--overwrite=True").stdout


def test_asked_to_stop_it_saves_and_says_how_to_go_on(project):
    """--max_minutes ends a run in good order, and resuming finishes it."""
    words = ["train.py", *QUICK, "--out_dir=out/stopped"]
    out = project.run(*words, "--max_minutes=0.0001").stdout
    assert "stopped at step 1" in out and "--init_from=resume" in out
    project.run(*words, "--init_from=resume")
    assert [event["iter"] for event in events(project.folder / "out/stopped")] == list(range(12))


def test_accumulation_and_processes_give_the_losses_of_one(project):
    """Two processes with one batch each are one process with two batches, to rounding; only one writes and prints."""
    words = [*QUICK, "--gradient_accumulation_steps=2", "--seed=5"]
    project.run("train.py", *words, "--out_dir=out/one")
    out = project.run(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "train.py",
        *words,
        "--out_dir=out/two",
    ).stdout
    assert out.count("parameters on cpu") == 1
    one, two = ([event["loss"] for event in events(project.folder / out_dir)] for out_dir in ("out/one", "out/two"))
    assert one == pytest.approx(two, abs=2e-4) and len(two) == 12


def test_fine_tuning_losses_weigh_each_token_the_same(project, chat):
    """Two small batches in one step are one large batch, though their answers differ in length."""
    words = [
        "--init_from=finetune",
        "--ckpt_dir=out/small",
        "--dataset=sanguo_sft",
        "--dtype=float32",
        "--max_iters=6",
        "--eval_interval=6",
        "--eval_iters=1",
        "--log_interval=1",
    ]
    project.run("train.py", *words, "--batch_size=8", "--out_dir=out/large")
    project.run("train.py", *words, "--batch_size=4", "--gradient_accumulation_steps=2", "--out_dir=out/halves")
    large, halves = (
        [event["loss"] for event in events(project.folder / out_dir)] for out_dir in ("out/large", "out/halves")
    )
    assert large == pytest.approx(halves, abs=1e-4) and len(large) == 6


def plain_losses(steps):
    """The losses of the same run written out: all logits at once, float32, AdamW parameter by parameter."""
    torch.manual_seed(1337)
    model = MiniGLM(GLMConfig(128, 4096, 2, 2, 64))
    matrices, vectors = ([p for p in model.parameters() if (p.dim() >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), foreach=False)
    data_utils.init_data_pretrain("sanguo_bpe")
    for step in range(steps):
        x, y, _ = data_utils.get_batch_pretrain("train", 8, 128, "cpu", step, 1337)
        loss = torch.nn.functional.cross_entropy(model(x)[0].flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def test_the_fast_path_gives_the_numbers_of_the_plain_one(project, monkeypatch):
    """50 steps of train.py follow the plain loop: to rounding in float32, within its noise in bfloat16."""
    words = ["train.py", *QUICK, "--max_iters=50", "--decay_lr=False", "--eval_interval=50"]
    project.run(*words, "--out_dir=out/f32")
    project.run(*words, "--out_dir=out/bf16", "--dtype=bfloat16")
    monkeypatch.chdir(project.folder)
    plain = list(plain_losses(50))
    f32, bf16 = ([event["loss"] for event in events(project.folder / out_dir)] for out_dir in ("out/f32", "out/bf16"))
    assert f32 == pytest.approx(plain, abs=2e-4)
    assert bf16 == pytest.approx(plain, abs=0.05)
    assert (
        torch.load(project.folder / "out/bf16/ckpt.pt", weights_only=True)["model"]["lm_head.weight"].dtype
        == torch.float32
    )


def test_the_reports_recipe_runs_and_says_what_suits_a_cpu(project):
    """config/train_config.py is the 45M model; one step of it works, and a CPU is told of the demo's config."""
    out = project.run(
        "train.py",
        "config/train_config.py",
        "--max_iters=1",
        "--batch_size=1",
        "--eval_iters=1",
        "--out_dir=out/report",
    ).stdout
    assert round(int(out.split(" parameters")[0].replace(",", "")) / 1e6) == 45
    assert "config/demo_pretrain.py suits a CPU" in out
    config = json.loads((project.folder / "out/report/config.json").read_text(encoding="utf-8"))
    sizes = {"block_size": 512, "vocab_size": 50304, "n_layer": 6, "n_head": 8, "n_embd": 512, "dropout": 0.0}
    assert config["model"] == vars(GLMConfig()) == vars(GLMConfig(**sizes, bias=True))
    shutil.rmtree(project.folder / "out/report")


def test_epochs_stand_in_place_of_steps(project, chat):
    """So many passes over a book, and over the rows of conversations; --fit_minutes takes no more."""
    tokens = len((project.folder / "data/sanguo_bpe/train.bin").read_bytes()) // 2
    steps = math.ceil(0.01 * ((tokens - 1) // 128 - 1) / 8)
    words = [*QUICK[:-5], "--epochs=0.01", "--eval_interval=1000", "--eval_iters=1", "--out_dir=out/epochs"]
    for more in ([], ["--fit_minutes=5", "--overwrite=True"]):
        project.run("train.py", *words, "--warmup_iters=2", *more)
        config = json.loads((project.folder / "out/epochs/config.json").read_text(encoding="utf-8"))
        assert config["iter_num"] == config["settings"]["max_iters"] == steps > 2
    rows = json.loads((project.folder / "data/talk/meta.json").read_text(encoding="utf-8"))["splits"]["train"]["rows"]
    words = ["--init_from=finetune", "--ckpt_dir=out/small", "--dataset=talk", "--out_dir=out/epochs", "--batch_size=2"]
    project.run("train.py", *words, "--epochs=2", "--eval_iters=1", "--overwrite=True", "--warmup_iters=1")
    config = json.loads((project.folder / "out/epochs/config.json").read_text(encoding="utf-8"))
    assert config["iter_num"] == 2 * rows / 2


def test_overfitting_is_told_and_fine_tuning_goes_on_from_the_best(project, chat):
    """A book of a few lines is soon known by heart; an adapter on its best checkpoint finds it again."""
    text = "\n".join((project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8").splitlines()[:12])
    project.write("data/little/input.txt", text)
    project.run("data/prepare.py", "little", "--tokenizer_from=data/sanguo_bpe", "--dataset=little")
    words = [*SMALL, "--dataset=little", "--out_dir=out/little", "--max_iters=150", "--eval_interval=15"]
    words += ["--eval_iters=2", "--optimizer=muon", "--learning_rate=1e-2", "--warmup_iters=2"]
    said = project.run("train.py", *words).stdout
    assert "overfitting: the validation loss was" in said and "fine-tuning will go on from best.pt" in said
    best = torch.load(project.folder / "out/little/best.pt", weights_only=True)
    assert 0 < best["iter_num"] < 150
    words = ["--init_from=finetune", "--ckpt_dir=out/little", "--dataset=talk", "--out_dir=out/after", "--max_iters=2"]
    words += ["--eval_iters=1", "--warmup_iters=1", "--batch_size=2"]
    said = project.run("train.py", *words, "--learning_rate=0", "--min_lr=0", "--weight_decay=0").stdout
    after = torch.load(project.folder / "out/after/ckpt.pt", weights_only=True)
    assert all(torch.equal(after["model"][name], weight) for name, weight in best["model"].items())
    assert "overfitting" not in said  # answers are learnt by heart on purpose
    project.run("train.py", *words, "--lora_rank=2", "--overwrite=True")
    project.run("train.py", *words, "--lora_rank=2", "--init_from=resume", "--max_iters=3")
    project.run("sample.py", "--out_dir=out/after", "--start=张飞字什么？", "--max_new_tokens=2")


def test_eval_only_tells_the_losses_and_changes_nothing(project, pretrained):
    """The checkpoint stays as it is."""
    before = (pretrained / "ckpt.pt").read_bytes()
    done = project.run(
        "train.py",
        "--out_dir=out/small",
        "--dataset=sanguo_bpe",
        "--init_from=resume",
        "--eval_only",
        "--optimizer=muon",
        "--eval_iters=1",
        "--max_iters=60",
        *SMALL,
    )
    assert "validation loss" in done.stdout + done.stderr
    assert (pretrained / "ckpt.pt").read_bytes() == before


@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset=nowhere"], "run python data/prepare.py"),
        (["--init_from=resume", "--out_dir=out/nowhere"], "no checkpoint"),
        (["--init_from=finetune"], "--ckpt_dir=DIR"),
        (["--n_embd=65"], "divisor"),
        (["--device=tpu"], "no device tpu"),
        (["--batch_size=0"], "at least 1"),
        (["--learning_rate=-1"], "at least 0"),
        (["--dropout=1.0"], "out of range"),
        (["--block_size=100000"], "too few for a block"),
        (["--learnin_rate=1"], "did you mean --learning_rate?"),
        (["--gradient_accumulation_steps=2.5"], "whole number"),
        (["--init_from=finetune", "--ckpt_dir=out/small", "--dataset=sanguo"], "another tokenizer"),
        (["--init_from=finetune", "--ckpt_dir=out/small", "--freeze=3"], "freeze fewer blocks"),
        (["--freeze=1"], "a model that is there"),
    ],
)
def test_mistakes_are_told_in_one_line(project, pretrained, words, message):
    """Each with what to do, before anything is written."""
    assert message in project.fails("train.py", *QUICK, "--out_dir=out/mistake", *words)
    assert not (project.folder / "out/mistake/ckpt.pt").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "shape"])
def test_damaged_checkpoints_are_told(project, pretrained, damage):
    """Cut off, no checkpoint at all, a pickle of something else, weights of another shape."""
    content = (pretrained / "ckpt.pt").read_bytes()
    folder = project.folder / "out" / f"damaged-{damage}"
    shutil.copytree(pretrained, folder, dirs_exist_ok=True)
    if damage == "cut":
        (folder / "ckpt.pt").write_bytes(content[: len(content) // 2])
    elif damage == "text":
        (folder / "ckpt.pt").write_bytes("却说曹操".encode())
    elif damage == "foreign":
        torch.save({"something": [1, 2, 3]}, folder / "ckpt.pt")
    else:
        checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
        checkpoint["model_args"]["n_layer"] = 5
        torch.save(checkpoint, folder / "ckpt.pt")
    for script in ("sample.py", "evaluations.py"):
        message = project.fails(script, f"--out_dir=out/damaged-{damage}")
        assert "no checkpoint of MiniGLM" in message or "do not fit" in message
    message = project.fails(
        "train.py", *QUICK, "--init_from=finetune", f"--ckpt_dir=out/damaged-{damage}", "--out_dir=out/mistake"
    )
    assert "no checkpoint of MiniGLM" in message or "do not fit" in message
