"""The tokenizers of others' models: text to ids as their own programs give them, by the engine that each was made for.

tokenizer.json runs in the package tokenizers, tokenizer.model in sentencepiece, rank files in tiktoken. What they have
in common, and with ours, is Foreign.
"""

import base64
import codecs
import functools
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from miniglm.errors import UserError, refuse
from miniglm.files import read_json, read_text, write_json, write_whole
from miniglm.template import Template
from miniglm.tokenizer import BYTE_CHARACTERS, FAST_FILE, clear_tokenizer, id_dtype

PIECE_FILE = "tokenizer.model"  # sentencepiece's, or a rank file
TEMPLATE_FILE, CONFIG_FILE, GENERATION_FILE = "chat_template.jinja", "tokenizer_config.json", "generation_config.json"
# All that a tokenizer is made of in a folder; *.tiktoken beside them.
FILES = (FAST_FILE, PIECE_FILE, "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
FILES += (CONFIG_FILE, TEMPLATE_FILE, "chat_template.json")
SPACE = "▁"  # how sentencepiece writes one
BYTE = re.compile("<0x([0-9A-F]{2})>")  # how it writes a byte that is in no piece
MOST_IDS = 1 << 20
# How words are cut before they are joined, by what tells it.
OF_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OF_LLAMA3 = OF_QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")  # and of GLM-4
OF_CHATGLM = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
OF_QWEN1 = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


class Engine(ABC):
    """What runs a tokenizer."""

    tokens: dict[int, bytes]  # the bytes of each ordinary token
    special: dict[str, int]  # the others
    added: frozenset[int] = frozenset()  # ordinary ones that are cut out of a text before all else
    size: int  # one more than the largest id
    strips = False  # whether the space before a text's first word is none
    start_ids: list[int]  # what its own programs put before a text

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, in which special tokens are ordinary text."""

    @abstractmethod
    def encode_rendered(self, text: str) -> tuple[list[int], list[int]]:
        """(ids, at which character each begins) of a text with special tokens, as a chat template writes it."""


class Fast(Engine):
    """The package tokenizers, on the content of a tokenizer.json: byte-level, or with sentencepiece's spaces."""

    def __init__(self, content: str):
        """Raises many kinds where it is none."""
        described = json.loads(content)
        model = described["model"]
        if model.get("dropout") or (model.get("type") or "BPE") not in ("BPE", "Unigram"):
            raise ValueError("words that are cut at random, or in another way")
        self._content, self._fast = content, opened(content)
        self._fast.encode_special_tokens = True
        added = self._fast.get_added_tokens_decoder()
        self.special = {token.content: number for number, token in added.items() if token.special}
        steps = kinds_in(described.get("decoder"))
        vocabulary = self._fast.get_vocab(with_added_tokens=False)
        self.size = max([*vocabulary.values(), *added]) + 1
        if self.size > MOST_IDS or min(vocabulary.values()) < 0:
            raise ValueError("ids that cannot be")
        self.described, self.byte_level = described, "ByteLevel" in steps
        self.prefixes = bool(self._fast.encode("a", add_special_tokens=False).tokens[0].startswith(SPACE))
        if self.byte_level:
            bytes_of = from_visible
        elif steps & {"Metaspace", "ByteFallback", "Replace"}:
            bytes_of, self.strips = from_piece, "Strip" in steps or "Metaspace" in steps
        else:
            raise ValueError("tokens whose bytes are not known")
        self.tokens = {number: bytes_of(piece) for piece, number in vocabulary.items() if number not in added}
        self.added = frozenset(number for number, token in added.items() if not token.special)
        self.tokens |= {number: added[number].content.encode() for number in self.added}
        self.start_ids = self._fast.encode("", add_special_tokens=True).ids

    def encode(self, text):
        """See Engine."""
        return self._fast.encode_batch([text], add_special_tokens=False)[0].ids  # outside Python's lock

    @functools.cached_property
    def _rendering(self):
        return opened(self._content)

    def encode_rendered(self, text):
        """See Engine."""
        encoded = self._rendering.encode(text, add_special_tokens=False)
        return encoded.ids, [start for start, _ in encoded.offsets]


def opened(content: str) -> FastTokenizer:
    """The tokenizer of the content of a tokenizer.json, which gives whole texts as they are."""
    fast = FastTokenizer.from_str(content)
    fast.no_truncation()
    fast.no_padding()
    return fast


def kinds_in(decoder: dict | None) -> set[str | None]:
    """The steps of a tokenizer.json's decoder."""
    decoder = decoder or {}
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    return {step.get("type") for step in steps}


def from_visible(piece: str) -> bytes:
    """The bytes of a token in GPT-2's visible characters; one with others stands for itself."""
    try:
        return piece.translate(AS_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode()


AS_LATIN1 = {ord(character): byte for byte, character in BYTE_CHARACTERS.items()}


def from_piece(piece: str) -> bytes:
    """The bytes of one of sentencepiece's tokens."""
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()


def byte_level(vocabulary: dict[str, int], merges: list, added: Mapping[str, int], pattern: str) -> str:
    """The content of a tokenizer.json for a byte-level BPE. pattern: how words are cut; "" as GPT-2 does.

    added: the special tokens.
    """
    fast = FastTokenizer(models.BPE(vocabulary, merges))
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    if pattern:
        words = pre_tokenizers.Split(Regex(pattern), "isolated")
        cut = pre_tokenizers.Sequence([words, cut])
    fast.pre_tokenizer, fast.decoder = cut, decoders.ByteLevel()
    in_order = sorted(added, key=added.__getitem__)
    fast.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in in_order])
    return fast.to_str()


