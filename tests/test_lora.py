"""Adapters: trained alone, kept in peft's form, folded in; and a base in four bits. peft itself is the judge."""

import json
import shutil

import peft
import pytest
import torch
import transformers

from miniglm import origin
from miniglm.chat import complete, prompt_ids
from miniglm.checkpoint import build_model, load_checkpoint
from miniglm.decoding import Sampling
from miniglm.errors import UserError
from miniglm.lora import Adapter, NF4Linear, attach, digest, digest_of_all, merged_state, read_adapter, stands_on
from miniglm.machine import checkpoint_gradients
from miniglm.origin import open_model
from model import GLMConfig, MiniGLM
from tools import LORA, SWAPPED, events, fill_adapters, lines

QUESTION, ANSWER = SWAPPED[0]


def answer(out_dir, lora=""):
    """What the model says to the first question of TALK."""
    loaded = origin.load(out_dir, lora=str(lora))
    return complete(loaded, [prompt_ids(loaded, QUESTION)], 40, Sampling(temperature=0))[0].text


def some_ids(seed=1):
    """Random ids, (2, 24)."""
    return torch.randint(4000, (2, 24), generator=torch.Generator().manual_seed(seed))


def test_only_the_adapter_is_trained_and_kept(project, adapted, chat, monkeypatch):
    """A file of some ten kB that answers on its base, which stays as it was; by --lora, and as --out_dir."""
    before = load_checkpoint(chat).weights
    assert load_checkpoint(adapted).weights == {}
    assert (adapted / "adapter_model.safetensors").stat().st_size < 100_000 < (chat / "ckpt.pt").stat().st_size
    config = json.loads((adapted / "config.json").read_text("utf-8"))
    names = read_adapter(adapted, GLMConfig(**load_checkpoint(chat).shape)).weights
    assert len(names) == 2 * 4 * 2 and config["settings"]["trained_parameters"] < 0.1 * sum(
        weight.numel() for weight in before.values()
    )
    monkeypatch.chdir(project.folder)
    said = project.run(
        "sample.py", "--out_dir=out/talk", "--lora=out/lora", f"--start={QUESTION}", "--temperature=0"
    ).stdout
    assert said.splitlines()[1] == ANSWER
    assert answer("out/lora") == answer("out/lora/best.pt") == answer("out/talk", "out/lora/ckpt.pt") == ANSWER
    project.write("talk_eval.jsonl", lines(SWAPPED))
    words = ["--out_dir=out/talk", "--lora=out/lora", "--eval_file=talk_eval.jsonl", "--save_path=lora.json"]
    project.run("evaluations.py", *words)
    assert json.loads((project.folder / "lora.json").read_text("utf-8"))["all"]["accuracy"] == 1
    assert all(weight.equal(before[name]) for name, weight in load_checkpoint(chat).weights.items())


def test_peft_loads_it_onto_the_exported_model(adapted, chat, exported):
    """The same logits."""
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(exported), adapted).eval()
    ours = origin.load(chat, lora=str(adapted)).model
    with torch.no_grad():
        assert (theirs(some_ids()).logits - ours(some_ids())[0]).abs().max() < 1e-4


