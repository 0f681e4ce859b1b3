"""Measure a trained model: its loss on the held-out split, or its answers to questions whose answers are known.

python evaluations.py --out_dir=out/demo-pretrain
python evaluations.py --out_dir=out/demo-chat --eval_file=data/sanguo_sft/eval.jsonl --book=data/sanguo/input.txt
"""

import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import torch
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from tqdm import tqdm

import data_utils
from checkpoint import fingerprint, load_model
from configurator import configure
from errors import UserError, require
from files import write_json, write_whole
from generation import CHAT_TOKENS, complete, prompt_ids
from machine import WEIGHT_DTYPES
from tokenizer import Tokenizer

# -----------------------------------------------------------------------------
out_dir = "out/demo-chat"  # the trained model
dataset = ""  # the data set whose held-out split is measured; the default is the one the model was trained on
eval_file = ""  # FILE.jsonl of {"Question", "Answer"} and, where known, "Key" and "Group": measure answers instead
book = ""  # with it, the share of 「quotations」 in the answers that stand in this text word for word
save_path = ""  # write the metrics to this file as JSON
answers_path = ""  # write question, right answer and the model's own to this .jsonl
batch_size = 64  # windows of the held-out split that are measured at once
device = "auto"  # auto, cpu, cuda, mps
dtype = "float32"  # of the weights: float32, bfloat16, float16 or int8; the narrower, the faster on large models
# -----------------------------------------------------------------------------


class Characters:
    """Splits a text into its characters, for ROUGE."""

    def tokenize(self, text):
        """The characters but white space, a list."""
        return [c for c in text if not c.isspace()]


@torch.inference_mode()
def split_loss(model, rows):
    """Summed loss in nats over rows of (x, y, loss_mask[, sample]) batches."""
    total = 0.0
    for x, y, loss_mask, *sample in tqdm(rows, desc="measuring", leave=False):
        counted = loss_mask.sum().item()
        total += model(x, y, loss_mask, *sample)[1].item() * counted
    return total


