"""Draw what a training did: loss.png and training.png from log.jsonl, and metrics.png where metrics.json is.

Of a run that learnt from its own answers also answers.png: their reward, how far it went, their length.

python visualize.py --out_dir=out/demo-pretrain          # also while it is still training
python visualize.py --out_dir=out/a --out_dir=out/b      # both on one picture, in the first directory
"""

from pathlib import Path

from configurator import FilePath, configure
from miniglm.plots import (
    choose_font,
    draw_answers,
    draw_losses,
    draw_metrics,
    draw_training,
    read_groups,
    read_logs,
    save,
)

# -----------------------------------------------------------------------------
out_dir: list[FilePath] = ["out/demo-pretrain"]  # one trained model or several
# -----------------------------------------------------------------------------

configure(globals())
logs = read_logs(out_dir)
metrics = {}  # {name: its groups} of the runs that were measured
for name, directory in zip(logs, out_dir):
    if Path(directory, "metrics.json").exists():
        metrics[name] = read_groups(Path(directory, "metrics.json"))
label = choose_font()
save(draw_losses(logs, label), Path(out_dir[0], "loss.png"))
save(draw_training(logs, label), Path(out_dir[0], "training.png"))
if answers := draw_answers(logs, label):
    save(answers, Path(out_dir[0], "answers.png"))
if metrics:
    save(draw_metrics(metrics, label), Path(out_dir[0], "metrics.png"))
