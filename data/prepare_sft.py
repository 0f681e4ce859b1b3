"""Turn questions and conversations into rows for fine-tuning: FILE.jsonl … -> data/DATASET/*.bin and meta.json.

    python data/prepare_sft.py data/sanguo_sft/questions.jsonl --dataset=sanguo_sft --tokenizer_from=data/sanguo_bpe

Reads questions with answers and conversations in the forms that public data sets use (Alpaca, ShareGPT, OpenAI, MOSS,
…): a record a line, one JSON list, or records of several lines each; see miniglm/records.py. What is left out and what
is changed is counted and told by reason. Files are read in a stream: memory stays flat however large they are. See
miniglm/conversation.py for how a turn is written.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from configurator import Bounds, FilePath, configure
from miniglm.book.passages import copy_book
from miniglm.conversation import encode_conversation, normalised
from miniglm.errors import UserError, refuse
from miniglm.files import claim, is_plain_name, sha256, write_json, write_whole
from miniglm.records import BadRecord, Turn, conditions, read_records, turns_of, unlike
from miniglm.tokenizer import id_dtype
from miniglm.typed import Normalisation, normalisation_in
from miniglm.vocabulary import AnyTokenizer, load_tokenizer, read_config

# -----------------------------------------------------------------------------
files: list[FilePath] = []  # the records, one or more FILE.jsonl given without --
dataset = ""  # data/DATASET is written
tokenizer_from: FilePath = "data/sanguo_bpe"  # the data set or out_dir whose tokenizer the model was trained with
block_size: Annotated[int, Bounds(8, 65535)] = 256  # tokens of context; the model's own
pack = True  # several samples in a row; each still sees only itself
too_long: Literal["drop", "truncate", "keep_end"] = "drop"  # what goes of a sample longer than a row: all, end, front
where = ""  # FIELD=VALUE[,FIELD=VALUE ...]: only records whose fields have these values; of one field any of them
normalise = True  # questions as miniglm/typed.py has it, now and whenever the model is asked; never for open weights
strict = False  # stop at the first bad record
val_file: FilePath = ""  # FILE.jsonl of records for the validation rows
val_fraction: Annotated[float, Bounds(0, 0.5)] = 0.02  # without it: share of samples that are validated on, not trained
seed = 1337  # which samples go to the validation rows
# -----------------------------------------------------------------------------

SCRIPT_SAMPLE = 1 << 24  # characters that are looked at to tell in which script the records are
OPEN_ROWS = 32  # that are being packed at once; the more, the fuller they get
MOST_REASONS = 100  # that are counted each by itself


class Sample(NamedTuple):
    """A conversation as the model reads it."""

    form: str  # of its record
    ids: list[int]
    mask: list[int]  # as long as ids, 1 where the id is to be predicted
    changes: list[str]  # what was changed in its record


class Tally(NamedTuple):
    """How many records were not kept as they are."""

    left_out: Counter[str]  # by reason
    changed: Counter[str]  # by change
    not_chosen: Counter[str]  # by what they have other than --where asks for


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
                text = "".join(turn["content"] for turn in turns_of(record).turns)
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
                if any(turn["role"] == "search" for turn in turns_of(record).turns):
                    return True
    return False


def sample_of(record, encoder, row_length, too_long, normalisation, searches) -> Sample:
    """The Sample of a record, at most row_length ids. Raises BadRecord, and UserError as the tokenizer does.

    searches: the assistant may call the search tool in any record.
    """
    form, turns, changes = turns_of(record)
    as_written, turns = turns, normalised(turns, normalisation)
    if turns != as_written:
        changes.append("had its questions normalised")
    if not all(turn["content"] for turn in turns):
        raise BadRecord("has a question of nothing that can be seen")
    ids, mask = encode_conversation(encoder, turns, searches)
    if len(ids) > row_length:
        if too_long == "drop":
            raise BadRecord("is longer than the block")
        cut = without_end if too_long == "truncate" else without_front
        ids, mask, change = cut(turns, encoder, row_length)
        changes.append(change)
    return Sample(form, ids, mask, changes)


def without_end(turns: list[Turn], encoder, row_length) -> tuple[list[int], list[int], str]:
    """(ids, mask, what was changed) of a conversation without its end. Raises BadRecord where no answer is left."""
    ids, mask = encode_conversation(encoder, turns)
    if not any(mask[:row_length]):
        raise BadRecord("is longer than the block before its answer begins")
    return ids[:row_length], mask[:row_length], "had its end cut off to fit the block"


def without_front(turns: list[Turn], encoder, row_length) -> tuple[list[int], list[int], str]:
    """(ids, mask, what was changed) of a conversation without its front.

    Left out are as many earlier exchanges as need be, then what the system says; where the last exchange alone is too
    long, the front of its ids.
    """
    system = [turn for turn in turns if turn["role"] == "system"]
    asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    ids, mask = encode_conversation(encoder, turns[asked[-1] :])
    for place in reversed(asked):
        more = encode_conversation(encoder, system + turns[place:])
        if len(more[0]) > row_length:
            break
        ids, mask = more
    if len(ids) > row_length:
        return ids[-row_length:], mask[-row_length:], "had its front cut off to fit the block"
    return ids, mask, "had its earlier turns left out to fit the block"


def samples(paths, read: Callable[[Any], Sample], wanted, strict, tally: Tally) -> Iterator[Sample]:
    """The Samples of all good records in some files. Tells what is kept of each file, and why the rest is not.

    read: sample_of, which has been told all but the record. wanted: see conditions. strict: raise UserError for the
    first bad record. tally: is added to.
    """
    for path in paths:
        kept, here = Counter(), Tally(Counter(), Counter(), Counter())
        for place, record in tqdm(read_records(path), desc=Path(path).name, unit=" records", leave=False, disable=None):
            if record is not None and (other := unlike(record, wanted)):
                here.not_chosen[other] += 1
                continue
            try:
                sample = read(record)
            except (BadRecord, UserError) as error:
                refuse(strict, f"{path} {place} {error}", "mend it, or leave --strict away to skip it")
                reason = str(error)
                if reason not in here.left_out and len(here.left_out) >= MOST_REASONS:
                    reason = "has another fault"
                here.left_out[reason] += 1
                if here.left_out[reason] <= 5:
                    tqdm.write(f"{path} {place} {error}: left out", file=sys.stderr)
                continue
            kept[sample.form] += 1
            here.changed.update(sample.changes)
            yield sample
        print(f"{path}: kept " + (", ".join(f"{count:,} as {form}" for form, count in kept.items()) or "nothing"))
        for words, counts in zip(("left out", "changed", "not chosen"), here):
            for reason, count in counts.most_common():
                print(f"{path}: {words} {count:,}, each {reason}")
        for total, counts in zip(tally, here):
            total.update(counts)


class Rows:
    """The rows of one split, packed and written as the samples come."""

    def __init__(self, folder: Path, split: str, row_length: int, encoder: AnyTokenizer, pack: bool, stack: ExitStack):
        """Open folder/SPLIT*.bin, which take their places when `stack` closes well.

        encoder: whose end fills up a row. pack: several samples in a row, with a column that numbers them.
        """
        columns = ["", "_mask", "_sample"] if pack else ["", "_mask"]
        self.files = [stack.enter_context(write_whole(folder / f"{split}{column}.bin", "wb")) for column in columns]
        self.row_length, self.end_id = row_length, encoder.end_id
        self.dtypes = (id_dtype(encoder.vocab_size), np.uint8, np.uint16)
        self.most_open = OPEN_ROWS if pack else 0
        self.open = []  # (length, samples) of rows that may have room
        self.rows = self.samples = self.learned_tokens = 0

    def add(self, sample: Sample):
        """Put a sample into the fullest row that has room for it, or into a new one."""
        self.samples += 1
        self.learned_tokens += sum(sample.mask)
        fitting = [row for row in self.open if row[0] + len(sample.ids) <= self.row_length]
        length, row = max(fitting, key=itemgetter(0), default=(0, []))
        if row:
            self.open.remove((length, row))
        self.open.append((length + len(sample.ids), [*row, (sample.ids, sample.mask)]))
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


configure(globals(), positional="files")
refuse(not files, "no records to read", "name one FILE.jsonl or more")
refuse(not is_plain_name(dataset), f"--dataset={dataset} is no name", "give --dataset=NAME; the rows go to data/NAME")
encoder = load_tokenizer(tokenizer_from)
normalisation = normalisation_for(files, tokenizer_from) if normalise else None
target = Path("data", dataset)
claim(target)
row_length = block_size + 1  # the first id of a row is only read, the last one only predicted
val_files = [val_file] if val_file else []
drawn = random.Random(seed)
wanted = conditions(where)
searches = any_searches([*val_files, *files])
how = {"encoder": encoder, "row_length": row_length, "too_long": too_long, "normalisation": normalisation}
read = partial(sample_of, **how, searches=searches)
tally = Tally(Counter(), Counter(), Counter())
sample = None  # the last one
with ExitStack() as stack:
    train = Rows(target, "train", row_length, encoder, pack, stack)
    val = Rows(target, "val", row_length, encoder, pack, stack)
    for sample in samples(val_files, read, wanted, strict, tally):
        val.add(sample)
    for sample in samples(files, read, wanted, strict, tally):
        held_out = not val_files and (val.samples == 0 or drawn.random() < val_fraction)
        (val if held_out else train).add(sample)
    if sample and train.samples == 0 and val.samples == 1 and not val_files:
        train.add(sample)  # the only one there is serves for both
    for rows, paths in ((train, files), (val, val_files or files)):
        refuse(not rows.samples, f"no good record in {', '.join(paths)}", "see the reasons above and mend the records")
    meta = {
        "kind": "talks",
        "dtype": np.dtype(id_dtype(encoder.vocab_size)).name,
        "tokenizer": encoder.name,
        "vocab_size": encoder.vocab_size,
        "row_length": row_length,
        "packed": pack,
        "splits": {"train": train.close(), "val": val.close()},
        "left_out": dict(tally.left_out),
        "changed": dict(tally.changed),
        "not_chosen": dict(tally.not_chosen),
        "searches": searches,
        "normalisation": normalisation and normalisation.to_json(),
        "sources": [{"name": Path(path).name, "sha256": sha256(path)} for path in [*files, *val_files]],
    }
    (target / "meta.json").unlink(missing_ok=True)  # until everything is written there is no data set
    for stale in target.glob("*_sample.bin"):
        stale.unlink()
encoder.save(target)
copy_book(Path(files[0]).parent, target)
write_json(target / "meta.json", meta)
for split, counts in meta["splits"].items():
    print(f"{target / split}.bin: {counts['samples']:,} samples in {counts['rows']:,} rows of {row_length}")