class Ranks(Engine):
    """tiktoken, on the ranks of a byte-pair encoding."""

    def __init__(self, ranks: dict[bytes, int], pattern: str, special: dict[str, int], start: Sequence[str] = ()):
        """pattern: how words are cut. start: the special tokens that are put before a text."""
        self._encoding = tiktoken.Encoding("foreign", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
        self.ranks, self.pattern = ranks, pattern
        self.tokens, self.special = {number: token for token, number in ranks.items()}, special
        self.size = max([*self.tokens, *special.values()]) + 1
        self.start_ids = [special[each] for each in start]

    def encode(self, text):
        """See Engine."""
        return self._encoding.encode_ordinary(text)

    def encode_rendered(self, text):
        """See Engine."""
        ids = self._encoding.encode(text, allowed_special="all")
        sizes = [len(self._encoding.decode_single_token_bytes(each)) for each in ids]
        ends = np.cumsum([len(character.encode()) for character in text])  # of each character, in bytes
        starts = np.cumsum([0, *sizes])[:-1]
        return ids, np.searchsorted(ends, starts, side="right").tolist()


def ranks_in(content: bytes) -> dict[bytes, int]:
    """The ranks of a rank file. Raises ValueError where it is none."""
    pairs = [line.split() for line in content.splitlines() if line]
    ranks = {base64.b64decode(token, validate=True): int(number) for token, number in pairs}
    if not all(bytes([byte]) in ranks for byte in range(256)) or sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError("ranks with gaps")
    return ranks


class Pieces(Engine):
    """sentencepiece, on its own file."""

    def __init__(self, content: bytes, added: dict[str, int], start: Sequence[str] = ()):
        """added: special tokens beside those in the file. start: those that are put before a text."""
        self.model = model = sentencepiece.SentencePieceProcessor(model_proto=content)
        numbers = range(model.get_piece_size())
        special = {model.id_to_piece(number): number for number in numbers if model.is_control(number)}
        self.special = special | added
        ordinary = [
            number for number in numbers if number not in self.special.values() and not model.is_unknown(number)
        ]
        self.tokens = {number: from_piece(model.id_to_piece(number)) for number in ordinary}
        self.size, self.strips = max([len(numbers) - 1, *added.values()]) + 1, True
        self.start_ids = [self.special[each] for each in start]
        self._cut = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or "(?!)")

    def encode(self, text):
        """See Engine."""
        return self.model.encode(text)

    def encode_rendered(self, text):
        """See Engine."""
        ids, starts, at = [], [], 0
        for match in [*self._cut.finditer(text), None]:
            part = text[at : match.start() if match else None]
            found: Any = self.model.encode(part, out_type="offset_mapping")
            ids += found["ids"]
            starts += [at + start for start, _ in found["offsets"]]
            if match:
                ids.append(self.special[match[0]])
                starts.append(match.start())
                at = match.end()
        return ids, starts


