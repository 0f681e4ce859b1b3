"""Batches for training, straight from the memory-mapped token files.

    init_data_pretrain("sanguo_bpe")
    x, y, loss_mask = get_batch_pretrain("train", 16, 256, "cpu")

x, y: (batch_size, block_size) int64, y one position ahead of x. loss_mask: the same shape, float32, 1 where y
counts in the loss. With `index` a batch is a function of its number and `seed` alone, so that a run can be resumed exactly
and many processes can share one order; without it, it is drawn from torch's random state.

Table("sanguo_sft", "train") gives conversations to transformers' Trainer.
"""

from pathlib import Path

import numpy as np
import torch

from miniglm.errors import refuse
from miniglm.tokenizer import read_meta

train_data = val_data = None  # uint16: (tokens,) for pretraining, (rows, block_size + 1) for fine-tuning
train_mask = val_mask = None  # uint8 like the rows
train_sample = val_sample = None  # uint16 like the rows where they are packed, else None


def is_sft(dataset):
    """Whether data/DATASET holds conversations with a loss mask, as prepare_sft.py writes them."""
    return Path("data", dataset, "train_mask.bin").exists()


def init_data_pretrain(dataset):
    """Map data/DATASET/train.bin and val.bin. Raises UserError where one is missing or damaged."""
    global train_data, val_data
    train_data, val_data = (_map_tokens(dataset, split) for split in ("train", "val"))


def get_batch_pretrain(split, batch_size, block_size, device, index=None, seed=0):
    """(x, y, loss_mask) at random places of the split; every position counts."""
    shortest = min(len(train_data), len(val_data))  # so that a run does not fail at its first evaluation
    refuse(
        shortest <= block_size,
        f"a split has {shortest} tokens, too few for a block of {block_size}",
        "choose a smaller --block_size or prepare a longer book",
    )
    data = train_data if split == "train" else val_data
    starts = torch.randint(len(data) - block_size, (batch_size,), generator=_rng(seed, index)).tolist()
    rows = torch.from_numpy(np.stack([data[i : i + block_size + 1] for i in starts]).astype(np.int64))
    return to_device(device, rows[:, :-1], rows[:, 1:], torch.ones(batch_size, block_size))


def init_data_sft(dataset):
    """Map the rows, loss masks and sample numbers of data/DATASET. Raises UserError where one is damaged."""
    global train_data, val_data, train_mask, val_mask, train_sample, val_sample
    (train_data, train_mask, train_sample), (val_data, val_mask, val_sample) = (
        _map_sft(dataset, split) for split in ("train", "val")
    )


def _map_sft(dataset, split):
    """(rows, loss masks, sample numbers or None) of a split of data/DATASET, arrays of one shape."""
    length = read_meta(Path("data", dataset)).get("row_length")
    proper = isinstance(length, int) and length > 1
    refuse(not proper, f"data/{dataset}/meta.json tells no row length", "prepare it again")
    data = _map_tokens(dataset, split, length)
    mask = _map(dataset, f"{split}_mask", np.uint8, data.shape)
    proper = mask.max() == 1
    refuse(not proper, f"data/{dataset}/{split}_mask.bin holds other than 0 and 1, or no 1", "prepare the data again")
    packed = Path("data", dataset, "train_sample.bin").exists()
    return data, mask, _map(dataset, f"{split}_sample", np.uint16, data.shape) if packed else None


def row_length():
    """How many tokens a row of the mapped conversations gives the model."""
    return train_data.shape[1] - 1


def get_batch_sft(split, batch_size, block_size, device, index=None, seed=0, with_sample=False):
    """(x, y, loss_mask) of whole rows: none begins in the middle of a sample.

    block_size must be the rows' own. with_sample: also give which sample of its row each token of x belongs to,
    (batch_size, block_size) int64, or None where rows are not packed. With `index` every row comes once an epoch,
    each epoch in another order.
    """
    data, mask, sample = (
        (train_data, train_mask, train_sample) if split == "train" else (val_data, val_mask, val_sample)
    )
    refuse(
        data.shape[1] != block_size + 1,
        f"the rows hold {data.shape[1] - 1} tokens, the block {block_size}",
        f"prepare the data with --block_size={block_size}",
    )
    if index is None:
        chosen = torch.randint(len(data), (batch_size,)).numpy()
    else:
        places = np.arange(index * batch_size, (index + 1) * batch_size)
        orders = {
            epoch: torch.randperm(len(data), generator=_rng(seed, int(epoch))).numpy()
            for epoch in set(places // len(data))
        }
        chosen = np.array([orders[place // len(data)][place % len(data)] for place in places])
    rows = torch.from_numpy(data[chosen].astype(np.int64))
    loss_mask = torch.from_numpy(mask[chosen].astype(np.float32))
    batch = to_device(device, rows[:, :-1], rows[:, 1:], loss_mask[:, 1:])
    if not with_sample:
        return batch
    if sample is None:
        return *batch, None
    return *batch, *to_device(device, torch.from_numpy(sample[chosen].astype(np.int64))[:, :-1])


class Table(torch.utils.data.Dataset):
    """A split of conversations as transformers' Trainer reads it: a sample a row, no packing.

    A row is {"input_ids", "attention_mask", "labels"}, lists of one length, that of the longest sample: padded with
    ids whose mask is 0; labels are -100 where the loss mask is 0 (transformers moves them by one itself).
    A number gives a row, a slice its rows column by column, a column's name that column, as in the package datasets.
    """

    column_names = ("input_ids", "attention_mask", "labels")

    def __init__(self, dataset, split):
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

    def __getitem__(self, number):
        if isinstance(number, str):
            return [row[number] for row in self]
        if isinstance(number, slice):
            rows = [self[each] for each in range(*number.indices(len(self)))]
            return {name: [row[name] for row in rows] for name in self.column_names}
        row, start, stop = self._spans[number]
        ids, mask = self._data[row, start:stop].astype(np.int64), self._mask[row, start:stop]
        filling = [0] * (self._length - len(ids))
        return {
            "input_ids": [*ids.tolist(), *filling],
            "attention_mask": [1] * len(ids) + filling,
            "labels": [*np.where(mask == 0, -100, ids).tolist(), *[-100] * len(filling)],
        }


def _rng(seed, index):
    """A generator for batch number `index` of a run, None (torch's own random state) without a number."""
    return None if index is None else torch.Generator().manual_seed((seed << 32) + index)


def to_device(device, *tensors):
    """The tensors (or None) on `device`; from pinned memory and without waiting where that is CUDA."""
    pinned = "cuda" in str(device)
    return tuple(
        None
        if tensor is None
        else (tensor.contiguous().pin_memory() if pinned else tensor.contiguous()).to(device, non_blocking=pinned)
        for tensor in tensors
    )


def _map_tokens(dataset, split, row_length=None):
    """The ids of a split as (tokens,) or (rows, row_length) uint16, checked against the vocabulary."""
    vocab_size = read_meta(Path("data", dataset)).get("vocab_size")
    data = _map(dataset, split, np.uint16, row_length and (-1, row_length))
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
    refuse(not size, f"{path} is empty", "prepare the data again, from a longer text")
    data = np.memmap(path, dtype=dtype, mode="r")
    if shape:
        data = data.reshape(-1, shape[1])
        refuse(
            shape[0] not in (-1, len(data)), f"{path} has {len(data)} rows, not {shape[0]}", "prepare the data again"
        )
    return data
