"""Mutated files: whatever their bytes, a loader gives a value or says in one line what is wrong.

None may raise anything else, take memory far beyond the file, hang, or lose what was whole before.
"""

import contextlib
import io
import json
import math
import runpy
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import configurator
import data_utils
from miniglm import files, hf, lora
from miniglm.checkpoint import Checkpoint, State, build_model, load_checkpoint, save_checkpoint
from miniglm.errors import UserError
from miniglm.metrics import read_questions
from miniglm.optimizers import restore_optimizer
from miniglm.plots import read_groups, read_log
from miniglm.records import read_prompts
from miniglm.search import read_table, search
from miniglm.tokenizer import Tokenizer
from miniglm.vocabulary import fingerprint, load_tokenizer, read_meta
from model import GLMConfig, MiniGLM
from tools import ROOT, as_new_process, no_longer_than

ROOM = 64 << 20  # bytes that a loader may take besides twice the file: tables of its own, a small model
PATIENCE = 120  # seconds after which a loader counts as hanging

ODD_VALUES = st.sampled_from(
    [
        None, True, False, 0, -1, 10**400, 1 << 63, 1e308, -0.0, math.nan, math.inf, "", "x",
        "\ud800", "\0", "../../x", "问：", "第一回", [], {}, [[]], [None], {"": None}, "长" * 10_000, ["x"] * 300,
    ]
)  # fmt: skip


def damaged_bytes(content):
    """Strategies for damaged versions of some bytes: cut off, overwritten in places, repeated, or anything at all."""
    at = st.integers(0, max(0, len(content) - 1))
    pieces = st.one_of(
        st.binary(min_size=1, max_size=8), st.sampled_from([b"[" * 2000, b'"', b"\n", b"\0", b"\xff\xfe", b"}"])
    )

    def overwrite(changes):
        damaged = bytearray(content)
        for place, new in changes:
            damaged[place : place + len(new)] = new
        return bytes(damaged)

    return st.one_of(
        st.integers(0, len(content)).map(lambda n: content[:n]),
        st.lists(st.tuples(at, pieces), min_size=1, max_size=5).map(overwrite),
        st.tuples(at, at).map(lambda ends: content[: max(ends)] + content[min(ends) :]),
        st.binary(max_size=64),
    )


def places(value, path=()):
    """The path to every value inside nested dicts and lists, of a long list the first few."""
    yield path
    inside = (
        value.items() if isinstance(value, dict) else enumerate(value[:8]) if isinstance(value, list | tuple) else ()
    )
    for key, each in list(inside)[:60]:
        yield from places(each, (*path, key))


def changed(value, path, new):
    """The value with `new` where `path` leads."""
    if not path:
        return new
    if not isinstance(value, dict | list | tuple):
        raise TypeError("nothing inside")
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def odd_structures(value, odd=ODD_VALUES):
    """Strategies for a nested value with one to three of its parts replaced by odd ones."""
    change = st.tuples(st.sampled_from(list(places(value))), odd)

    def apply(changes):
        result = value
        for path, new in changes:
            with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change took it away
                result = changed(result, path, new)
        return result

    return st.lists(change, min_size=1, max_size=3).map(apply)


def damaged_json(content):
    """Damaged versions of a JSON file or of JSON lines, by bytes and by structure."""
    text = content.decode("utf-8")
    try:
        value, lines = json.loads(text), False
    except ValueError:
        value, lines = [json.loads(line) for line in text.splitlines()], True

    def written(value):
        rows = value if lines and isinstance(value, list) else [value]
        return "\n".join(json.dumps(row) for row in rows).encode()

    return st.one_of(damaged_bytes(content), odd_structures(value).map(written))


TENSORS = st.sampled_from(
    [torch.zeros(3, 3), torch.full((64,), math.nan), torch.zeros(1).expand(10**9), torch.zeros(2, dtype=torch.int8)]
)


def damaged_checkpoint(content):
    """Damaged versions of a checkpoint: its bytes, and its values and tensors replaced by others."""
    value = torch.load(io.BytesIO(content), weights_only=True)

    def written(value):
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    return st.one_of(damaged_bytes(content), odd_structures(value, st.one_of(ODD_VALUES, TENSORS)).map(written))


