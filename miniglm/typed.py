"""What a reader types, written as the questions that a model was trained on are: one normalisation for both.

    Normalisation("simplified")(" 張飛 字什麼??")    # 张飞字什么？

Half- and full-width marks, letters and digits, spaces, repeated marks, invisible characters, and the script: the
traditional characters of a question to a book in simplified ones, or the other way round. It belongs to a model that
was fine-tuned on conversations, and stands in its config.json. What an open model reads, and what a model goes on from,
is never changed.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opencc import OpenCC

from miniglm.errors import UserError

SIMPLIFIED, TRADITIONAL = "simplified", "traditional"
HAN = r"\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
BESIDE = f"[{HAN}，。？！：；、（）《》“”‘’…—]"  # a Chinese character or mark
# Byte order marks, zero-width characters, directions of writing, soft hyphens, halves of characters, and controls but
# for tab and line end; what joins the parts of a picture alone stays where it joins some.
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
    rf"|(?<={BESIDE})[\u200d\ufe0f]|[\u200d\ufe0f](?={BESIDE})"
)
OTHER_WIDTH = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in "，！？：；（）～"}
    | dict.fromkeys("\u3000\xa0\u2002\u2003", " ")
    | dict(zip("｡､｢｣", "。、“”"))
)
FULL_MARKS = str.maketrans(",?!:;()", "，？！：；（）")
QUOTES = str.maketrans("「」『』﹁﹂〝〞„‟", "“”‘’“”“”“”")
ADDRESS = re.compile(r"(https?://[!-~]+|`[^`\n]*`)")  # and code: neither is ever changed
LONGEST_ASIDE = 200  # characters in brackets or quotation marks whose width is changed
MOST_ROUNDS = 8  # of the steps, until nothing changes: brackets in brackets
RARE = 20  # a character stays as it is where a text has one of it to fewer than so many of what it would become


def visible(text: str) -> str:
    """A text without characters that nobody sees, and with plain line ends."""
    return INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def chinese_marks(text: str) -> str:
    """A text with letters and digits of ASCII and, beside Chinese characters, the marks of Chinese text.

    A text without a Chinese character keeps its marks, and so do 3.14, 12:30 and f(x) within one.
    """
    text = text.translate(OTHER_WIDTH)
    if not re.search(f"[{HAN}]", text):
        return text
    text = text.translate(QUOTES)
    aside = rf"[^()\n]{{0,{LONGEST_ASIDE}}}"
    text = re.sub(rf"(?<={BESIDE})\({aside}\)|(?<![\w)])\({aside}\)(?={BESIDE})", in_full, text)
    text = re.sub(rf"(?<![A-Za-z0-9_)])\({aside}[{HAN}]{aside}\)", in_full, text)
    text = re.sub(rf"(?<={BESIDE}) *[,:;?!]+|[,:;]+ *(?={BESIDE})|(?<![?!])[?!]+(?=\s|$|{BESIDE})", in_full, text)
    text = re.sub(rf"(?<={BESIDE}) *\.(?![\w.])", "。", text)
    text = re.sub(rf"(?<={BESIDE})\.{{3,}}", "……", text)
    aside = rf"[^'\n]{{0,{LONGEST_ASIDE}}}"
    text = re.sub(rf"(?<![A-Za-z])'({aside}[{HAN}]{aside})'(?![A-Za-z])", r"“\1”", text)
    if len(re.findall('["“”]', text)) % 2 == 0:
        sides = iter("“”" * len(text))
        text = re.sub('["“”]', lambda match: next(sides), text)
    return text


def in_full(match: re.Match) -> str:
    """What a pattern has found, its ASCII marks in the full width of Chinese ones."""
    return match[0].translate(FULL_MARKS)


def close_up(text: str) -> str:
    """A text without the spaces beside Chinese characters and marks, and at its ends."""
    return re.sub(rf"(?<={BESIDE})[ \t]+|(?<![ \t])[ \t]+(?={BESIDE})", "", text).strip()


def once(text: str) -> str:
    """A text with each mark once where it stands several times (？ for ！？), and without ～ at its end."""
    text = re.sub("。{3,}|…+", "……", text)
    text = re.sub("[，、；：]*[？！。]*[？！][？！。]*", lambda match: "？" if "？" in match[0] else "！", text)
    text = re.sub("([，。：；、])\\1+", r"\1", text)
    return re.sub(rf"(?<={BESIDE})[~～]+(?=[，。？！]?$)", "", text)


STEPS: tuple[Callable[[str], str], ...] = (chinese_marks, close_up, once)


@functools.cache
def converter(direction: str) -> OpenCC:
    """OpenCC's converter in a direction: t2s to simplified characters, s2tw to traditional ones as in Taiwan."""
    return OpenCC(direction)


