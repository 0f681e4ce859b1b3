"""Weights and tokenizers to and from Hugging Face's form: transformers itself is the judge."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import transformers

from miniglm import origin
from miniglm.chat import complete, prompt_ids
from miniglm.checkpoint import build_model
from miniglm.conversation import encode_conversation, encode_prompt
from miniglm.decoding import Sampling
from miniglm.errors import UserError
from miniglm.hf import write_hf
from miniglm.origin import open_model
from miniglm.tokenizer import Tokenizer
from miniglm.vocabulary import load_tokenizer
from miniglm.wordpiece import WordPiece
from model import GLMConfig, MiniGLM
from tools import TALK, edit_json, edit_weights, logits_differ

GPT2_SIZES = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 16, 24),
    "gpt2-large": (1280, 20, 36),
    "gpt2-xl": (1600, 25, 48),
}


@pytest.fixture(scope="module")
def chinese(project, tmp_path_factory):
    """A folder as Chinese GPT-2s come in: a random GPT-2 and the vocab.txt of a BERT, of the book's characters."""
    folder = tmp_path_factory.mktemp("chinese") / "gpt2-chinese"
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({c for c in book if not c.isspace()})]
    words += [*"abcdefghijklmnopqrstuvwxyz0123456789", "the", "##ing", "##s", "：", "？", "\u2028"]
    words = list(dict.fromkeys(words))
    random_gpt2(folder, vocab_size=len(words), n_embd=32, n_head=2, n_layer=2, n_positions=64)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def random_gpt2(folder, seed=0, **shape):
    """transformers' GPT-2 of a shape with random weights (biases and layer norms, too), saved into a folder."""
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def write_gpt2_tokenizer(folder):
    """vocab.json and merges.txt as GPT-2's folders hold them."""
    fast = json.loads(Tokenizer.gpt2().to_fast().to_str())["model"]
    vocab = fast["vocab"] | {"<|endoftext|>": 50256}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in fast["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def test_transformers_opens_what_we_write(project, chat, exported):
    """AutoModelForCausalLM and AutoTokenizer as they are: ids of the whole book, logits, chat form, answers."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    loaded = origin.load(chat)
    model, tokenizer = loaded.model, loaded.tokenizer
    assert logits_differ(theirs, model, tokenizer.vocab_size) < 1e-4
    assert theirs.config.attn_pdrop == 0  # or its Trainer would drop what we do not
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    ids = their_tokenizer(book)["input_ids"]
    assert ids == tokenizer.encode(book) and their_tokenizer.decode(ids) == book
    talk = [{"role": "user", "content": "张飞字什么？"}, {"role": "assistant", "content": "张飞字翼德。"}]
    rendered = their_tokenizer.apply_chat_template(talk, return_dict=False)
    assert rendered == encode_conversation(tokenizer, talk)[0]
    for question, answer in TALK:
        asked = [{"role": "user", "content": question}]
        prompt = their_tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert prompt["input_ids"][0].tolist() == encode_prompt(tokenizer, asked)
        generated = theirs.generate(**prompt, max_new_tokens=60, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert their_tokenizer.decode(generated, skip_special_tokens=True) == answer


def test_gpt2s_own_tokens_are_the_same_in_transformers(project, tmp_path):
    """On the whole book, with GPT-2's 50,257 tokens."""
    tokenizer = Tokenizer.gpt2()
    model = MiniGLM(GLMConfig(block_size=16, vocab_size=50304, n_layer=1, n_head=1, n_embd=8, bias=False))
    write_hf(tmp_path / "gpt2", model, tokenizer, False, "f16")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8") + "It's  99 \n\n don't\t"
    assert theirs(book)["input_ids"] == tokenizer.encode(book)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2", dtype=torch.float32)
    assert logits_differ(opened, model, 50257, 16) < 1e-3  # half precision; biases that it has not are zero


def test_what_we_write_we_read(project, exported):
    """The folder serves as --out_dir, still a chat model, and the weights come back to the bit."""
    said = project.run("sample.py", f"--out_dir={exported}", f"--start={TALK[0][0]}", "--temperature=0").stdout
    assert said.splitlines()[1] == TALK[0][1]
    ours, _ = open_model(project.folder / "out/talk")
    back, _ = open_model(exported)
    assert all(weight.equal(back.weights[name]) for name, weight in ours.weights.items())
    assert back.chat and back.fingerprint == ours.fingerprint


@pytest.mark.parametrize("name", GPT2_SIZES)
def test_logits_are_those_of_transformers(name, exported, tmp_path):
    """Random weights in the width and heads of each GPT-2, two layers of them, with a small vocabulary."""
    width, heads, _ = GPT2_SIZES[name]
    shutil.copy(exported / "tokenizer.json", tmp_path)
    check_logits(tmp_path, n_embd=width, n_head=heads, n_layer=2, vocab_size=4096)


@pytest.mark.long
@pytest.mark.parametrize("name", GPT2_SIZES)
def test_logits_are_those_of_transformers_in_full(name, tmp_path):
    """Every layer; GPT-2 XL takes 20 GB of memory and 6 GB of disk."""
    width, heads, layers = GPT2_SIZES[name]
    write_gpt2_tokenizer(tmp_path)
    check_logits(tmp_path, n_embd=width, n_head=heads, n_layer=layers, vocab_size=50257)
    (tmp_path / "model.safetensors").unlink()


def check_logits(folder, vocab_size, **shape):
    """Save transformers' model, read it, compare: 1e-4."""
    theirs = random_gpt2(folder, vocab_size=vocab_size, **shape)
    ids = torch.randint(vocab_size, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
        del theirs
        checkpoint, _ = open_model(folder)
        model = build_model(checkpoint).eval()
        del checkpoint
        assert (model(ids)[0] - expected).abs().max() < 1e-4


def test_several_files_and_older_names_are_read(tmp_path):
    """Weights in parts with an index; names without `transformer.`, the causal mask stored beside, half precision."""
    theirs = random_gpt2(tmp_path, vocab_size=50257, n_embd=16, n_head=2, n_layer=2, n_positions=32)
    write_gpt2_tokenizer(tmp_path)
    weights = {name.removeprefix("transformer."): weight.half() for name, weight in theirs.state_dict().items()}
    del weights["lm_head.weight"]
    weights |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 32, 32) for layer in range(2)}
    names = sorted(weights)
    (tmp_path / "model.safetensors").unlink()
    file_of = {}
    for part, some in (("a.safetensors", names[:9]), ("b.safetensors", names[9:])):
        safetensors.torch.save_file({name: weights[name].contiguous() for name in some}, tmp_path / part)
        file_of |= dict.fromkeys(some, part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}), encoding="utf-8")
    model = build_model(open_model(tmp_path)[0]).eval()
    assert logits_differ(theirs, model, 50257) < 1e-2


