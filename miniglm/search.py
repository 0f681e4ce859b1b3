"""The tool that a model can call in a talk: a search over a small table, a JSON record a line."""

import functools
import json
import re
from collections.abc import Sequence

from miniglm.conversation import Messages
from miniglm.errors import refuse
from miniglm.files import read_json_lines
from miniglm.grammar import Grammar
from miniglm.template import MARKERS

MOST = 1  # records given back, the first that fit: a small model reads one, and mixes up several
FEW = 100  # values that a column has at most, if it is said in the place of a word of the talk
DIGITS = "0123456789"
NUMBER = re.compile(r"\d+(?:\.\d+)?")
BOUNDS = ("lower", "upper")  # a call's "price_range_upper" bounds the column "price"


def read_table(path) -> list[dict]:
    """The records of a .jsonl file. Raises UserError."""
    table = [record for _, record in read_json_lines(path, "give a file of JSON records, one a line")]
    refuse(not all(isinstance(record, dict) for record in table), f"{path} is no table", "write JSON records")
    return table


class Table:
    """A table as a tool, see chat.py: a call asks for words of the talk or of the table.

    An answer is free but for its numbers, which are none that was neither found nor said.
    """

    beyond = ""

    def __init__(self, records: list[dict]):
        self.records = records

    def look(self, call: str, messages: Messages) -> tuple[str, list]:
        """(the records found, as JSON, no places in a book)."""
        return json.dumps(search(self.records, call), ensure_ascii=False), []

    @functools.cached_property
    def columns(self) -> dict[str, dict]:
        """{column: {each of its values that is a text or a number: whether it stands in a list}}."""
        columns: dict[str, dict] = {}
        for record in self.records:
            for field, value in record.items():
                for each in value if isinstance(value, list) else [value]:
                    if isinstance(each, str | int | float) and not isinstance(each, bool):
                        columns.setdefault(field, {})[each] = isinstance(value, list)
        return columns

    def call_grammar(self, messages: Messages) -> Grammar:
        """What may be said to the last question: an answer, or a call for columns that there are.

        A text that is looked for is a value of its column that was said in the talk; where none was, it is anything
        that was said, or one of the FEW values of its column. A number was said; where none was, it is any.
        """
        grammar = Grammar()
        answer(grammar, messages)
        said = [message["content"] for message in messages if message["role"] == "user"]
        numbers_said = sorted({found for text in said for found in NUMBER.findall(text)})
        pieces = [piece for text in said for piece in re.split(r'["\\\x00-\x1f]+', text) if piece]
        opened, behind = grammar.literal(grammar.start, MARKERS["search"] + "{"), grammar.state()
        for field, values in self.columns.items():
            numbers = all(isinstance(value, int | float) for value in values)
            for name in (field, *(f"{field}_range_{bound}" for bound in BOUNDS)) if numbers else (field,):
                state = grammar.literal(opened, json.dumps(name, ensure_ascii=False) + ": ")
                if numbers:
                    for each in numbers_said:
                        grammar.join(grammar.literal(state, each), behind)
                    if not numbers_said:
                        grammar.join(number(grammar, state), behind)
                    continue
                listed = any(values.values())
                state = grammar.literal(state, '["' if listed else '"')
                end = grammar.state()
                whole = "\n".join(said)
                told = sorted((str(value) for value in values if str(value) in whole), key=whole.rindex)
                if told:
                    for behind_one in in_turn(grammar, state, told, '", "' if listed else ""):
                        grammar.join(behind_one, end)
                else:
                    for piece in pieces:
                        grammar.join(grammar.span(state, piece), end)
                    for value in values if len(values) <= FEW else ():
                        grammar.join(grammar.literal(state, escaped(value)), end)
                    if listed:
                        grammar.join(grammar.literal(end, '", "'), state)
                grammar.join(grammar.literal(end, '"]' if listed else '"'), behind)
        grammar.join(grammar.literal(behind, ", "), opened)
        grammar.ends.add(grammar.literal(behind, "}"))
        return grammar

    def answer_grammar(self, call: str, places: Sequence, messages: Messages) -> Grammar:
        """What may be answered to what a call found: a text with no other numbers than those found or said."""
        grammar = Grammar()
        answer(grammar, messages, self.look(call, messages)[0])
        return grammar


