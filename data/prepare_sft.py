"""Turn questions and conversations into rows for fine-tuning: FILE.jsonl … -> data/DATASET/*.bin and meta.json.

    python data/prepare_sft.py data/sanguo_sft/questions.jsonl --dataset=sanguo_sft --tokenizer_from=data/sanguo_bpe

Reads, one record a line and recognised by form: {"Question", "Answer"}; Alpaca and BELLE {"instruction", "input",
"output"}; Firefly {"kind", "input", "target"}; MOSS-003 {"conversation": [{"human", "assistant"}]}; Safety-Prompts
{"prompt", "response"}; ShareGPT {"conversations": [{"from", "value"}]}; OpenAI {"messages": [{"role", "content"}]} or
the bare list. A file that is one JSON list of records is read too. See tokenizer.py for how a turn is written.
"""

import itertools
import json
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from configurator import configure
from errors import UserError, require
from files import sha256, write_json, write_whole
from tokenizer import MARKERS, Tokenizer

# -----------------------------------------------------------------------------
files = []  # the records, one or more FILE.jsonl given without --
dataset = ""  # data/DATASET is written
tokenizer_from = "data/sanguo_bpe"  # the data set or out_dir whose tokenizer the model was trained with
block_size = 256  # tokens of context; the model's own
pack = True  # several samples in a row; each still sees only itself
too_long = "drop"  # a sample longer than a row: drop it, or truncate its end
strict = False  # stop at the first bad record
val_file = ""  # FILE.jsonl of records for the validation rows
val_fraction = 0.02  # without it: share of the samples that go to the validation rows and are not trained
seed = 1337  # of the order of the samples
# -----------------------------------------------------------------------------

SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "system": "system", "search": "search", "function_call": "search", "return": "return", "observation": "return",
}  # fmt: skip


class BadRecord(Exception):
    """Why a record is left out."""


def to_messages(record):
    """[{"role", "content"}] of a record of any known form. Raises BadRecord."""
    if isinstance(record, list):
        return [message(turn, turn.get("role") if isinstance(turn, dict) else None) for turn in record]
    if not isinstance(record, dict):
        raise BadRecord("is no JSON object")
    if "messages" in record:
        return to_messages(listed(record, "messages"))
    if "conversations" in record:
        turns = listed(record, "conversations")
        return [say(SHAREGPT_ROLES.get(text(turn, "from")), text(turn, "value")) for turn in turns]
    if "conversation" in record:
        turns = listed(record, "conversation")
        pairs = [(say("user", text(turn, "human")), say("assistant", text(turn, "assistant"))) for turn in turns]
        return list(itertools.chain(*pairs))
    if "instruction" in record:
        more = text(record, "input", "") if record.get("input") is not None else ""
        return question(text(record, "instruction") + ("\n" + more if more.strip() else ""), text(record, "output"))
    for asked, answered in (("Question", "Answer"), ("prompt", "response"), ("input", "target")):
        if asked in record or answered in record:
            return question(text(record, asked), text(record, answered))
    raise BadRecord("has no known form")


def question(asked, answered):
    """A conversation of one question and one answer."""
    return [say("user", asked), say("assistant", answered)]


def message(turn, role):
    """One turn of {"role", "content" | "arguments" | "records"}; a table or a call is written as JSON."""
    content = (
        next((turn[key] for key in ("content", "arguments", "records") if turn.get(key) is not None), None)
        if isinstance(turn, dict)
        else None
    )
    if content is not None and not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    return say(role, content)


def say(role, content):
    """A checked turn."""
    if not isinstance(role, str) or role not in MARKERS:
        raise BadRecord("has an unknown role")
    if not isinstance(content, str):
        raise BadRecord("has a field of the wrong type")
    if not content.strip():
        raise BadRecord("has an empty field")
    return {"role": role, "content": content.strip()}


def listed(record, field):
    """The list of dicts in a field."""
    value = record[field]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise BadRecord("has a field of the wrong type")
    return value


def text(record, field, default=None):
    """The text in a field."""
    value = record.get(field, default)
    if value is None:
        raise BadRecord("lacks a field")
    if not isinstance(value, str):
        raise BadRecord("has a field of the wrong type")
    return value


def check_turns(messages):
    """Raise BadRecord where a role is out of turn: system first if at all, a question before each answer."""
    before = None
    for position, turn in enumerate(messages):
        role = turn["role"]
        follows = {
            "system": position == 0,
            "user": before in (None, "system", "assistant"),
            "assistant": before in ("user", "return"),
            "search": before in ("user", "return"),
            "return": before == "search",
        }
        if not follows[role]:
            raise BadRecord("has a role out of turn")
        before = role
    if before != "assistant":
        raise BadRecord("does not end with an answer")


def encoded(record):
    """(ids, mask) of a record that fits the row. Raises BadRecord."""
    messages = to_messages(record)
    check_turns(messages)
    ids, mask = encoder.encode_conversation(messages)
    if len(ids) > block_size + 1:
        if too_long == "drop":
            raise BadRecord("is longer than the block")
        ids, mask = ids[: block_size + 1], mask[: block_size + 1]
        if not any(mask):
            raise BadRecord("is longer than the block before its answer begins")
    return ids, mask