class Foreign:
    """A tokenizer of somebody else's, with the interface of Tokenizer; it is saved as it was read."""

    name = "foreign"

    def __init__(self, engine: Engine, files: dict[str, bytes], ends: Sequence[int], template: Template | None):
        """files: {name: content} of what it was read from. ends: ids that end a text, the usual one first.

        template: how it writes a conversation; None: as our form is.
        """
        self.engine, self._files, self.template = engine, files, template
        more = ends_written(template, engine.special) if template else []
        self.end_ids, self.end_id = tuple(dict.fromkeys([*ends, *more])), ends[0]
        texts = {number: text for text, number in engine.special.items()}
        self.end = texts.get(self.end_id) or engine.tokens[self.end_id].decode("utf-8", "replace")
        self.special, self.start_ids, self.vocab_size = texts, list(engine.start_ids), engine.size
        in_order = sorted(engine.tokens.items())
        self.ranks = {token: number for number, token in in_order if number not in self.end_ids}
        digests = [f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files) if name in OF_THE_IDS]
        self.options = " ".join([*digests, *map(str, self.end_ids)])

    def save(self, folder):
        """Write the files that it was read from into `folder`, in place of another tokenizer's."""
        for name, content in self._files.items():
            with write_whole(Path(folder, name), "wb") as file:
                file.write(content)
        write_json(Path(folder, GENERATION_FILE), {"eos_token_id": list(self.end_ids)})
        clear_tokenizer(folder, {*self._files, GENERATION_FILE})

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, in which special tokens are ordinary text; nothing is put before it."""
        return self.engine.encode(text.encode("utf-8", "replace").decode("utf-8"))  # lone surrogates are no text

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """The ids of `text`, uint16 or uint32."""
        return np.array(self.encode(text), dtype=id_dtype(self.vocab_size))

    def encode_rendered(self, text: str) -> tuple[list[int], list[int]]:
        """(ids, at which character each begins) of a text with special tokens, as a chat template writes it."""
        return self.engine.encode_rendered(text.encode("utf-8", "replace").decode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens and without bytes that form no character."""
        return self.decoder().decode(ids, final=True)

    def decoder(self):
        """A decoder: ids in, finished characters out."""
        return ForeignDecoder(self, self.engine.strips)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; none for special tokens and for ids that only pad the model's vocabulary."""
        return b"" if token in self.end_ids else self.engine.tokens.get(token, b"")

    def show(self, token: int) -> str:
        """One token for a reader: its text, or its bytes where they are only part of a character."""
        return self.special.get(token) or self.token_bytes(token).decode("utf-8", "backslashreplace")


def ends_written(template: Template, special: Mapping[str, int]) -> list[int]:
    """The special token that a chat template writes right behind an answer, if any."""
    try:
        text = template.write([{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], begin=False)
    except UserError:  # it will be told where it is used
        return []
    behind = text.rpartition("2")[2].lstrip()
    longest_first = sorted(special, key=len, reverse=True)
    return [special[each] for each in longest_first if behind.startswith(each)][:1]


OF_THE_IDS = {FAST_FILE, PIECE_FILE, "vocab.json", "merges.txt", "added_tokens.json"}


class ForeignDecoder:
    """Joins the bytes of tokens into characters, without the space that sentencepiece puts before a text."""

    def __init__(self, tokenizer: Foreign, strips: bool):
        self._tokenizer, self._strips = tokenizer, strips
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def decode(self, ids: Iterable[int], final=False) -> str:
        """The characters that `ids` complete; the bytes of an unfinished one wait for the next call."""
        text = self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, ids)), final)
        if text and self._strips:
            self._strips, text = False, text.removeprefix(" ")
        return text


