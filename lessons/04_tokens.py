"""Lesson 4, a text becomes numbers: prints the numbers of 04_tokens.md, draws its pictures into lessons/out/.

python lessons/04_tokens.py          # its last part needs the novel: python data/fetch_data.py
"""

import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt

from configurator import FilePath, Positive, configure
from lessons.drawing import keep, words
from miniglm.conversation import encode_conversation
from miniglm.tokenizer import Tokenizer

# -----------------------------------------------------------------------------
text = "吃葡萄不吐葡萄皮，不吃葡萄倒吐葡萄皮。"  # in which pairs are joined in front of you
merges: Positive = 12  # pairs that are joined
book: FilePath = "data/sanguo/input.txt"  # on which vocabularies of several sizes are trained
# -----------------------------------------------------------------------------


def join(tokens, pair):
    """A list of tokens with each occurrence of a pair made one token."""
    joined = []
    for token in tokens:
        if joined and (joined[-1], token) == pair:
            joined[-1] = pair[0] + pair[1]
        else:
            joined.append(token)
    return joined


def shown(token):
    """The bytes of a token as text, or as numbers where they are no whole character."""
    return token.decode("utf-8", "backslashreplace")


configure(globals())

# bytes: a Chinese character is three of them
for each in ("A", "曹", "曹操"):
    print(f"{each}: {' '.join(str(byte) for byte in each.encode('utf-8'))}")

# byte-pair encoding, learnt in front of you: join the pair that occurs most, again and again
split = [[bytes([byte]) for byte in word.encode("utf-8")] for word in re.findall(r"\w+|\W+", text)]
lengths = [sum(map(len, split))]
for number in range(merges):
    pairs = Counter(pair for word in split for pair in pairwise(word))
    pair = max(pairs, key=lambda each: (pairs[each], each))
    print(f"join {number + 1}: {shown(pair[0])} + {shown(pair[1])} = {shown(pair[0] + pair[1])}, {pairs[pair]} times")
    split = [join(word, pair) for word in split]
    lengths.append(sum(map(len, split)))
print(
    f"{lengths[0]} bytes, {len(text)} characters, {lengths[-1]} tokens: {' '.join(shown(t) for w in split for t in w)}"
)
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(lengths, marker="o")
axes.set(xlabel=words("合并了几次", "joins"), ylabel=words("这句话有几个 token", "tokens of the sentence"))
keep(figure, "04_joins")

# GPT-2's tokens were learnt on English: they cut Chinese characters
gpt2 = Tokenizer.gpt2()
for sentence in ("Liu Bei shook hands with Zhang Fei.", "玄德与张飞握手。"):
    ids = gpt2.encode(sentence)
    print(f"{sentence} {len(sentence)} characters, {len(ids)} tokens: {' '.join(gpt2.show(each) for each in ids)}")

# a conversation: what is asked has mask 0, what is answered 1
talk = [{"role": "user", "content": "张飞字什么？"}, {"role": "assistant", "content": "张飞字翼德。"}]
ids, mask = encode_conversation(gpt2, talk)
figure, axes = plt.subplots(figsize=(9, 1.3))
axes.bar(range(len(ids)), 1, width=1, color=["C1" if counts else "lightgray" for counts in mask], edgecolor="white")
for place, each in enumerate(ids):
    axes.text(place, 0.5, each, ha="center", va="center", rotation=90, fontsize=7)
axes.set_title(words("灰的只读，橙的要学", "gray: read; orange: learnt"))
axes.axis("off")
keep(figure, "04_mask")

# how large a vocabulary: the longer the table, the fewer tokens a text has
if not Path(book).is_file():
    print(f"skipped, there is no {book} yet: it comes from python data/fetch_data.py")
    raise SystemExit
novel = Path(book).read_text(encoding="utf-8")
sample = novel[:50_000]
sizes = {f"{size:,}": Tokenizer.train([novel], size) for size in (512, 1024, 2048, 4096, 8192, 16384)}
counts = {name: len(tokenizer.encode(sample)) / len(sample) for name, tokenizer in {**sizes, "GPT-2": gpt2}.items()}
for name, count in counts.items():
    print(f"vocabulary {name}: {count:.2f} tokens a character")
longest = max((token.decode("utf-8", "ignore") for token in sizes["4,096"].ranks), key=len)
print(f"the longest of 4,096 tokens is {longest}")
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.bar(list(counts), list(counts.values()), color=["C0"] * len(sizes) + ["C1"])
axes.set(xlabel=words("词表大小", "vocabulary"), ylabel=words("每个字几个 token", "tokens a character"))
keep(figure, "04_vocabulary")
