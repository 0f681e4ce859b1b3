"""Measure trained models: their loss on the held-out split, or their answers to questions whose answers are known.

python evaluations.py --out_dir=out/demo-pretrain
python evaluations.py --out_dir=out/demo-chat --eval_file=data/sanguo_sft/eval.jsonl --book=data/sanguo/input.txt
python evaluations.py --out_dir=out/a --out_dir=out/b --eval_file=data/sanguo_sft/eval.jsonl --report=report.html
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from configurator import FilePath, Natural, Positive, configure
from data_utils import Books, Pairs, Prompts, open_data
from miniglm import origin
from miniglm.batch import Batch
from miniglm.chat import CHAT_TOKENS, Completion, complete, complete_with, prompt_ids, prompt_of
from miniglm.checkpoint import locate
from miniglm.decoding import Sampling
from miniglm.errors import UserError, refuse
from miniglm.files import is_plain_name, read_text, write_json, write_whole
from miniglm.machine import WeightDtype
from miniglm.metrics import (
    LARGEST_TEXT,
    NOBODY,
    answer_scores,
    bag_of_words,
    interval,
    mean,
    pair_scores,
    ppmd,
    read_questions,
    read_talks,
    summary,
    text_scores,
    witten_bell_trigram,
)
from miniglm.objectives import likelihood, log_probs_of, margins, scores_of
from miniglm.records import conditions
from miniglm.report import Measured, cost, cost_rows, logs_of, write_report
from miniglm.search import Table, read_table
from miniglm.vocabulary import fingerprint

# -----------------------------------------------------------------------------
out_dir: list[FilePath] = ["out/demo-chat"]  # the trained model (or a Hugging Face folder), or several to compare
lora: FilePath = ""  # the directory of an adapter to fold in first
dataset = ""  # the data set whose held-out split is measured; the default is the one the model was trained on
eval_file: FilePath = ""  # FILE.jsonl of questions[, with "Answer" or "Key" and "Group"]: measure answers instead
where = ""  # FIELD=VALUE[,FIELD=VALUE ...]: only records of eval_file whose fields have these values
most: Natural = 0  # questions of each group that are asked at most, evenly spread over it; 0 for all
table: FilePath = ""  # FILE.jsonl of records: all questions in the talks of --eval_file, with searches in this table
book: FilePath = ""  # with it, the share of 「quotations」 in the answers that stand in this text word for word
yardstick: FilePath = ""  # FILE.jsonl that a classifier was trained on: a bag of words learns it and is measured beside
too_long: Literal["stop", "wrong"] = "stop"  # a question that the model cannot read whole: stop, or count it as wrong
save_path: FilePath = ""  # write the metrics to this file as JSON; those of several models by their out_dir
save_each: FilePath = ""  # write each model's metrics to a file of this name in its out_dir
answers_path: FilePath = ""  # write question, right answer and the model's own to this .jsonl
report: FilePath = ""  # write a page that compares the models to this FILE.html
lookup: Literal["auto", "never"] = "auto"  # whether a model that has learnt it looks into its book before it answers
grammar = True  # calls and quotations keep to the words that they may have; False shows what the model does alone
batch_size: Positive = 64  # windows of the held-out split that are measured at once
device = "auto"  # auto, cpu, cuda, mps
dtype: WeightDtype = "auto"  # of the weights, auto: as stored; the narrower, the faster on large models
# -----------------------------------------------------------------------------

SAMPLES = 16  # texts that a model writes for measure_split
OF_TALKS = ("call_exact", "slot_f1", "answer_values", "bleu_4")  # metrics of all talks, also by themselves
BEGINNING = 16  # tokens of the held-out split that each of them goes on from


@torch.inference_mode()
def split_loss(model, batches):
    """Summed loss in nats over the targets of Batches that count."""
    total = 0.0
    for batch in tqdm(batches, desc="measuring", leave=False):
        batch = batch.to(model.device)
        total += likelihood(model, batch).item() * batch.weight.item()
    return total


def windows(ids, block_size, batch_size):
    """Batches over ids (tokens,): every token but the first is predicted once.

    A window reads block_size tokens and counts its second half, so that each has at least half a block before it.
    """
    rows, masks, done = [], [], 0  # done: tokens predicted so far
    while done < len(ids) - 1:
        start = max(0, min(done - block_size // 2, len(ids) - 1 - block_size))
        row = torch.from_numpy(ids[start : start + block_size + 1].astype("int64"))
        mask = torch.zeros(len(row) - 1)
        mask[done - start :] = 1.0
        done = start + len(mask)
        rows.append(row)
        masks.append(mask)
        if len(rows) == batch_size or done >= len(ids) - 1:
            stacked = torch.stack(rows)
            yield Batch(stacked[:, :-1], stacked[:, 1:], torch.stack(masks))
            rows, masks = [], []


@torch.inference_mode()
def measure_pairs(loaded, data):
    """Of the held-out pairs: metrics.pair_scores, by the scores of a reward model, else by the answers' likelihood."""
    model, found = loaded.model, []
    score = scores_of if model.value_head is not None else summed_log_probs
    for index in tqdm(range(len(data.rows["val"])), desc="measuring", leave=False):
        batch = data.batch("val", 1, data.row_length, index).to(model.device)
        found += margins(batch, score(model, batch)).tolist()
    return pair_scores(found)


