"""Turn questions and conversations into rows for fine-tuning: FILE.jsonl … -> data/DATASET/*.bin and meta.json.

    python data/prepare_sft.py data/sanguo_sft/questions.jsonl --dataset=sanguo_sft --tokenizer_from=data/sanguo_bpe

Reads, one record a line and recognised by form: {"Question", "Answer"}; Alpaca and BELLE {"instruction", "input",
"output"}; Firefly {"kind", "input", "target"}; MOSS-003 {"conversation": [{"human", "assistant"}]} or {"chat"};
Safety-Prompts {"prompt", "response"}; ShareGPT {"conversations": [{"from", "value"}]}; OpenAI {"messages": [{"role", "content"}]} or
the bare list. A file that is one JSON list of records, or an object of such lists, is read too. Files are read in a stream: memory stays flat
however large they are. See tokenizer.py for how a turn is written.
"""

import json
import random
import re
import sys
from collections import Counter
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ijson
import numpy as np
from tqdm import tqdm

from configurator import configure
from miniglm.errors import UserError, refuse
from miniglm.files import claim, is_plain_name, sha256, write_json, write_whole
from miniglm.tokenizer import MARKERS, Tokenizer

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
seed = 1337  # which samples go to the validation rows
# -----------------------------------------------------------------------------

ROLES = {  # what other forms call the roles of MARKERS
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "search", "observation": "return", "tool": "return", "function": "return",
    "developer": "system",
} | {role: role for role in MARKERS}  # fmt: skip
OPEN_ROWS = 32  # that are being packed at once; the more, the fuller they get
DEEPEST = 100  # containers in containers, in a record
LONGEST_LINE = 1 << 20  # bytes of the first line that are looked at to tell what a file is


class BadRecord(Exception):
    """Why a record is left out."""


def form_of(record):
    """The name of a record's form, a key of READERS. Raises BadRecord."""
    if isinstance(record, list):
        return "messages"
    if not isinstance(record, dict):
        raise BadRecord("is no JSON object")
    for form, (fields, _) in READERS.items():
        if any(field in record for field in fields):
            return form
    raise BadRecord("has no known form")


def messages(record):
    """OpenAI's list of messages, bare or in a field."""
    turns = listed({"messages": record} if isinstance(record, list) else record, "messages")
    return [say(turn.get("role"), *content(turn)) for turn in turns]


def content(turn):
    """(what a message says, whether it is a call of a tool); a table or a call is written as JSON."""
    if calls := turn.get("tool_calls"):
        try:
            said = [call["function"]["arguments"] for call in calls]
        except (TypeError, KeyError, IndexError) as error:
            raise BadRecord("has a field of the wrong type") from error
        return as_text(said[0] if len(said) == 1 else said), True
    said = next((turn[key] for key in ("content", "arguments", "records") if turn.get(key) is not None), None)
    parts = turn.get("content") if isinstance(turn.get("content"), list) else []
    if parts and all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        said = "".join(text(part, "text") for part in parts)
    return as_text(said), False


def as_text(value):
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)


def sharegpt(record):
    """A list of {"from", "value"}."""
    return [say(text(turn, "from"), text(turn, "value")) for turn in listed(record, "conversations")]


def moss(record):
    """A list of {"human", "assistant"}."""
    return [
        turn
        for pair in listed(record, "conversation")
        for turn in (say("user", text(pair, "human")), say("assistant", text(pair, "assistant")))
    ]


def moss_chat(record):
    """MOSS' own form: {"turn_1": {"Human": "<|Human|>: …<eoh>", "MOSS": "<|MOSS|>: …<eom>"}, …}."""
    if not isinstance(record["chat"], dict):
        raise BadRecord("has a field of the wrong type")
    pairs = listed({"chat": list(record["chat"].values())}, "chat")
    said = [(role, text(pair, field)) for pair in pairs for role, field in (("user", "Human"), ("assistant", "MOSS"))]
    return [say(role, re.sub(r"^\s*<\|\w+\|>:|<eo\w>\s*$", "", words)) for role, words in said]


def alpaca(record):
    """An instruction, and what it is about where there is something."""
    more = text(record, "input", "") if record.get("input") is not None else ""
    return [
        say("user", text(record, "instruction") + ("\n" + more if more.strip() else "")),
        say("assistant", text(record, "output")),
    ]


def pair_of(asked, answered):
    """A reader of records of one question and one answer, in the fields with these names."""
    return lambda record: [say("user", text(record, asked)), say("assistant", text(record, answered))]


