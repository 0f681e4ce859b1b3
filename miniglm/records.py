"""Files of conversations in the forms that public data sets use -> turns, [{"role", "content"}, …].

    for place, record in read_records("questions.jsonl"):
        try:
            form, turns = turns_of(record)
        except BadRecord as reason:
            print(f"questions.jsonl {place} {reason}")

A record is recognised by its fields: {"Question", "Answer"}; Alpaca and BELLE {"instruction", "input", "output"};
Firefly {"kind", "input", "target"}; MOSS-003 {"conversation": [{"human", "assistant"}]} or {"chat"}; Safety-Prompts
{"prompt", "response"}; ShareGPT {"conversations": [{"from", "value"}]}; OpenAI {"messages": [{"role", "content"}]} or
the bare list. A file has a record a line, or is one JSON list of records, an object of such lists, or one conversation.
It is read in a stream: memory stays flat however large it is.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from miniglm.conversation import MARKERS
from miniglm.errors import UserError, refuse
from miniglm.files import reading_utf8

Turn = dict[str, str]  # {"role", "content"}: the role is one of MARKERS

ROLES = {role: role for role in MARKERS} | {  # what a form calls a role: what it is called here
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "search",
    "observation": "return",
    "tool": "return",
    "function": "return",
    "developer": "system",
}
DEEPEST = 100  # containers in containers, in a record
LONGEST_LINE = 1 << 20  # bytes of the first line that are looked at to recognise a file's shape


class BadRecord(Exception):
    """Why a record cannot be used, in words that follow its place: "lacks a field"."""


def turns_of(record) -> tuple[str, list[Turn]]:
    """(the name of its form, the turns) of a record, a JSON value; None is a record that is no JSON.

    The turns are checked: none is empty, a system's comes first if at all, a user's before each of the assistant's, and
    the last is the assistant's. Raises BadRecord.
    """
    if record is None:
        raise BadRecord("is no JSON")
    form = form_of(record)
    _, turns_in = READERS[form]
    try:
        turns = turns_in(record)
    except RecursionError as error:
        raise BadRecord("is nested too deep") from error
    check_order(turns)
    return form, turns


def form_of(record) -> str:
    """The name of a record's form, a key of READERS. Raises BadRecord."""
    if isinstance(record, list):
        return "messages"
    if not isinstance(record, dict):
        raise BadRecord("is no JSON object")
    for form, (fields, _) in READERS.items():
        if any(field in record for field in fields):
            return form
    raise BadRecord("has no known form")


def check_order(turns: list[Turn]):
    """Raise BadRecord where a role is out of turn, or the last turn is not the assistant's."""
    before = None
    for position, turn in enumerate(turns):
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


def openai(record) -> list[Turn]:
    """The turns of OpenAI's list of messages, bare or in a field. A call of a tool and what it gives become JSON."""
    turns = []
    for message in dicts_in({"messages": record} if isinstance(record, list) else record, "messages"):
        if calls := message.get("tool_calls"):
            turns.append(turn_of("search", as_text(arguments_of(calls))))
        else:
            turns.append(turn_of(message.get("role"), as_text(content_of(message))))
    return turns


def arguments_of(calls):
    """The arguments of a message's tool calls: of the only one, or a list of them. Raises BadRecord."""
    try:
        arguments = [call["function"]["arguments"] for call in calls]
    except (TypeError, KeyError, IndexError) as error:
        raise BadRecord("has a field of the wrong type") from error
    return arguments[0] if len(arguments) == 1 else arguments


def content_of(message: dict):
    """What a message says, calls or has found: a text, another JSON value, None where there is nothing."""
    content = message.get("content")
    if isinstance(content, list) and content and all(is_text_part(part) for part in content):
        return "".join(text_in(part, "text") for part in content)
    for field in ("content", "arguments", "records"):
        if message.get(field) is not None:
            return message[field]
    return None


def is_text_part(part) -> bool:
    """Whether a value is {"type": "text", …}, a part of a message."""
    return isinstance(part, dict) and part.get("type") == "text"


def as_text(value):
    """A text, and None, as it is; anything else as JSON."""
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)


def sharegpt(record: dict) -> list[Turn]:
    """The turns of ShareGPT's list of {"from", "value"}."""
    turns = dicts_in(record, "conversations")
    return [turn_of(text_in(turn, "from"), text_in(turn, "value")) for turn in turns]


def moss(record: dict) -> list[Turn]:
    """The turns of MOSS-003's list of {"human", "assistant"}."""
    turns = []
    for pair in dicts_in(record, "conversation"):
        turns += [turn_of("user", text_in(pair, "human")), turn_of("assistant", text_in(pair, "assistant"))]
    return turns


def moss_chat(record: dict) -> list[Turn]:
    """The turns of MOSS' other form, {"turn_1": {"Human": "<|Human|>: …<eoh>", "MOSS": "<|MOSS|>: …<eom>"}, …}."""
    if not isinstance(record["chat"], dict):
        raise BadRecord("has a field of the wrong type")
    pairs = dicts_in({"chat": list(record["chat"].values())}, "chat")
    turns = [
        (role, text_in(pair, field)) for pair in pairs for role, field in (("user", "Human"), ("assistant", "MOSS"))
    ]
    return [turn_of(role, re.sub(r"^\s*<\|\w+\|>:|<eo\w>\s*$", "", content)) for role, content in turns]


