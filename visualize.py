"""Draw what a training did: out_dir/loss.png from log.jsonl, and metrics.png where metrics.json is.

python visualize.py --out_dir=out/demo-pretrain
python visualize.py --out_dir=out/a --out_dir=out/b      # both on one picture, in the first directory
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into files; needs no screen

import matplotlib.pyplot as plt
from matplotlib import font_manager

from configurator import configure
from errors import UserError, require
from files import read_json, write_whole

# -----------------------------------------------------------------------------
out_dir = ["out/demo-pretrain"]  # one trained model or several
# -----------------------------------------------------------------------------

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
SCORES = ["accuracy", "exact_match", "rouge_l", "bleu_4", "distinct_2", "loop_share"]
LABELS = {"train": ("训练（每步）", "train, each step"), "train_eval": ("训练", "train"), "val": ("验证", "validation")}


def choose_font():
    """Draw Chinese where a font has it; True if so."""
    found = [name for name in CJK_FONTS if name in {font.name for font in font_manager.fontManager.ttflist}]
    if not found:
        print("no Chinese font found, so the labels are English; Debian's is apt install fonts-noto-cjk")
        return False
    plt.rcParams["font.sans-serif"] = found[:1] + plt.rcParams["font.sans-serif"]
    return True


def read_log(directory):
    """{split: ([iter], [loss])} of a run. A last line that is still being written is left out."""
    path = Path(directory, "log.jsonl")
    require(path.is_file(), f"no log {path}", "train first, or check --out_dir")
    curves = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            split, point = str(event["split"]), (int(event["iter"]), float(event["loss"]))
            curves.setdefault(split, []).append(point)
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise UserError(f"{path} line {number} is no log line", "delete that line, or train again") from error
    require(curves, f"{path} is empty", "train first; it fills as the training goes on")
    return {split: tuple(zip(*points)) for split, points in curves.items()}


def draw_losses(directories, chinese):
    """Train and validation loss against iterations, all runs on one picture."""
    figure, axes = plt.subplots(figsize=(8, 5), dpi=130)
    several = len(directories) > 1
    for number, directory in enumerate(directories):
        prefix = f"{Path(directory).name} " if several else ""
        for split, (steps, losses) in read_log(directory).items():
            if split not in LABELS:
                continue
            faint = split == "train"
            axes.plot(
                steps,
                losses,
                color=f"C{number}" if several or split != "val" else "C3",
                linestyle="-" if split != "train_eval" else "--",
                linewidth=0.8 if faint else 1.8,
                alpha=0.35 if faint else 1.0,
                marker="o" if split == "val" else None,
                markersize=4,
                label=prefix + LABELS[split][0 if chinese else 1],
            )
            if split == "val":
                axes.annotate(
                    f"{losses[-1]:.3f}", (steps[-1], losses[-1]), textcoords="offset points", xytext=(4, 6), fontsize=9
                )
    axes.set_xlabel("步数" if chinese else "iterations")
    axes.set_ylabel("损失（nat/token）" if chinese else "loss (nats per token)")
    axes.set_title(" · ".join(Path(d).name for d in directories))
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, Path(directories[0], "loss.png"))


def draw_metrics(directories, chinese):
    """The figures of metrics.json, a panel a directory that has one: scores by group of questions, or a split's losses."""
    found = {d: read_metrics(Path(d, "metrics.json")) for d in directories if Path(d, "metrics.json").exists()}
    if not found:
        return
    figure, panels = plt.subplots(len(found), 1, figsize=(9, 4.5 * len(found)), dpi=130, squeeze=False)
    for axes, (directory, groups) in zip(panels[:, 0], found.items()):
        first = next(iter(groups.values()))
        scores = SCORES if "n" in first else [name for name in first if name != "perplexity"]
        width = 0.8 / len(groups)
        for i, (group, values) in enumerate(groups.items()):
            heights = [values.get(score) or 0.0 for score in scores]
            label = f"{group} (n={values['n']})" if "n" in values else group
            bars = axes.bar([x + i * width for x in range(len(scores))], heights, width, label=label)
            axes.bar_label(bars, [f"{h:.2f}" for h in heights], fontsize=7)
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(scores))], scores, fontsize=8)
        axes.margins(y=0.15)
        axes.set_title(f"{Path(directory).name}：{'评测指标' if chinese else 'metrics'}")
        axes.legend(fontsize=8)
        axes.grid(axis="y", alpha=0.3)
    save(figure, Path(directories[0], "metrics.png"))


def read_metrics(path):
    """{group: {metric: number or None}} of a metrics.json; that of a split is one group."""
    metrics = read_json(path, "run evaluations.py again")
    groups = metrics.get("groups", {"held-out": metrics})
    proper = isinstance(groups, dict) and groups and all(isinstance(values, dict) for values in groups.values())
    proper = proper and all(isinstance(v, int | float | None) for values in groups.values() for v in values.values())
    require(proper, f"{path} holds no metrics", "run evaluations.py again")
    return groups


def save(figure, path):
    """Write the picture whole."""
    with write_whole(path, "wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)
    print(path)


configure(globals())
chinese = choose_font()
draw_losses(out_dir, chinese)
draw_metrics(out_dir, chinese)
