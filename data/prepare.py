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
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from configurator import Bounds, FilePath, configure
from miniglm.errors import refuse
from miniglm.files import claim, is_plain_name, reading_utf8, sha256, write_json, write_whole
from miniglm.tokenizer import Tokenizer, clear_tokenizer, id_dtype
from miniglm.vocabulary import encode_stream, load_tokenizer

# -----------------------------------------------------------------------------
names = ["sanguo"]  # the books, given without --, each fetched before with data/fetch_data.py
dataset = ""  # data/DATASET is written; the default is the names joined with -, with _bpe behind for bpe
tokenizer: Literal["gpt2", "bpe"] = "gpt2"  # OpenAI's, about 2.2 tokens a Chinese character; or learnt from the books
vocab_size: Annotated[int, Bounds(257, 65536)] = 4096  # ids of bpe; more make texts shorter and the model larger
val_fraction: Annotated[float, Bounds(0.0001, 0.9)] = 0.1  # the end of each book, held out to measure what is untrained
tokenizer_from: FilePath = ""  # instead: that of a data set, an out_dir or a Hugging Face folder, whose model goes on
# -----------------------------------------------------------------------------

NORMALISATION = "white space at both ends of a line is cut; several empty lines become one; line ends are \\n"
LONGEST_LINE = 1 << 20  # characters; a longer line is read in parts
PIECE = 1 << 17  # characters tokenised in one go by one core
TRAINING_CHARACTERS = 100_000_000  # a bpe tokenizer is learnt from the first so many of the training split
# Where a text can be cut without changing its tokens: every split pattern begins a new word behind a line end, and in a
# text that has none GPT-2's before a letter (others may join it with the mark before).
SAFE_CUTS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=[，。！？；：、])(?=[\u4e00-\u9fff])"))


def normalised(path):
    """The lines of the text at `path`, in order, with their white space as NORMALISATION says. Raises UserError."""
    empty = True  # the line before: empty lines at the beginning go too
    with (
        reading_utf8(path, "fetch it with data/fetch_data.py, which recognises encodings"),
        open(path, encoding="utf-8-sig") as file,
    ):
        while line := file.readline(LONGEST_LINE):
            text = line.strip()
            if text or not empty:
                yield text + "\n" if line.endswith("\n") else text
            empty = not text


def split(path, held_out):
    """(characters of the training split, all characters) of a text whose last part, a share `held_out`, is held out.

    The split falls on the line end nearest to that share, or inside a line in a book of very few. Raises UserError.
    """
    total = sum(map(len, normalised(path)))
    refuse(not total, f"{path} is empty", "fetch the book again")
    target = total * (1 - held_out)
    refuse(not 1 <= target <= total - 1, f"{path} is too short to hold out {held_out:g} of it", "prepare a longer book")
    line_end = min(accumulate(map(len, normalised(path))), key=lambda end: abs(end - target))
    near = 0 < line_end < total and abs(line_end - target) < 0.05 * total
    return line_end if near else round(target), total


def pieces(path, start, stop):
    """Characters `start` to `stop` of the normalised text at `path`, in pieces that end where tokens end.

    They have about PIECE characters. A text without line ends or punctuation for so long is cut anywhere.
    """
    position, buffer = 0, ""
    for line in normalised(path):
        buffer += line[max(0, start - position) : max(0, stop - position)]
        position += len(line)
        while len(buffer) >= 2 * PIECE:
            found = [match.end() for cut in SAFE_CUTS if (match := cut.search(buffer, PIECE))]
            cut = found[0] if found else PIECE
            yield buffer[:cut]
            buffer = buffer[cut:]
        if position >= stop:
            break
    if buffer:
        yield buffer


def joined(spans):
    """The pieces of several texts, one text after the other. spans: [(path, start, stop), …] in characters."""
    for path, start, stop in spans:
        yield from pieces(path, start, stop)


def write_tokens(path, texts, encoder):
    """Tokenise an iterator of texts with all cores into the file `path` of ids; its counts for meta.json."""
    counts = {"tokens": 0, "characters": 0, "bytes": 0}
    with write_whole(path, "wb") as file:
        for text, ids in encode_stream(encoder, texts):
            file.write(ids)
            counts["tokens"] += len(ids)
            counts["characters"] += len(text)
            counts["bytes"] += len(text.encode("utf-8"))
    return counts


configure(globals(), positional="names")
refuse(not dataset and tokenizer_from, "--tokenizer_from is for a data set of its own", "name it with --dataset=NAME")
folder = dataset or "-".join(names) + ("_bpe" if tokenizer == "bpe" else "")
target = Path("data", folder)
books = [Path("data", name, "input.txt") for name in names]
for name in (*names, folder):
    refuse(not is_plain_name(name), f"'{name}' is no name", "give the name of a folder in data/")
for name, book in zip(names, books):
    refuse(not book.is_file(), f"no book {book}", f"run python data/fetch_data.py {name}")

# The splits: the last part of every book is held out.
train, val = [], []  # spans of the books, see joined
for book in books:
    middle, end = split(book, val_fraction)
    train.append((book, 0, middle))
    val.append((book, middle, end))

if tokenizer_from:
    encoder = load_tokenizer(tokenizer_from)
elif tokenizer == "gpt2":
    encoder = Tokenizer.gpt2()
else:
    encoder = Tokenizer.train(islice(joined(train), TRAINING_CHARACTERS // PIECE), vocab_size)
    if encoder.vocab_size < vocab_size:
        print(f"the text gives {encoder.vocab_size:,} tokens, not {vocab_size:,}")

claim(target)
(target / "meta.json").unlink(missing_ok=True)  # until everything is written there is no data set
for stale in (*target.glob("*_mask.bin"), *target.glob("*_sample.bin")):
    stale.unlink()
clear_tokenizer(target)
meta = {
    "kind": "books",
    "dtype": np.dtype(id_dtype(encoder.vocab_size)).name,
    "tokenizer": encoder.name,
    "vocab_size": encoder.vocab_size,
    "splits": {
        "train": write_tokens(target / "train.bin", joined(train), encoder),
        "val": write_tokens(target / "val.bin", joined(val), encoder),
    },
    "sources": [{"name": name, "sha256": sha256(book)} for name, book in zip(names, books)],
    "val_fraction": val_fraction,
    "normalisation": NORMALISATION,
}
if tokenizer_from or tokenizer != "gpt2":
    encoder.save(target)
write_json(target / "meta.json", meta)
for name, counts in meta["splits"].items():
    tokens, characters = counts["tokens"], counts["characters"]
    ratio = tokens / max(1, characters)
    print(f"{target / name}.bin: {tokens:,} tokens, {characters:,} characters, {ratio:.2f} tokens each")