def in_turn(grammar: Grammar, state: int, values: Sequence[str], between: str) -> list[int]:
    """The states behind each of some values that follow a state, one alone or several in their order.

    between: what stands between two; "" where there is but one.
    """
    begins, ends = [grammar.state() for _ in values], []
    for place, value in enumerate(values):
        grammar.join(state, begins[place])
        ends.append(grammar.literal(begins[place], escaped(value)))
        for later in begins[place + 1 :] if between else ():
            grammar.join(grammar.literal(ends[-1], between), later)
    return ends


def escaped(value) -> str:
    """A text as it stands in JSON between its marks."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


def answer(grammar: Grammar, messages: Messages, found: str = ""):
    """Let a grammar begin with an answer that has no other numbers than those said by the user or found.

    A number in a text that was found, as of a house in a street, stands only behind the character that it has there.
    found: JSON, beside what was found in the conversation before.
    """
    numbers: dict[str, set[str]] = {"": set()}  # {the character before it; "" for any other: numbers}
    for text in [found, *(message["content"] for message in messages if message["role"] == "return")]:
        for before, number in re.findall(r"(.?)(?<![\d.-])(\d+(?:[.-]\d+)*)", text):
            numbers.setdefault(before if re.match(r"\w", before) else "", set()).add(number)
    for message in messages:
        if message["role"] == "user":
            numbers[""].update(re.findall(r"\d+(?:[.-]\d+)*", message["content"]))
    begin = grammar.literal(grammar.start, MARKERS["assistant"])
    leading = {before: grammar.state() if before else begin for before in numbers}
    leading.pop("")
    for before, state in {"": begin, **leading}.items():
        grammar.ends.add(state)
        grammar.any_but(state, begin, DIGITS, leading)
        for number in numbers[before]:
            behind = grammar.literal(state, number)
            grammar.ends.add(behind)
            grammar.any_but(behind, begin, DIGITS + ".-", leading)
            for mark in ".-":  # the end of a sentence
                after = grammar.literal(behind, mark)
                grammar.ends.add(after)
                grammar.any_but(after, begin, DIGITS, leading)


def number(grammar: Grammar, state: int) -> int:
    """The state behind a number that follows a state: 328, 4.5."""
    whole, part = grammar.state(), grammar.state()
    for digit in DIGITS:
        for before, behind in ((state, whole), (whole, whole), (part, part)):
            grammar.join(grammar.literal(before, digit), behind)
    point = grammar.literal(whole, ".")
    for digit in DIGITS:
        grammar.join(grammar.literal(point, digit), part)
    grammar.join(whole, part)
    return part


def search(table: list[dict], call: str) -> list[dict]:
    """The first MOST records of a table that fit a call, the JSON text that the model wrote; who fits exactly is first.

    {"type": "舒适型", "facilities": ["暖气"], "price_range_upper": 400}: each field must hold what is asked for, of a
    list all items; a number must keep to the bounds that _range_lower and _range_upper give. None fits where the call
    is no JSON object, or an empty one.
    """
    try:
        wanted = json.loads(call)
    except (ValueError, RecursionError):
        return []
    if not isinstance(wanted, dict) or not wanted:
        return []
    try:
        found = [record for record in table if all(fits(record, field, value) for field, value in wanted.items())]
    except RecursionError:
        return []
    return sorted(found, key=lambda record: sum(record.get(field) != value for field, value in wanted.items()))[:MOST]


def fits(record: dict, field: str, wanted) -> bool:
    """Whether a record's field is what is wanted of it."""
    column, _, bound = field.rpartition("_range_")
    if column not in record or bound not in BOUNDS:
        return holds(record.get(field), wanted)
    value = record[column]
    if not all(isinstance(each, int | float) for each in (value, wanted)):
        return False
    return value <= wanted if bound == "upper" else value >= wanted


def holds(value, wanted) -> bool:
    """Whether a field's value holds what is wanted: an equal number, a text as part of one, all items of a list."""
    if isinstance(wanted, list):
        return all(holds(value, each) for each in wanted)
    if isinstance(value, list):
        return any(holds(each, wanted) for each in value)
    if isinstance(value, str) and isinstance(wanted, str):
        return wanted in value
    return value == wanted
