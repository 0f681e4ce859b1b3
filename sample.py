"""Let a trained model go on from a text, or answer a question if it was fine-tuned on conversations.

python sample.py --out_dir=out/demo-pretrain --start=却说曹操
python sample.py --out_dir=out/demo-chat --start=张飞字什么？ --temperature=0
python sample.py --out_dir=out/demo-chat --chat              # a talk; an empty line ends it
python sample.py --out_dir=out/hotel --chat --turns=4 --table=hotels.jsonl    # the model may search in the talk
python sample.py --out_dir=out/demo-pretrain --lora=out/lora --start=张飞字什么？    # with an adapter
python sample.py --out_dir=out/demo-chat --start=FILE:questions.txt --save_path=answers.jsonl
"""

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Literal

from configurator import Bounds, FilePath, Natural, NotNegative, Positive, configure
from miniglm import origin
from miniglm.chat import (
    answer_with,
    beams,
    complete,
    complete_with,
    grow,
    prompt_ids,
    prompt_of,
    recent_turns,
    sources,
    stream,
    unborne,
)
from miniglm.decoding import Sampling
from miniglm.errors import UserError, refuse
from miniglm.files import write_whole
from miniglm.machine import WeightDtype
from miniglm.records import read_prompts
from miniglm.search import Table, read_table
from miniglm.template import MARKERS

# -----------------------------------------------------------------------------
out_dir: FilePath = "out/demo-chat"  # the trained model, or a Hugging Face folder of a family in miniglm/families.py
lora: FilePath = ""  # the directory of an adapter to fold in
start = ""  # TEXT to go on from or a question; FILE:PATH takes one prompt a line, or records with questions
chat = False  # talk: ask one question after the other
table: FilePath = ""  # FILE.jsonl of records, one a line, that a model which has learnt to search may search in a talk
turns: Natural = 0  # in a talk, how many earlier exchanges the model sees too; 0: two where it has a book, else none
lookup: Literal["auto", "never"] = "auto"  # whether a model that has learnt it looks into its book before it answers
save_path: FilePath = ""  # write to this file, .jsonl or plain text, instead of the terminal
num_samples: Positive = 1  # how many for each prompt; with beams the so many best
max_new_tokens: Positive = 200  # the longest completion, in tokens
temperature: NotNegative = 0.8  # below 1 keeps to the likely, above 1 is bolder, 0 takes the likeliest token each time
top_k: Natural = 0  # draw from the so many likeliest tokens, 0 from all
top_p: Annotated[float, Bounds(1e-9, 1)] = 1.0  # draw from the fewest likeliest tokens with this share of probability
min_p: Annotated[float, Bounds(0, 1)] = 0.0  # leave out tokens with less than this share of the likeliest's probability
repetition_penalty: Annotated[float, Bounds(1e-9)] = 1.0  # above 1 makes what stands there already less likely
no_repeat_ngram_size: Natural = 0  # never repeat so many tokens in a row, 0 for no limit
num_beams: Annotated[int, Bounds(1, 64)] = 1  # above 1: search for the likeliest text with so many beams
length_penalty: Annotated[float, Bounds(-10, 10)] = 1.0  # of beams: above 0 favours long texts, below 0 short ones
seed: Annotated[int, Bounds(0, 2**63 - 1)] = 1337  # the same seed gives the same samples
device = "auto"  # auto, cpu, cuda, mps
dtype: WeightDtype = "auto"  # of the weights, auto: as stored; the narrower, the faster on large models
# -----------------------------------------------------------------------------

configure(globals())
refuse(
    num_beams > 1 and num_samples > num_beams,
    f"{num_beams} beams find no {num_samples} texts",
    "choose --num_beams as large as --num_samples",
)
refuse(table and not chat, "--table is searched in a talk", "add --chat")
refuse(table and num_beams > 1, "beams cannot search a table", "leave --num_beams away")
refuse(chat and (start or save_path), "--chat asks for its questions itself", "leave --start and --save_path away")
loaded = origin.load(out_dir, device, dtype, lora, lookup == "auto")
records = read_table(table) if table else []
refuse(
    table and not loaded.searches,
    f"{out_dir} has not learnt to search",
    "leave --table away, or train it on talks with searches",
)
tool = Table(records) if table else loaded.book if num_beams == 1 else None
sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, seed)


