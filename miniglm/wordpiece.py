"""Text to token ids and back with a BERT vocabulary, which many Chinese GPT-2s were trained with."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from miniglm.files import write_whole
from miniglm.tokenizer import FAST_FILE, clear_tokenizer

END, UNKNOWN, PREFIX = "[SEP]", "[UNK]", "##"
SPECIAL = (END, UNKNOWN, "[CLS]", "[PAD]", "[MASK]")


class WordPiece:
    """The words and characters of a BERT vocabulary (Schuster and Nakajima 2012), with the interface of Tokenizer.

    Line ends and doubled spaces are lost. An answer ends with [SEP].
    """

    name, end = "wordpiece", END
    start_ids, template = (), None  # see Tokenizer

    def __init__(self, vocab: dict[str, int], **normalizer):
        """vocab: {piece: its id}. normalizer: what tokenizers.normalizers.BertNormalizer takes."""
        self.end_id = vocab[END]
        self.end_ids = (self.end_id,)
        self.ranks = {
            piece.encode("utf-8", "replace"): rank for piece, rank in sorted(vocab.items(), key=lambda pair: pair[1])
        }
        self.vocab_size = max(vocab.values()) + 1
        self.options = repr(sorted(normalizer.items()))
        self._pieces = {rank: "" if piece in SPECIAL else piece for piece, rank in vocab.items()}
        self._fast = FastTokenizer(models.WordPiece(vocab, unk_token=UNKNOWN))
        self._fast.normalizer = normalizers.BertNormalizer(**normalizer)
        self._fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._fast.encode_special_tokens = True  # what looks like one in a text is ordinary text
        self._fast.decoder = decoders.WordPiece(PREFIX)
        self._fast.add_special_tokens(
            [AddedToken(each, special=True, normalized=False) for each in SPECIAL if each in vocab]
        )

    def save(self, folder):
        """Write tokenizer.json into `folder`, in place of another tokenizer's file."""
        with write_whole(Path(folder, FAST_FILE)) as file:
            file.write(self._fast.to_str(pretty=True))
        clear_tokenizer(folder, {FAST_FILE})

    def to_fast(self) -> FastTokenizer:
        """This tokenizer as transformers reads it."""
        return self._fast

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`. `[SEP]` in it is ordinary text."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no text to it
        return self._fast.encode_batch([text], add_special_tokens=False)[0].ids  # outside Python's lock

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """The token ids of `text`, uint16."""
        return np.array(self.encode(text), dtype=np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens."""
        return self.decoder().decode(ids, final=True)

    def decoder(self):
        """A PieceDecoder: ids in, text out."""
        return PieceDecoder(self._pieces)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token's piece; none for special ones."""
        return self._pieces.get(token, "").encode("utf-8", "replace")

    def show(self, token: int) -> str:
        """One token for a reader: its piece."""
        return END if token == self.end_id else self._pieces.get(token, "")


class PieceDecoder:
    """Joins the pieces of a BERT vocabulary: a space stands only between words of Latin letters or digits."""

    def __init__(self, pieces: dict[int, str]):
        self._pieces, self._last = pieces, ""

    def decode(self, ids: Iterable[int], final=False) -> str:
        """The text of `ids`, which go on from those before; no piece is ever unfinished, whatever `final` says."""
        text = ""
        for piece in (self._pieces.get(token, "") for token in ids):
            if piece.startswith(PREFIX) and len(piece) > len(PREFIX):
                piece = piece.removeprefix(PREFIX)
            elif "!" <= self._last < "\u2e80" and piece[:1].isalnum() and piece < "\u2e80":  # no Chinese
                piece = " " + piece
            text, self._last = text + piece, piece[-1:] or self._last
        return text