def script(name, *words):
    """A loader that runs a whole script in this process, in the folder that holds data/."""

    def load(folder):
        with as_new_process(folder.parents[1], [str(ROOT / name), *words]):
            runpy.run_path(str(ROOT / name), run_name="__main__")

    return load


def load_data(folder):
    """What train.py does with a data set."""
    assert data_utils.open_data(folder.name).tokenizer


def load_weights(folder):
    """What sample.py and a resumed train.py do with an out_dir."""
    checkpoint = load_checkpoint(folder)
    model = build_model(checkpoint)
    for state in checkpoint.optimizers:
        try:
            restore_optimizer(adamw(model), state)
        except Exception as error:  # as train.py does
            raise UserError("none that a run can go on from", "train again") from error


def load_config(folder):
    """What every script does with a config file."""
    configurator._read_config(
        str(folder / "config.py"), {"batch_size": 1, "learning_rate": 0.1, "dataset": "", "bias": True}
    )


def load_table(folder):
    """What a talk does with its table."""
    search(read_table(folder / "table.jsonl"), '{"类型": "舒适型"}')


def adamw(model):
    """The optimizer of train.py for a model."""
    groups = [{"params": [p for p in model.parameters() if (p.dim() >= 2) == matrix]} for matrix in (True, False)]
    return torch.optim.AdamW(groups, fused=True)


def small_checkpoint():
    """The bytes of a checkpoint, small enough that hypothesis may keep thousands of its versions."""
    torch.manual_seed(0)
    model = MiniGLM(GLMConfig(block_size=16, vocab_size=320, n_layer=1, n_head=2, n_embd=8))
    optimizer = adamw(model)
    model(torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64))[1].backward()
    optimizer.step()
    bytewise = Tokenizer("bpe", {bytes([byte]): byte for byte in range(256)})
    settings = {"dataset": "talk", "batch_size": 4, "learning_rate": 0.1}
    checkpoint = Checkpoint(model.state_dict(), vars(model.config), settings, True, fingerprint(bytewise))
    checkpoint.state, checkpoint.optimizers = (
        State(step=1, tokens=8, seconds=0.5, best_val_loss=5.0),
        [optimizer.state_dict()],
    )
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, checkpoint, bytewise)
        return Path(folder, "ckpt.pt").read_bytes()


def small_adapter():
    """The files of an adapter for small_checkpoint's model, {name: bytes}."""
    torch.manual_seed(1)
    model = MiniGLM(GLMConfig(block_size=16, vocab_size=320, n_layer=1, n_head=2, n_embd=8))
    lora.attach(model, adapter := lora.Adapter(2, 4.0))
    with tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(folder, adapter.of(model), model.config)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def small_hf():
    """The files of a Hugging Face folder, {name: bytes}."""
    torch.manual_seed(2)
    model = MiniGLM(GLMConfig(block_size=16, vocab_size=320, n_layer=1, n_head=2, n_embd=8))
    bytewise = Tokenizer("bpe", {bytes([byte]): byte for byte in range(256)} | {b"ab": 256})
    with tempfile.TemporaryDirectory() as folder:
        hf.write_hf(Path(folder, "hf"), model, bytewise, True, "f32")
        return {path.name: path.read_bytes() for path in Path(folder, "hf").iterdir()}


def load_adapter(folder):
    """What sample.py does with an adapter."""
    model = MiniGLM(GLMConfig(block_size=16, vocab_size=320, n_layer=1, n_head=2, n_embd=8))
    lora.merged(model.state_dict(), lora.read_adapter(folder, model.config))


def load_vocabulary(folder):
    """What prepare.py does with the tokenizer of a Chinese GPT-2."""
    (folder / "tokenizer.json").unlink(missing_ok=True)
    load_tokenizer(folder).encode("张飞 abca")


def load_hf(folder):
    """What sample.py does with a Hugging Face folder."""
    build_model(hf.read_hf(folder)[0])


