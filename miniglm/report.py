"""A page about what trainings did: curves, scores with confidence intervals, answers side by side, settings."""

import base64
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from miniglm.files import write_whole
from miniglm.lora import ADAPTER_WEIGHTS
from miniglm.metrics import keys_of
from miniglm.plots import (
    choose_font,
    draw_answers,
    draw_losses,
    draw_metrics,
    draw_training,
    groups_of,
    overfitting_point,
    read_log,
    read_logs,
    save,
)

SHOWN = 20  # answers side by side
PERCENT = (
    "accuracy",
    "exact_match",
    "loop_share",
    "copied_share",
    "refusal_share",
    "quotes_in_book",
    "call_exact",
    "answer_values",
)
MEANING = {  # of the metrics, for the page
    "accuracy": "答对：回答里有 Key the answer holds the Key",
    "exact_match": "一字不差 exactly the right answer",
    "rouge_l": "ROUGE-L（按字 by character）",
    "bleu_4": "BLEU-4（按字 by character）",
    "distinct_1": "不同的字 different characters",
    "distinct_2": "不同的两字 different pairs of characters",
    "loop_share": "车轱辘话 answers that loop",
    "length": "字数 characters",
    "copied_share": "最长的一段照抄训练文本，占全文 longest piece copied from the training text, share of the whole",
    "refusal_share": "说书里没有的 answers that say the book has no such thing",
    "quotes_in_book": "引文在书里一字不差 quotations that stand in the book",
    "accuracy_with_places": "答案或列出的出处里有 Key the answer or the places shown hold the Key",
    "call_exact": "查的一字不差 the call asks for just what is due",
    "answer_values": "答案里有该有的数和名 the answer holds the values of what was found",
    "slot_precision": "查的每一项，对的 slots that were right",
    "slot_recall": "该查的每一项，查了的 slots that were asked for",
    "slot_f1": "两者的调和平均 F1 of both",
    "tokens_per_second": "每秒 token tokens a second",
    "loss": "损失（nat/token）loss",
    "perplexity": "困惑度 perplexity",
    "bits_per_char": "每字比特 bits a character",
    "bits_per_byte": "每字节比特 bits a byte",
    "trigram_bits_per_char": "同一段上三字模型 a trigram on the same text",
    "ppmd_bits_per_char": "同一段上 PPMd on the same text",
}


@dataclass
class Measured:
    """A trained model that was measured."""

    settings: dict  # of its training
    metrics: dict = field(default_factory=dict)  # as evaluations.py writes them
    answers: list = field(default_factory=list)  # Completions, one for each question
    scores: list = field(default_factory=list)  # of each answer, {metric: value or None}
    training: dict = field(default_factory=dict)  # what it took, see cost


def write_report(path, runs: dict[str, Measured], records: list[dict] | None):
    """Write the page to `path`, and its pictures beside it as PNGs.

    runs: {out_dir: Measured}. records: the questions that were answered, None where a split was measured.
    """
    path, label = Path(path), choose_font()
    logs = logs_of(runs)
    groups = {directory: groups_of(run.metrics) for directory, run in runs.items()}
    tables = {}  # {out_dir: {group: metrics}}, over all first
    for directory, run in runs.items():
        overall = {"all": run.metrics["all"]} if "all" in run.metrics else {}
        tables[directory] = overall | groups[directory]
    figures = {}
    if logs:
        figures["loss"] = ("损失曲线 Training and validation loss", draw_losses(logs, label))
        heading = "学习率、梯度、快慢 Learning rate, gradient norm, speed"
        figures["training"] = (heading, draw_training(logs, label))
        if answers := draw_answers(logs, label):
            heading = "自己答的：奖励、离原来多远、长短 Its own answers: reward, divergence, length"
            figures["answers"] = (heading, answers)
    figures["metrics"] = ("指标 Metrics", draw_metrics(groups, label))
    pictures = []
    for name, (heading, figure) in figures.items():
        picture = path.with_name(f"{path.stem}-{name}.png")
        save(figure, picture)
        pictures.append((heading, base64.b64encode(picture.read_bytes()).decode("ascii")))
    templates = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent))
    html = templates.get_template("report.html").render(
        title="训练报告 MiniGLM: what the training did",
        findings=[finding for name, log in logs.items() for finding in findings(name, log)],
        pictures=pictures,
        names=list(runs),
        scores=score_tables(tables),
        meaning=MEANING,
        answers=side_by_side(runs, records) if records else [],
        costs=cost_rows({directory: run.training for directory, run in runs.items()}),
        settings=differing(runs),
    )
    with write_whole(path) as file:
        file.write(html)
    print(path)


def logs_of(directories) -> dict[str, dict]:
    """The logs, see plots.read_logs, of those directories that have one."""
    return read_logs([directory for directory in directories if Path(directory, "log.jsonl").exists()])