def read_pairs(folder, todo) -> tuple[dict[str, int], dict[str, int], list[tuple[str, ...]]]:
    """(vocabulary, special tokens, merges) of vocab.json, merges.txt and added_tokens.json. Raises UserError."""
    vocabulary = read_json(Path(folder, "vocab.json"), todo)
    added = Path(folder, "added_tokens.json")
    lines = Path(folder, "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return vocabulary, read_json(added, todo) if added.exists() else {}, merges


def read_foreign(folder: Path, config: dict, todo: str) -> Foreign:
    """The tokenizer of others in a folder. config: its tokenizer_config.json. Raises UserError and many other kinds."""
    names = [*FILES, *(path.name for path in sorted(folder.glob("*.tiktoken")))]
    files = {name: Path(folder, name).read_bytes() for name in names if Path(folder, name).is_file()}
    engine = engine_for(folder, files, config, todo)
    mapped = folder / "special_tokens_map.json"
    named = token_text(((read_json(mapped, todo) if mapped.is_file() else {}) | config).get("eos_token"))
    ends = [engine.special[named]] if named in engine.special else []
    ends += [number for number, token in engine.tokens.items() if named and token == named.encode()][:1]
    for about in (GENERATION_FILE, "config.json"):
        told = read_json(folder / about, todo).get("eos_token_id") if (folder / about).is_file() else None
        ends += [each for each in (told if isinstance(told, list) else [told]) if type(each) is int]
    ends = [end for end in dict.fromkeys(ends) if 0 <= end < engine.size]
    refuse(
        not ends, f"the tokenizer in {folder} names no token that ends a text", "add its eos_token_id to config.json"
    )
    source = template_in(folder, config)
    tokens = {name: text for name in SPECIAL_NAMES if (text := token_text(config.get(name)))}
    return Foreign(engine, files, ends, Template(source, tokens) if source else None)


SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def engine_for(folder: Path, files: dict[str, bytes], config: dict, todo: str) -> Engine:
    """What runs the tokenizer in a folder, by its files. Raises many kinds."""
    kind = str(config.get("tokenizer_class"))
    told = config.get("added_tokens_decoder") or {}
    added = {token_text(token): int(number) for number, token in told.items() if token.get("special")}
    if FAST_FILE in files:
        return Fast(files[FAST_FILE].decode("utf-8"))
    if "vocab.json" in files:
        vocabulary, more, merges = read_pairs(folder, todo)
        named = {text for name in SPECIAL_NAMES if (text := token_text(config.get(name))) in vocabulary}
        special = {text: vocabulary[text] for text in named} | more | added
        return Fast(byte_level(vocabulary, merges, special, OF_QWEN if "Qwen2" in kind else ""))
    if PIECE_FILE in files and not files[PIECE_FILE].isascii():  # a protocol buffer
        if "ChatGLM" in kind:
            size = Pieces(files[PIECE_FILE], {}).size
            added = {text: size + place for place, text in enumerate(OF_CHATGLM)}
            return Pieces(files[PIECE_FILE], added, ("[gMASK]", "sop"))
        begins = config.get("add_bos_token", "Llama" in kind)
        return Pieces(files[PIECE_FILE], added, (token_text(config.get("bos_token")) or "<s>",) if begins else ())
    rank_files = [content for name, content in files.items() if name == PIECE_FILE or name.endswith(".tiktoken")]
    refuse(not rank_files, f"{folder} holds no tokenizer", todo)
    found = ranks_in(rank_files[0])
    if PIECE_FILE in files:
        return Ranks(found, OF_LLAMA3, added, [text for text in ("[gMASK]", "<sop>") if text in added])
    return Ranks(found, OF_QWEN, added or {text: len(found) + place for place, text in enumerate(OF_QWEN1)})


def token_text(token) -> str:
    """The text of a token as the files tell it: a text, or an object with one; "" for none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def template_in(folder: Path, config: dict) -> str:
    """The chat template of a folder, "" for none; among several the one named default. Raises UserError."""
    todo = "copy the folder again"
    if (folder / TEMPLATE_FILE).is_file():
        return read_text(folder / TEMPLATE_FILE, todo)
    beside = folder / "chat_template.json"
    told = read_json(beside, todo).get("chat_template") if beside.is_file() else config.get("chat_template")
    if isinstance(told, list):
        named = {each.get("name"): each.get("template") for each in told}
        told = named.get("default")
    return told if isinstance(told, str) else ""
