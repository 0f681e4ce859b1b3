"""Lesson 8, choosing the next word: prints the numbers of 08_choosing.md, draws its pictures into lessons/out/.

python lessons/08_choosing.py        # it asks the demo's model: make demo
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import torch

from configurator import Positive, configure
from lessons.drawing import keep, keep_animation, name_of, words
from lessons.trained import PRETRAINED, trained
from miniglm.decoding import Sampling, beam_search, filter_logits, generate, penalize

# -----------------------------------------------------------------------------
beginning = "却说曹操"  # that is gone on from
branches: Positive = 3  # likeliest tokens that are drawn at each step of the tree
depth: Positive = 3  # steps of the tree
length: Positive = 24  # tokens of the animation
# -----------------------------------------------------------------------------

WAYS = {  # of changing a distribution
    "temperature 1": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1.5": {"temperature": 1.5},
    "top-k 5": {"top_k": 5},
    "top-p 0.5": {"top_p": 0.5},
    "min-p 0.2": {"min_p": 0.2},
}


@torch.no_grad()
def logits_after(ids):
    """The logits (1, V) of what comes next."""
    return loaded.model(torch.tensor([ids]))[0][:, -1]


def grow(axes, ids, left, bottom, top):
    """Draw the likeliest tokens after ids between two heights, each with its own below."""
    log_probs, tokens = logits_after(ids).log_softmax(-1)[0].topk(branches)
    height = (top - bottom) / branches
    for number, (log_prob, token) in enumerate(zip(log_probs.tolist(), tokens.tolist())):
        ceiling = top - number * height
        middle, path = ceiling - height / 2, [*ids, token]
        color = "C1" if path == greedy[: len(path)] else "C0" if path == best[: len(path)] else "lightgray"
        axes.plot(
            [left, left + 1], [(top + bottom) / 2, middle], color=color, linewidth=2 if color != "lightgray" else 1
        )
        axes.text(left + 1, middle, f"{name_of(loaded, token)} {math.exp(log_prob):.0%}", fontsize=8, va="center")
        if len(path) < len(prompt) + depth:
            grow(axes, path, left + 1, ceiling - height, ceiling)


configure(globals())
loaded = trained(PRETRAINED)
if loaded is None:
    raise SystemExit
prompt = loaded.tokenizer.encode(beginning)

# one distribution, and what each way makes of it
logits = logits_after(prompt)
tokens = logits[0].topk(12).indices.tolist()
figure, panels = plt.subplots(2, 3, figsize=(10, 4.6), sharex=True, sharey=True)
for axes, (name, way) in zip(panels.flat, WAYS.items()):
    probs = filter_logits(logits.clone(), **way).softmax(-1)[0]
    kept, entropy = int((probs > 0).sum()), -(probs * probs.clamp(min=1e-30).log2()).sum()
    print(f"{name}: {kept:,} tokens can come, {entropy:.2f} bits, the likeliest {probs.max():.0%}")
    axes.bar(range(12), probs[tokens])
    axes.set_title(name, fontsize=9)
    axes.set_xticks(range(12), [name_of(loaded, token) for token in tokens], fontsize=7, rotation=60)
keep(figure, "08_ways")

# greedy takes the likeliest token each time, beams look for the likeliest text
greedy = prompt + [step.ids[0] for step in generate(loaded.model, [prompt], depth, Sampling(temperature=0))]
*_, found = beam_search(loaded.model, prompt, depth, branches)
best = prompt + found[0][0]
for name, ids in {"greedy": greedy, "beams": best}.items():
    total = sum(logits_after(ids[:at]).log_softmax(-1)[0, ids[at]].item() for at in range(len(prompt), len(ids)))
    print(f"{name}: {depth} tokens with a probability of {math.exp(total):.4%} together")
figure, axes = plt.subplots(figsize=(9, 5.5))
grow(axes, prompt, 0, 0, branches**depth)
axes.text(0, branches**depth / 2, beginning, ha="right", va="center")
axes.set(xlim=(-0.6, depth + 0.5), title=words("橙：贪心；蓝：束搜索找到的", "orange: greedy; blue: found by beams"))
axes.axis("off")
keep(figure, "08_tree")

# what stands there already is penalised
again = loaded.tokenizer.encode(beginning * 3)
before, after = logits_after(again).softmax(-1)[0], penalize(logits_after(again), [again], 1.3).softmax(-1)[0]
print(f"after it three times: the text's own tokens have {before[again].sum():.0%}, penalised {after[again].sum():.0%}")

# a text being written
figure, axes = plt.subplots(figsize=(7, 3))


def writing():
    """Draw what has been written and the likeliest next tokens, a token at a time."""
    text = beginning
    for step in generate(loaded.model, [prompt], length, Sampling(temperature=0.8, top_p=0.9, seed=7)):
        axes.clear()
        probs = step.logits[0].softmax(-1)
        shown = list(dict.fromkeys([*probs.topk(6).indices.tolist(), step.ids[0]]))[::-1]
        colors = ["C1" if token == step.ids[0] else "lightgray" for token in shown]
        axes.barh([f"{name_of(loaded, token)} " for token in shown], probs[shown], color=colors)
        axes.set(xlim=(0, 1), title=text[-30:])
        text += name_of(loaded, step.ids[0])
        yield


keep_animation(figure, writing(), "08_writing")