@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "attn.c_proj", "mlp.c_proj", "c_fc"]])
def test_what_peft_has_made_is_loaded(chat, exported, tmp_path, targets):
    """An adapter with random weights, saved by peft."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, fan_in_fan_out=True, init_lora_weights=False)
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(exported), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = origin.load(chat, lora=str(tmp_path)).model
    with torch.no_grad():
        changed = theirs(some_ids()).logits
        assert (changed - ours(some_ids())[0]).abs().max() < 1e-4
        assert (changed - origin.load(chat).model(some_ids())[0]).abs().max() > 0.1


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_folding_in_changes_no_logits(chat, quantize):
    """Within 1e-5, also where the base is in 4 bits."""
    torch.manual_seed(4)
    model = build_model(load_checkpoint(chat)).eval()
    attach(model, adapter := Adapter(4, 16.0), quantize)
    fill_adapters(model, 0.02)
    folded = MiniGLM(model.config).eval()
    folded.load_state_dict(merged_state(model, adapter))
    with torch.no_grad():
        expected = model(some_ids())[0]
        assert (folded(some_ids())[0] - expected).abs().max() < 1e-5
        assert (build_model(load_checkpoint(chat)).eval()(some_ids())[0] - expected).abs().max() > 1e-3


def test_a_merged_checkpoint_stands_alone(project, adapted, tmp_path):
    """--merge_lora: the directory holds the whole model, also where its base is gone; also merged later."""
    shutil.copytree(adapted, project.folder / "out/lora-merged")
    again = [word for word in LORA if "init_from" not in word]
    project.run(*again, "--out_dir=out/lora-merged", "--init_from=resume", "--max_iters=60", "--merge_lora=True")
    shutil.copytree(project.folder / "out/lora-merged", tmp_path / "alone")
    assert answer(tmp_path / "alone") == ANSWER
    ours = origin.load(project.folder / "out/lora-merged").model
    apart = origin.load(project.folder / "out/talk", lora=str(adapted)).model
    with torch.no_grad():
        assert (ours(some_ids())[0] - apart(some_ids())[0]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "more", [["--lora_dropout=0.2"], ["--optimizer=muon", "--quantize=nf4", "--gradient_checkpointing=True"]]
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(project, adapted, more):
    """20 steps at once, and 10 and 10: the same adapter to the bit, and the loss has halved."""
    runs, steady = {}, [word for word in LORA if "init_from" not in word] + ["--init_from=auto", "--lr_decay_iters=20"]
    for name, parts in (("whole", (20,)), ("parts", (10, 20))):
        out_dir = f"out/{name}-{more[0][2:6]}"
        for steps in parts:
            project.run(*steady, *more, f"--out_dir={out_dir}", f"--max_iters={steps}", "--eval_interval=10")
        runs[name] = load_checkpoint(project.folder / out_dir).adapter.weights
    assert all(weight.equal(runs["parts"][name]) for name, weight in runs["whole"].items())
    first, *_, last = events(project.folder / out_dir, "val")
    assert last["loss"] < first["loss"] / 2


def test_four_bits_are_four_bits(chat):
    """A frozen layer takes an eighth of its float32 and some for the scales; all else stays as it is."""
    model = build_model(load_checkpoint(chat))
    full = sum(p.numel() * 4 for n, p in model.named_parameters() if ".h." in n and p.dim() == 2)
    attach(model, Adapter(4, 16.0), "nf4")
    layers = [layer for layer in model.modules() if isinstance(layer, NF4Linear)]
    assert sum(layer.packed.nbytes for layer in layers) == full / 8
    scales = sum(layer.state.absmax.nbytes for layer in layers)
    assert scales == full / 4 / 64 and all(layer.state.absmax.dtype == torch.uint8 for layer in layers)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(Adapter(4, 16.0).of(model).weights)


def test_checkpointed_gradients_are_the_same_and_keep_less():
    """The very loss and gradients, dropout included, with less kept for the way back."""
    found = []
    for again in (False, True):
        torch.manual_seed(5)
        model = MiniGLM(GLMConfig(block_size=64, vocab_size=320, n_layer=4, n_head=2, n_embd=64, dropout=0.1))
        if again:
            checkpoint_gradients(model)
        kept, ids = [], torch.randint(320, (4, 64))

        def keep(tensor, kept=kept):
            kept.append(tensor.untyped_storage())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(ids, ids)[1]
        bytes_kept = sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())
        loss.backward()
        found.append((loss, [p.grad for p in model.parameters()], bytes_kept))
    (loss, gradients, kept), (loss_again, gradients_again, kept_again) = found
    assert loss.equal(loss_again) and all(map(torch.equal, gradients, gradients_again))
    assert kept_again < kept / 2


def test_checkpointing_serves_every_way_of_training(project):
    """From nothing, too: the losses of a run are what they are without."""
    small = [
        "--n_layer=2",
        "--n_head=2",
        "--n_embd=32",
        "--block_size=64",
        "--batch_size=4",
        "--max_iters=5",
        "--dropout=0.1",
    ]
    small += ["--dataset=sanguo_bpe", "--eval_iters=1", "--log_interval=1"]
    for name, more in (("plain", []), ("twice", ["--gradient_checkpointing=True"])):
        project.run("train.py", *small, *more, f"--out_dir=out/{name}")
    plain, twice = ([event["loss"] for event in events(project.folder / f"out/{name}")] for name in ("plain", "twice"))
    assert plain == twice and len(plain) == 5


def test_mistakes_are_told(project, adapted, chat, tmp_path):
    """In one line each, before anything is written."""
    new = f"--out_dir={tmp_path / 'new'}"
    assert "LoRA changes a model" in project.fails("train.py", "--dataset=talk", "--lora_rank=4", new)
    assert "no layer 'q_proj'" in project.fails(*LORA, "--lora_targets=c_attn,q_proj", new)
    assert "another model" in project.fails("sample.py", "--out_dir=out/small", "--lora=out/lora")
    for place, message in (("out/small", "no file"), ("out/small/ckpt.pt", "holds no adapter")):
        with pytest.raises(UserError, match=message):
            open_model(chat, str(project.folder / place))
    nested = [word for word in LORA if "ckpt_dir" not in word] + ["--ckpt_dir=out/lora"]
    assert "is an adapter itself" in project.fails(*nested, new)
    resumed = [word for word in LORA if "init_from" not in word] + ["--init_from=resume", "--max_iters=70"]
    shutil.copytree(adapted, tmp_path / "copy")
    without = [word for word in resumed if "lora" not in word]
    assert "was trained with --lora_rank" in project.fails(*without, f"--out_dir={tmp_path / 'copy'}")
    assert "was trained without --lora_rank" in project.fails(*resumed, "--out_dir=out/small")
    assert "from another model than out/small" in project.fails(
        *resumed, "--ckpt_dir=out/small", f"--out_dir={tmp_path / 'copy'}"
    )
    assert not (tmp_path / "new").exists()


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def edit(path, **changes):
    """Change values of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "message, damage",
    [
        ("holds no LoRA adapter", lambda f: edit(f / CONFIG, peft_type="IA3")),
        ("has use_dora", lambda f: edit(f / CONFIG, use_dora=True)),
        ("is damaged or of layers", lambda f: edit(f / CONFIG, r=3)),
        ("is cut off or damaged", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:500])),
        ("no file", lambda f: (f / WEIGHTS).unlink()),
        ("is broken", lambda f: (f / CONFIG).write_text("[", encoding="utf-8")),
    ],
)
def test_a_damaged_adapter_is_told(adapted, tmp_path, message, damage):
    """What is wrong, and what to do."""
    folder = tmp_path / "lora"
    shutil.copytree(adapted, folder)
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_adapter(folder, GLMConfig(vocab_size=4096, n_layer=2, n_head=2, n_embd=64))
    assert caught.value.todo


