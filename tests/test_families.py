"""Every family of open weights, in the form that it is published in: transformers and llama.cpp are the judges."""

import json
import math
import re
import shutil
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import peft
import pytest
import safetensors.torch
import torch
import transformers

from miniglm import origin
from miniglm.checkpoint import build_model
from miniglm.conversation import encode_prompt
from miniglm.decoding import Sampling, generate
from miniglm.errors import UserError
from miniglm.foreign import Foreign
from miniglm.hf import write_hf
from miniglm.llama_cpp import write_gguf, write_gguf_adapter
from miniglm.lora import Adapter, attach, save_adapter
from miniglm.origin import open_model
from tools import fill_adapters, llama_server, logits_differ, onnx_step

VOCABULARY = 320  # ids of the tiny models
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1,
}  # fmt: skip
OTHER_CHATGLM = {"rope_ratio": 50.0, "num_layers": 2}


def fused(weights, into, *several):
    """Join some modules of each layer to one, as a family's own code has them."""
    for name in [name for name in weights if f".{several[0]}." in name]:
        names = [name.replace(several[0], each) for each in several]
        weights[name.replace(several[0], into)] = torch.cat([weights.pop(each) for each in names])
    return weights


def renamed(weights, *pairs):
    """The weights with parts of their names replaced, pattern by pattern."""
    for pattern, new in pairs:
        weights = {re.sub(pattern, new, name): weight for name, weight in weights.items()}
    return weights


