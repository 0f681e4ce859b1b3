"""One page that tells what trainings did: curves, scores with confidence intervals, answers side by side, settings."""

import base64
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup, escape

from miniglm.files import write_whole
from miniglm.lora import ADAPTER_WEIGHTS
from miniglm.metrics import keys_of
from miniglm.plots import (
    choose_font,
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
PERCENT = ("accuracy", "exact_match", "loop_share", "copied_share", "refusal_share", "quotes_in_book")
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
    "tokens_per_second": "每秒 token tokens a second",
    "loss": "损失（nat/token）loss",
    "perplexity": "困惑度 perplexity",
    "bits_per_char": "每字比特 bits a character",
    "bits_per_byte": "每字节比特 bits a byte",
    "trigram_bits_per_char": "同一段上三字模型 a trigram on the same text",
    "ppmd_bits_per_char": "同一段上 PPMd on the same text",
}
PAGE = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.6 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; max-width: 1100px;
       margin: 2em auto; padding: 0 1em; color: #222 }
.table { overflow-x: auto } table { border-collapse: collapse; margin: 1em 0; font-size: 14px }
th, td { border: 1px solid #ccc; padding: 4px 10px; text-align: left; vertical-align: top }
td.number { text-align: right; white-space: nowrap } td small { color: #777 } tr.group th { background: #f0eef8 }
mark { background: #c8f0c8 } .wrong { background: #fdeaea } img { max-width: 100%; height: auto } h2 { margin-top: 2em }
small { color: #666 }
</style></head><body>
<h1>{{ title }}</h1>
<ul>{% for line in findings %}<li>{{ line }}</li>{% endfor %}</ul>
{% for heading, picture in pictures %}<h2>{{ heading }}</h2><img alt="{{ heading }}" src="data:image/png;base64,{{ picture }}">{% endfor %}
<h2>指标 <small>Metrics, with 95 % confidence intervals</small></h2>
<div class="table"><table><tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for group, lines in scores %}<tr class="group"><th colspan="{{ names|length + 1 }}">{{ group }}</th></tr>
{% for metric, cells in lines %}<tr><td>{{ metric }} <small>{{ meaning.get(metric, "") }}</small></td>
{% for value, ends in cells %}<td class="number">{{ value }} <small>{{ ends }}</small></td>{% endfor %}</tr>{% endfor %}{% endfor %}
</table></div>
{% if answers %}<h2>回答 <small>Answers to the same questions; what a right one must hold is marked, wrong ones are red</small></h2>
<div class="table"><table><tr><th>问 <small>question</small></th><th>应答 <small>right answer</small></th>
{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for record, right, cells in answers %}<tr class="answer"><td>{{ record.Question }}<br><small>{{ record.Group }}</small></td><td>{{ right }}</td>
{% for text, wrong in cells %}<td{% if wrong %} class="wrong"{% endif %}>{{ text }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}
{% if costs %}<h2>训练的代价 <small>What the training took</small></h2>
<div class="table"><table><tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for key, values in costs %}<tr><td>{{ key }}</td>{% for value in values %}<td class="number">{{ value }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}
{% if settings %}<h2>不同的设置 <small>Settings that differ</small></h2>
<div class="table"><table><tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for key, values in settings %}<tr><td>{{ key }}</td>{% for value in values %}<td class="number">{{ value }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}
</body></html>
"""


@dataclass
class Run:
    """A trained model that was measured."""

    settings: dict  # of its training
    metrics: dict = None  # as evaluations.py writes them
    answers: list = None  # Completions, one for each question
    scores: list = None  # of each answer, {metric: value or None}
    training: dict = None  # what it took, see cost


def write_report(path, runs, records):
    """Write the page to `path`, and its pictures beside it as PNGs. runs: {out_dir: Run}. records: the questions or None."""
    path, label = Path(path), choose_font()
    logs = logs_of(runs)
    groups = {directory: groups_of(run.metrics) for directory, run in runs.items()}
    overall = {
        directory: {"all": run.metrics["all"]} if "all" in run.metrics else {} for directory, run in runs.items()
    }
    drawn = {"metrics": ("指标 Metrics", draw_metrics(groups, label))}
    if logs:
        drawn = {
            "loss": ("损失曲线 Training and validation loss", draw_losses(logs, label)),
            "training": ("学习率、梯度、快慢 Learning rate, gradient norm, speed", draw_training(logs, label)),
        } | drawn
    pictures = []
    for name, (heading, figure) in drawn.items():
        picture = path.with_name(f"{path.stem}-{name}.png")
        save(figure, picture)
        pictures.append((heading, base64.b64encode(picture.read_bytes()).decode("ascii")))
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        title="训练报告 MiniGLM: what the training did",
        findings=[finding for name, log in logs.items() for finding in findings(name, log)],
        pictures=pictures,
        names=list(runs),
        scores=score_tables({directory: overall[directory] | found for directory, found in groups.items()}),
        meaning=MEANING,
        answers=side_by_side(runs, records) if records else [],
        costs=cost_rows({directory: run.training for directory, run in runs.items()}),
        settings=differing(runs),
    )
    with write_whole(path) as file:
        file.write(html)
    print(path)


def logs_of(directories):
    """The logs, see plots.read_logs, of those directories that have one."""
    return read_logs([directory for directory in directories if Path(directory, "log.jsonl").exists()])


def cost(directory, settings, parameters):
    """What a training took: {"trained_share", "seconds_per_step", "peak_memory", "size"}, the last two in bytes.

    settings: of the run. parameters: how many the model has. size: of what was trained, without the optimizer's state.
    Values that are not known are left out.
    """
    every = parameters if settings and not settings.get("lora_rank") else None
    trained = settings.get("trained_parameters", every)
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


COSTS = {  # what cost gives: (how it is called, how a value is shown)
    "trained_share": ("训练的参数 parameters trained", lambda share: f"{100 * share:.2f} %"),
    "peak_memory": ("最多用的内存 peak memory", lambda size: f"{size / 2**20:,.0f} MiB"),
    "seconds_per_step": ("每步秒数 seconds a step", lambda seconds: f"{seconds:.3f}"),
    "size": ("学到的占磁盘 what was learnt, on disk", lambda size: f"{size / 2**20:.2f} MiB"),
}


def cost_rows(costs):
    """[(name, [value shown of each run])] of {run: its cost}."""
    return [
        (name, [show(cost[key]) if key in cost else "–" for cost in costs.values()])
        for key, (name, show) in COSTS.items()
        if any(key in cost for cost in costs.values())
    ]


def findings(name, log):
    """What a run's curves say, in words."""
    lowest = overfitting_point(log)
    ends = {split: log[split][-1] for split in ("train_eval", "val") if split in log}
    told = "，".join(
        f"{word} {ends[split]['loss']:.3f}"
        for split, word in (("train_eval", "训练 train"), ("val", "验证 validation"))
        if split in ends
    )
    if ends:
        yield f"{name}：第 {ends[next(iter(ends))]['iter']:.0f} 步 steps，损失 loss {told}"
    if lowest:
        yield (
            f"{name}：验证损失在第 {lowest['iter']:.0f} 步最低（{lowest['loss']:.3f}），此后过拟合 "
            f"overfitting after step {lowest['iter']:.0f}, where the validation loss is lowest"
        )


def score_tables(groups):
    """[(group, [(metric, [(value, interval) of each run])])] of {run: {group: metrics}}."""
    tables = []
    for group in dict.fromkeys(group for found in groups.values() for group in found):
        columns = [found.get(group, {}) for found in groups.values()]
        metrics = dict.fromkeys(metric for column in columns for metric in column if metric != "intervals")
        tables.append((group, [(metric, [cell(column, metric) for column in columns]) for metric in metrics]))
    return tables


def cell(metrics, metric):
    """A value and its interval as they are shown, two texts."""
    value, ends = metrics.get(metric), metrics.get("intervals", {}).get(metric)
    if value is None:
        return "–", ""
    if metric == "n":
        return f"{value:,}", ""
    if metric in PERCENT:
        return f"{100 * value:.1f} %", "{:.1f}–{:.1f}".format(*(100 * end for end in ends)) if ends else ""
    digits = 1 if value >= 100 else 3
    return f"{value:.{digits}f}", "{:.{d}f}–{:.{d}f}".format(*ends, d=digits) if ends else ""


def side_by_side(runs, records):
    """[(record, right answer, [(answer, whether it is wrong) of each run])] of SHOWN questions, evenly from all groups."""
    by_group = defaultdict(list)
    for number, record in enumerate(records):
        by_group[record.get("Group", "")].append(number)
    turns = zip_longest(*(numbers[:: max(1, len(numbers) // SHOWN)] for numbers in by_group.values()))
    chosen = [number for turn in turns for number in turn if number is not None][:SHOWN]
    return [
        (
            {"Group": "", **records[number]},
            marked(records[number]["Answer"], records[number]),
            [
                (marked(run.answers[number].text, records[number]), run.scores[number]["accuracy"] is False)
                for run in runs.values()
            ],
        )
        for number in sorted(chosen)
    ]


def marked(answer, record):
    """An answer as HTML with the words of the record's Key marked."""
    words = sorted(filter(None, keys_of(record)), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, words))})", answer) if words else [answer]
    return Markup("").join(Markup("<mark>{}</mark>").format(part) if part in words else escape(part) for part in parts)


def differing(runs):
    """[(setting, [its value in each run])] of those that are not the same in all, but for out_dir."""
    keys = dict.fromkeys(key for run in runs.values() for key in run.settings if key != "out_dir")
    values = {key: [run.settings.get(key, "") for run in runs.values()] for key in keys}
    return [(key, found) for key, found in values.items() if len(set(map(str, found))) > 1]
