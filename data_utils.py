"""Batches for training, straight from the memory-mapped token files.

    data = open_data("sanguo_bpe")
    batch = data.batch("train", 16, 256, index=0, seed=1337)    # a Batch, see miniglm/batch.py

With `index` a batch is a function of its number and `seed` alone, so that a run can be resumed exactly and many
processes can share one order; without it, it is drawn from torch's random state. The same as plain functions:

    init_data_pretrain("sanguo_bpe")
    x, y, loss_mask = get_batch_pretrain("train", 16, 256, "cpu")

Table("sanguo_sft", "train") gives conversations to transformers' Trainer.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from miniglm.batch import Batch
from miniglm.errors import refuse
from miniglm.files import is_plain_name
from miniglm.metrics import read_questions
from miniglm.tokenizer import id_dtype
from miniglm.typed import Normalisation, normalisation_in
from miniglm.vocabulary import load_tokenizer, read_meta

SPLITS = ("train", "val")


def open_data(dataset: str) -> "Books | Talks | Pairs | Prompts":
    """The data set data/DATASET, as one of data/prepare*.py or data/build_sft.py wrote it. Raises UserError."""
    folder = Path("data", dataset)
    refuse(not is_plain_name(dataset), f"--dataset={dataset} is no name", "give the name of a folder in data/")
    refuse(not folder.is_dir(), f"no data set {folder}", "run python data/prepare.py, or check --dataset")
    kinds = {"pairs": Pairs, "prompts": Prompts}
    return kinds.get(read_meta(folder).get("kind"), Talks if is_sft(dataset) else Books)(dataset)


def is_sft(dataset: str) -> bool:
    """Whether data/DATASET holds conversations with a loss mask, as prepare_sft.py writes them."""
    return Path("data", dataset, "train_mask.bin").exists()


class DataSet:
    """What books and conversations have in common: a folder, its tokenizer, its meta.json."""

    normalisation: Normalisation | None = None  # of questions
    objectives: tuple[str, ...] = ("likelihood",)  # that learn from it

    def __init__(self, dataset: str):
        self.name, self.folder = dataset, Path("data", dataset)
        self.meta = read_meta(self.folder)
        self.searches = bool(self.meta.get("searches"))  # whether the assistant calls the search tool in it

    @functools.cached_property
    def tokenizer(self):
        """The tokenizer that the data were prepared with."""
        return load_tokenizer(self.folder)


class Books(DataSet):
    """Token ids of texts, one after the other, to be read at random places."""

    chat = False

    def __init__(self, dataset: str):
        """Maps train.bin and val.bin. Raises UserError where one is missing or damaged."""
        super().__init__(dataset)
        self.ids = {split: _map_tokens(dataset, split) for split in SPLITS}  # (tokens,) uint16 or uint32

    def check(self, block_size: int):
        """Raise UserError where a split is too short for rows of block_size."""
        shortest = min(map(len, self.ids.values()))  # of both, so that a run does not fail at its first evaluation
        refuse(
            shortest <= block_size,
            f"a split has {shortest} tokens, too few for a block of {block_size}",
            "choose a smaller --block_size or prepare a longer book",
        )

    def rows_of_epoch(self, block_size: int, split: str = "train") -> int:
        """How many rows of block_size a pass over a split has."""
        return max(1, (len(self.ids[split]) - 1) // block_size - 1)

    def batch(self, split: str, batch_size: int, block_size: int, index: int | None = None, seed: int = 0) -> Batch:
        """A batch on the CPU, at random places of the split; every position counts.

        With `index` the split is cut into rows anew in each epoch, and every row comes once.
        """
        self.check(block_size)
        ids = self.ids[split]
        if index is None:
            starts = torch.randint(len(ids) - block_size, (batch_size,)).tolist()
        else:
            of_an_epoch = self.rows_of_epoch(block_size, split)
            spare = len(ids) - 1 - of_an_epoch * block_size  # where an epoch's first row begins at the latest
            starts = [
                number * block_size + int(torch.randint(spare + 1, (1,), generator=_rng(seed, -1 - epoch)))
                for epoch, number in _shuffled(of_an_epoch, batch_size, index, seed)
            ]
        rows = torch.from_numpy(np.stack([ids[i : i + block_size + 1] for i in starts]).astype(np.int64))
        return _batch(rows, torch.ones(batch_size, block_size), None, seed, index)


class Talks(DataSet):
    """Rows of conversations with their loss masks and, where several are packed into a row, their numbers in it."""

    chat = True

    def __init__(self, dataset: str):
        """Maps the rows, masks and sample numbers. Raises UserError where one is missing or damaged."""
        super().__init__(dataset)
        self.normalisation = normalisation_in(self.meta, self.folder / "meta.json")
        mapped = {split: _map_sft(dataset, split) for split in SPLITS}
        self.rows = {split: rows for split, (rows, _, _) in mapped.items()}  # (rows, block_size + 1)
        self.masks = {split: mask for split, (_, mask, _) in mapped.items()}  # uint8, of their shape
        self.samples = {split: sample for split, (_, _, sample) in mapped.items()}  # uint16, of their shape, or None

    @property
    def row_length(self) -> int:
        """How many tokens a row gives the model."""
        return self.rows["train"].shape[1] - 1

    def check(self, block_size: int):
        """Raise UserError where block_size is not the rows' own."""
        refuse(
            self.row_length != block_size,
            f"the rows hold {self.row_length} tokens, the block {block_size}",
            f"prepare the data with --block_size={block_size}",
        )

    def rows_of_epoch(self, block_size: int, split: str = "train") -> int:
        """How many rows a pass over a split has."""
        return len(self.rows[split])

    def batch(self, split: str, batch_size: int, block_size: int, index: int | None = None, seed: int = 0) -> Batch:
        """A batch on the CPU, of whole rows: none begins in the middle of a sample.

        block_size must be the rows' own. With `index` every row comes once an epoch, each epoch in another order.
        """
        self.check(block_size)
        rows, mask, sample = self.rows[split], self.masks[split], self.samples[split]
        if index is None:
            chosen = torch.randint(len(rows), (batch_size,)).numpy()
        else:
            chosen = np.array([number for _, number in _shuffled(len(rows), batch_size, index, seed)])
        loss_mask = torch.from_numpy(mask[chosen].astype(np.float32))[:, 1:]
        numbers = None if sample is None else torch.from_numpy(sample[chosen].astype(np.int64))[:, :-1]
        return _batch(torch.from_numpy(rows[chosen].astype(np.int64)), loss_mask, numbers, seed, index)


