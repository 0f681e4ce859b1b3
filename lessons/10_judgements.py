"""Lesson 10, learning from judgements: prints the numbers of 10_judgements.md, draws its pictures into lessons/out/.

python lessons/10_judgements.py      # its last part looks at what make align has trained
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from configurator import Bounds, Positive, configure
from lessons.drawing import keep, words
from miniglm.files import read_json
from miniglm.plots import column, read_log

# -----------------------------------------------------------------------------
steps: Positive = 200  # of each way to learn
group: Positive = 8  # answers drawn a step
beta: Annotated[float, Bounds(0, 10)] = 0.3  # how dear it is to leave the model that one started from
learning_rate: Annotated[float, Bounds(1e-6, 10)] = 0.1
# -----------------------------------------------------------------------------

# One question, 张飞字什么？, and all that this model can say to it; what it starts with is what fine-tuning left.
ANSWERS = ["翼德。", "张飞字翼德。", "张飞字翼德，翼德是张飞的字，张飞字翼德。", "字云长。", "书中没有这个人。"]
START = torch.tensor([0.5, 1.0, 0.0, 1.5, 1.0])
WORTH = torch.tensor([0.8, 1.0, 0.3, 0.0, 0.0])  # what a good judge thinks of each
LONG = torch.tensor([float(len(answer)) for answer in ANSWERS]) / 20  # a bad judge: the longer, the better
JUDGES = {"good judge": WORTH, "judge of length": LONG}


def chance(logits):
    """The log-probability of each answer."""
    return logits.log_softmax(-1)


def learn(way, worth):
    """The probabilities of the answers before each step and after the last, (steps + 1, 5)."""
    logits, history = START.clone().requires_grad_(), [chance(START).exp()]
    optimizer = torch.optim.Adam([logits], learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        way(logits, worth).backward()
        optimizer.step()
        history.append(chance(logits).exp().detach())
    return torch.stack(history)


def dpo(logits, worth):
    """The loss of a pair of answers that a judge has compared."""
    first, second = torch.multinomial(torch.ones(5), 2).tolist()
    better, worse = (first, second) if worth[first] >= worth[second] else (second, first)
    further = chance(logits) - chance(START)  # how much likelier each answer is than at the start
    return -F.logsigmoid(beta * (further[better] - further[worse]))


def grpo(logits, worth):
    """The loss of a group of drawn answers: what is better than the group's mean is to become likelier."""
    drawn = torch.multinomial(chance(logits).exp().detach(), group, replacement=True)
    rewards = worth[drawn]
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    away = (chance(logits).exp() * (chance(logits) - chance(START))).sum()  # the divergence from the start
    return -(advantages * chance(logits)[drawn]).mean() + beta * away


def ppo(logits, worth):
    """As grpo, but a critic says what was to be expected; here it knows, and every step draws anew."""
    drawn = torch.multinomial(chance(logits).exp().detach(), group, replacement=True)
    expected = (chance(logits).exp() * worth).sum().detach()
    away = (chance(logits).exp() * (chance(logits) - chance(START))).sum()
    return -((worth[drawn] - expected) * chance(logits)[drawn]).mean() + beta * away


configure(globals())
torch.manual_seed(42)

# a reward model: scores that explain which answer of a pair was chosen
scores = torch.zeros(5, requires_grad=True)
optimizer = torch.optim.Adam([scores], learning_rate)
for _ in range(steps):
    first, second = torch.multinomial(torch.ones(5), 2)
    wins = torch.rand(()) < torch.sigmoid(4 * (WORTH[first] - WORTH[second]))  # the judge errs, too
    optimizer.zero_grad()
    (-F.logsigmoid(scores[first] - scores[second] if wins else scores[second] - scores[first])).backward()
    optimizer.step()
for answer, worth, score in zip(ANSWERS, WORTH, scores.tolist()):
    print(f"{answer} is worth {worth:.1f}, the reward model says {score:.2f}")

# three ways to learn, from a good judge and from one who likes long answers
figure, panels = plt.subplots(2, 3, figsize=(11, 5), sharex=True, sharey=True)
for row, (judge, worth) in zip(panels, JUDGES.items()):
    for axes, (name, way) in zip(row, {"DPO": dpo, "GRPO": grpo, "PPO": ppo}.items()):
        history = learn(way, worth)
        right = history[:, :3].sum(1)
        length = (history[-1] * LONG).sum() * 20
        print(f"{name}, {judge}: right {right[0]:.0%} before, {right[-1]:.0%} after, {length:.1f} characters long")
        axes.plot(history)
        axes.set_title(f"{name}, {words('好评委', 'a good judge') if worth is WORTH else words('只看长短', 'length')}")
panels[0, 0].legend(ANSWERS, fontsize=6)
keep(figure, "10_judges")

# the book's questions: what make align has left
if not Path("out/align-grpo/align.json").is_file():
    print("skipped, there is no out/align-grpo yet: it comes from make align")
    raise SystemExit
figure, axes = plt.subplots(figsize=(7, 3))
for name in ("grpo", "ppo"):
    axes.plot(*column(read_log(f"out/align-{name}")["train"], "reward"), marker=".", label=name.upper())
axes.set(xlabel=words("步", "step"), ylabel=words("抽到的答案平均的奖励", "mean reward of what was drawn"))
axes.legend()
keep(figure, "10_rewards")
for name in ("demo-chat", "align-dpo", "align-grpo", "align-ppo"):
    groups = read_json(Path("out", name, "align.json"), "run make align")["groups"]
    told = ", ".join(f"{each} {groups[each]['accuracy']:.1%}" for each in ("absent", "new_wording", "beyond"))
    print(f"{name}: {told}")