def say(ids):
    """Print what follows `ids` as it comes, or when it is found by beam search; the text."""
    if num_beams > 1:
        *_, found = beams(loaded, ids, max_new_tokens, sampling, num_beams, length_penalty)
        pieces = [loaded.tokenizer.decode(found[0])]
    else:
        pieces = (piece or "" for (piece,) in stream(loaded, [ids], max_new_tokens, sampling))
    text = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text


def say_with(tool, messages):
    """Print the answer of a model that may look things up, and what it rests on; the messages that this adds.

    Of a table also what is looked for and what is found.
    """
    added, places = [], ()
    for step in answer_with(tool, loaded, [messages], max_new_tokens, sampling):
        for _, role, piece, _, found in step:
            begins, places = grow(added, role, piece), found or places
            if not (records or role == "assistant"):
                continue
            if begins:
                print("\n" * (len(added) > 1 and bool(records)) + MARKERS[role], end="")
            print(piece, end="", flush=True)
    print()
    if records:
        return added
    question, answer = messages[-1]["content"], added[-1]["content"]
    rests_on = sources(tool, question, answer, places)
    for each in [*rests_on, *(f"⚠ {word}" for word in unborne(tool, question, answer, rests_on))]:
        print(f"  {each}")
    return added[-1:]  # what was looked up is not shown to the model again


def talk():
    """Ask and answer until an empty line or the end of the input."""
    refuse(not loaded.chat, f"{out_dir} has not learnt to talk", "choose a model fine-tuned on conversations")
    messages = []
    while question := input(MARKERS["user"]).strip():
        asked = [*messages, {"role": "user", "content": question}]
        shown = recent_turns(loaded, asked, turns or (2 if loaded.book else 0))
        try:
            if tool:
                messages = asked + say_with(tool, shown)
                continue
            ids = prompt_ids(loaded, shown)
        except UserError as error:
            print(error)
            continue
        print(MARKERS["assistant"], end="", flush=True)
        messages = [*asked, {"role": "assistant", "content": say(ids)}]


if chat:
    with suppress(EOFError):  # Ctrl-D
        talk()
    raise SystemExit
if start.startswith("FILE:"):
    talks = read_prompts(Path(start.removeprefix("FILE:")).expanduser())
else:
    talks = [[{"role": "user", "content": start or ("张飞是谁？" if loaded.chat else "却说")}]]
inputs = [] if tool else [prompt_ids(loaded, prompt_of(loaded, talk)) for talk in talks]
prompts = ["\n".join(turn["content"] for turn in talk) for talk in talks]
between = "\n" if loaded.chat else ""  # a question and its answer; a beginning and how it goes on
if len(prompts) == num_samples == 1 and not save_path:
    print(prompts[0], end=between, flush=True)
    say_with(tool, talks[0]) if tool else say(inputs[0])
    raise SystemExit
prompts = [prompt for prompt in prompts for _ in range(num_samples)]
with write_whole(save_path) if save_path else nullcontext() as file:
    if tool:
        talks = [talk for talk in talks for _ in range(num_samples)]
        samples = complete_with(tool, loaded, talks, max_new_tokens, sampling)
    else:
        samples = complete(loaded, inputs, max_new_tokens, sampling, num_samples, num_beams, length_penalty)
    if save_path.endswith(".jsonl"):
        for prompt, each in zip(prompts, samples):
            row = {"prompt": prompt, "completion": each.text, "tokens": each.tokens, "seconds": round(each.seconds, 4)}
            if tool and (rests_on := sources(tool, prompt, each.text, each.places)):
                row["sources"] = [{"where": source.where, "text": source.text} for source in rests_on]
            print(json.dumps(row, ensure_ascii=False), file=file)
    else:
        print("\n\n".join(prompt + between + each.text for prompt, each in zip(prompts, samples)), file=file)
if save_path:
    print(f"{save_path}: {len(samples)} samples in {sum(each.seconds for each in samples):.1f} s")