def test_files_of_torchs_are_read(tmp_path):
    """pytorch_model.bin, whole and in shards, as older folders have it; without one of the shards they are told."""
    theirs = random_gpt2(tmp_path, vocab_size=50257, n_embd=16, n_head=2, n_layer=2, n_positions=32)
    write_gpt2_tokenizer(tmp_path)
    weights = {name: weight for name, weight in theirs.state_dict().items() if name != "lm_head.weight"}
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert logits_differ(theirs, build_model(open_model(tmp_path)[0]).eval(), 50257) < 1e-4
    (tmp_path / "pytorch_model.bin").unlink()
    file_of = {name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, name in enumerate(weights)}
    for file in set(file_of.values()):
        torch.save({name: weight.half() for name, weight in weights.items() if file_of[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": file_of}), encoding="utf-8")
    checkpoint, _ = open_model(tmp_path)
    assert {weight.dtype for weight in checkpoint.weights.values()} == {torch.float16}
    assert logits_differ(theirs, build_model(checkpoint).eval(), 50257) < 1e-2
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match="lacks pytorch_model-00002-of-00002.bin"):
        open_model(tmp_path)


class Hostile:
    """What a pickle could do."""

    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content",
    [{"transformer.wte.weight": Hostile()}, {"transformer.wte.weight": torch.ones(1).expand(1 << 30)}, [1], "text"],
    ids=["calls", "bomb", "list", "text"],
)
def test_a_hostile_file_of_torchs_is_refused(tmp_path, capsys, content):
    """It runs nothing, and takes no memory that it does not hold."""
    random_gpt2(tmp_path, vocab_size=50257, n_embd=16, n_head=2, n_layer=1, n_positions=32)
    write_gpt2_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is cut off or damaged"):
        open_model(tmp_path)
    assert "run" not in capsys.readouterr().out


def test_a_chinese_gpt2_reads_with_its_own_vocabulary(project, chinese):
    """Ids as BertTokenizer gives them on the whole book; what is decoded stands without spaces."""
    theirs = transformers.BertTokenizer(str(chinese / "vocab.txt"))
    tokenizer = load_tokenizer(chinese)
    assert isinstance(tokenizer, WordPiece)
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")[:200_000]
    text = book + "the theings 玄德[SEP]𠮷 Café\u3000tests"
    expected = theirs(book + "the theings 玄德", add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(book + "the theings 玄德") == expected
    assert tokenizer.end_id not in tokenizer.encode(text)  # [SEP] in a text ends nothing
    passage = "".join(book[5000:5200].split())
    assert tokenizer.decode(tokenizer.encode(passage)) == passage
    assert tokenizer.decode(tokenizer.encode("the theings 玄德 the 9")) == "the theings玄德the 9"
    assert (
        tokenizer.encode("玄\ud800德")[0] == tokenizer.encode("玄")[0]
    )  # half a character is no text, but no end either


def test_a_chinese_gpt2_is_fine_tuned_and_talks(project, chinese):
    """The whole way: its folder, a book and questions in its tokens, training, measuring, and out again."""
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    project.write("data/short/input.txt", book[:20_000])
    project.run("data/prepare.py", "short", f"--tokenizer_from={chinese}", "--dataset=short_cn")
    project.run("evaluations.py", f"--out_dir={chinese}", "--dataset=short_cn")
    project.write("data/cn.jsonl", "".join(json.dumps({"Question": q, "Answer": a}) + "\n" for q, a in TALK[:1] * 32))
    project.run(
        "data/prepare_sft.py", "data/cn.jsonl", "--dataset=cn", f"--tokenizer_from={chinese}", "--block_size=48"
    )
    project.run(
        "train.py", "--init_from=hf", f"--ckpt_dir={chinese}", "--dataset=cn", "--out_dir=out/cn", "--max_iters=60",
        "--batch_size=4", "--eval_interval=60", "--eval_iters=1", "--learning_rate=1e-2", "--warmup_iters=2",
        "--optimizer=muon", "--dtype=float32",
    )  # fmt: skip
    project.run("evaluations.py", "--out_dir=out/cn")  # its rows are shorter than its context
    project.run("export.py", "--out_dir=out/cn", "--to=hf", "--save_path=made/cn-hf")
    asked = [{"role": "user", "content": TALK[0][0]}]
    for place in ("out/cn", "made/cn-hf"):
        loaded = origin.load(project.folder / place)
        ids = prompt_ids(loaded, TALK[0][0])
        assert complete(loaded, [ids], 40, Sampling(temperature=0))[0].text == TALK[0][1]
    theirs = transformers.AutoTokenizer.from_pretrained(project.folder / "made/cn-hf")
    assert theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False) == encode_prompt(
        loaded.tokenizer, asked
    )
    assert "BERT vocabulary" in project.fails("export.py", "--out_dir=out/cn", "--save_path=cn.gguf")


def test_the_trainer_of_transformers_reads_our_data(project, pretrained, tmp_path, monkeypatch):
    """The lesson's way: our exported model, our prepared questions as its table, its Trainer; the answer is learnt."""
    from data_utils import Table

    monkeypatch.chdir(project.folder)
    project.run("export.py", "--out_dir=out/small", "--to=hf", "--save_path=made/small-hf")
    project.write("data/one.jsonl", "".join(json.dumps({"Question": q, "Answer": a}) + "\n" for q, a in TALK[:1] * 16))
    project.run(
        "data/prepare_sft.py", "data/one.jsonl", "--dataset=one", "--tokenizer_from=data/sanguo_bpe", "--block_size=128"
    )
    table = Table("one", "train")
    ids, mask, labels = (table[0][name] for name in table.column_names)
    tokenizer = load_tokenizer("data/one")
    assert tokenizer.decode([i for i, kept in zip(ids, mask) if kept]) == f"问：{TALK[0][0]}\n答：{TALK[0][1]}"
    assert tokenizer.decode([label for label in labels if label != -100]) == TALK[0][1]
    assert [label in (-100, i) for i, label in zip(ids, labels)] == [True] * len(ids)
    assert table[:2]["input_ids"] == [ids, ids] and len(table) == 15  # one is held out
    assert table["labels"] == [labels] * 15
    model = transformers.AutoModelForCausalLM.from_pretrained("made/small-hf")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained("made/small-hf")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=120, per_device_train_batch_size=5, learning_rate=1e-2, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    collator = transformers.DataCollatorWithPadding(their_tokenizer, return_tensors="pt")
    transformers.Trainer(model=model, args=arguments, train_dataset=table, data_collator=collator).train()
    with torch.no_grad():
        probabilities = model.eval()(torch.tensor([ids])).logits[0].softmax(-1)
    learnt = [probabilities[place - 1, label].item() for place, label in enumerate(labels) if label != -100]
    assert min(learnt) > 0.9  # each token of the answer, so that no machine's rounding can turn it into another
    prompt = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": TALK[0][0]}])])
    generated = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False)
    assert tokenizer.decode(generated[0, prompt.shape[1] :].tolist()) == TALK[0][1]