READERS = {  # name of a form: (the fields that tell it, what makes [{"role", "content"}] of its records)
    "messages": (["messages"], messages),
    "ShareGPT": (["conversations"], sharegpt),
    "MOSS": (["conversation"], moss),
    "MOSS chat": (["chat"], moss_chat),
    "Alpaca": (["instruction"], alpaca),
    "Question": (["Question", "Answer"], pair_of("Question", "Answer")),
    "Safety-Prompts": (["prompt", "response"], pair_of("prompt", "response")),
    "Firefly": (["input", "target"], pair_of("input", "target")),
}


def say(role, said, is_call=False):
    """A checked turn."""
    role = "search" if is_call else ROLES.get(role) if isinstance(role, str) else None
    if role is None:
        raise BadRecord("has an unknown role")
    if not isinstance(said, str):
        raise BadRecord("has a field of the wrong type")
    if not said.strip():
        raise BadRecord("has an empty field")
    return {"role": role, "content": said.strip()}


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
    """(form, ids, mask) of a record that fits the row; notes in `tools` where it has a search. Raises BadRecord."""
    form = form_of(record)
    turns = READERS[form][1](record)
    check_turns(turns)
    ids, mask = encoder.encode_conversation(turns)
    if len(ids) > block_size + 1:
        if too_long == "drop":
            raise BadRecord("is longer than the block")
        ids, mask = ids[: block_size + 1], mask[: block_size + 1]
        if not any(mask):
            raise BadRecord("is longer than the block before its answer begins")
    tools.update(turn["role"] for turn in turns if turn["role"] == "search")
    return form, ids, mask


def records(path):
    """(where, JSON value or None where it is none) of each line of a file, or of each item of JSON lists."""
    refuse(not Path(path).is_file(), f"no file {path}", "check the path; relative ones count from the repository root")
    where = "its beginning"
    try:
        with open(path, "rb") as file:
            begin = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # a byte order mark
            file.seek(begin)
            shape = shape_of(file)
            file.seek(begin)
            if shape == "lines":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"line {number}", value_of(line.decode("utf-8"))
                return
            if shape == "conversation":
                items = iter([json.load(file)])
            else:  # of a list, or of the lists that an object holds
                items = values(file, 1 if shape == "list" else 2)
            for number, item in enumerate(items, 1):
                where = f"item {number}"
                yield where, item
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text", "save it as UTF-8") from error
    except (ValueError, TypeError, RecursionError, ijson.JSONError) as error:
        raise UserError(f"{path} is no whole JSON, it breaks off after {where}", "write one record a line") from error


def values(file, depth):
    """The JSON values that stand in `depth` containers, one after the other. Raises ValueError where one is no list.

    Put together here from ijson's plain events: its own paths take the square of the depth in memory.
    """
    level, builder = 0, None
    for event, value in ijson.basic_parse(file, use_float=True):
        begins, ends = event in ("start_map", "start_array"), event in ("end_map", "end_array")
        level -= ends
        if level < depth and not begins and not ends and event != "map_key":
            raise ValueError("a value where a list was to be")
        if level >= depth:
            builder = builder or ijson.ObjectBuilder()
            builder.event(event, value)
        level += begins
        if level > DEEPEST:
            raise ValueError("nested too deep")
        if builder and level == depth and event != "map_key":
            yield builder.value
            builder = None


def shape_of(file):
    """What a file is: lines, a list of records, an object of such lists, or a conversation, its messages on several lines."""
    begin = file.tell()
    line = file.readline(LONGEST_LINE)
    more = file.read(1 << 16).strip()
    first = value_of(line.decode("utf-8", "replace"))
    if first is not None:
        if (
            isinstance(first, list)
            and not more
            and not any(isinstance(item, dict) and "role" in item for item in first)
        ):
            return "list"
        return "object" if not more and holds_lists(first) else "lines"
    file.seek(begin)
    try:
        if line.lstrip().startswith(b"["):
            item = next(values(file, 1), None)
            if isinstance(item, dict) and "role" in item:
                return "conversation" if line.strip() in (b"[", b"[{") else "lines"
            return "list"
        events = [event for (event, _), _ in zip(ijson.basic_parse(file, use_float=True), range(3))]
        known = any(field.encode() in line for fields, _ in READERS.values() for field in fields)
        return "object" if events == ["start_map", "map_key", "start_array"] and not known else "lines"
    except (ijson.JSONError, ValueError):
        return "lines"


def holds_lists(value):
    """Whether a value is an object of lists of records that is no record itself."""
    known = {field for fields, _ in READERS.values() for field in fields}
    return (
        isinstance(value, dict)
        and bool(value)
        and not known & value.keys()
        and all(isinstance(v, list) for v in value.values())
    )


