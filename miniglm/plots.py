"""Pictures of a training and of its results, drawn by matplotlib from log.jsonl and metrics.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into files; needs no screen

import matplotlib.pyplot as plt
from matplotlib import font_manager

from miniglm.errors import UserError, refuse
from miniglm.files import read_json, write_whole
from miniglm.objectives import is_overfitted

CJK_FONTS = [
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Heiti SC",
    "WenQuanYi Micro Hei",
]
LARGEST = 1e15  # what a picture's scale can hold
SCORES = ["accuracy", "exact_match", "rouge_l", "bleu_4", "distinct_2", "loop_share", "copied_share"]
STYLES: dict[str, dict[str, Any]] = {  # of the lines of a loss, by split
    "train": {"linewidth": 0.8, "alpha": 0.35},
    "train_eval": {"linewidth": 1.8, "linestyle": "--"},
    "val": {"linewidth": 1.8, "marker": "o", "markersize": 4},
}
OF_ANSWERS = ("reward", "divergence", "answer_length")  # that a model draws while it is trained
LABELS = {  # what the pictures say, in Chinese and in English
    "train": ("训练（每步）", "train, each step"),
    "train_eval": ("训练", "train"),
    "val": ("验证", "validation"),
    "iter": ("步数", "iterations"),
    "loss": ("损失（nat/token）", "loss (nats per token)"),
    "lowest": ("验证最低，此后过拟合", "lowest validation loss; overfitting after it"),
    "lr": ("学习率", "learning rate"),
    "grad_norm": ("梯度的长度", "gradient norm"),
    "speed": ("每秒 token", "tokens a second"),
    "reward": ("奖励", "reward"),
    "divergence": ("离原来多远（nat/token）", "divergence (nats per token)"),
    "answer_length": ("回答的字数", "characters of an answer"),
    "metrics": ("评测指标", "metrics"),
}


def choose_font():
    """label(key), a function that gives the words of one of LABELS: in Chinese where a font has it, else in English."""
    found = has_chinese_font()
    return lambda key: LABELS[key][0 if found else 1]


def has_chinese_font() -> bool:
    """Whether a font has Chinese characters: it is used from then on; else a line tells how to get one."""
    plt.rcParams["text.parse_math"] = False  # a dollar in a name is a dollar
    found = [name for name in CJK_FONTS if name in {font.name for font in font_manager.fontManager.ttflist}]
    if found:
        plt.rcParams["font.sans-serif"] = found[:1] + plt.rcParams["font.sans-serif"]
    else:
        print(
            "no Chinese font found, so the labels are English; Debian's is apt install fonts-noto-cjk, and a new one is"
            f" seen once {matplotlib.get_cachedir()} is deleted"
        )
    return bool(found)


def read_log(directory) -> dict[str, list[dict]]:
    """{split: its events} of a run's log.jsonl, without a last line that is still being written. Raises UserError."""
    path = Path(directory, "log.jsonl")
    refuse(not path.is_file(), f"no log {path}", "train first, or check --out_dir")
    log = {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            values = {key: float(value) for key, value in event.items() if key != "split" and value is not None}
            if not all(abs(value) < LARGEST for value in values.values()):
                raise ValueError("no number that can be drawn")
            log.setdefault(str(event["split"]), []).append({"iter": values["iter"], "loss": values["loss"], **values})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if number < len(lines):
                raise UserError(f"{path} line {number} is no log line", "delete that line, or train again") from error
    refuse(not log, f"{path} is empty", "train first; it fills as the training goes on")
    return log


def read_logs(directories) -> dict[str, dict]:
    """{name: log} of several runs, see read_log, named by the last part of their directories where those differ."""
    names = [Path(directory).name for directory in directories]
    if len(set(names)) < len(names):
        names = directories
    return {name: read_log(directory) for name, directory in zip(names, directories)}


def overfitting_point(log: dict) -> dict | None:
    """The event with a run's lowest validation loss where the loss is 1 % higher at the end, else None."""
    events = log.get("val", [])
    lowest = min(events, key=lambda event: event["loss"], default=None)
    return lowest if lowest and is_overfitted(events[-1]["loss"], lowest["loss"]) else None


def column(events: list[dict], key: str) -> tuple[list, list]:
    """(iterations, values of `key`) of the events that have one."""
    events = [event for event in events if key in event]
    return [event["iter"] for event in events], [event[key] for event in events]


def draw_losses(logs: dict[str, dict], label):
    """Train and validation loss against iterations, all runs on one picture, with the point of overfitting. A figure.

    logs: {name: log}, see read_log. label: see choose_font.
    """
    figure, axes = plt.subplots(figsize=(8, 5), dpi=130)
    several = len(logs) > 1
    for number, (name, log) in enumerate(logs.items()):
        prefix = f"{name} " if several else ""
        colour = f"C{number}"
        val_colour = colour if several else "C3"  # the lines of a single run differ in colour
        for split, events in log.items():
            if split not in STYLES:
                continue
            steps, losses = column(events, "loss")
            chosen = val_colour if split == "val" else colour
            axes.plot(steps, losses, color=chosen, label=prefix + label(split), **STYLES[split])
            if split == "val":
                end = (steps[-1], losses[-1])
                axes.annotate(f"{losses[-1]:.3f}", end, textcoords="offset points", xytext=(4, 6), fontsize=9)
        if lowest := overfitting_point(log):
            axes.plot(
                lowest["iter"],
                lowest["loss"],
                linestyle="none",
                marker="v",
                markersize=11,
                color=val_colour,
                markeredgecolor="black",
                label=f"{prefix}{label('lowest')} ({lowest['iter']:.0f}: {lowest['loss']:.3f})",
            )
    axes.set_xlabel(label("iter"))
    axes.set_ylabel(label("loss"))
    axes.set_title(" · ".join(logs))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def draw_training(logs: dict[str, dict], label):
    """Learning rate, gradient norm and tokens a second against iterations, a panel each. A figure.

    logs: {name: log}, see read_log. label: see choose_font.
    """
    curves = {}
    for name, log in logs.items():
        events = log.get("train", [])
        timed = [event for event in events if "tokens" in event and "seconds" in event]
        pairs = [(a, b) for a, b in zip(timed, timed[1:]) if b["seconds"] > a["seconds"]]
        speeds = [(b["tokens"] - a["tokens"]) / (b["seconds"] - a["seconds"]) for a, b in pairs]
        speed = [b["iter"] for _, b in pairs], speeds
        curves[name] = {"lr": column(events, "lr"), "grad_norm": column(events, "grad_norm"), "speed": speed}
    return draw_panels(curves, ("lr", "grad_norm", "speed"), label, bottom=0)


def draw_answers(logs: dict[str, dict], label):
    """What the answers that models drew while they were trained were worth, how far these went, and their length.

    A figure, a panel each; None where no run drew any. logs, label: see draw_training.
    """
    events_of = {name: log.get("train", []) for name, log in logs.items()}
    drawn = {name: events for name, events in events_of.items() if any("reward" in event for event in events)}
    curves = {name: {key: column(events, key) for key in OF_ANSWERS} for name, events in drawn.items()}
    return draw_panels(curves, OF_ANSWERS, label) if curves else None


def draw_panels(curves: dict[str, dict[str, tuple[list, list]]], keys: Sequence[str], label, bottom=None):
    """{name: {key: (iterations, values)}} of several runs, a panel for each key. A figure.

    label: see choose_font. bottom: of the values' scale.
    """
    figure, panels = plt.subplots(len(keys), 1, figsize=(8, 8), dpi=130, sharex=True)
    for axes, key in zip(panels, keys):
        for name, of_run in curves.items():
            axes.plot(*of_run[key], linewidth=1.2, label=name)
        axes.set_ylabel(label(key))
        axes.set_ylim(bottom=bottom)
        axes.grid(alpha=0.3)
    if len(curves) > 1:
        panels[0].legend(fontsize=8)
    panels[0].set_title(" · ".join(curves))
    panels[-1].set_xlabel(label("iter"))
    return figure


def draw_metrics(measured: dict[str, dict], label):
    """Scores by group of questions, or a split's losses, a panel for each run. A figure.

    measured: {name: groups}, see groups_of. label: see choose_font.
    """
    figure, panels = plt.subplots(len(measured), 1, figsize=(9, 4.5 * len(measured)), dpi=130, squeeze=False)
    for axes, (name, groups) in zip(panels[:, 0], measured.items()):
        splits = [values for values in groups.values() if "loss" in values]
        losses = [key for values in splits for key in values if key not in ("perplexity", "intervals")]
        scores = losses or SCORES
        groups = {group: values for group, values in groups.items() if scores[0] in values}
        width = 0.8 / len(groups)
        for i, (group, values) in enumerate(groups.items()):
            heights = [values.get(score) or 0.0 for score in scores]
            intervals = values.get("intervals", {})
            ends = [intervals.get(score) or (height, height) for score, height in zip(scores, heights)]
            reach = [[max(0, h - low) for h, (low, _) in zip(heights, ends)]]
            reach += [[max(0, high - h) for h, (_, high) in zip(heights, ends)]]
            bars = axes.bar(
                [x + i * width for x in range(len(scores))],
                heights,
                width,
                yerr=reach if intervals else None,
                error_kw={"elinewidth": 0.8},
                label=drawable(f"{group} (n={values['n']})" if "n" in values else group),
            )
            axes.bar_label(bars, [f"{h:.2f}" for h in heights], fontsize=6)
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(scores))], map(drawable, scores), fontsize=8)
        axes.margins(y=0.15)
        axes.set_title(f"{name} · {label('metrics')}")
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
        axes.grid(axis="y", alpha=0.3)
    return figure