def windows(ids, block_size):
    """(x, y, loss_mask) batches over ids (tokens,): every token but the first is predicted once.

    A window reads block_size tokens and counts its second half, so that each has at least half a block before it.
    """
    batch, done = [], 0  # done: tokens predicted so far
    while done < len(ids) - 1:
        start = max(0, min(done - block_size // 2, len(ids) - 1 - block_size))
        row = torch.from_numpy(ids[start : start + block_size + 1].astype("int64"))
        mask = torch.zeros(len(row) - 1)
        mask[done - start :] = 1.0
        done = start + len(mask)
        batch.append((row[:-1], row[1:], mask))
        if len(batch) == batch_size:
            yield tuple(map(torch.stack, zip(*batch)))
            batch = []
    if batch:
        yield tuple(map(torch.stack, zip(*batch)))


def witten_bell_trigram(train, val):
    """Bits per character of `val` under a character trigram of `train`, interpolated after Witten and Bell (1991)."""
    orders = [defaultdict(Counter) for _ in range(3)]
    for i, character in enumerate(train):
        for n in range(min(3, i + 1)):
            orders[n][train[i - n : i]][character] += 1
    totals = [{context: sum(c.values()) for context, c in order.items()} for order in orders]
    characters = len(set(train)) + 1  # one more for all that the training text lacks
    bits = 0.0
    for i, character in enumerate(val):
        p = 1 / characters
        for n in range(min(3, i + 1)):
            context = val[i - n : i]
            if seen := orders[n].get(context):
                p = (seen[character] + len(seen) * p) / (totals[n][context] + len(seen))
        bits -= math.log2(p)
    return bits / len(val)


def measure_split(model, tokenizer, dataset):
    """{"loss", "perplexity", "bits_per_char", "bits_per_byte"} of the held-out split, and the trigram's beside it."""
    block_size = model.config.block_size
    device = model.transformer.wpe.weight.device
    if data_utils.is_sft(dataset):
        data_utils.init_data_sft(dataset)
        learned = [
            int(i) for row, mask in zip(data_utils.val_data, data_utils.val_mask) for i in row[1:][mask[1:] != 0]
        ]
        text, count = tokenizer.decode(learned), len(learned)
        rows = (
            data_utils.get_batch_sft("val", 1, block_size, device, i, with_sample=True)
            for i in range(len(data_utils.val_data))
        )
    else:
        data_utils.init_data_pretrain(dataset)
        ids = data_utils.val_data
        text, count = tokenizer.decode(ids.tolist()), len(ids) - 1
        rows = (tuple(part.to(device) for part in batch) for batch in windows(ids, block_size))
    require(count > 0, f"the held-out split of data/{dataset} is too short", "prepare a longer book")
    nats = split_loss(model, rows)
    metrics = {
        "loss": nats / count,
        "perplexity": math.exp(nats / count),
        "bits_per_char": nats / math.log(2) / max(1, len(text)),
        "bits_per_byte": nats / math.log(2) / max(1, len(text.encode("utf-8"))),
    }
    if not data_utils.is_sft(dataset):
        metrics["trigram_bits_per_char"] = witten_bell_trigram(tokenizer.decode(data_utils.train_data.tolist()), text)
    return metrics


def read_questions(path):
    """The records of an evaluation file. Raises UserError, with the line, for one that lacks what it must have."""
    require(Path(path).is_file(), f"no file {path}", "check --eval_file; data/build_sft.py writes one for a book")
    records = []
    try:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                record = json.loads(line)
                proper = isinstance(record, dict) and all(
                    isinstance(record.get(k), str) and record[k].strip() for k in ("Question", "Answer")
                )
                key = record.get("Key", []) if proper else []
                proper = proper and (
                    isinstance(key, str) or isinstance(key, list) and all(isinstance(k, str) for k in key)
                )
                proper = proper and isinstance(record.get("Group", ""), str)
                require(
                    proper, f"{path} line {number} is no question", 'write {"Question": "…", "Answer": "…", "Key": "…"}'
                )
                records.append(record)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON lines in UTF-8", 'write {"Question": "…", "Answer": "…"} a line') from error
    require(records, f"{path} is empty", "write one question a line")
    return records


def holds_key(answer, record):
    """Whether the answer contains all that a right one must; None where the record has no Key."""
    key = record.get("Key")
    if not key:
        return None
    return all(word in answer for word in ([key] if isinstance(key, str) else key))


def loops(answer, ended):
    """Whether some four characters stand four times, or the answer came to no end."""
    fours = Counter(answer[i : i + 4] for i in range(len(answer) - 3))
    return not ended or any(count >= 4 for count in fours.values())


def mean(values):
    """The mean of what is not None, or None."""
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def measure_answers(rows, book_text):
    """The metrics of rows {"record", "answer", "ended", "tokens", "seconds"}, a dict."""
    answers = [row["answer"] for row in rows]
    right = [row["record"]["Answer"] for row in rows]
    rouge = RougeScorer(["rougeL"], tokenizer=Characters())
    bigrams = Counter(answer[i : i + 2] for answer in answers for i in range(len(answer) - 1))
    metrics = {
        "n": len(rows),
        "accuracy": mean(holds_key(row["answer"], row["record"]) for row in rows),
        "exact_match": mean(a.strip() == r.strip() for a, r in zip(answers, right)),
        "rouge_l": mean(rouge.score(r, a)["rougeL"].fmeasure for a, r in zip(answers, right)),
        "bleu_4": BLEU(tokenize="char", effective_order=True).corpus_score(answers, [right]).score / 100,
        "distinct_2": len(bigrams) / max(1, sum(bigrams.values())),
        "loop_share": mean(loops(row["answer"], row["ended"]) for row in rows),
        "tokens_per_second": sum(row["tokens"] for row in rows) / max(1e-9, sum(row["seconds"] for row in rows)),
    }
    if book_text:
        quoting = [re.findall("「(.+?)」", answer) for answer in answers]
        metrics["quotes_in_book"] = mean(all(quote in book_text for quote in quotes) for quotes in quoting if quotes)
    return metrics


def answer_all(model, tokenizer, config, records):
    """The model's greedy answer to each record's question, a list of rows for measure_answers."""
    inputs = [prompt_ids(model, tokenizer, record["Question"], config["chat"]) for record in records]
    order = sorted(range(len(records)), key=lambda i: len(records[i]["Answer"]))  # so that a batch ends together
    completions = complete(model, tokenizer, [inputs[i] for i in order], CHAT_TOKENS, temperature=0)
    rows = [None] * len(records)
    for i, made in zip(order, completions):
        rows[i] = {
            "record": records[i],
            "answer": made.text,
            "ended": made.ended,
            "tokens": made.tokens,
            "seconds": made.seconds,
        }
    return rows


def table(groups):
    """The metrics of several groups as an aligned text table."""
    metrics = list(next(iter(groups.values())))
    lines = [f"{'':14}" + "".join(f"{name:>18}" for name in metrics)]
    for group, values in groups.items():
        cells = ["-" if values[m] is None else f"{values[m]:,}" if m == "n" else f"{values[m]:.4g}" for m in metrics]
        lines.append(f"{group:14}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


configure(globals(), limits={"batch_size": (1, None)}, choices={"dtype": WEIGHT_DTYPES})
try:
    book_text = Path(book).read_text(encoding="utf-8-sig") if book else ""
except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"no book in UTF-8 at {book}", "check --book; data/fetch_data.py writes one") from error
records = read_questions(eval_file) if eval_file else None
model, tokenizer, config = load_model(out_dir, device, dtype)
if records is None:
    dataset = dataset or str(config["settings"].get("dataset"))
    require(
        fingerprint(Tokenizer.load(Path("data", dataset))) == fingerprint(tokenizer),
        f"data/{dataset} was prepared with another tokenizer than the model's",
        "choose the --dataset that it was trained on",
    )
    metrics = measure_split(model, tokenizer, dataset)
    print("\n".join(f"{name:24}{value:10.4f}" for name, value in metrics.items()))
else:
    rows = answer_all(model, tokenizer, config, records)
    by_group = defaultdict(list)
    for row in rows:
        by_group[row["record"].get("Group", "all questions")].append(row)
    metrics = {
        "all": measure_answers(rows, book_text),
        "groups": {group: measure_answers(members, book_text) for group, members in by_group.items()},
    }
    print(table({"all": metrics["all"], **metrics["groups"]}))
    if answers_path:
        with write_whole(answers_path) as file:
            for row in rows:
                file.write(json.dumps({**row["record"], "Model": row["answer"]}, ensure_ascii=False) + "\n")
if save_path:
    write_json(save_path, metrics)
