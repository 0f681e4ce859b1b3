"""Which tokenizer a folder holds: a data set's, a trained model's or a Hugging Face folder's."""

import base64
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from miniglm import wordpiece
from miniglm.errors import UserError, refuse
from miniglm.files import read_json
from miniglm.foreign import CONFIG_FILE, PIECE_FILE, Foreign, read_foreign, read_pairs, template_in
from miniglm.template import chat_template
from miniglm.tokenizer import BYTE_CHARACTERS, END, FAST_FILE, RANK_FILE, Tokenizer, visible
from miniglm.wordpiece import WordPiece

AnyTokenizer = Tokenizer | WordPiece | Foreign

LONGEST_TOKEN = 4096  # bytes; how a token was joined takes the square of its length to find
MOST_MERGING = 1 << 26  # summed squares of the tokens' lengths, in a tokenizer of others; GPT-2's are 1 << 22
PLAIN_MODEL = {  # what a tokenizer.json can say of how words are cut, and the values that mean what we do
    **dict.fromkeys(("dropout", "ignore_merges", "end_of_word_suffix", "byte_fallback"), (None, False, "", 0)),
    **{"continuing_subword_prefix": (None, "", "##"), "max_input_chars_per_word": (None, 100)},
    "unk_token": (None, "", "[UNK]"),
}
BERT_FLAGS = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
BERT = ("WordPiece", "BertPreTokenizer", "BertNormalizer")  # the parts of a BERT tokenizer
GPT2 = ("BPE", "ByteLevel", None)  # and of GPT-2's kind