def records(path):
    """(line number, JSON value or None where the line is none) of a file of lines or of one JSON list."""
    require(Path(path).is_file(), f"no file {path}", "check the path; relative ones count from the repository root")
    try:
        with open(path, encoding="utf-8-sig") as file:
            if file.read(64).lstrip()[:1] == "[" and not holds_conversation(file):
                file.seek(0)
                whole = json.load(file)
                yield from enumerate(whole if isinstance(whole, list) else [whole], 1)
                return
            file.seek(0)
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except (ValueError, RecursionError):
                        yield number, None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is neither JSON lines nor a JSON list", "write one record a line") from error


def holds_conversation(file):
    """Whether the first line by itself is a bare list of messages: then a record stands on each line."""
    file.seek(0)
    try:
        first = json.loads(file.readline())
    except (ValueError, RecursionError):
        return False
    return isinstance(first, list) and any(isinstance(turn, dict) and "role" in turn for turn in first)


def samples(paths):
    """(ids, mask) of every good record; the bad ones are told and counted in `left_out`."""
    for path in paths:
        for number, record in records(path):
            try:
                if record is None:
                    raise BadRecord("is no JSON")
                yield encoded(record)
            except BadRecord as reason:
                require(not strict, f"{path} line {number} {reason}", "mend it, or leave --strict away to skip it")
                left_out[str(reason)] += 1
                if left_out[str(reason)] <= 5:
                    print(f"{path} line {number} {reason}: left out", file=sys.stderr)


def rows_of(kept):
    """(ids, mask, sample) rows of block_size + 1, as lists; packed rows take samples as long as they fit."""
    length, waiting = block_size + 1, []
    for ids, mask in kept:
        if waiting and (not pack or sum(len(w[0]) for w in waiting) + len(ids) > length):
            yield padded(waiting, length)
            waiting = []
        waiting.append((ids, mask))
    if waiting:
        yield padded(waiting, length)


def padded(waiting, length):
    """One row of the samples in `waiting`, filled up with END; the filling is a sample of its own, never predicted."""
    ids = [i for sample, _ in waiting for i in sample]
    mask = [m for _, sample_mask in waiting for m in sample_mask]
    number = [n for n, (sample, _) in enumerate(waiting) for _ in sample]
    gap = length - len(ids)
    return ids + [encoder.end_id] * gap, mask + [0] * gap, number + [len(waiting)] * gap


def write_split(split, kept):
    """Write the rows of one split and count them."""
    rows = list(rows_of(kept))
    columns = [("", np.uint16), ("_mask", np.uint8), *[("_sample", np.uint16)] * pack]
    for column, (kind, dtype) in enumerate(columns):
        with write_whole(target / f"{split}{kind}.bin", "wb") as file:
            np.array([row[column] for row in rows], dtype=dtype).tofile(file)
    return {"rows": len(rows), "samples": len(kept), "learned_tokens": sum(sum(mask) for _, mask in kept)}


configure(
    globals(),
    positional="files",
    limits={"block_size": (8, 65535), "val_fraction": (0, 0.5)},
    choices={"too_long": ("drop", "truncate")},
)
require(files, "no records to read", "name one FILE.jsonl or more")
require(dataset, "no name for the data set", "give --dataset=NAME; the rows go to data/NAME")
encoder = Tokenizer.load(tokenizer_from)
target = Path("data", dataset)
left_out = Counter()
kept, validation = list(samples(files)), list(samples([val_file] if val_file else []))
for reason, count in left_out.items():
    print(f"left out: {count:,} that {reason}" if count > 1 else f"left out: 1 that {reason}")
for paths, found in ((files, kept), ([val_file], validation)):
    require(
        found or paths == [""], f"no good record in {', '.join(paths)}", "see the reasons above and mend the records"
    )
random.Random(seed).shuffle(kept)
if not val_file:
    held_out = min(max(1, round(val_fraction * len(kept))), len(kept) - 1)
    kept, validation = kept[held_out:], kept[:held_out] or kept
(target / "meta.json").unlink(missing_ok=True)  # until all is whole again there is no data set
for stale in target.glob("*_sample.bin"):
    stale.unlink()
meta = {
    "tokenizer": encoder.name,
    "vocab_size": encoder.vocab_size,
    "row_length": block_size + 1,
    "packed": pack,
    "splits": {
        "train": write_split("train", kept),
        "val": write_split("val", validation),
    },
    "left_out": dict(left_out),
    "sources": [{"name": Path(path).name, "sha256": sha256(path)} for path in [*files, *[val_file] * bool(val_file)]],
}
encoder.save(target)
write_json(target / "meta.json", meta)
for split, counts in meta["splits"].items():
    print(f"{target / split}.bin: {counts['samples']:,} samples in {counts['rows']:,} rows of {block_size + 1}")