def value_of(line):
    """The JSON value of a line, None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def samples(paths):
    """(ids, mask) of every good record; what is kept of each file, and why the rest is not, is told and counted."""
    for path in paths:
        kept, dropped = Counter(), Counter()
        for where, record in tqdm(records(path), desc=Path(path).name, unit=" records", leave=False, disable=None):
            try:
                if record is None:
                    raise BadRecord("is no JSON")
                form, ids, mask = encoded(record)
            except (BadRecord, UserError, RecursionError) as error:
                reason = "is nested too deep" if isinstance(error, RecursionError) else str(error)
                refuse(strict, f"{path} {where} {reason}", "mend it, or leave --strict away to skip it")
                dropped[reason] += 1
                if dropped[reason] <= 5:
                    tqdm.write(f"{path} {where} {reason}: left out", file=sys.stderr)
                continue
            kept[form] += 1
            yield ids, mask
        print(f"{path}: kept " + (", ".join(f"{count:,} as {form}" for form, count in kept.items()) or "nothing"))
        for reason, count in dropped.most_common():
            print(f"{path}: left out {count:,}, each {reason}")
        left_out.update(dropped)


class Rows:
    """The rows of one split, packed and written as the samples come."""

    def __init__(self, split, stack):
        """Opens data/DATASET/SPLIT*.bin, which take their places when the ExitStack `stack` closes well."""
        columns = ["", "_mask", *["_sample"] * pack]
        self.files = [stack.enter_context(write_whole(target / f"{split}{kind}.bin", "wb")) for kind in columns]
        self.open = []  # (length, samples) of rows that may have room
        self.rows = self.samples = self.learned_tokens = 0

    def add(self, ids, mask):
        """Put a sample into the fullest row that has room for it, or into a new one."""
        self.samples += 1
        self.learned_tokens += sum(mask)
        fitting = [row for row in self.open if row[0] + len(ids) <= block_size + 1]
        length, row = max(fitting, key=itemgetter(0), default=(0, []))
        if row:
            self.open.remove((length, row))
        self.open.append((length + len(ids), [*row, (ids, mask)]))
        if len(self.open) > OPEN_ROWS * pack:
            fullest = max(self.open, key=itemgetter(0))
            self.open.remove(fullest)
            self.write(*fullest)

    def write(self, length, row):
        """Write one row, filled up with END; the filling is a sample of its own, never predicted."""
        gap = block_size + 1 - length
        numbered = enumerate([*row, ([encoder.end_id] * gap, [0] * gap)])
        columns = zip(*((i, m, number) for number, (ids, mask) in numbered for i, m in zip(ids, mask)))
        for file, column, dtype in zip(self.files, columns, (np.uint16, np.uint8, np.uint16)):
            file.write(np.array(column, dtype).tobytes())
        self.rows += 1

    def close(self):
        """Write what is still open; the counts."""
        while self.open:
            self.write(*self.open.pop())
        return {"rows": self.rows, "samples": self.samples, "learned_tokens": self.learned_tokens}


configure(
    globals(),
    positional="files",
    limits={"block_size": (8, 65535), "val_fraction": (0, 0.5)},
    choices={"too_long": ("drop", "truncate")},
)
refuse(not files, "no records to read", "name one FILE.jsonl or more")
refuse(not is_plain_name(dataset), f"--dataset={dataset} is no name", "give --dataset=NAME; the rows go to data/NAME")
encoder = Tokenizer.load(tokenizer_from)
target = Path("data", dataset)
claim(target)
left_out, tools, drawn = Counter(), set(), random.Random(seed)
with ExitStack() as stack:
    train, val = (Rows(split, stack) for split in ("train", "val"))
    for sample in samples([val_file] if val_file else []):
        val.add(*sample)
    for sample in samples(files):
        held_out = not val_file and (val.samples == 0 or drawn.random() < val_fraction)
        (val if held_out else train).add(*sample)
    if train.samples == 0 and val.samples == 1 and not val_file:
        train.add(*sample)  # the only one there is serves for both
    for rows, paths in ((train, files), (val, [val_file])):
        where = ", ".join(paths if val_file else files)
        refuse(not rows.samples, f"no good record in {where}", "see the reasons above and mend the records")
    meta = {
        "tokenizer": encoder.name,
        "vocab_size": encoder.vocab_size,
        "row_length": block_size + 1,
        "packed": pack,
        "splits": {"train": train.close(), "val": val.close()},
        "left_out": dict(left_out),
        "searches": bool(tools),
        "sources": [
            {"name": Path(path).name, "sha256": sha256(path)} for path in [*files, *[val_file] * bool(val_file)]
        ],
    }
    (target / "meta.json").unlink(missing_ok=True)  # until all is whole again there is no data set
    for stale in target.glob("*_sample.bin"):
        stale.unlink()
encoder.save(target)
write_json(target / "meta.json", meta)
for split, counts in meta["splits"].items():
    print(f"{target / split}.bin: {counts['samples']:,} samples in {counts['rows']:,} rows of {block_size + 1}")
