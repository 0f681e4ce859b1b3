"""Records to the rows of a data set: read in a stream, tallied, packed, written as they come.

    write_rows("data/sanguo_sft", "talks", read, sources, tokenizer, row_length=513, pack=True)

`read` makes Prepared of a record; data/prepare_sft.py and data/prepare_pairs.py each have their own.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from miniglm.book.passages import copy_book
from miniglm.errors import UserError, refuse
from miniglm.files import sha256, write_json, write_whole
from miniglm.records import BadRecord, Turn, pair_of, read_records, turns_of, unlike
from miniglm.tokenizer import id_dtype
from miniglm.typed import Normalisation, normalisation_in
from miniglm.vocabulary import AnyTokenizer, read_config

SCRIPT_SAMPLE = 1 << 24  # characters that are looked at to tell in which script the records are
OPEN_ROWS = 32  # that are being packed at once; the more, the fuller they get
MOST_REASONS = 100  # that are counted each by itself


@dataclass(frozen=True)
class Sources:
    """Which records become a data set, and which of them its validation rows."""

    files: list[str]  # FILE.jsonl each
    val_files: list[str]  # of the validation rows; none: a share of the others
    val_fraction: float  # how large that is
    seed: int  # of which those are
    wanted: dict[str, list[str]]  # what their fields must have, see records.conditions
    strict: bool  # whether the first bad record is an error

    @property
    def all(self) -> list[str]:
        """All files, those of the validation rows first."""
        return [*self.val_files, *self.files]


class Prepared(NamedTuple):
    """A record as the model reads it."""

    form: str  # of the record
    samples: list[tuple[list[int], list[int]]]  # (ids, mask), 1 where an id is to be predicted; they stay side by side
    changes: list[str]  # what was changed in the record


class Tally(NamedTuple):
    """How many records were not kept as they are."""

    left_out: Counter[str]  # by reason
    changed: Counter[str]  # by change
    not_chosen: Counter[str]  # by what they have other than --where asks for


def said_in(record) -> list[Turn]:
    """All turns of a record, of a pair those of both answers. Raises BadRecord."""
    if isinstance(record, dict) and "chosen" in record:
        pair = pair_of(record)
        return [*pair.asked, *pair.better, *pair.worse]
    return turns_of(record).turns


def normalisation_for(paths, tokenizer_from) -> Normalisation | None:
    """How questions are normalised for a model that is trained on the records of some files.

    A model that has learnt to talk keeps its own, and open weights have none: their questions stay to the letter.
    """
    path = Path(tokenizer_from, "config.json")
    about = read_config(tokenizer_from)
    settings = about.get("settings")
    if "model_type" in about or isinstance(settings, dict) and settings.get("init_from") == "hf":
        return None
    if about.get("chat"):
        return normalisation_in(about, path)
    characters, seen = Counter(), 0
    for path in paths:
        for _, record in read_records(path):
            with suppress(BadRecord):
                text = "".join(turn["content"] for turn in said_in(record))
                characters.update(text)
                seen += len(text)
            if seen > SCRIPT_SAMPLE:
                break
    return Normalisation.of(characters)


def any_searches(paths) -> bool:
    """Whether the assistant calls the search tool in any record of some files."""
    for path in paths:
        for _, record in read_records(path):
            with suppress(BadRecord):
                if any(turn["role"] == "search" for turn in said_in(record)):
                    return True
    return False


def prepared(paths: list[str], read: Callable[[Any], Prepared], sources: Sources, tally: Tally) -> Iterator[Prepared]:
    """What `read` makes of all good records in some files. Tells what is kept of each file, and why the rest is not.

    read: raises BadRecord for a record that cannot be used. tally: is added to.
    """
    for path in paths:
        kept, here = Counter(), Tally(Counter(), Counter(), Counter())
        for place, record in tqdm(read_records(path), desc=Path(path).name, unit=" records", leave=False, disable=None):
            if record is not None and (other := unlike(record, sources.wanted)):
                here.not_chosen[other] += 1
                continue
            try:
                made = read(record)
            except (BadRecord, UserError) as error:
                refuse(sources.strict, f"{path} {place} {error}", "mend it, or leave --strict away to skip it")
                reason = str(error)
                if reason not in here.left_out and len(here.left_out) >= MOST_REASONS:
                    reason = "has another fault"
                here.left_out[reason] += 1
                if here.left_out[reason] <= 5:
                    tqdm.write(f"{path} {place} {error}: left out", file=sys.stderr)
                continue
            kept[made.form] += 1
            here.changed.update(made.changes)
            yield made
        print(f"{path}: kept " + (", ".join(f"{count:,} as {form}" for form, count in kept.items()) or "nothing"))
        for words, counts in zip(("left out", "changed", "not chosen"), here):
            for reason, count in counts.most_common():
                print(f"{path}: {words} {count:,}, each {reason}")
        for total, counts in zip(tally, here):
            total.update(counts)


class Rows:
    """The rows of one split, packed and written as the samples come."""

    def __init__(
        self, folder: Path, split: str, row_length: int, room: int, encoder: AnyTokenizer, pack: bool, stack: ExitStack
    ):
        """Open folder/SPLIT*.bin, which take their places when `stack` closes well.

        room: how many ids of a row samples may fill. encoder: whose end fills up the rest. pack: several samples in a
        row, with a column that numbers them.
        """
        columns = ["", "_mask", "_sample"] if pack else ["", "_mask"]
        self.files = [stack.enter_context(write_whole(folder / f"{split}{column}.bin", "wb")) for column in columns]
        self.row_length, self.room, self.end_id = row_length, room, encoder.end_id
        self.dtypes = (id_dtype(encoder.vocab_size), np.uint8, np.uint16)
        self.most_open = OPEN_ROWS if pack else 0
        self.open = []  # (length, samples) of rows that may have room
        self.rows = self.samples = self.learned_tokens = 0

    def add(self, samples: list[tuple[list[int], list[int]]]):
        """Put what a record gave into the fullest row that has room for it, or into a new one."""
        self.samples += len(samples)
        self.learned_tokens += sum(sum(mask) for _, mask in samples)
        more = sum(len(ids) for ids, _ in samples)
        fitting = [row for row in self.open if row[0] + more <= self.room]
        length, row = max(fitting, key=itemgetter(0), default=(0, []))
        if row:
            self.open.remove((length, row))
        self.open.append((length + more, [*row, *samples]))
        if len(self.open) > self.most_open:
            fullest = max(self.open, key=itemgetter(0))
            self.open.remove(fullest)
            self.write(*fullest)

    def write(self, length: int, row: list):
        """Write one row, filled up with end_id; the filling is a sample of its own, never predicted."""
        gap = self.row_length - length
        numbered = enumerate([*row, ([self.end_id] * gap, [0] * gap)])
        columns = zip(*((i, m, number) for number, (ids, mask) in numbered for i, m in zip(ids, mask)))
        for file, column, dtype in zip(self.files, columns, self.dtypes):
            file.write(np.array(column, dtype).tobytes())
        self.rows += 1

    def close(self) -> dict[str, int]:
        """Write the rows that are still open; the counts for meta.json."""
        while self.open:
            self.write(*self.open.pop())
        return {"rows": self.rows, "samples": self.samples, "learned_tokens": self.learned_tokens}


def write_rows(
    folder: Path,
    kind: str,
    read: Callable[[Any], Prepared],
    sources: Sources,
    encoder: AnyTokenizer,
    row_length: int,
    pack: bool,
    about: dict,
    spare: int = 0,
):
    """Write a data set: train*.bin, val*.bin, the tokenizer, the book beside the records, and last meta.json.

    kind: that meta.json tells, about: what else. read: see prepared. spare: ids at the end of a row that are always
    filling. Raises UserError.
    """
    drawn, tally, made = random.Random(sources.seed), Tally(Counter(), Counter(), Counter()), None
    with ExitStack() as stack:
        train, val = (
            Rows(folder, split, row_length, row_length - spare, encoder, pack, stack) for split in ("train", "val")
        )
        for made in prepared(sources.val_files, read, sources, tally):
            val.add(made.samples)
        for made in prepared(sources.files, read, sources, tally):
            held_out = not sources.val_files and (val.samples == 0 or drawn.random() < sources.val_fraction)
            (val if held_out else train).add(made.samples)
        if made and train.samples == 0 and val.samples == len(made.samples) and not sources.val_files:
            train.add(made.samples)  # the only one there is serves for both
        for rows, paths in ((train, sources.files), (val, sources.val_files or sources.files)):
            none = f"no good record in {', '.join(paths)}"
            refuse(not rows.samples, none, "see the reasons above and mend the records")
        meta = {
            "kind": kind,
            "dtype": np.dtype(id_dtype(encoder.vocab_size)).name,
            "tokenizer": encoder.name,
            "vocab_size": encoder.vocab_size,
            "row_length": row_length,
            "packed": pack,
            "splits": {"train": train.close(), "val": val.close()},
            "left_out": dict(tally.left_out),
            "changed": dict(tally.changed),
            "not_chosen": dict(tally.not_chosen),
            "sources": [{"name": Path(path).name, "sha256": sha256(path)} for path in sources.all],
            **about,
        }
        (folder / "meta.json").unlink(missing_ok=True)  # until everything is written there is no data set
        for stale in folder.glob("*_sample.bin"):
            stale.unlink()
    encoder.save(folder)
    copy_book(Path(sources.files[0]).parent, folder)
    write_json(folder / "meta.json", meta)
    for split, counts in meta["splits"].items():
        print(f"{folder / split}.bin: {counts['samples']:,} samples in {counts['rows']:,} rows of {row_length}")
