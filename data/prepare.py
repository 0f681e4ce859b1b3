"""Turn books into token ids for pretraining: data/NAME/input.txt -> data/DATASET/{train,val}.bin and meta.json.

python data/prepare.py                                  # 《三国演义》 with GPT-2's tokens -> data/sanguo
python data/prepare.py sanguo --tokenizer=bpe           # with tokens learnt from it -> data/sanguo_bpe
python data/prepare.py sanguo --tokenizer_from=gpt2-chinese --dataset=sanguo_cn   # for a model of others
python data/prepare.py honglou xiyou --dataset=novels   # two books as one data set
"""

import re
import sys
from itertools import accumulate, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import configure
from miniglm.errors import UserError, refuse
from miniglm.files import claim, is_plain_name, sha256, write_json, write_whole
from miniglm.tokenizer import FAST_FILE, RANK_FILE, Tokenizer

# -----------------------------------------------------------------------------
names = ["sanguo"]  # the books, given without --, each fetched before with data/fetch_data.py
dataset = ""  # data/DATASET is written; the default is the names joined with -, with _bpe behind for bpe
tokenizer = "gpt2"  # gpt2: OpenAI's, needs about 2.2 tokens a Chinese character; bpe: learnt from the training split
vocab_size = 4096  # ids of a bpe tokenizer; more make texts shorter and the model larger
val_fraction = 0.1  # the last part of each book is held out to measure what the model has not seen
tokenizer_from = ""  # instead: that of a data set, an out_dir or a Hugging Face folder, whose model is to go on
# -----------------------------------------------------------------------------

NORMALISATION = "white space at both ends of a line is cut; several empty lines become one; line ends are \\n"
LONGEST_LINE = 1 << 20  # characters; a longer line is read in parts
PIECE = 1 << 17  # characters tokenised in one go by one core
TRAINING_CHARACTERS = 100_000_000  # a bpe tokenizer is learnt from the first so many of the training split
# Where a text can be cut without changing its tokens: GPT-2's split pattern always begins a new word there.
SAFE_CUT = re.compile(r"(?<=\S)\n(?=\S)|(?<=[，。！？；：、])(?=[\u4e00-\u9fff])")


def normalised(path):
    """The lines of the text at `path`, as NORMALISATION tells, one after the other."""
    empty = True  # the line before: empty lines at the beginning go too
    try:
        with open(path, encoding="utf-8-sig") as file:
            while line := file.readline(LONGEST_LINE):
                text = line.strip()
                if text or not empty:
                    yield text + "\n" * line.endswith("\n")
                empty = not text
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text", "fetch it with data/fetch_data.py, which recognises encodings"
        ) from error


def split(path, held_out):
    """(characters of the training split, all characters): the split falls on the line end nearest to the fraction."""
    total = sum(map(len, normalised(path)))
    refuse(not total, f"{path} is empty", "fetch the book again")
    target = total * (1 - held_out)
    refuse(not 1 <= target <= total - 1, f"{path} is too short to hold out {held_out:g} of it", "prepare a longer book")
    at = min(accumulate(map(len, normalised(path))), key=lambda end: abs(end - target))
    # A book of very few lines is cut inside a line.
    return (at if 0 < at < total and abs(at - target) < 0.05 * total else round(target)), total


def pieces(path, start, stop):
    """Characters start..stop of the normalised text, in pieces of about PIECE that end where tokens end.

    A text without a line end or punctuation for so long is cut anywhere.
    """
    position, buffer = 0, ""
    for line in normalised(path):
        buffer += line[max(0, start - position) : max(0, stop - position)]
        position += len(line)
        while len(buffer) >= 2 * PIECE:
            found = SAFE_CUT.search(buffer, PIECE)
            cut = found.end() if found else PIECE
            yield buffer[:cut]
            buffer = buffer[cut:]
        if position >= stop:
            break
    if buffer:
        yield buffer


def write_tokens(path, texts, encoder):
    """Tokenise `texts` with all cores into the uint16 file `path`; its counts for meta.json."""
    counts = {"tokens": 0, "characters": 0, "bytes": 0}
    with write_whole(path, "wb") as file:
        for text, ids in encoder.encode_stream(texts):
            file.write(ids)
            counts["tokens"] += len(ids)
            counts["characters"] += len(text)
            counts["bytes"] += len(text.encode("utf-8"))
    return counts


configure(
    globals(),
    positional="names",
    limits={"vocab_size": (257, 65536), "val_fraction": (0.0001, 0.9)},
    choices={"tokenizer": ("gpt2", "bpe")},
)
refuse(not dataset and tokenizer_from, "--tokenizer_from is for a data set of its own", "name it with --dataset=NAME")
dataset = dataset or "-".join(names) + "_bpe" * (tokenizer == "bpe")
target = Path("data", dataset)
books = [Path("data", name, "input.txt") for name in names]
for name in (*names, dataset):
    refuse(not is_plain_name(name), f"'{name}' is no name", "give the name of a folder in data/")
for name, book in zip(names, books):
    refuse(not book.is_file(), f"no book {book}", f"run python data/fetch_data.py {name}")
spans = [split(book, val_fraction) for book in books]


def train_texts():
    """The training split of every book, in pieces."""
    for book, (middle, _) in zip(books, spans):
        yield from pieces(book, 0, middle)


def val_texts():
    """What is held out of every book, in pieces."""
    for book, (middle, end) in zip(books, spans):
        yield from pieces(book, middle, end)


if tokenizer_from:
    encoder = Tokenizer.load(tokenizer_from)
elif tokenizer == "gpt2":
    encoder = Tokenizer.gpt2()
else:
    encoder = Tokenizer.train(islice(train_texts(), TRAINING_CHARACTERS // PIECE), vocab_size)
    if encoder.vocab_size < vocab_size:
        print(f"the text gives {encoder.vocab_size:,} tokens, not {vocab_size:,}")
claim(target)
(target / "meta.json").unlink(missing_ok=True)  # until all is whole again there is no data set
for stale in (*target.glob("*_mask.bin"), *target.glob("*_sample.bin"), target / RANK_FILE, target / FAST_FILE):
    stale.unlink(missing_ok=True)
meta = {
    "tokenizer": encoder.name,
    "vocab_size": encoder.vocab_size,
    "splits": {
        "train": write_tokens(target / "train.bin", train_texts(), encoder),
        "val": write_tokens(target / "val.bin", val_texts(), encoder),
    },
    "sources": [{"name": name, "sha256": sha256(book)} for name, book in zip(names, books)],
    "val_fraction": val_fraction,
    "normalisation": NORMALISATION,
}
if tokenizer_from or tokenizer != "gpt2":
    encoder.save(target)
write_json(target / "meta.json", meta)
for name, counts in meta["splits"].items():
    ratio = counts["tokens"] / max(1, counts["characters"])
    print(
        f"{target / name}.bin: {counts['tokens']:,} tokens, {counts['characters']:,} characters, {ratio:.2f} tokens each"
    )