def summed_log_probs(model, batch):
    """The log-probability of what is learnt of each sample, (B, T rounded down to even)."""
    return batch.by_sample(log_probs_of(model, batch))


def measure_split(loaded, dataset, batch_size):
    """{"loss", "perplexity", "bits_per_char", "bits_per_byte"} of the held-out split, and yardsticks beside it.

    Of a book also "samples", see metrics.summary: what the model writes after some beginnings. Of pairs see
    measure_pairs.
    """
    data, tokenizer, block_size = open_data(dataset), loaded.tokenizer, loaded.model.config.block_size
    if isinstance(data, Pairs):
        refuse(data.row_length > block_size, f"data/{dataset} has longer rows than the model", "prepare shorter ones")
        return measure_pairs(loaded, data)
    if isinstance(data, Prompts):
        raise UserError(f"data/{dataset} holds questions alone", "give questions as --eval_file=FILE.jsonl")
    if isinstance(data, Books):
        ids = data.ids["val"]
        text, count = tokenizer.decode(ids.tolist()), len(ids) - 1
        batches = windows(ids, block_size, batch_size)
    else:
        rows, masks = data.rows["val"], data.masks["val"]
        learned = [int(i) for row, mask in zip(rows, masks) for i in row[1:][mask[1:] != 0]]
        text, count = tokenizer.decode(learned), len(learned)
        length = min(data.row_length, block_size)  # longer rows are refused
        batches = (data.batch("val", 1, length, index) for index in range(len(rows)))
    refuse(count <= 0, f"the held-out split of data/{dataset} is too short", "prepare a longer book")
    nats = split_loss(loaded.model, batches)
    metrics = {
        "loss": nats / count,
        "perplexity": math.exp(min(nats / count, 700)),
        "bits_per_char": nats / math.log(2) / max(1, len(text)),
        "bits_per_byte": nats / math.log(2) / max(1, len(text.encode("utf-8"))),
    }
    if not isinstance(data, Books):
        return metrics
    train_text = text_of(data.ids["train"], tokenizer)
    if text and train_text:
        metrics["trigram_bits_per_char"] = witten_bell_trigram(train_text, text)
        metrics["ppmd_bits_per_char"] = ppmd(train_text, text)
    starts = range(0, max(1, len(ids) - BEGINNING), max(1, len(ids) // SAMPLES))
    beginnings = [ids[start : start + BEGINNING].tolist() for start in starts]
    texts = complete(loaded, beginnings[:SAMPLES], CHAT_TOKENS, Sampling(temperature=0.8, seed=1337))
    texts = [each._replace(ended=True) for each in texts]  # a book goes on: no end was to be expected
    return metrics | {"samples": summary(texts, [text_scores(each, train_text) for each in texts])}


def training_text(tokenizer, dataset):
    """What a model was trained on, as text; None where it is not at hand or too long to be looked through."""
    try:
        data = open_data(dataset)
        if fingerprint(data.tokenizer) != fingerprint(tokenizer):
            return None
    except UserError:
        return None
    if isinstance(data, Prompts):
        return None
    return text_of(data.ids["train"] if isinstance(data, Books) else data.rows["train"], tokenizer)


def text_of(ids, tokenizer):
    """The text of ids, an array of any shape; None where it is longer than LARGEST_TEXT."""
    text = tokenizer.decode(ids.flatten().tolist()) if ids.size <= LARGEST_TEXT else ""
    return text if 0 < len(text) <= LARGEST_TEXT else None


def spread(records):
    """At most `most` records of each group, evenly spread over it; in their order."""
    by_group = defaultdict(list)
    for number, record in enumerate(records):
        by_group[record.get("Group", "")].append(number)
    chosen = {number for numbers in by_group.values() for number in numbers[:: math.ceil(len(numbers) / most)]}
    return [records[number] for number in sorted(chosen)]


def answer_all(loaded, records, tool):
    """The model's greedy answer to each record's question, a list of Completions; with a tool it may look things up.

    A question too long to read counts as wrong, or, where too_long is stop, is a UserError that names eval_file.
    """
    inputs, unread = {}, Completion("", 0, True, 0.0)
    for number, record in enumerate(records):
        try:
            turns = record.get("Turns") or [{"role": "user", "content": record["Question"]}]
            inputs[number] = turns if tool else prompt_ids(loaded, prompt_of(loaded, turns))
        except UserError as error:
            refuse(too_long != "wrong", f"{eval_file}, question {number + 1}: {error.what}", error.todo)
    if len(inputs) < len(records):
        print(f"{len(records) - len(inputs):,} questions are too long for the model and count as wrong")
    order = sorted(inputs, key=lambda number: len(records[number]["Answer"]))  # so that a batch ends together
    asked = [inputs[number] for number in order]
    if tool:
        completions = complete_with(tool, loaded, asked, CHAT_TOKENS, Sampling(temperature=0), grammar)
    else:
        completions = complete(loaded, asked, CHAT_TOKENS, Sampling(temperature=0))
    answers = dict(zip(order, completions))
    return [answers.get(number, unread) for number in range(len(records))]


def measure_answers(records, answers, train_text, book_text, people):
    """({"all": summary of all answers, "groups": {group: of its own}}, the answers' scores, a list of dicts)."""
    absent = [record.get("Key") for record in records if record.get("Group") == "absent"]
    refusals = {key for key in absent if isinstance(key, str)}
    scores = [
        answer_scores(answer, record, train_text, book_text, refusals, people)
        for record, answer in zip(records, answers)
    ]
    groups = defaultdict(list)
    for row in zip(records, answers, scores):
        groups[row[0].get("Group", "all questions")].append(row)
    metrics = {"all": summary(answers, scores, records), "groups": {}}
    for group, rows in groups.items():
        members, said, scored = map(list, zip(*rows))
        metrics["groups"][group] = summary(said, scored, members)
    return metrics, scores


def measure_bag_of_words(yardstick, records):
    """The metrics of a bag of words that learnt from the records of the file `yardstick`."""
    train = read_questions(yardstick)
    labels = len({record["Answer"] for record in train})
    refuse(not all(record["Answer"] for record in train), f"{yardstick} has questions without an answer", "give them")
    refuse(not 2 <= labels <= 100, f"{yardstick} has {labels} different answers, no classes", "give a classification")
    guesses = bag_of_words(train, records)
    right = [guess == record["Answer"] for guess, record in zip(guesses, records) if record["Answer"]]
    return {"n": len(right), "accuracy": mean(right), "intervals": {"accuracy": interval(right)}}


def in_columns(columns):
    """Metrics of several groups, {group: metrics}, as an aligned text table with a line a metric."""
    names = list(dict.fromkeys(name for values in columns.values() for name in values if name != "intervals"))
    lines = [f"{'':22}" + "".join(f"{column:>16}" for column in columns)]
    for name in names:
        cells = [values.get(name) for values in columns.values()]
        cells = ["-" if cell is None else f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}" for cell in cells]
        lines.append(f"{name:22}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def comparison(runs):
    """A Markdown table of several runs, {directory: Measured}: what their training took, and how well they did."""
    rows = cost_rows({directory: run.training for directory, run in runs.items()})
    groups = dict.fromkeys(group for run in runs.values() for group in run.metrics.get("groups", ()))
    for group in groups:
        found = [run.metrics["groups"].get(group, {}).get("accuracy") for run in runs.values()]
        if any(share is not None for share in found):
            shown = ["–" if share is None else f"{100 * share:.1f} %" for share in found]
            rows.append((f"答对 accuracy: {group}", shown))
    if not groups:
        rows.append(("每字比特 bits a character", [f"{run.metrics['bits_per_char']:.3f}" for run in runs.values()]))
    lines = [["", *runs], ["---"] * (len(runs) + 1), *([name, *cells] for name, cells in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


configure(globals())
if book:
    refuse(not Path(book).is_file(), f"no book in UTF-8 at {book}", "check --book; data/fetch_data.py writes one")
book_text = read_text(book, "check --book; data/fetch_data.py writes one") if book else ""
refuse(table and not eval_file, "--table is searched in talks", "give them as --eval_file=FILE.jsonl")
searched = Table(read_table(table)) if table else None
records = (read_talks if table else read_questions)(eval_file, conditions(where)) if eval_file else []
records = spread(records) if most else records
refuse(len(set(out_dir)) != len(out_dir), "the same --out_dir twice", "name each model once")
refuse(yardstick and not records, "--yardstick needs questions", "give them as --eval_file=FILE.jsonl")
refuse(answers_path and not records, "there are no answers to write", "give questions as --eval_file=FILE.jsonl")
for path in filter(None, (save_path, answers_path, report)):
    refuse(not Path(path).name or Path(path).is_dir(), f"{path} is no file name", "give the name of a file to write")
wrong = save_each and not is_plain_name(save_each)
refuse(wrong, f"--save_each={save_each} is no file name", "give one like metrics.json, it goes to each --out_dir")
logs_of(out_dir)  # what is wrong with them is told before anything is measured
bag_metrics = {"bag_of_words": measure_bag_of_words(yardstick, records)} if yardstick else {}
runs = {}  # {out_dir: Measured}
for directory in out_dir:
    loaded = origin.load(directory, device, dtype, lora, lookup == "auto", scores=True)
    refuse(table and not loaded.searches, f"{directory} has not learnt to search", "leave --table away")
    trained_on = str(loaded.settings.get("dataset"))
    run = runs[directory] = Measured(loaded.settings)
    if records:
        run.answers = answer_all(loaded, records, searched or loaded.book)
        train_text = training_text(loaded.tokenizer, trained_on)
        people = loaded.book.passages.people if loaded.book else NOBODY
        run.metrics, run.scores = measure_answers(records, run.answers, train_text, book_text, people)
        run.metrics |= bag_metrics
        if table:
            run.metrics |= {name: run.metrics["all"].get(name) for name in OF_TALKS}
        shown = {"all": run.metrics["all"], **run.metrics["groups"], **bag_metrics}
    else:
        untold = not dataset and "dataset" not in loaded.settings
        refuse(untold, f"{directory} tells no data set", "name one as --dataset=NAME")
        measured = dataset or trained_on
        refuse(
            fingerprint(open_data(measured).tokenizer) != fingerprint(loaded.tokenizer),
            f"data/{measured} was prepared with another tokenizer than the model's",
            "choose the --dataset that it was trained on",
        )
        run.metrics = measure_split(loaded, measured, batch_size)
        shown = {"held-out": {name: value for name, value in run.metrics.items() if name != "samples"}}
        if "samples" in run.metrics:
            shown["samples"] = run.metrics["samples"]
    run.training = cost(locate(lora or directory)[0], loaded.settings, loaded.model.num_parameters())
    if len(out_dir) > 1:
        print(directory)
    print(in_columns(shown))
if len(runs) > 1:
    print("\n" + comparison(runs))
if save_path:
    found = {directory: run.metrics | {"training": run.training} for directory, run in runs.items()}
    write_json(save_path, found if len(runs) > 1 else runs[out_dir[0]].metrics)
for directory, run in runs.items() if save_each else ():
    write_json(locate(lora or directory)[0] / save_each, run.metrics)
if answers_path:
    with write_whole(answers_path) as file:
        for number, record in enumerate(records):
            said = {directory: run.answers[number].text for directory, run in runs.items()}
            said = {"Models": said} if len(runs) > 1 else {"Model": said[out_dir[0]]}
            if len(runs) == 1 and (call := runs[out_dir[0]].answers[number].call):
                places = runs[out_dir[0]].answers[number].places
                said |= {"search": call, "sources": [{"where": each.where, "text": each.text} for each in places]}
            file.write(json.dumps(record | said, ensure_ascii=False) + "\n")
if report:
    write_report(report, runs, records)