CONFIG = b'batch_size = 16\nlearning_rate = 5e-3\ndataset = "sanguo_sft"\nbias = False\n'
LOG = b"".join(
    json.dumps({"iter": i, "split": split, "loss": 3.0, "lr": 1e-3, "tokens": i, "seconds": i}).encode() + b"\n"
    for i, split in enumerate(["train", "val", "train_eval"] * 4)
)
TABLE = b'{"name": "x", "\\u7c7b\\u578b": "\\u8212\\u9002\\u578b", "list": [1, 2]}\n' * 3
QUESTIONS = '{"Question": "张飞字什么？", "Answer": "张飞字翼德。", "Key": "翼德", "Group": "seen"}\n'.encode() * 3
SCORES = {"n": 2, "accuracy": 0.5}
METRICS = json.dumps({"all": SCORES, "groups": {"a": SCORES | {"intervals": {"accuracy": [0.1, 0.9]}}}}).encode()
PARAGRAPH = "姓张，名飞，字翼德。张飞曰：“吾乃燕人张翼德也！”赵云大怒，拍马而来。张飞大笑，赵云曰：“且慢。”\n"
BOOK = "".join(f"第{number}回 宴桃园豪杰三结义 斩黄巾英雄首立功\n{PARAGRAPH * 3}" for number in "一二三四").encode()
PEOPLE = json.dumps({"张飞": ["张飞", "翼德"], "赵云": ["赵云", "子龙"]}, ensure_ascii=False).encode()
RECORDS = json.dumps(
    [
        {"Question": "一", "Answer": "二"},
        {"messages": [{"role": "user", "content": "三"}, {"role": "assistant", "content": "四"}]},
    ]
).encode()
SMALL_FILES = {
    "ckpt.pt": small_checkpoint(),
    "config.py": CONFIG,
    "log.jsonl": LOG,
    "table.jsonl": TABLE,
    "eval.jsonl": QUESTIONS,
    "metrics.json": METRICS,
    "done.json": b'{"seconds": 1.5, "recipe": "x", "commands": ["a"]}',
    "input.txt": BOOK,
    "book.txt": BOOK,
    "entities.json": PEOPLE,
    "records.json": RECORDS,
    "prompts.json": "\n".join(json.dumps(record, indent=1) for record in json.loads(RECORDS)).encode(),
    **small_adapter(),
    **small_hf(),
    "vocab.txt": "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"张飞赵云abc", "##a"]).encode(),
    "records.jsonl": QUESTIONS + b'{"instruction": "1", "input": "", "output": "2"}\n',
}
FUZZED = "data/fuzzed"
FETCH = ("data/fetch_data.py", "made", f"--from={FUZZED}/book.txt")
FEW_QUESTIONS = ["data/build_sft.py", "fuzzed", "--small_talk=0", "--lookups=0", "--follow_ups=0"]
PREPARE = ("data/prepare.py", "fuzzed", "--tokenizer=bpe", "--vocab_size=300")
SFT = ("data/prepare_sft.py", "--dataset=made", f"--tokenizer_from={FUZZED}", "--block_size=64")
LOADERS = {  # name: (folder whose files lie around, file that is damaged, how, what reads it)
    "meta.json of a book": ("data/sanguo_bpe", "meta.json", damaged_json, load_data),
    "meta.json": ("data/sanguo_bpe", "meta.json", damaged_json, read_meta),
    "meta.json of talks": ("data/talk", "meta.json", damaged_json, load_data),
    "val.bin": ("data/sanguo_bpe", "val.bin", damaged_bytes, load_data),
    "train.bin": ("data/talk", "train.bin", damaged_bytes, load_data),
    "train_mask.bin": ("data/talk", "train_mask.bin", damaged_bytes, load_data),
    "train_sample.bin": ("data/talk", "train_sample.bin", damaged_bytes, load_data),
    "tokenizer": ("data/sanguo_bpe", "tokenizer.tiktoken", damaged_bytes, load_tokenizer),
    "checkpoint": ("", "ckpt.pt", damaged_checkpoint, load_weights),
    "config": ("", "config.py", damaged_bytes, load_config),
    "log": ("", "log.jsonl", damaged_json, read_log),
    "metrics": ("", "metrics.json", damaged_json, lambda folder: read_groups(folder / "metrics.json")),
    "done.json": ("", "done.json", damaged_json, lambda folder: files.read_json(folder / "done.json", "run again")),
    "table": ("", "table.jsonl", damaged_json, load_table),
    "questions": ("", "eval.jsonl", damaged_json, lambda folder: read_questions(folder / "eval.jsonl")),
    "prompts": ("", "prompts.json", damaged_bytes, lambda folder: read_prompts(folder / "prompts.json")),
    "adapter_config.json": ("", "adapter_config.json", damaged_json, load_adapter),
    "adapter's weights": ("", "adapter_model.safetensors", damaged_bytes, load_adapter),
    "config.json of a Hugging Face folder": ("", "config.json", damaged_json, load_hf),
    "its weights": ("", "model.safetensors", damaged_bytes, load_hf),
    "its tokenizer.json": ("", "tokenizer.json", damaged_json, load_tokenizer),
    "a BERT vocabulary": ("", "vocab.txt", damaged_bytes, load_vocabulary),
    "a book to fetch": ("", "book.txt", damaged_bytes, script(*FETCH)),
    "a book to prepare": ("", "input.txt", damaged_bytes, script(*PREPARE)),
    "a book to ask about": ("", "input.txt", damaged_bytes, script(*FEW_QUESTIONS)),
    "people": ("", "entities.json", damaged_json, script(*FEW_QUESTIONS)),
    "records, one a line": ("data/sanguo_bpe", "records.jsonl", damaged_json, script(*SFT, f"{FUZZED}/records.jsonl")),
    "a list of records": ("data/sanguo_bpe", "records.json", damaged_json, script(*SFT, f"{FUZZED}/records.json")),
}  # fmt: skip