def cost(directory, settings: dict, parameters: int) -> dict:
    """What a training took: {"trained_share", "seconds_per_step", "peak_memory", "size"}, the last two in bytes.

    settings: of the run. parameters: how many the model has. size: of what was trained, without the optimizer's state.
    Values that are not known are left out.
    """
    if "trained_parameters" in settings:
        trained = settings["trained_parameters"]
    else:
        trained = parameters if settings and not settings.get("lora_rank") else None
    found = {"trained_share": trained / parameters, "size": 4 * trained} if isinstance(trained, int) else {}
    if adapter := sorted(Path(directory).glob(ADAPTER_WEIGHTS)):
        found["size"] = adapter[0].stat().st_size
    events = read_log(directory).get("train", []) if Path(directory, "log.jsonl").exists() else []
    timed = [event for event in events if "seconds" in event]
    # The median leaves out the steps between which losses were estimated and checkpoints written.
    steps = [
        (b["seconds"] - a["seconds"]) / (b["iter"] - a["iter"]) for a, b in pairwise(timed) if b["iter"] > a["iter"]
    ]
    if steps:
        found["seconds_per_step"] = statistics.median(steps)
    if memory := [event["memory"] for event in events if "memory" in event]:
        found["peak_memory"] = max(memory)
    return found


COSTS = {  # a key of what cost gives: (its name on the page, a function that writes a value)
    "trained_share": ("训练的参数 parameters trained", lambda share: f"{100 * share:.2f} %"),
    "peak_memory": ("最多用的内存 peak memory", lambda size: f"{size / 2**20:,.0f} MiB"),
    "seconds_per_step": ("每步秒数 seconds a step", lambda seconds: f"{seconds:.3f}"),
    "size": ("学到的占磁盘 what was learnt, on disk", lambda size: f"{size / 2**20:.2f} MiB"),
}


def cost_rows(costs: dict[str, dict]) -> list[tuple[str, list[str]]]:
    """[(name, [text for each run])] of {run: its cost}; rows of which nothing is known are left out."""
    return [
        (name, [show(cost[key]) if key in cost else "–" for cost in costs.values()])
        for key, (name, show) in COSTS.items()
        if any(key in cost for cost in costs.values())
    ]


def findings(name, log):
    """What a run's curves show, in sentences: the losses at its end, and where it began to overfit."""
    ends = {
        words: log[split][-1]
        for split, words in (("train_eval", "训练 train"), ("val", "验证 validation"))
        if split in log
    }
    if ends:
        losses = "，".join(f"{words} {event['loss']:.3f}" for words, event in ends.items())
        steps = next(iter(ends.values()))["iter"]
        yield f"{name}：第 {steps:.0f} 步 steps，损失 loss {losses}"
    if lowest := overfitting_point(log):
        yield (
            f"{name}：验证损失在第 {lowest['iter']:.0f} 步最低（{lowest['loss']:.3f}），此后过拟合 "
            f"overfitting after step {lowest['iter']:.0f}, where the validation loss is lowest"
        )


def score_tables(groups: dict[str, dict]) -> list:
    """[(group, [(metric, [(value, interval) of each run])])] of {run: {group: metrics}}, values and intervals texts."""
    tables = []
    for group in dict.fromkeys(group for found in groups.values() for group in found):
        columns = [found.get(group, {}) for found in groups.values()]
        metrics = dict.fromkeys(metric for column in columns for metric in column if metric != "intervals")
        tables.append((group, [(metric, [cell(column, metric) for column in columns]) for metric in metrics]))
    return tables


def cell(metrics: dict, metric: str) -> tuple[str, str]:
    """A metric's value and its confidence interval as the page shows them."""
    value, ends = metrics.get(metric), metrics.get("intervals", {}).get(metric)
    if value is None:
        return "–", ""
    if metric == "n":
        return f"{value:,}", ""
    scale, digits, unit = 1, 3, ""
    if metric in PERCENT:
        scale, digits, unit = 100, 1, " %"
    elif value >= 100:
        digits = 1
    interval = "–".join(f"{scale * end:.{digits}f}" for end in ends or ())
    return f"{scale * value:.{digits}f}{unit}", interval


def side_by_side(runs: dict[str, Measured], records: list[dict]) -> list:
    """[(record, right answer, [(answer, whether it is wrong) of each run])] of SHOWN questions, some of every group."""
    by_group = defaultdict(list)
    for number, record in enumerate(records):
        by_group[record.get("Group", "")].append(number)
    turns = zip_longest(*(numbers[:: max(1, len(numbers) // SHOWN)] for numbers in by_group.values()))
    chosen = [number for turn in turns for number in turn if number is not None][:SHOWN]
    rows = []
    for number in sorted(chosen):
        record = {"Group": "", **records[number]}
        answers = [
            (marked(run.answers[number].text, record), run.scores[number]["accuracy"] is False) for run in runs.values()
        ]
        rows.append((record, marked(record["Answer"], record), answers))
    return rows


def marked(answer: str, record: dict) -> Markup:
    """An answer as HTML, in which the words of the record's Key are marked."""
    words = sorted(filter(None, keys_of(record)), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, words))})", answer) if words else [answer]
    return Markup("").join(Markup("<mark>{}</mark>").format(part) if part in words else escape(part) for part in parts)


def differing(runs: dict[str, Measured]) -> list[tuple[str, list]]:
    """[(setting, [its value in each run])] of the settings, out_dir apart, that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs.values() for key in run.settings if key != "out_dir")
    values = {key: [run.settings.get(key, "") for run in runs.values()] for key in keys}
    return [(key, found) for key, found in values.items() if len(set(map(str, found))) > 1]
