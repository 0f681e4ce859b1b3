"""The tool that a model can call in a talk: a search over a small table, a JSON record a line."""

import json
from collections.abc import Sequence

from miniglm.conversation import Messages
from miniglm.errors import refuse
from miniglm.files import read_json_lines

MOST = 3  # records given back


def read_table(path) -> list[dict]:
    """The records of a .jsonl file. Raises UserError."""
    table = [record for _, record in read_json_lines(path, "give a file of JSON records, one a line")]
    refuse(not all(isinstance(record, dict) for record in table), f"{path} is no table", "write JSON records")
    return table


class Table:
    """A table as a tool, see chat.py: any call is allowed, and any answer."""

    beyond = ""

    def __init__(self, records: list[dict]):
        self.records = records

    def look(self, call: str, messages: Messages) -> tuple[str, list]:
        """(the records found, as JSON, no places in a book)."""
        return json.dumps(search(self.records, call), ensure_ascii=False), []

    def call_grammar(self, messages: Messages) -> None:
        """Anything may be asked."""

    def answer_grammar(self, call: str, places: Sequence, messages: Messages) -> None:
        """Anything may be answered."""


def search(table: list[dict], call: str) -> list[dict]:
    """The first MOST records of a table that fit a call, the JSON text that the model wrote.

    {"type": "舒适型", "facilities": ["暖气"]}: each field must hold what is asked for, of a list all items. None fits
    where the call is no JSON object, or an empty one.
    """
    try:
        wanted = json.loads(call)
    except (ValueError, RecursionError):
        return []
    if not isinstance(wanted, dict) or not wanted:
        return []
    try:
        found = [record for record in table if all(holds(record.get(field), value) for field, value in wanted.items())]
    except RecursionError:
        return []
    return found[:MOST]


def holds(value, wanted) -> bool:
    """Whether a field's value holds what is wanted: an equal number, a text as part of one, all items of a list."""
    if isinstance(wanted, list):
        return all(holds(value, each) for each in wanted)
    if isinstance(value, list):
        return any(holds(each, wanted) for each in value)
    if isinstance(value, str) and isinstance(wanted, str):
        return wanted in value
    return value == wanted
