"""A model of today's kind, as the demo trains one, in the programs it is meant for: transformers, llama.cpp, peft."""

import json
import shutil

import onnxruntime
import peft
import pytest
import torch
import transformers

from miniglm import origin
from miniglm.chat import complete, prompt_ids
from miniglm.checkpoint import build_model, load_checkpoint
from miniglm.conversation import encode_prompt
from miniglm.decoding import Sampling
from miniglm.errors import UserError
from miniglm.origin import open_model
from tools import (
    LORA,
    MODERN,
    ROOT,
    SMALL,
    SWAPPED,
    TALK,
    assert_llama_knows_the_talk,
    edit_json,
    edit_weights,
    lines,
    logits_differ,
)


@pytest.fixture(scope="module")
def modern_hf(modern, maker):
    """made/modern-hf: out/modern as a Hugging Face folder."""

    def make(project):
        project.run("export.py", "--out_dir=out/modern", "--to=hf", "--save_path=made/modern-hf")

    return maker(make, "made/modern-hf")


def test_it_answers(project, modern):
    """What was taught, through sample.py, in a context of rotary positions."""
    config = load_checkpoint(modern).shape
    assert (config["norm"], config["positions"], config["gated"], config["n_kv_head"]) == ("rms", "rope", True, 1)
    for question, answer in TALK:
        said = project.run("sample.py", "--out_dir=out/modern", f"--start={question}", "--temperature=0").stdout
        assert said.splitlines()[1] == answer