def drawable(text: str) -> str:
    """`text` with a question mark for each half of a character, which no font has."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_groups(path) -> dict[str, dict]:
    """{group: {metric: number, None or "intervals"}} of a metrics.json, a split as one group. Raises UserError."""
    groups = groups_of(read_json(path, "run evaluations.py again"))
    malformed = not all(are_metrics(values) for values in groups.values())
    unmeasured = malformed or not any({"accuracy", "loss"} & values.keys() for values in groups.values())
    refuse(unmeasured, f"{path} holds no metrics", "run evaluations.py again")
    return groups


def are_metrics(values) -> bool:
    """Whether a value is {metric: number or None, "intervals": {metric: [low, high] or None}}."""
    if not isinstance(values, dict) or not isinstance(values.get("intervals", {}), dict):
        return False
    pairs = [pair for pair in values.get("intervals", {}).values() if pair is not None]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return False
    numbers = [value for key, value in values.items() if key != "intervals" and value is not None]
    numbers += [number for pair in pairs for number in pair]
    return all(isinstance(number, int | float) and abs(number) < LARGEST for number in numbers)


def groups_of(metrics: dict) -> dict[str, dict]:
    """{group: its metrics} of what evaluations.py measured.

    That is the groups of questions and, beside them, a bag of words; or a split, "held-out", and "samples", texts that
    go on from its beginnings.
    """
    if "groups" in metrics:
        named = metrics["groups"] if isinstance(metrics["groups"], dict) else {}
        return named | {key: metrics[key] for key in ("bag_of_words",) if key in metrics}
    flat = {key: value for key, value in metrics.items() if key != "samples"}
    return {"held-out": flat} | {key: metrics[key] for key in ("samples",) if key in metrics}


def save(figure, path):
    """Write a figure as a PNG that takes `path`'s place only once it is complete, and print the path."""
    with write_whole(path, "wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)
    print(path)
