"""Mutated files: whatever their bytes, a loader gives a value or says in one line what is wrong."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data_utils
from checkpoint import build_model, load_checkpoint
from errors import UserError
from tokenizer import Tokenizer, read_meta


def mutations(content):
    """Strategies for damaged versions of some bytes: cut off, overwritten in places, or anything at all."""
    places = st.lists(
        st.tuples(st.integers(0, max(0, len(content) - 1)), st.binary(min_size=1, max_size=8)), max_size=5
    )

    def overwrite(changes):
        damaged = bytearray(content)
        for at, new in changes:
            damaged[at : at + len(new)] = new
        return bytes(damaged)

    return st.one_of(
        st.integers(0, len(content)).map(lambda n: content[:n]), places.map(overwrite), st.binary(max_size=64)
    )


def load_data(folder):
    """What train.py does with a data set."""
    os.chdir(folder.parents[1])
    init = data_utils.init_data_sft if data_utils.is_sft(folder.name) else data_utils.init_data_pretrain
    init(folder.name)


def load_weights(folder):
    """What sample.py does with an out_dir."""
    build_model(load_checkpoint(folder))


LOADERS = [
    ("data/sanguo_bpe", "meta.json", load_data),
    ("data/sanguo_bpe", "meta.json", read_meta),
    ("data/sanguo_bpe", "val.bin", load_data),
    ("data/sanguo_bpe", "tokenizer.tiktoken", Tokenizer.load),
    ("data/talk", "train.bin", load_data),
    ("data/talk", "train_mask.bin", load_data),
    ("data/talk", "train_sample.bin", load_data),
    ("data/talk", "meta.json", load_data),
    ("out/talk", "ckpt.pt", load_weights),
]


def fuzz(project, source, name, load, examples):
    """Load `examples` damaged versions of one file among its whole neighbours; how many were told to be damaged."""
    told = []
    whole = {path.name: path.read_bytes() for path in (project.folder / source).iterdir()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "data", "fuzzed")
        folder.mkdir(parents=True)
        for other, content in whole.items():
            (folder / other).write_bytes(content)

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        @given(mutations(whole[name]))
        def check(content):
            # A new file each time: the last one may still be mapped.
            (folder / name).unlink()
            (folder / name).write_bytes(content)
            try:
                load(folder)
            except UserError as error:
                assert "; " in str(error)
                told.append(error)

        check()
    return len(told)


@pytest.mark.parametrize("source, name, load", LOADERS)
def test_damaged_files_are_told(project, chat, monkeypatch, source, name, load):
    """A short run of what test-long does at length."""
    monkeypatch.chdir(project.folder)
    assert fuzz(project, source, name, load, 40) > 10


@pytest.mark.long
@pytest.mark.parametrize("source, name, load", LOADERS)
def test_damaged_files_are_told_at_length(project, chat, monkeypatch, source, name, load):
    """2,000 damaged versions of each file."""
    monkeypatch.chdir(project.folder)
    assert fuzz(project, source, name, load, 2000) > 500