def edit_tokenizer(path, **changes):
    """Change values of the model in a tokenizer.json."""
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | {"model": content["model"] | changes}), encoding="utf-8")


LN = "transformer__ln_f__bias"
BROKEN = {
    "holds no model.safetensors": lambda f: (f / "model.safetensors").unlink(),
    "pytorch_model.bin is cut off": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "model.safetensors is cut off": lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 900),
    "lacks the weights transformer.ln_f.bias": lambda f: edit_weights(f / "model.safetensors", **{LN: None}),
    "has weights that no GPT-2": lambda f: edit_weights(f / "model.safetensors", extra=torch.ones(2)),
    "ln_f.bias of": lambda f: edit_weights(f / "model.safetensors", **{LN: torch.ones(3)}),
    "of the type 'mamba'; choose a GPT-2, Llama": lambda f: edit_json(f / "config.json", model_type="mamba"),
    "lacks the weights model.embed_tokens": lambda f: edit_json(f / "config.json", model_type="llama"),
    "a ChatGLM-6B of the first version; choose its successor, ChatGLM2-6B": lambda f: edit_json(
        f / "config.json", model_type="chatglm", position_encoding_2d=True
    ),
    "activation_function 'relu'": lambda f: edit_json(f / "config.json", activation_function="relu"),
    "tells of no GPT-2": lambda f: edit_json(f / "config.json", n_head=7),
    "lacks the weights": lambda f: edit_json(f / "config.json", n_layer=3),
    "holds no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "ids, the model": lambda f: shutil.copy(f.parent / "big.json", f / "tokenizer.json"),
    "is damaged or of a kind": lambda f: (f / "tokenizer.json").write_text('{"model": 3}', encoding="utf-8"),
    "config.json is broken": lambda f: (f / "config.json").write_text("{", encoding="utf-8"),
    "is damaged or of a kind ": lambda f: edit_tokenizer(f / "tokenizer.json", dropout=0.1),
    " is damaged or of a kind": lambda f: edit_tokenizer(f / "tokenizer.json", vocab={"<|endoftext|>": 3 << 30}),
    "lm_head of its own": lambda f: edit_weights(f / "model.safetensors", lm_head__weight=torch.ones(3, 3)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_folder_that_does_not_fit_is_told(exported, tmp_path, message):
    """What is wrong, and what to do."""
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    Tokenizer.gpt2().to_fast().save(str(tmp_path / "big.json")) if "ids" in message else None
    BROKEN[message](folder)
    with pytest.raises(UserError, match=message) as caught:
        open_model(folder)
    assert caught.value.todo


def test_other_mistakes_are_told(project, exported, tmp_path):
    """Half a folder, none, one of ours, data in other tokens, one that is there already: before anything is written."""
    shutil.copytree(exported, tmp_path / "half", ignore=shutil.ignore_patterns("model*"))
    hf = ("train.py", "--init_from=hf", f"--out_dir={tmp_path / 'new'}", "--dataset=talk")
    assert "holds no model.safetensors" in project.fails(*hf, f"--ckpt_dir={tmp_path / 'half'}")
    assert "hf needs a model" in project.fails(*hf)
    assert "is no Hugging Face folder" in project.fails(*hf, "--ckpt_dir=out/talk")
    assert "another tokenizer" in project.fails(*hf[:-1], f"--ckpt_dir={exported}", "--dataset=sanguo")
    assert "is there already" in project.fails("export.py", "--out_dir=out/talk", "--to=hf", f"--save_path={exported}")
    assert "knows no q8_0" in project.fails(
        "export.py", "--out_dir=out/talk", "--to=hf", "--dtype=q8_0", "--save_path=x"
    )
    assert not (tmp_path / "new").exists() and not list(exported.parent.glob("*.partial"))