def test_transformers_opens_it_as_qwen3(modern, modern_hf):
    """AutoModelForCausalLM: the same logits, and greedy answers through its own chat template."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(modern_hf).eval()
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    loaded = origin.load(modern)
    assert logits_differ(theirs, loaded.model, loaded.tokenizer.vocab_size) < 1e-4
    tokenizer = transformers.AutoTokenizer.from_pretrained(modern_hf)
    for question, answer in TALK:
        asked = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert prompt["input_ids"][0].tolist() == encode_prompt(loaded.tokenizer, asked)
        generated = theirs.generate(**prompt, max_new_tokens=60, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(generated, skip_special_tokens=True) == answer


def test_what_we_write_we_read(modern, modern_hf):
    """The folder serves as --out_dir and to be fine-tuned from: the same logits."""
    ours, back = origin.load(modern), origin.load(modern_hf)
    ids = torch.randint(4000, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (ours.model(ids)[0] - back.model(ids)[0]).abs().max() < 1e-4
    assert back.chat and not back.model.config.embedding_norm


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_a_qwen3_of_others_is_read(modern_hf, tmp_path, tied, heads):
    """transformers' own with random weights, norms too: 1e-4; and written again it is the same to the bit."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=4096, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=heads[0],
        num_key_value_heads=heads[1], head_dim=16, max_position_embeddings=64, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    )  # fmt: skip
    theirs = transformers.Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "a")
    shutil.copy(modern_hf / "tokenizer.json", tmp_path / "a")
    checkpoint, tokenizer = open_model(tmp_path / "a")
    assert checkpoint.shape["rope_theta"] == 1e6
    model = build_model(checkpoint).eval()
    assert logits_differ(theirs, model, 4096) < 1e-4
    from miniglm.hf import write_hf

    write_hf(tmp_path / "b", model, tokenizer, False, "f32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()
    assert all(weight.equal(again.state_dict()[name]) for name, weight in theirs.state_dict().items())
    assert logits_differ(again, model, 4096) < 1e-4  # rope_theta is in no weight


def test_llama_cpp_answers_as_we_do(project, modern):
    """As its architecture qwen3, in its chat form, greedy, in float32; also in 8 bits."""
    for dtype in ("f32", "q8_0"):
        project.run("export.py", "--out_dir=out/modern", f"--save_path={dtype}-modern.gguf", f"--dtype={dtype}")
        assert_llama_knows_the_talk(project.folder / f"{dtype}-modern.gguf")


def test_onnxruntime_answers_as_we_do(project, modern):
    """Greedy, a token a time from the cache."""
    import numpy as np

    project.run("export.py", "--out_dir=out/modern", "--to=onnx", "--save_path=made/modern.onnx")
    session = onnxruntime.InferenceSession(project.folder / "made/modern.onnx")
    names = [each.name for each in session.get_inputs()][2:]
    loaded = origin.load(modern)
    for question, answer in TALK:
        ids, said = prompt_ids(loaded, question), []
        past = [np.zeros((1, 1, 0, 32), np.float32)] * len(names)
        for length in range(len(ids), len(ids) + 60):
            feed = {
                "input_ids": np.array([ids]),
                "attention_mask": np.ones((1, length), np.int64),
                **dict(zip(names, past)),
            }
            logits, *past = session.run(None, feed)
            ids = [int(logits[0, -1].argmax())]
            said += ids
        assert loaded.tokenizer.decode(said[: said.index(loaded.tokenizer.end_id)]) == answer


def test_an_adapter_has_pefts_names_for_it(project, modern, modern_hf):
    """Ours is trained and answers; peft loads it onto the exported model: the same logits."""
    project.write("data/swapped_modern.jsonl", lines(SWAPPED) * 8)
    project.run("data/prepare_sft.py", "data/swapped_modern.jsonl", "--dataset=swapped_modern", "--block_size=128")
    words = [word for word in LORA if "ckpt_dir" not in word and "dataset" not in word]
    words += ["--dataset=swapped_modern", "--ckpt_dir=out/modern", "--out_dir=out/modern-lora"]
    project.run(*words, "--max_iters=80", "--eval_interval=80")
    adapter = project.folder / "out/modern-lora"
    loaded = origin.load(modern, lora=str(adapter))
    question, answer = SWAPPED[0]
    assert complete(loaded, [prompt_ids(loaded, question)], 40, Sampling(temperature=0))[0].text == answer
    targets = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["target_modules"]
    assert targets == sorted(targets) and "self_attn.q_proj" in targets and "mlp.down_proj" in targets
    base = transformers.AutoModelForCausalLM.from_pretrained(modern_hf)
    theirs = peft.PeftModel.from_pretrained(base, adapter).eval()
    assert logits_differ(theirs, loaded.model, 4000) < 1e-4
    on_the_export = origin.load(modern_hf, lora=str(adapter)).model
    assert logits_differ(theirs, on_the_export, 4000) < 1e-4


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "up_proj"], "all-linear"])
def test_what_peft_has_made_is_loaded(modern, modern_hf, tmp_path, targets):
    """An adapter with random weights of its own for each of the layers that we join."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    base = transformers.AutoModelForCausalLM.from_pretrained(modern_hf)
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path)
    ours = origin.load(modern, lora=str(tmp_path)).model
    assert logits_differ(theirs, ours, 4000) < 1e-4
    assert logits_differ(theirs, origin.load(modern).model, 4000) > 0.01


def test_what_no_architecture_computes_is_told(project, modern, tmp_path):
    """The knobs in the way, and what to do; onnx takes it."""
    words = ["--dataset=talk", "--out_dir=out/odd", "--max_iters=2", "--eval_interval=2", "--eval_iters=1"]
    project.run("train.py", *SMALL, *MODERN, "--activation=relu2", "--gated=False", "--qk_norm=False", *words)
    for to in ("hf", "gguf"):
        line = project.fails("export.py", "--out_dir=out/odd", f"--to={to}", f"--save_path={tmp_path / to}")
        assert "activation=relu2" in line and "--to=onnx" in line
        assert not list(tmp_path.iterdir())
    project.run("export.py", "--out_dir=out/odd", "--to=onnx", f"--save_path={tmp_path / 'odd.onnx'}")


def test_knobs_that_do_not_fit_are_told_before_anything_is_written(project):
    """One line, nothing written."""
    line = project.fails("train.py", *SMALL, "--dataset=talk", "--n_head=4", "--n_kv_head=3", "--out_dir=out/unfit")
    assert "4 heads cannot share 3" in line and "--n_kv_head" in line
    line = project.fails("train.py", *SMALL, "--dataset=talk", "--positions=rotary", "--out_dir=out/unfit")
    assert "learned, rope, alibi" in line
    assert not (project.folder / "out/unfit").exists()


HOSTILE = [
    {"r": 100_000_000},
    {"r": "x"},
    {"lora_alpha": "x"},
    {"lora_alpha": None},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_hostile_adapter_takes_no_memory(modern, modern_hf, tmp_path, change):
    """One line, whatever its config.json claims."""
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base = transformers.AutoModelForCausalLM.from_pretrained(modern_hf)
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    edit_json(tmp_path / "adapter_config.json", **change)
    with pytest.raises(UserError, match="is damaged or of layers"):
        open_model(modern, lora=str(tmp_path))


def test_half_a_change_is_refused(modern, modern_hf, tmp_path):
    """An A without its B, and a B without its A."""
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base = transformers.AutoModelForCausalLM.from_pretrained(modern_hf)
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    whole = (tmp_path / "adapter_model.safetensors").read_bytes()
    for letter in "AB":
        (tmp_path / "adapter_model.safetensors").write_bytes(whole)
        name = f"base_model__model__model__layers__0__self_attn__q_proj__lora_{letter}__weight"
        edit_weights(tmp_path / "adapter_model.safetensors", **{name: None})
        with pytest.raises(UserError, match="is damaged or of layers"):
            open_model(modern, lora=str(tmp_path))


BROKEN = [
    ("tells of no Qwen3", {"num_key_value_heads": 3}),
    ("tells of no Qwen3", {"head_dim": 1 << 32}),
    ("tells of no Qwen3", {"rope_theta": int("1" + "0" * 400), "rope_parameters": None}),
    ("tells of no Qwen3", {"rope_theta": 0, "rope_parameters": None}),
    ("tells of no Qwen3", {"rms_norm_eps": "1e-6"}),
    ("has layers that see only some", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("has quantization_config", {"quantization_config": {"quant_method": "gptq"}}),
    ("of the kind 'yarn'", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}),
    ("has hidden_act 'gelu'", {"hidden_act": "gelu"}),
    ("has attention_bias", {"attention_bias": True}),
    ("does not fit config.json", {"intermediate_size": 64}),
]


@pytest.mark.parametrize("message, change", BROKEN, ids=str)
def test_a_folder_that_does_not_fit_is_told(modern_hf, tmp_path, message, change):
    """What is wrong, and what to do."""
    folder = tmp_path / "folder"
    shutil.copytree(modern_hf, folder)
    edit_json(folder / "config.json", **change)
    with pytest.raises(UserError, match=message) as caught:
        open_model(folder)
    assert caught.value.todo


def test_missing_and_strange_weights_are_told(modern_hf, tmp_path):
    """By their own names."""
    for message, change in (
        (
            "lacks the weights model.layers.1.self_attn.k_proj.weight",
            {"model__layers__1__self_attn__k_proj__weight": None},
        ),
        ("lacks the weights lm_head.weight", {"lm_head__weight": None}),
        ("no Qwen3 of its shape has", {"model__layers__1__self_attn__k_proj__bias": torch.ones(2)}),
    ):
        folder = tmp_path / message[-8:]
        shutil.copytree(modern_hf, folder)
        edit_weights(folder / "model.safetensors", **change)
        with pytest.raises(UserError, match=message):
            open_model(folder)


def test_the_demos_kind_is_what_these_tests_use():
    """So that what they promise holds for the demo."""
    demo: dict = {}
    exec((ROOT / "config/demo_pretrain.py").read_text(encoding="utf-8"), demo)
    knobs = dict(word.removeprefix("--").split("=") for word in MODERN)
    assert {name: str(demo[name]) for name in knobs} == {name: knobs[name].replace("1e-6", "1e-06") for name in knobs}