def in_script(text: str, script: str) -> str:
    """A text in SIMPLIFIED or TRADITIONAL characters, by OpenCC's tables of words; as it is where the script is "".

    Into traditional ones by way of simplified ones, so that the spellings of different places become one.
    """
    if not script:
        return text
    text = converter("t2s").convert(text)
    return converter("s2tw").convert(text) if script == TRADITIONAL else text


def script_of(characters: Counter) -> str:
    """The script of a text with so many of each character: SIMPLIFIED, TRADITIONAL, or "" where that is not plain."""
    simplified = traditional = 0
    for character, count in characters.items():
        if in_script(character, SIMPLIFIED) != character:
            traditional += count
        elif in_script(character, TRADITIONAL) != character:
            simplified += count
    # Of the characters of a traditional text, some are simplified forms of others, too.
    if traditional > simplified:
        return TRADITIONAL
    return SIMPLIFIED if simplified > 4 * traditional else ""


@dataclass(frozen=True)
class Normalisation:
    """What becomes of a question before a model reads it: the STEPS, and the script that the model was trained on."""

    script: str = ""  # SIMPLIFIED, TRADITIONAL, or "": both as they come
    kept: str = ""  # characters that are not taken for the other script's: 乾, where a book tells of 孙乾

    @classmethod
    def of(cls, characters: Counter) -> "Normalisation":
        """The normalisation of questions to a model that is trained on a text with so many of each character."""
        script = script_of(characters)
        others = {character: in_script(character, script) for character in characters}
        rare = RARE if script == SIMPLIFIED else 1  # 后 is common in a traditional text that writes 後, and is no 后
        kept = [
            character
            for character, other in others.items()
            if other != character and characters[character] * rare >= characters[other]
        ]
        return cls(script, "".join(sorted(kept)))

    @classmethod
    def from_json(cls, value: Any) -> "Normalisation | None":
        """What to_json gave; None for None. Raises ValueError for anything else."""
        if value is None:
            return None
        if not isinstance(value, dict) or value.get("script") not in (SIMPLIFIED, TRADITIONAL, ""):
            raise ValueError(f"no normalisation: {value}")
        return cls(value["script"], str(value.get("kept", "")))

    def to_json(self) -> dict[str, str]:
        """What stands in meta.json and config.json."""
        return {"script": self.script, "kept": self.kept}

    def __call__(self, text: str) -> str:
        """A question as the model reads it."""
        parts = ADDRESS.split(visible(text))  # every second one is an address
        return "".join(part if place % 2 else self.written(part) for place, part in enumerate(parts)).strip()

    def written(self, text: str) -> str:
        """Plain text after the STEPS, in the script."""
        for _ in range(MOST_ROUNDS):
            before = text
            for step in STEPS:
                text = step(text)
            if text == before:
                break
        if not self.kept:
            return in_script(text, self.script)
        parts = re.split(f"([{re.escape(self.kept)}]+)", text)
        return "".join(part if part[:1] in self.kept else in_script(part, self.script) for part in parts)


def normalisation_in(about: dict, path) -> Normalisation | None:
    """The normalisation of questions that meta.json or config.json, read from `path`, tells. Raises UserError."""
    try:
        return Normalisation.from_json(about.get("normalisation"))
    except ValueError as error:
        raise UserError(f"{path} is broken", "copy the directory again") from error