class Pairs(Talks):
    """Rows of pairs: the samples 2 i and 2 i + 1 of a row are the better and the worse answer to one question."""

    objectives = ("reward", "dpo")

    def batch(self, split: str, batch_size: int, block_size: int, index: int | None = None, seed: int = 0) -> Batch:
        """A batch of whole rows on the CPU, see Talks.batch."""
        return replace(super().batch(split, batch_size, block_size, index, seed), paired=True)


class Prompts(DataSet):
    """Questions that a model is to answer, and what its answers are judged by, as records of prompts.jsonl.

    What is learnt from them is made while training, see miniglm/rollouts.py.
    """

    chat = True
    row_length = 0  # as --block_size says
    objectives = ("grpo", "ppo")

    def __init__(self, dataset: str):
        """Reads train.jsonl and val.jsonl. Raises UserError."""
        super().__init__(dataset)
        self.normalisation = normalisation_in(self.meta, self.folder / "meta.json")
        self.records = {split: read_questions(self.folder / f"{split}.jsonl") for split in SPLITS}

    def check(self, block_size: int):
        """Nothing: answers are as long as they are drawn."""

    def rows_of_epoch(self, block_size: int, split: str = "train") -> int:
        """How many questions a pass over a split has."""
        return len(self.records[split])

    def numbered(self, split: str, count: int, index: int, seed: int) -> list[dict]:
        """`count` records, those of number `index`: every one comes once an epoch, each epoch in another order."""
        records = self.records[split]
        return [records[number] for _, number in _shuffled(len(records), count, index, seed)]


class Table(torch.utils.data.Dataset):
    """A split of conversations as transformers' Trainer reads it: a sample a row, no packing.

    A row is {"input_ids", "attention_mask", "labels"}, lists of one length, that of the longest sample: padded with
    ids whose mask is 0; labels are -100 where the loss mask is 0 (transformers moves them by one itself).
    A number gives a row, a slice its rows column by column, a column's name that column, as in the package datasets.
    """

    column_names = ("input_ids", "attention_mask", "labels")

    def __init__(self, dataset: str, split: str):
        """Raises UserError where data/DATASET holds no conversations."""
        refuse(not is_sft(dataset), f"data/{dataset} holds no conversations", "prepare some with data/prepare_sft.py")
        self._data, self._mask, samples = _map_sft(dataset, split)
        self._spans = []  # (row, start, stop) of each sample
        for row, mask in enumerate(self._mask):
            numbers = np.zeros(len(mask), np.uint16) if samples is None else samples[row]
            starts = np.flatnonzero(np.diff(numbers, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(mask)]):
                learned = np.flatnonzero(mask[start:stop])  # the filling of a row has none
                if len(learned):
                    self._spans.append((row, int(start), int(start + learned[-1] + 1)))
        self._length = max(stop - start for _, start, stop in self._spans)

    def __len__(self):
        return len(self._spans)

    def __iter__(self):
        return (self[number] for number in range(len(self)))

    def __getitem__(self, index):
        if isinstance(index, str):
            return [row[index] for row in self]
        if isinstance(index, slice):
            rows = [self[each] for each in range(*index.indices(len(self)))]
            return {name: [row[name] for row in rows] for name in self.column_names}
        row, start, stop = self._spans[index]
        ids, mask = self._data[row, start:stop].astype(np.int64), self._mask[row, start:stop]
        filling = [0] * (self._length - len(ids))
        return {
            "input_ids": [*ids.tolist(), *filling],
            "attention_mask": [1] * len(ids) + filling,
            "labels": [*np.where(mask == 0, -100, ids).tolist(), *[-100] * len(filling)],
        }