def of_baichuan(weights):
    """A Llama's weights as Baichuan-7B has them."""
    return fused(weights, "self_attn.W_pack", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def of_baichuan2(weights):
    """The same, and rows of the head of any length: Baichuan2 brings them to 1 itself."""
    rows = weights["lm_head.weight"]
    weights["lm_head.weight"] = rows * (0.5 + torch.rand(len(rows), 1))
    return of_baichuan(weights)


def of_chatglm(weights):
    """A GLM's weights as ChatGLM2 has them."""
    fused(weights, "self_attn.query_key_value", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    weights = renamed(
        weights,
        (r"^model\.embed_tokens", "transformer.embedding.word_embeddings"),
        (r"^model\.norm", "transformer.encoder.final_layernorm"),
        (r"^lm_head", "transformer.output_layer"),
        (r"^model\.layers", "transformer.encoder.layers"),
        (r"self_attn\.query_key_value", "self_attention.query_key_value"),
        (r"self_attn\.o_proj", "self_attention.dense"),
        (r"mlp\.gate_up_proj", "mlp.dense_h_to_4h"),
        (r"mlp\.down_proj", "mlp.dense_4h_to_h"),
    )
    return weights | {"transformer.rotary_pos_emb.inv_freq": torch.ones(2)}


@dataclass
class Case:
    """A tiny model of a reference's class, and how it is published."""

    title: str  # our record's
    reference: str  # transformers' model type
    shape: dict[str, Any] = field(default_factory=dict)  # of the reference, beside SMALL
    weights: Any = None  # how they are stored; None: as transformers does
    config: dict[str, Any] | None = None  # config.json; None: as transformers writes it
    unit_head: bool = False
    llama_cpp: bool = True  # whether it knows the family
    judged: bool = True  # whether the reference computes the same


def config_of_baichuan(architecture, **more):
    """config.json of a Baichuan."""
    kept = {key: value for key, value in SMALL.items() if key != "max_position_embeddings"}
    return kept | {
        "architectures": [architecture], "model_type": "baichuan", "hidden_act": "silu", "model_max_length": 64,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "num_hidden_layers": 32,
    } | more  # fmt: skip


CHATGLM = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False, "ffn_hidden_size": 96, "hidden_size": 32, "kv_channels": 8,
    "layernorm_epsilon": 1e-5, "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 4,
    "num_layers": 2, "original_rope": True, "padded_vocab_size": VOCABULARY, "post_layer_norm": True, "rmsnorm": True,
    "seq_length": 64, "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MINICPM = SMALL | {
    "architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "hidden_act": "silu", "rope_scaling": None,
}  # fmt: skip
MOSS = {
    "architectures": ["MossForCausalLM"], "model_type": "moss", "vocab_size": VOCABULARY, "n_positions": 64,
    "n_ctx": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_inner": None, "resid_pdrop": 0.0,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False, "wbits": 32,
}  # fmt: skip
CODEGEN = {
    "vocab_size": VOCABULARY, "n_positions": 64, "n_ctx": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OF_GLM = {"num_key_value_heads": 2, "head_dim": 8, "attention_bias": True, "rms_norm_eps": 1e-5}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
GRANITE = {
    "num_key_value_heads": 2, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.2,
    "logits_scaling": 8.0, "tie_word_embeddings": True,
}  # fmt: skip
OF_MINICPM = GRANITE | {
    "residual_multiplier": 1.4 / math.sqrt(2), "attention_multiplier": 8**-0.5, "logits_scaling": 2.0,
    "rms_norm_eps": 1e-5,
}  # fmt: skip
CASES = {
    "llama-2": Case("Llama", "llama"),
    "llama-3.1": Case("Llama", "llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "llama-linear": Case("Llama", "llama", {"rope_parameters": LINEAR}),
    "smollm2": Case("Llama", "llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-biases": Case("Llama", "llama", {"attention_bias": True, "mlp_bias": True}, llama_cpp=False),
    "qwen2.5": Case("Qwen2", "qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": Case("Qwen3", "qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "minimind-3": Case("Qwen3", "qwen3", {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}),
    "glm-edge": Case("GLM", "glm", OF_GLM | {"attention_bias": False}),
    "glm-4-9b-hf": Case("GLM", "glm", OF_GLM),
    "glm-4-0414": Case("GLM-4-0414", "glm4", OF_GLM | {"attention_bias": False}),
    "granite": Case("Granite", "granite", GRANITE),
    "codegen": Case("CodeGen", "codegen", CODEGEN, llama_cpp=False),
    "gpt2": Case("GPT-2", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}),
    "gpt2-untied": Case(
        "GPT-2", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "tie_word_embeddings": False}
    ),
    "baichuan-7b": Case(
        "Baichuan", "llama", {"num_hidden_layers": 32}, of_baichuan,
        config_of_baichuan("BaiChuanForCausalLM", max_position_embeddings=64),
    ),
    "baichuan2-7b": Case(
        "Baichuan2", "llama", {"num_hidden_layers": 32}, of_baichuan2,
        config_of_baichuan("BaichuanForCausalLM", max_position_embeddings=64), unit_head=True,
    ),
    "baichuan-13b": Case(
        "Baichuan", "llama", {"num_hidden_layers": 40, "hidden_size": 48, "num_attention_heads": 6}, of_baichuan,
        config_of_baichuan(
            "BaichuanForCausalLM", num_hidden_layers=40, hidden_size=48, num_attention_heads=6
        ), judged=False,
    ),
    "chatglm2-6b": Case("ChatGLM2", "glm", OF_GLM, of_chatglm, CHATGLM),
    "glm-4-9b": Case(
        "ChatGLM2", "glm",
        OF_GLM | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}},
        of_chatglm, CHATGLM | OTHER_CHATGLM,
    ),
    "minicpm": Case("MiniCPM", "granite", OF_MINICPM, dict, MINICPM),
    "moss": Case("MOSS", "codegen", CODEGEN, dict, MOSS, llama_cpp=False),
}  # fmt: skip


def make(case, folder):
    """Write the tiny random model of a case into a folder, in the form that it is published in; the reference."""
    torch.manual_seed(0)
    of_its_own = {"gpt2", "codegen"}
    shape = case.shape if case.reference in of_its_own else SMALL | case.shape
    if case.reference in of_its_own:
        shape = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2} | shape
    config = transformers.AutoConfig.for_model(case.reference, **shape)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if case.unit_head:
            theirs.lm_head.weight.copy_(torch.nn.functional.normalize(theirs.lm_head.weight))
    theirs.save_pretrained(folder)
    if case.weights:
        path = folder / "model.safetensors"
        weights = case.weights(safetensors.torch.load_file(path))
        safetensors.torch.save_file({name: each.contiguous() for name, each in weights.items()}, path)
        (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
    return theirs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function that gives (the folder of a case, its reference), each made once; with a tokenizer of 258 ids."""
    from miniglm.tokenizer import Tokenizer

    made = {}
    tokenizer = Tokenizer("bpe", {bytes([byte]): byte for byte in range(256)} | {b"th": 256})
    root = tmp_path_factory.mktemp("families")

    def give(name):
        if name not in made:
            folder = root / name
            reference = make(CASES[name], folder)
            tokenizer.to_fast().save(str(folder / "tokenizer.json"))
            made[name] = folder, reference
        return made[name]

    return give


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.judged])
def test_logits_and_greedy_texts_are_the_references(folders, name):
    """1e-4 in float32, and the same forty tokens."""
    folder, theirs = folders(name)
    checkpoint, _ = open_model(folder)
    assert checkpoint.family == CASES[name].title
    ours = build_model(checkpoint).eval()
    assert logits_differ(theirs, ours, VOCABULARY, 48) < 1e-4
    prompt = torch.randint(VOCABULARY, (1, 8), generator=torch.Generator().manual_seed(3))
    seen = torch.ones_like(prompt)
    said = theirs.generate(prompt, attention_mask=seen, max_new_tokens=40, do_sample=False, eos_token_id=None)[0, 8:]
    steps = generate(ours, prompt.tolist(), 40, Sampling(temperature=0))
    assert [step.ids[0] for step in steps] == said.tolist()


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_the_familys_own_and_reads_the_same(folders, name, tmp_path):
    """In its own names and config, to the bit; what transformers has a class for it opens as that."""
    folder, theirs = folders(name)
    loaded = origin.load(folder)
    write_hf(tmp_path / "again", loaded.model, loaded.tokenizer, False, "f32", loaded.family)
    again, _ = open_model(tmp_path / "again")
    assert again.family == CASES[name].title
    assert set(again.weights) == set(open_model(folder)[0].weights)
    same = {key: (again.weights[key] - weight).abs().max() for key, weight in loaded.model.state_dict().items()}
    assert max(same.values()) <= (1e-6 if CASES[name].unit_head else 0)
    stored = [safetensors.torch.load_file(each / "model.safetensors") for each in (folder, tmp_path / "again")]
    assert stored[0].keys() - {"transformer.rotary_pos_emb.inv_freq"} == stored[1].keys()
    if CASES[name].judged:
        assert logits_differ(theirs, build_model(again).eval(), VOCABULARY, 48) < 1e-4
    if not CASES[name].weights:
        opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
        assert type(opened) is type(theirs)
        assert logits_differ(opened, loaded.model, VOCABULARY, 48) < 1e-4


def log_probabilities(server, ids):
    """llama.cpp's log-probabilities of what follows some ids, (vocabulary,)."""
    likely = []
    for seed in range(10):  # where it draws the end it tells nothing
        body = {"prompt": ids, "n_predict": 1, "n_probs": VOCABULARY, "temperature": 1.0, "seed": seed}
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            told = json.load(reply).get("completion_probabilities")
        if told:
            likely = told[0]["top_logprobs"]
            break
    found = torch.full((VOCABULARY,), math.nan)
    for each in likely:
        found[each["id"]] = each["logprob"]
    return found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.llama_cpp])
