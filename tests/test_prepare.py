"""Books to token files."""

import json

import numpy as np
import pytest

from miniglm.tokenizer import Tokenizer
from miniglm.vocabulary import load_tokenizer


def meta_of(project, dataset):
    """meta.json of a data set."""
    return json.loads((project.folder / "data" / dataset / "meta.json").read_text(encoding="utf-8"))


def ids_of(project, dataset, split):
    """All ids of a split."""
    return np.fromfile(project.folder / "data" / dataset / f"{split}.bin", dtype=np.uint16).tolist()


@pytest.mark.parametrize("dataset", ["sanguo", "sanguo_bpe"])
def test_the_splits_are_the_book(project, dataset):
    """Train and held-out tokens decode to the whole book, cut at a line end near nine tenths; all are counted."""
    tokenizer = load_tokenizer(project.folder / "data" / dataset)
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    train, val = (tokenizer.decode(ids_of(project, dataset, split)) for split in ("train", "val"))
    assert train + val == book and train.endswith("\n")
    assert len(val) == pytest.approx(0.1 * len(book), rel=0.02)
    meta = meta_of(project, dataset)
    assert meta["splits"]["val"] == {
        "tokens": len(ids_of(project, dataset, "val")),
        "characters": len(val),
        "bytes": len(val.encode("utf-8")),
    }
    assert meta["vocab_size"] == (50257 if dataset == "sanguo" else 4096)
    assert meta["sources"][0]["name"] == "sanguo" and len(meta["sources"][0]["sha256"]) == 64


def test_pieces_give_the_tokens_of_the_whole(project):
    """Tokenising in a stream on all cores gives the ids of the text in one go."""
    tokenizer = Tokenizer.gpt2()
    book = (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")
    project.write("data/long/input.txt", book * 3)
    project.run("data/prepare.py", "long", "--val_fraction=0.0001")
    assert ids_of(project, "long", "train") + ids_of(project, "long", "val") == tokenizer.encode(book * 3)


def test_paragraphs_stay_and_white_space_goes(project):
    """Lines are trimmed, several empty lines become one, line ends become one kind, a byte order mark goes."""
    project.write(
        "data/spaces/input.txt", "\ufeff\r\n　　第一段。  \r\n\r\n\r\n\t第二段。\r\n第三段。\n" + "末段。\n" * 20
    )
    project.run("data/prepare.py", "spaces")
    ids = ids_of(project, "spaces", "train") + ids_of(project, "spaces", "val")
    assert Tokenizer.gpt2().decode(ids) == "第一段。\n\n第二段。\n第三段。\n" + "末段。\n" * 20
    assert "empty lines" in meta_of(project, "spaces")["normalisation"]


def test_a_book_of_one_line_is_split_too(project):
    """Nothing is lost where there are no line ends."""
    project.write("data/oneline/input.txt", "天下大势，分久必合，合久必分。" * 500)
    project.run("data/prepare.py", "oneline")
    train, val = (ids_of(project, "oneline", split) for split in ("train", "val"))
    assert Tokenizer.gpt2().decode(train + val) == "天下大势，分久必合，合久必分。" * 500 and len(val) > 100


def test_two_books_hold_out_the_end_of_each(project):
    """Several books make one data set, named after them."""
    project.write("data/ja/input.txt", "甲乙丙丁\n" * 100)
    project.write("data/zi/input.txt", "子丑寅卯\n" * 100)
    project.run("data/prepare.py", "ja", "zi")
    tokenizer = Tokenizer.gpt2()
    assert tokenizer.decode(ids_of(project, "ja-zi", "val")) == "甲乙丙丁\n" * 10 + "子丑寅卯\n" * 10
    project.run("data/prepare.py", "ja", "zi", "--tokenizer=bpe", "--vocab_size=300", "--dataset=both")
    assert meta_of(project, "both")["tokenizer"] == "bpe" and meta_of(project, "both")["vocab_size"] <= 300


@pytest.mark.parametrize(
    "content, words, message",
    [
        (None, [], "run python data/fetch_data.py bad"),
        (b"", [], "is empty"),
        (b"\n\n  \n", [], "is empty"),
        (b"\xff\xfe\xfa\xfb" * 9, [], "is no UTF-8 text"),
        ("好".encode(), ["--vocab_size=100"], "at least 257"),
        ("好".encode(), ["--val_fraction=0"], "at least"),
        ("好".encode(), ["--tokenizer=words"], "gpt2, bpe"),
    ],
)
def test_bad_books_are_told(project, content, words, message):
    """One line, and nothing is written."""
    import shutil

    shutil.rmtree(project.folder / "data/bad", ignore_errors=True)
    if content is not None:
        project.write("data/bad/input.txt", content)
    assert message in project.fails("data/prepare.py", "bad", *words)
    assert not (project.folder / "data/bad/train.bin").exists()