# The four functions of the course's MiniGLM, on top of open_data. The data set that each kind was given last.
_opened: dict[str, Books | Talks] = {}


def init_data_pretrain(dataset: str):
    """Open data/DATASET for get_batch_pretrain. Raises UserError where a file is missing or damaged."""
    _opened["pretrain"] = Books(dataset)


def get_batch_pretrain(split, batch_size, block_size, device, index=None, seed=0):
    """(x, y, loss_mask) at random places of the split, on `device`.

    x, y: (batch_size, block_size) int64, y one position ahead. loss_mask: float32 of that shape, all 1.
    """
    batch = _opened["pretrain"].batch(split, batch_size, block_size, index, seed).to(device)
    return batch.ids, batch.targets, batch.loss_mask


def init_data_sft(dataset: str):
    """Open data/DATASET for get_batch_sft. Raises UserError where a file is missing or damaged."""
    _opened["sft"] = Talks(dataset)


def get_batch_sft(split, batch_size, block_size, device, index=None, seed=0):
    """(x, y, loss_mask) of whole rows, on `device`; shapes as in get_batch_pretrain, block_size the rows' own.

    loss_mask is 1 where y counts in the loss.
    """
    batch = _opened["sft"].batch(split, batch_size, block_size, index, seed).to(device)
    return batch.ids, batch.targets, batch.loss_mask


def _rng(seed, index):
    """A generator for batch number `index` of a run, None (torch's own random state) without a number."""
    return None if index is None else torch.Generator().manual_seed((seed << 32) + index)


def _shuffled(rows, batch_size, index, seed):
    """(epoch, row) of each row of batch number `index`: every one comes once an epoch, in another order each time."""
    places = range(index * batch_size, (index + 1) * batch_size)
    return [(place // rows, int(_order(rows, place // rows, seed)[place % rows])) for place in places]


@functools.lru_cache(maxsize=4)
def _order(rows, epoch, seed):
    """The order of the rows in an epoch, an array."""
    return torch.randperm(rows, generator=_rng(seed, epoch)).numpy()


def _batch(rows, loss_mask, numbers, seed, index):
    """The Batch of rows (B, T + 1) int64, on the CPU."""
    return Batch(rows[:, :-1], rows[:, 1:], loss_mask, numbers, (seed << 32) + (index or 0)).to("cpu")


def _map_sft(dataset, split):
    """(rows, loss masks, sample numbers or None) of a split of data/DATASET, arrays of one shape."""
    length = read_meta(Path("data", dataset)).get("row_length")
    unknown = not isinstance(length, int) or length <= 1
    refuse(unknown, f"data/{dataset}/meta.json tells no row length", "prepare it again")
    data = _map_tokens(dataset, split, length)
    mask = _map(dataset, f"{split}_mask", np.uint8, data.shape)
    name = f"data/{dataset}/{split}_mask.bin"
    refuse(mask.max() != 1, f"{name} holds other than 0 and 1, or no 1", "prepare the data again")
    packed = Path("data", dataset, "train_sample.bin").exists()
    return data, mask, _map(dataset, f"{split}_sample", np.uint16, data.shape) if packed else None


def _map_tokens(dataset, split, row_length=None):
    """The ids of a split as (tokens,) or (rows, row_length) uint16 or uint32, checked against the vocabulary."""
    vocab_size = read_meta(Path("data", dataset)).get("vocab_size")
    dtype = id_dtype(vocab_size if isinstance(vocab_size, int) else 0)
    data = _map(dataset, split, dtype, row_length and (-1, row_length))
    largest = max((int(data[i : i + (1 << 24)].max()) for i in range(0, len(data), 1 << 24)), default=-1)
    refuse(
        not isinstance(vocab_size, int) or largest >= vocab_size,
        f"data/{dataset}/{split}.bin holds the id {largest}, the vocabulary {vocab_size} ids",
        "prepare the data again",
    )
    return data


def _map(dataset, name, dtype, shape=None):
    """The file data/DATASET/NAME.bin as a read-only array, of `shape` where one is given."""
    path = Path("data", dataset, f"{name}.bin")
    refuse(not path.is_file(), f"no file {path}", "prepare the data with data/prepare.py or data/prepare_sft.py")
    size, row = path.stat().st_size, np.dtype(dtype).itemsize * (shape[1] if shape else 1)
    refuse(size % row != 0, f"{path} has {size} bytes, no multiple of {row}", "it is cut off; prepare the data again")
    refuse(size == 0, f"{path} is empty", "prepare the data again, from a longer text")
    data = np.memmap(path, dtype=dtype, mode="r")
    if shape:
        data = data.reshape(-1, shape[1])
        differs = shape[0] not in (-1, len(data))
        refuse(differs, f"{path} has {len(data)} rows, not {shape[0]}", "prepare the data again")
    return data