def test_llama_cpp_computes_the_same(project, folders, name):
    """Through GGUF, where it knows the family: the log-probabilities after some ids, as its own code has them."""
    folder, _ = folders(name)
    path = folder / "model.gguf"
    project.run("export.py", f"--out_dir={folder}", "--to=gguf", f"--save_path={path}")
    ids = torch.randint(3, 256, (1, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = origin.load(folder).model(ids)[0][0, -1].log_softmax(-1)
    theirs = log_probabilities(llama_server(path), ids[0].tolist())
    told = ~theirs.isnan()
    assert told.sum() > 250 and (ours - theirs)[told].abs().max() < 5e-3


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.llama_cpp])
def test_llama_cpp_puts_our_adapter_beside_the_model(folders, name, tmp_path):
    """An adapter in a GGUF file of its own: the log-probabilities of the model with it, not of the one without."""
    folder, _ = folders(name)
    loaded = origin.load(folder)
    write_gguf(tmp_path / "base.gguf", loaded, "f32")
    ids = torch.randint(3, 256, (1, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        without = loaded.model(ids)[0][0, -1].log_softmax(-1)
        attach(loaded.model, adapter := Adapter(rank=2, alpha=5.0))
        fill_adapters(loaded.model, 0.05 if loaded.model.config.residual_multiplier == 1 else 1.0)
        ours = loaded.model(ids)[0][0, -1].log_softmax(-1)
    write_gguf_adapter(tmp_path / "me.gguf", origin.load(folder), adapter.of(loaded.model), "f32")
    theirs = log_probabilities(llama_server(tmp_path / "base.gguf", tmp_path / "me.gguf"), ids[0].tolist())
    told = ~theirs.isnan()
    assert told.sum() > 250 and (ours - theirs)[told].abs().max() < 5e-3
    assert (ours - without).abs().max() > 0.05


@pytest.mark.parametrize("name", ["chatglm2-6b", *(pytest.param(each, marks=pytest.mark.long) for each in CASES)])
def test_onnxruntime_computes_the_same(project, folders, name):
    """A graph of any family: the logits of some rows, read in two parts, the second from the cache."""
    folder, _ = folders(name)
    path = folder / "model.onnx"
    project.run("export.py", f"--out_dir={folder}", "--to=onnx", f"--save_path={path}")
    session, model = onnxruntime.InferenceSession(path), origin.load(folder).model
    ids = torch.randint(VOCABULARY, (2, 27), generator=torch.Generator().manual_seed(2))
    _, past = onnx_step(session, ids[:, :20], np.ones((2, 20), np.int64))
    logits, _ = onnx_step(session, ids[:, 20:], np.ones((2, 27), np.int64), past)
    with torch.no_grad():
        assert np.abs(logits - model(ids)[0][:, 20:].numpy()).max() < 1e-3


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.weights])
def test_what_peft_has_made_is_loaded_and_ours_is_loaded_by_peft(folders, name, tmp_path):
    """Random changes of every linear layer, each way: the same logits."""
    folder, _ = folders(name)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = origin.load(folder, lora=str(tmp_path / "theirs"))
    assert logits_differ(theirs, ours.model, VOCABULARY, 48) < 1e-4
    assert logits_differ(theirs, origin.load(folder).model, VOCABULARY, 48) > 0.01
    model = origin.load(folder).model
    attach(model, adapter := Adapter(rank=2, alpha=5.0))
    fill_adapters(model, 0.1)
    save_adapter(tmp_path, adapter.of(model), model.config, CASES[name].title)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert logits_differ(peft.PeftModel.from_pretrained(base, tmp_path).eval(), model, VOCABULARY, 48) < 1e-4


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.weights])
def test_an_adapter_has_the_familys_own_names(folders, name, tmp_path):
    """Where transformers has no class for it: written, read again, the same logits."""
    folder, _ = folders(name)
    model = origin.load(folder).model
    attach(model, adapter := Adapter(rank=2, alpha=5.0))
    fill_adapters(model, 0.1)
    save_adapter(tmp_path, adapter.of(model), model.config, CASES[name].title)
    stored = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    named = {part.removeprefix("base_model.model.").split(".lora_")[0] + ".weight" for part in stored}
    assert named <= safetensors.torch.load_file(folder / "model.safetensors").keys()
    ids = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        again = origin.load(folder, lora=str(tmp_path)).model
        assert (again(ids)[0] - model(ids)[0]).abs().max() < 1e-4


