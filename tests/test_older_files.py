"""Files that earlier versions wrote: a checkpoint, an adapter, a data set and a log are opened as they are.

They are written here by the rules of the forms that were, not by today's code.
"""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tools import SMALL, events

LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
SHAPE = {"block_size": 128, "vocab_size": 4096, "n_layer": 2, "n_head": 2, "n_embd": 64, "dropout": 0.0, "bias": True}


def old_settings(**changes):
    """The settings that a run kept before LoRA's targets had roles, and before much else."""
    settings = {"out_dir": "out/older", "dataset": "older", "init_from": "scratch", "ckpt_dir": "", "block_size": 128}
    settings |= {"lora_targets": "c_attn,c_proj,c_fc", "lora_rank": 0, "max_iters": 20, "optimizer": "adamw"}
    return settings | {key: SHAPE[key] for key in ("n_layer", "n_head", "n_embd", "bias")} | changes


def old_weights(seed=0):
    """{name: tensor} of a small model under the names that checkpoints have always had."""
    rng = torch.Generator().manual_seed(seed)
    width = SHAPE["n_embd"]
    in_block = {"ln_1": (width,), "attn.c_attn": (3 * width, width), "attn.c_proj": (width, width), "ln_2": (width,)}
    in_block |= {"mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
    sizes = {"wte.weight": (4096, width), "wpe.weight": (128, width)}
    for layer in range(2):
        for name, size in in_block.items():
            sizes |= {f"h.{layer}.{name}.weight": size, f"h.{layer}.{name}.bias": size[:1]}
    sizes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    weights = {f"transformer.{name}": 0.02 * torch.randn(size, generator=rng) for name, size in sizes.items()}
    for name in weights:
        if ".ln_" in name and name.endswith(".weight"):
            weights[name] += 1.0
    return weights | {"lm_head.weight": weights["transformer.wte.weight"]}


def old_fingerprint(folder):
    """The digest of a tokenizer: its tokens and ranks, a line each, in the ranks' order."""
    import base64

    pairs = [line.split() for line in (folder / "tokenizer.tiktoken").read_bytes().splitlines()]
    return hashlib.sha256(b"\n".join(base64.b64decode(token) + b" " + rank for token, rank in pairs)).hexdigest()


def old_digest(weights):
    """The digest of a base model that an adapter tells: names and bytes of its weights, biases of zero left out."""
    seen = hashlib.sha256()
    for name in sorted(weights):
        if name != "lm_head.weight" and not (name.endswith(".bias") and not weights[name].any()):
            seen.update(name.encode())
            seen.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def write_run(folder, tokenizer, weights, settings, **more):
    """An out_dir as it was: ckpt.pt, config.json, the tokenizer, and a log up to step 10."""
    folder.mkdir(parents=True)
    shutil.copy(tokenizer / "tokenizer.tiktoken", folder)
    checkpoint = {"model": weights, "model_args": SHAPE, "settings": settings, "chat": False}
    checkpoint |= {"optimizers": more.pop("optimizers"), "scaler": {}, "iter_num": 10, "tokens": 10 * 8 * 128}
    checkpoint |= {"seconds": 5.0, "best_val_loss": 8.0, "tokenizer": old_fingerprint(tokenizer), **more}
    torch.save(checkpoint, folder / "ckpt.pt")
    config = {"model": SHAPE, "chat": False, "tokenizer": "bpe", "iter_num": 10, "settings": settings}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    event = {"split": "train", "loss": 8.3, "lr": 1e-3, "tokens": 1024, "seconds": 0.5}
    lines = [json.dumps({"iter": step, **event}) for step in range(12)] + [
        json.dumps({"iter": 0, **event, "split": "val"})
    ]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def adamw_state(shapes):
    """The state of AdamW as it stood in a checkpoint: matrices first, then vectors, numbered through."""
    ordered = [shape for shape in shapes if len(shape) == 2] + [shape for shape in shapes if len(shape) < 2]
    matrices = sum(len(shape) == 2 for shape in shapes)
    group = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "amsgrad": False, "maximize": False, "foreach": None}
    group |= {"capturable": False, "differentiable": False, "fused": True, "decoupled_weight_decay": True}
    groups = [
        {**group, "weight_decay": decay, "params": list(params)}
        for decay, params in ((0.1, range(matrices)), (0.0, range(matrices, len(ordered))))
    ]
    state = {
        number: {"step": torch.tensor(10.0), "exp_avg": torch.zeros(shape), "exp_avg_sq": torch.full(shape, 1e-6)}
        for number, shape in enumerate(ordered)
    }
    return {"state": state, "param_groups": groups}