def fuzz(project, tmp_path, monkeypatch, name, examples):
    """Load `examples` damaged versions of one file among its whole neighbours; how many were told to be damaged."""
    source, damaged, strategy, load = LOADERS[name]
    neighbours = (
        SMALL_FILES
        if not source
        else SMALL_FILES | {p.name: p.read_bytes() for p in (project.folder / source).iterdir()}
    )
    folder, written_to = tmp_path / "data/fuzzed", tmp_path / "data/made"
    folder.mkdir(parents=True)
    written_to.mkdir()
    for other, content in neighbours.items():
        (folder / other).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configurator, "ROOT", configurator.ROOT)  # put back at the end
    load(folder)  # the whole file is read
    tried, refused = [], []

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
    )
    @given(strategy(neighbours[damaged]))
    def check(content):
        # A new file each time: the last one may still be mapped.
        (folder / damaged).unlink()
        (folder / damaged).write_bytes(content)
        (written_to / "input.txt").write_text("旧书", encoding="utf-8")
        tried.append(len(content))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            with no_longer_than(PATIENCE):
                load(folder)
        except UserError as error:
            assert "; " in str(error) and error.what and error.todo
            refused.append(error)
            assert (written_to / "input.txt").read_text(encoding="utf-8") == "旧书"
        assert tracemalloc.get_traced_memory()[1] - before < 2 * len(content) + ROOM
        assert not list(tmp_path.rglob("*.partial"))
        assert {path.name for path in tmp_path.iterdir()} == {"data"}

    tracemalloc.start()
    try:
        check()
    finally:
        tracemalloc.stop()
    print(f"\n{name}: {len(tried):,} damaged versions, {len(refused):,} told to be damaged, the others read")
    return len(refused)


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_are_told(project, chat, tmp_path, monkeypatch, name):
    """A short run of what test-long does at length; of a whole book each takes half a second."""
    asks = name in ("a book to ask about", "people")
    assert fuzz(project, tmp_path, monkeypatch, name, 15 if asks else 40) >= 3


@pytest.mark.long
@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_are_told_at_length(project, chat, tmp_path, monkeypatch, name):
    """2,000 damaged versions of each file."""
    assert fuzz(project, tmp_path, monkeypatch, name, 2000) > 100