def test_a_talk_in_our_form_stays_one_with_others_tokenizer(folders, tmp_path):
    """A model of others without a template that has learnt ours: the folder that is written talks, in the same ids."""
    folder, _ = folders("baichuan-7b")
    shutil.copytree(folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.gguf"))
    fast = json.loads((tmp_path / "base/tokenizer.json").read_text("utf-8"))
    fast["added_tokens"].append({**fast["added_tokens"][0], "id": 258, "content": "<s>"})
    (tmp_path / "base/tokenizer.json").write_text(json.dumps(fast), encoding="utf-8")
    (tmp_path / "base/tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
    loaded = origin.load(tmp_path / "base")
    assert isinstance(loaded.tokenizer, Foreign) and not loaded.chat
    write_hf(tmp_path / "talks", loaded.model, loaded.tokenizer, True, "f32", loaded.family)
    again = origin.load(tmp_path / "talks")
    asked = [{"role": "user", "content": "张飞字什么？"}]
    assert again.chat and encode_prompt(again.tokenizer, asked) == encode_prompt(loaded.tokenizer, asked)


def test_an_adapter_for_another_family_is_told(folders, tmp_path):
    """One line."""
    folder, _ = folders("glm-4-9b-hf")
    model = origin.load(folder).model
    attach(model, adapter := Adapter(rank=2, alpha=5.0))
    save_adapter(tmp_path, adapter.of(model), model.config, "GLM")
    with pytest.raises(UserError, match="is damaged or of layers that the model has not"):
        open_model(folders("llama-2")[0], str(tmp_path))


@pytest.mark.parametrize("name", ["llama-3.1", "qwen3", "baichuan-7b", "chatglm2-6b"])
def test_narrow_weights_stay_as_they_are(folders, name, tmp_path):
    """A folder in bfloat16 opens in bfloat16, and is written again to the bit."""
    folder, _ = folders(name)
    shutil.copytree(folder, tmp_path / "narrow", ignore=shutil.ignore_patterns("*.gguf"))
    path = tmp_path / "narrow/model.safetensors"
    stored = {key: weight.bfloat16() for key, weight in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(stored, path)
    loaded = origin.load(tmp_path / "narrow")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    write_hf(tmp_path / "again", loaded.model, loaded.tokenizer, False, "bf16", loaded.family)
    again = safetensors.torch.load_file(tmp_path / "again/model.safetensors")
    assert all(weight.equal(stored[key]) for key, weight in again.items())
    assert origin.load(tmp_path / "narrow", dtype="float32").model.dtype == torch.float32


@pytest.mark.long
def test_the_safety_experiment_runs_on_a_small_model(project, folders):
    """config/qlora_safety.py on a tiny Baichuan-13B and records in the set's form: three domains of it, QLoRA."""
    folder, _ = folders("baichuan-13b")
    kinds = ["Unfairness_And_Discrimination", "Crimes_And_Illegal_Activities", "Ethics_And_Morality", "Insult"]
    records = {
        kind: [{"prompt": f"{number} 可以吗", "response": "不可以。", "type": kind} for number in range(6)]
        for kind in kinds
    }
    project.write("data/typical.json", json.dumps(records, ensure_ascii=False))
    where = "--where=" + ",".join(f"type={kind}" for kind in kinds[:3])
    said = project.run(
        "data/prepare_sft.py", "data/typical.json", "--dataset=safety", f"--tokenizer_from={folder}", where,
        "--block_size=60",
    ).stdout  # fmt: skip
    assert "kept 18 as Safety-Prompts" in said
    words = ["--max_iters=12", "--epochs=0", "--eval_interval=12", "--eval_iters=1", "--warmup_iters=1"]
    words += ["--learning_rate=3e-2", "--min_lr=3e-3", "--dtype=float32"]
    project.run("train.py", "config/qlora_safety.py", f"--ckpt_dir={folder}", *words)
    losses = []
    for more in ([], ["--lora=out/qlora-safety"]):  # before and after
        project.run("evaluations.py", f"--out_dir={folder}", "--dataset=safety", *more, "--save_path=safety.json")
        losses.append(json.loads((project.folder / "safety.json").read_text("utf-8"))["loss"])
    assert losses[1] < losses[0] - 0.5