def alpaca(record: dict) -> list[Turn]:
    """The two turns of Alpaca's instruction, its input where there is one, and its output."""
    subject = text_in(record, "input") if record.get("input") is not None else ""
    question = text_in(record, "instruction")
    if subject.strip():
        question += "\n" + subject
    return [turn_of("user", question), turn_of("assistant", text_in(record, "output"))]


def pair_in(question: str, answer: str) -> Callable[[dict], list[Turn]]:
    """A function that gives the turns of a record of one question and one answer, in the fields with these names."""
    return lambda record: [turn_of("user", text_in(record, question)), turn_of("assistant", text_in(record, answer))]


READERS: dict[str, tuple[list[str], Callable[[Any], list[Turn]]]] = {  # a form: (the fields that tell it, its turns)
    "messages": (["messages"], openai),
    "ShareGPT": (["conversations"], sharegpt),
    "MOSS": (["conversation"], moss),
    "MOSS chat": (["chat"], moss_chat),
    "Alpaca": (["instruction"], alpaca),
    "Question": (["Question", "Answer"], pair_in("Question", "Answer")),
    "Safety-Prompts": (["prompt", "response"], pair_in("prompt", "response")),
    "Firefly": (["input", "target"], pair_in("input", "target")),
}
FIELDS = {field for fields, _ in READERS.values() for field in fields}


def turn_of(role, content) -> Turn:
    """A turn, checked: its role by the name used here, its content without white space around it. Raises BadRecord."""
    if not isinstance(role, str) or role not in ROLES:
        raise BadRecord("has an unknown role")
    if not isinstance(content, str):
        raise BadRecord("has a field of the wrong type")
    if not content.strip():
        raise BadRecord("has an empty field")
    return {"role": ROLES[role], "content": content.strip()}


def dicts_in(record: dict, field: str) -> list[dict]:
    """The list of dicts in a field. Raises BadRecord."""
    value = record[field]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise BadRecord("has a field of the wrong type")
    return value


def text_in(record: dict, field: str) -> str:
    """The text in a field. Raises BadRecord."""
    value = record.get(field)
    if value is None:
        raise BadRecord("lacks a field")
    if not isinstance(value, str):
        raise BadRecord("has a field of the wrong type")
    return value


def read_records(path) -> Iterator[tuple[str, Any]]:
    """(its place, the JSON value or None where it is none) of each record of a file; a place is "line 3" or "item 3".

    Raises UserError where there is no file, it is no UTF-8 text, or its one JSON value breaks off.
    """
    refuse(not Path(path).is_file(), f"no file {path}", "check the path; relative ones count from the repository root")
    place = "its beginning"
    try:
        with reading_utf8(path, "save it as UTF-8"), open(path, "rb") as file:
            begin = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # a byte order mark
            file.seek(begin)
            shape = shape_of(file)
            file.seek(begin)
            if shape == "lines":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"line {number}", json_or_none(line.decode("utf-8"))
                return
            if shape == "conversation":
                items = iter([json.load(file)])
            else:
                items = values(file, 1 if shape == "list" else 2)
            for number, item in enumerate(items, 1):
                place = f"item {number}"
                yield place, item
    except (ValueError, TypeError, RecursionError, ijson.JSONError) as error:
        raise UserError(f"{path} is no whole JSON, it breaks off after {place}", "write one record a line") from error


def shape_of(file: BinaryIO) -> str:
    """What a file is from here on: "lines", "list" of records, "object" of such lists, or "conversation".

    A conversation is one list of messages on several lines.
    """
    begin = file.tell()
    line = file.readline(LONGEST_LINE)
    more = file.read(1 << 16).strip()
    first = json_or_none(line.decode("utf-8", "replace"))
    if isinstance(first, list) and not more and not any(is_message(item) for item in first):
        return "list"
    if first is not None:
        return "object" if not more and holds_lists(first) else "lines"
    file.seek(begin)
    try:
        if line.lstrip().startswith(b"["):
            item = next(values(file, 1), None)
            if is_message(item):
                return "conversation" if line.strip() in (b"[", b"[{") else "lines"
            return "list"
        events = [event for (event, _), _ in zip(ijson.basic_parse(file, use_float=True), range(3))]
        is_record = any(field.encode() in line for field in FIELDS)
        return "object" if events == ["start_map", "map_key", "start_array"] and not is_record else "lines"
    except (ijson.JSONError, ValueError):
        return "lines"


def is_message(value) -> bool:
    """Whether a JSON value is a message of a conversation."""
    return isinstance(value, dict) and "role" in value


def holds_lists(value) -> bool:
    """Whether a JSON value is an object of lists of records that is no record itself."""
    if not isinstance(value, dict) or not value or FIELDS & value.keys():
        return False
    return all(isinstance(each, list) for each in value.values())


def values(file: BinaryIO, depth: int) -> Iterator[Any]:
    """The JSON values that stand in `depth` containers, one after the other. Raises ValueError where one is no list.

    Put together here from ijson's plain events: its own paths take the square of the depth in memory.
    """
    level, builder = 0, None
    for event, value in ijson.basic_parse(file, use_float=True):
        begins, ends = event in ("start_map", "start_array"), event in ("end_map", "end_array")
        if ends:
            level -= 1
        if level < depth and not begins and not ends and event != "map_key":
            raise ValueError("a value where a list was to be")
        if level >= depth:
            builder = builder or ijson.ObjectBuilder()
            builder.event(event, value)
        if begins:
            level += 1
        if level > DEEPEST:
            raise ValueError("nested too deep")
        if builder and level == depth and event != "map_key":
            yield builder.value
            builder = None


def json_or_none(line: str):
    """The JSON value of a line, None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
