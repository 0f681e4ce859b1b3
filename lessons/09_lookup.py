"""Lesson 9, looking things up: prints the numbers of 09_lookup.md, draws its picture into lessons/out/.

python lessons/09_lookup.py          # it asks the hotel desk: make hotel
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt

from configurator import Positive, configure
from lessons.drawing import keep, words
from lessons.trained import trained
from miniglm.chat import complete_with
from miniglm.conversation import encode_conversation
from miniglm.decoding import Sampling
from miniglm.metrics import holds_value, mean, read_talks
from miniglm.search import NUMBER, Table, read_table
from miniglm.template import MARKERS

# -----------------------------------------------------------------------------
asked: Positive = 80  # questions of the talks that were kept from training
dearer: Positive = 13  # by how much every price of the table is changed, to see where answers come from
# -----------------------------------------------------------------------------


def changed(record):
    """A hotel at another price."""
    return record | {"price": record["price"] + dearer}


def answers(table, guided=True):
    """What the desk says to the questions, with a table to search; guided: it must keep to what was found."""
    return complete_with(Table(table), loaded, talks, 200, Sampling(temperature=0), guided)


def tell(name, completions):
    """Print how many of the numbers that are said were found, and how many stand in the table as it was."""
    said = [(number, each) for each in completions for number in NUMBER.findall(each.text)]
    found = [any(holds_value(turn["content"], number) for turn in each.looked_up) for number, each in said]
    before = [number in known for number, _ in said]
    calls = [bool(each.call) for each in completions]
    print(f"{name}: {mean(calls):.0%} of the answers searched, {len(said)} numbers were said")
    if said:
        print(f"{name}: {mean(found):.0%} of them were found, {mean(before):.0%} are in the table as it was")


configure(globals())
loaded = trained("out/hotel", "make hotel")
if loaded is None:
    raise SystemExit
table = read_table("data/hotel/hotels.jsonl")
known = {str(value) for record in table for value in record.values() if type(value) in (int, float)}
questions = [each["Question"] for each in read_talks("data/hotel/eval.jsonl") if "Turns" not in each][:asked]
talks = [[{"role": "user", "content": question}] for question in questions]

# one talk, and what of it is learnt: the call and the answer, not the question and not what was found
first = answers(table)[0]
talk = [*talks[0], *first.looked_up, {"role": "assistant", "content": first.text}]
ids, mask = encode_conversation(loaded.tokenizer, talk)
for turn in talk:
    print(f"  {MARKERS[turn['role']]}{turn['content']}")
figure, axes = plt.subplots(figsize=(10, 3.4))
for place, (each, counts) in enumerate(zip(ids, mask)):
    row, column = divmod(place, 18)
    shown = loaded.tokenizer.token_bytes(each).decode("utf-8", "ignore") or "·"  # a part of a character, or the end
    axes.text(column, -row, shown, fontsize=8, color="C1" if counts else "gray")
axes.set(xlim=(-0.5, 18), ylim=(-len(ids) // 18, 1), title=words("灰的只读，橙的要学", "gray: read; orange: learnt"))
axes.axis("off")
keep(figure, "09_talk")

# where do the numbers of the answers come from?
tell("the table", answers(table))
tell("every price changed", answers([changed(record) for record in table]))
tell("changed, and nothing keeps it to what was found", answers([changed(record) for record in table], guided=False))
tell("an empty table", answers([], guided=False))
