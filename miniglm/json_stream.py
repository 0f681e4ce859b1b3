"""JSON in a stream: the texts of the values that stand in a list, in an object of lists, or one after the other.

A value is given as its text, so that one that is broken costs no other, and memory stays flat however many there are.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

TOKENS = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*("|\\?\Z)?|[][{},]', re.DOTALL)  # of JSON; no string goes over a line
CHUNK = 1 << 16  # characters that are read at once, at least


def values(file: TextIO, depth: int, partial=False) -> Iterator[str]:
    """The texts of what stands in `depth` containers, one after the other, whether they are JSON values or not.

    What stands outside all containers, and is more than commas, is given too. Raises EOFError where a container does
    not end, unless `partial`.
    """
    buffer, at, level, kept = "", 0, 0, 0
    start: int | None = 0  # of what will be given next; None in containers around those whose content is given
    while chunk := file.read(max(CHUNK, len(buffer) - kept)):  # as much again, so that a long string is scanned twice
        buffer, at, start = buffer[kept:] + chunk, at - kept, None if start is None else 0
        for token in TOKENS.finditer(buffer, at):
            at, mark = token.end(), token[0]
            if mark[0] == '"' and token[1] != '"' and at == len(buffer):
                at = token.start()  # a string that goes on in the next chunk
                break
            if mark in "[{":
                if level == 0:
                    yield from some(buffer[start : token.start()])
                    start = None if depth else token.start()
                level += 1
                if level == depth:
                    start = at
            elif mark == "," and level == depth > 0:
                yield from some(buffer[start : token.start()])
                start = at
            elif mark in "]}" and level > 0:
                if level == depth:
                    yield from some(buffer[start : token.start()])
                level -= 1
                if level == depth == 0:
                    yield buffer[start:at]
                if level == 0:
                    start = at
                elif level < depth:
                    start = None
        else:
            at = len(buffer)
        kept = at if start is None else start
    if level > 0:
        if not partial:
            raise EOFError
    else:
        yield from some(buffer[start:])


def some(text: str) -> list[str]:
    """A text in a list, which is empty where there is nothing but white space and commas."""
    return [text] if text.strip(" \t\r\n,") else []


def json_or_none(text: str):
    """The JSON value of a text, whose strings may hold tabs; None where it is none, or an object has a name twice."""
    try:
        return json.loads(text, strict=False, object_pairs_hook=object_of)
    except (ValueError, RecursionError):
        return None


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with some names and values. Raises ValueError for a name that is there twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def first_value(head: str, depth: int) -> str:
    """The text of what stands first in `depth` containers at a file's beginning, "" where it does not end there."""
    return next(values(io.StringIO(head), depth, partial=True), "")