def load_tokenizer(folder) -> AnyTokenizer:
    """The tokenizer of a data set, of an out_dir or of a Hugging Face folder: what its file says, or meta.json.

    Raises UserError.
    """
    path = Path(folder, RANK_FILE)
    theirs = [Path(folder, name) for name in (FAST_FILE, PIECE_FILE, "vocab.json", "vocab.txt")]
    others = [each for each in Path(folder).glob("*.tiktoken") if each != path]
    if not path.exists() and (others or any(each.exists() for each in theirs)):
        return read_hf_tokenizer(folder)
    meta = read_meta(folder) if Path(folder, "meta.json").exists() else {}
    name = meta.get("tokenizer")
    if path.exists():
        ranks = read_ranks(path)
        tokenizer = Tokenizer(name or ("gpt2" if len(ranks) == 50256 else "bpe"), ranks)
    else:
        refuse(
            name != "gpt2",
            f"{folder} holds no tokenizer",
            "name a data set that data/prepare.py wrote, a trained model's out_dir or a Hugging Face folder",
        )
        tokenizer = Tokenizer.gpt2()
    differs = meta.get("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size
    refuse(differs, f"{folder} was prepared with another tokenizer", "prepare the data again")
    return tokenizer


def fingerprint(tokenizer: AnyTokenizer) -> str:
    """A digest of all that a tokenizer's ids depend on, to tell whether data and checkpoint speak of the same ids."""
    lines = b"\n".join(token + b" %d" % rank for token, rank in tokenizer.ranks.items())
    return hashlib.sha256(lines + tokenizer.options.encode()).hexdigest()


def encode_stream(tokenizer: AnyTokenizer, texts: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(text, its token ids as an array) of each of the texts, in order, on all cores.

    Only a few texts are in memory at a time.
    """
    cores, waiting = os.cpu_count() or 1, deque()
    with ThreadPoolExecutor(cores) as pool:  # both kinds work outside Python's lock
        for text in texts:
            waiting.append((text, pool.submit(tokenizer.encode_to_numpy, text)))
            if len(waiting) > 2 * cores:
                text, ids = waiting.popleft()
                yield text, ids.result()
        for text, ids in waiting:
            yield text, ids.result()


def read_meta(folder) -> dict:
    """meta.json of a data set. Raises UserError where it is missing or broken."""
    return read_json(Path(folder, "meta.json"), f"run python data/prepare.py, which writes {folder}")


def read_config(folder) -> dict:
    """config.json of a trained model; {} where there is none. Raises UserError where it is broken."""
    path = Path(folder, "config.json")
    return read_json(path, "copy the directory again") if path.exists() else {}


def read_ranks(path) -> dict[bytes, int]:
    """{bytes of a token: its id} of a rank file in tiktoken's form. Raises UserError."""
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
        damaged = sorted(ranks.values()) != list(range(len(pairs))) or not all(bytes([b]) in ranks for b in range(256))
        damaged = damaged or len(ranks) >= 1 << 16 or max(map(len, ranks)) > LONGEST_TOKEN
    except ValueError:
        ranks, damaged = {}, True
    refuse(damaged, f"{path} is no whole tokenizer", "prepare the data again, or copy the file back")
    return ranks


def read_hf_tokenizer(folder) -> AnyTokenizer:
    """The tokenizer of a Hugging Face folder; ours where it is of GPT-2's kind or BERT's, else one of others.

    Raises UserError.
    """
    todo = "copy the folder again, or choose a model with a tokenizer.json, a tokenizer.model or a rank file"
    config = read_json(Path(folder, CONFIG_FILE), todo) if Path(folder, CONFIG_FILE).exists() else {}
    try:
        ours = template_in(Path(folder), config) in ("", *map(chat_template, (END, wordpiece.END)))
        if ours and Path(folder, FAST_FILE).exists():
            content = read_json(Path(folder, FAST_FILE), todo)
            with suppress(ValueError, KeyError):
                return from_fast_file(content)
        elif ours and Path(folder, "vocab.json").exists():
            with suppress(ValueError):
                return byte_pairs(*read_pairs(folder, todo))
        elif Path(folder, "vocab.txt").exists():
            # Not splitlines: one of the pieces is a line separator of Unicode's.
            lines = Path(folder, "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
            theirs = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
            flags = {name: config.get(theirs.get(name, name), flag) for name, flag in BERT_FLAGS.items()}
            return word_pieces({piece: rank for rank, piece in enumerate(lines)}, {}, flags)
        return read_foreign(Path(folder), config, todo)
    except UserError:
        raise
    except Exception as error:  # what is in a file of somebody else's fails in many ways
        raise UserError(
            f"the tokenizer in {folder} is damaged or of a kind that MiniGLM does not read", todo
        ) from error


def from_fast_file(content: dict) -> AnyTokenizer:
    """The tokenizer that the content of a tokenizer.json describes. Raises many kinds where it is none of ours."""
    model, splitting = content["model"], content.get("pre_tokenizer") or {}
    normalizer, vocab = content.get("normalizer") or {}, dict(model["vocab"])
    if any(model.get(name) not in plain for name, plain in PLAIN_MODEL.items()):
        raise ValueError("a model that cuts words in another way")
    special = {each["content"]: each["id"] for each in content.get("added_tokens", ())}
    kind = (model.get("type") or "BPE", splitting.get("type"), normalizer.get("type"))
    if kind == BERT:
        return word_pieces(vocab, special, {name: normalizer.get(name, flag) for name, flag in BERT_FLAGS.items()})
    if kind != GPT2 or not splitting.get("use_regex", True) or splitting.get("add_prefix_space", False):
        raise ValueError("another kind")
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges", ())]
    return byte_pairs(vocab, special, merges)


def word_pieces(vocab: dict[str, int], special: dict[str, int], flags: dict) -> WordPiece:
    """The WordPiece of a BERT vocabulary. Raises ValueError for ids that are not its own."""
    gaps = len(vocab) >= 1 << 16 or sorted(vocab.values()) != list(range(len(vocab)))
    gaps = gaps or any(rank != vocab.get(piece) for piece, rank in special.items())
    if gaps or not {wordpiece.END, wordpiece.UNKNOWN} <= vocab.keys() or "" in vocab:
        raise ValueError("ids with gaps, or pieces that are missing")
    return WordPiece(vocab, **flags)


def byte_pairs(vocab: dict[str, int], special: dict[str, int], merges: list[tuple[str, ...]]) -> Tokenizer:
    """The Tokenizer of a vocabulary in GPT-2's visible characters. Raises ValueError where ids and merges differ."""
    bytes_of = {character: byte for byte, character in BYTE_CHARACTERS.items()}
    end = {**vocab, **special}.get(END)
    ranks = {bytes(bytes_of[c] for c in t): rank for t, rank in vocab.items() if rank != end and t not in special}
    special = {text: rank for text, rank in special.items() if text != END}
    complete = (
        not special and type(end) is int and end == len(ranks) < 1 << 16 and sorted(ranks.values()) == list(range(end))
    )
    complete = complete and len(merges) == end - 256 and all(bytes([b]) in ranks for b in range(256))
    if not complete or sum(len(token) ** 2 for token in ranks) > MOST_MERGING:
        raise ValueError("ids with gaps, some behind the end of text, or very long ones")
    tokenizer = Tokenizer("gpt2" if end == 50256 else "bpe", ranks)
    if [tuple(map(visible, pair)) for pair in tokenizer.merges()] != merges:
        raise ValueError("merges in another order than ids")
    return tokenizer