def test_a_base_that_has_gone_is_told(project, adapted, tmp_path):
    """An adapter's directory as --out_dir needs the model that it was trained on."""
    checkpoint = torch.load(adapted / "ckpt.pt", weights_only=True)
    checkpoint["settings"]["ckpt_dir"] = "out/gone"
    shutil.copytree(adapted, tmp_path / "lora")
    torch.save(checkpoint, tmp_path / "lora/ckpt.pt")
    with pytest.raises(UserError, match="there is no whole model out/gone"):
        open_model(tmp_path / "lora")


def test_the_digest_tells_bases_apart(chat, exported):
    """It is the same for the same weights, and for what is exported; another where one number differs."""
    weights = open_model(chat)[0].weights
    name = "transformer.h.1.mlp.c_fc.weight"
    other = dict(weights, **{name: weights[name] + 1e-6})
    copied = {name: weight.clone() for name, weight in weights.items()}
    assert digest(weights) == digest(copied) == digest(open_model(exported)[0].weights) != digest(other)


def test_an_adapter_of_before_is_known_by_all_weights(chat):
    """Until 26 November 2026 its base was told by all of them."""
    weights = open_model(chat)[0].weights
    older = Adapter(4, 16.0, base=digest_of_all(weights))
    assert stands_on(older, weights)
    name = "transformer.wte.weight"
    assert not stands_on(older, dict(weights, **{name: weights[name] + 1e-6}))
