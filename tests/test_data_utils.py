"""Batches: their shapes, what they hold, and damaged files."""

import numpy as np
import pytest
import torch

import data_utils
from miniglm.errors import UserError
from miniglm.sources import Ahead
from miniglm.vocabulary import load_tokenizer


@pytest.fixture(autouse=True)
def in_project(project, monkeypatch):
    """Data sets are looked for below the working directory."""
    monkeypatch.chdir(project.folder)


def test_pretraining_batches_are_windows_of_the_book(project):
    """x is text of the book, y the same one token further, every position counts."""
    data_utils.init_data_pretrain("sanguo_bpe")
    x, y, loss_mask = data_utils.get_batch_pretrain("train", 4, 64, "cpu")
    assert x.shape == y.shape == loss_mask.shape == (4, 64) and x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1]) and loss_mask.all()
    tokenizer = load_tokenizer("data/sanguo_bpe")
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    assert tokenizer.decode(x[0].tolist()).strip("\n") in book


def test_a_batch_number_gives_the_same_batch_again():
    """What makes a run repeatable and resumable."""
    data_utils.init_data_pretrain("sanguo_bpe")
    first, again, other = (data_utils.get_batch_pretrain("train", 4, 64, "cpu", index)[0] for index in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_epoch_of_a_book_has_every_token_once():
    """Rows by number: none twice before all were there, all but a row's length read; cut anew in the next epoch."""
    data = data_utils.open_data("sanguo_bpe")
    length = len(data.ids["train"])
    data.ids["train"] = np.arange(length)
    rows = (length - 1) // 64 - 1
    read = torch.cat([data.batch("train", 1, 64, index, 7).ids[0] for index in range(rows)])
    assert len(read) == len(read.unique()) > length - 3 * 64
    first, second = (data.batch("train", 1, 64, index, 7).ids[0, 0] for index in (0, rows))
    assert first % 64 != second % 64
    tiny = data_utils.open_data("sanguo_bpe")
    tiny.ids["train"] = np.arange(66)  # one row and a place to spare
    assert {int(tiny.batch("train", 2, 64, index, 7).ids[0, 0]) for index in range(20)} == {0, 1}


def test_fine_tuning_batches_are_whole_rows_and_an_epoch_has_each_once():
    """No sample begins in the middle, and no row is left out of an epoch."""
    data = data_utils.open_data("sanguo_sft")
    rows = data.rows["train"]
    marker = load_tokenizer("data/sanguo_sft").encode("问")
    seen = []
    for index in range(len(rows) // 8):
        batch = data.batch("train", 8, 128, index)
        assert (batch.ids[:, : len(marker)] == torch.tensor(marker)).all() and (batch.sample[:, 0] == 0).all()
        assert set(batch.loss_mask.unique().tolist()) <= {0.0, 1.0} and batch.weight == batch.loss_mask.sum()
        seen += [tuple(row) for row in batch.ids.tolist()]
    every = {tuple(row[:-1].tolist()) for row in rows}
    assert len(set(seen)) >= len(every) - 8


def test_the_courses_functions_give_the_same_batches():
    """get_batch_pretrain and get_batch_sft are fronts of open_data: the same numbers, on the device asked for."""
    data_utils.init_data_pretrain("sanguo_bpe")
    data_utils.init_data_sft("sanguo_sft")
    for name, get_batch, length in (
        ("sanguo_bpe", data_utils.get_batch_pretrain, 64),
        ("sanguo_sft", data_utils.get_batch_sft, 128),
    ):
        x, y, loss_mask = get_batch("val", 4, length, "cpu", 3, 7)
        batch = data_utils.open_data(name).batch("val", 4, length, 3, 7)
        assert torch.equal(x, batch.ids) and torch.equal(y, batch.targets) and torch.equal(loss_mask, batch.loss_mask)
        assert torch.equal(batch.row(2).ids[0], x[2]) and batch.row(2).weight == loss_mask[2].sum()


def test_batches_made_ahead_are_those_of_the_step():
    """Whichever step is asked for next, also after going back."""
    ahead = Ahead(lambda step: [step])
    assert [ahead.take(step) for step in (5, 6, 7, 3, 4)] == [[5], [6], [7], [3], [4]]


def test_block_size_must_be_the_rows_own():
    """Rows of another length are refused with the command that mends it."""
    data_utils.init_data_sft("sanguo_sft")
    with pytest.raises(UserError, match="--block_size=64"):
        data_utils.get_batch_sft("train", 8, 64, "cpu")


def damaged(project, name, **files):
    """A copy of data/sanguo_bpe with some files replaced."""
    for path in (project.folder / "data/sanguo_bpe").iterdir():
        project.write(f"data/{name}/{path.name}", path.read_bytes())
    for file, content in files.items():
        project.write(f"data/{name}/{file}.bin", content)
    return name


def test_damaged_files_are_told(project):
    """Odd length, foreign ids, nothing at all: each has its line."""
    with pytest.raises(UserError, match="cut off"):
        data_utils.init_data_pretrain(damaged(project, "odd", train=b"\x01\x00\x02"))
    with pytest.raises(UserError, match="holds the id 60000"):
        data_utils.init_data_pretrain(damaged(project, "beyond", val=np.array([1, 60000], np.uint16).tobytes()))
    with pytest.raises(UserError, match="is empty"):
        data_utils.init_data_pretrain(damaged(project, "empty", train=b""))
    with pytest.raises(UserError, match="run python data/prepare.py"):
        data_utils.init_data_pretrain("nowhere")
    data_utils.init_data_pretrain(damaged(project, "short", val=np.arange(9, dtype=np.uint16).tobytes()))
    with pytest.raises(UserError, match="too few for a block of 64"):
        data_utils.get_batch_pretrain("val", 4, 64, "cpu")