@pytest.fixture(scope="module")
def older(project):
    """out/older, trained on data/older for 10 steps, and out/older-lora, an adapter for it."""
    bpe, data = project.folder / "data/sanguo_bpe", project.folder / "data/older"
    shutil.copytree(bpe, data)
    meta = json.loads((data / "meta.json").read_text(encoding="utf-8"))
    meta = {key: value for key, value in meta.items() if key not in ("kind", "dtype")}
    (data / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    weights = old_weights()
    shapes = [tuple(weight.shape) for name, weight in weights.items() if name != "lm_head.weight"]
    write_run(project.folder / "out/older", bpe, weights, old_settings(), optimizers=[adamw_state(shapes)])
    parts, rng = {}, torch.Generator().manual_seed(1)
    for layer in range(2):
        for name in LAYERS:
            rows, columns = weights[f"transformer.h.{layer}.{name}.weight"].shape
            place = f"transformer.h.{layer}.{name}"
            parts[f"{place}.lora_A.weight"] = 0.1 * torch.randn(4, columns, generator=rng)
            parts[f"{place}.lora_B.weight"] = 0.1 * torch.randn(rows, 4, generator=rng)
    base = old_digest(weights)
    adapter = {"rank": 4, "alpha": 16.0, "dropout": 0.0, "targets": ("c_attn", "c_proj", "c_fc"), "base": base}
    settings = old_settings(out_dir="out/older-lora", ckpt_dir="out/older", init_from="finetune", lora_rank=4)
    folder = project.folder / "out/older-lora"
    states = [adamw_state([tuple(part.shape) for part in parts.values()])]
    write_run(folder, bpe, {}, settings, optimizers=states, lora=adapter | {"weights": parts})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16.0, "lora_dropout": 0.0}
    config |= {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    named = {f"base_model.model.{name}": part for name, part in parts.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt", "base": base})
    return project


def test_a_model_is_used(older):
    """It goes on from a text, is measured, drawn and exported."""
    out = older.run("sample.py", "--out_dir=out/older", "--start=却说", "--max_new_tokens=5", "--temperature=0").stdout
    assert out.startswith("却说")
    older.run("evaluations.py", "--out_dir=out/older", "--dataset=older", "--save_path=older.json")
    assert json.loads((older.folder / "older.json").read_text(encoding="utf-8"))["loss"] == pytest.approx(8.3, abs=0.3)
    older.run("visualize.py", "--out_dir=out/older")
    older.run("export.py", "--out_dir=out/older", "--to=hf", "--save_path=made/older-hf")


def test_an_adapter_is_used(older):
    """Beside its base, by its own directory and by its checkpoint it says one thing, the base alone another."""
    words = ["sample.py", "--start=却说", "--max_new_tokens=8", "--temperature=0"]
    ways = (["--out_dir=out/older", "--lora=out/older-lora"], ["--out_dir=out/older-lora"])
    ways = [*ways, ["--out_dir=out/older", "--lora=out/older-lora/ckpt.pt"], ["--out_dir=out/older"]]
    said = [older.run(*words, *way).stdout for way in ways]
    assert said[0] == said[1] == said[2] != said[3]


@pytest.mark.parametrize("kind", ["older", "older-lora"])
def test_a_run_goes_on(older, kind):
    """It is resumed with the optimizer's state and without a word of other settings; its log goes on from step 10."""
    folder = older.folder / f"out/{kind}-resumed"
    shutil.copytree(older.folder / "out" / kind, folder)
    words = [*SMALL, f"--out_dir={folder}", "--dataset=older", "--init_from=resume", "--max_iters=20"]
    if kind == "older-lora":
        words += ["--lora_rank=4", "--lora_targets=c_attn,c_proj,c_fc"]
    out = older.run("train.py", *words, "--log_interval=1", "--eval_interval=20", "--eval_iters=1").stdout
    assert "resume at step 10 of 20" in out and "lora_targets" not in out
    assert [event["iter"] for event in events(folder)] == list(range(20))
    assert torch.load(folder / "ckpt.pt", weights_only=True)["tokens"] == 20 * 8 * 128
