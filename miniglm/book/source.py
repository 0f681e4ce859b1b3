"""A book as it comes: bytes in one encoding or another, stray ones among them, licences around it -> its text.

What is left out on the way is printed, each kind in a line.
"""

import codecs
import re
import tempfile
from pathlib import Path

from charset_normalizer import from_bytes

from miniglm.errors import UserError, refuse
from miniglm.records import fields_of, is_empty, names, read_records

ENCODINGS = ["utf_8", "utf_16", "utf_16_le", "utf_16_be", "gb18030", "big5"]
NO_TEXT = "these bytes are no text in UTF-8, UTF-16, GB18030 or Big5"
SAVE_AS_TEXT = "save the book as plain UTF-8 text"
FORMATS = {  # how a file begins: what it is
    b"PK\x03\x04": "a zip, as .epub and .docx are",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "a .doc of Word's",
    b"{\\rtf": "an RTF",
    b"\x1f\x8b": "a gzip",
    b"Rar!": "a .rar",
    b"7z\xbc\xaf": "a .7z",
}
HTML = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)
# About half of what Chinese is written with, so that bytes read in a wrong encoding are told from those read right.
COMMON = frozenset(
    "的一是不了在人有我他這这個个們们中來来上大為为和國国地到以說说時时要就出會会可也你對对生能而子那得於于着著下自之年過过"
    "發发後后作里裡用道行所然家事成方多經经麼么去法如都同現现當当沒没動动面起看定天分還还進进好小其主樣样心她本前開开因只從从"
    "想日軍军者意無无力與与長长把十第公此已使情明知三又關关正外將将兩两間间問问很手向頭头見见被二身回門门老次何卻却曰兵馬马"
)
KEPT = "\n\r\t\f"  # control characters that belong to a text
LOST = {  # what no reader sees and no model is to learn
    "control characters": re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]"),
    "characters that were lost earlier (U+FFFD)": re.compile("\ufffd"),
    "invisible characters (zero-width spaces, byte order marks)": re.compile("[\u200b\u2060\ufeff]"),
}
# Around a text of Project Gutenberg's; a long title goes on in the next line.
TITLE = r"\b(?:[^*\n]|\n(?![ \t]*\n)){0,400}?GUTENBERG(?:(?:[^*\n]|\n(?![ \t]*\n)){0,400}\*{3}[^\n]*|[^\n]*)"
START = re.compile(rf"^[ \t]*\*{{3}}[ \t]*START[ \t]+OF{TITLE}", re.I | re.M)
END = re.compile(rf"^[ \t]*(?:\*{{3}}[ \t]*END[ \t]+OF{TITLE}|End of (?:the |this )?Project Gutenberg\b)", re.I | re.M)
BEGINS_JSON = re.compile(r'\s*(\{\s*["}]|\[\s*[\[{"\]])')
TEXTS = names("text content chapters 正文 内容 章节")  # fields of a record of a book's, the most telling first
CHAPTERS, TITLES = names("chapter 章节"), names("title chapter_title 标题")
MARKS = re.compile(r"\s*(?:<\|im_start\|>(?:(?:system|user|assistant)\n)?|<\|im_end\|>|<\|endoftext\|>|</?s>)\s*")


def text_of(content: bytes) -> str:
    """The text of a book, from the bytes of its file. Raises UserError where there is none."""
    refuse(not content.strip(), "the book is empty", "give a file with text in it")
    for beginning, kind in FORMATS.items():
        refuse(content.startswith(beginning), f"this is {kind}, no text", f"open it and {SAVE_AS_TEXT}")
    text = decode(content)
    refuse(HTML.match(text), "this is an HTML page, no text", f"open it in a browser and {SAVE_AS_TEXT}")
    return without_licence(without_lost(out_of_records(text)))


def decode(content: bytes) -> str:
    """The text of `content`, in whichever of ENCODINGS it is, without the bytes that are none in it; both are printed.

    Raises UserError where there is no text, or more than a thousandth of the bytes is bad.
    """
    best = from_bytes(content, cp_isolation=ENCODINGS).best()
    readings = [reading(content, name) for name in ([best.encoding] if best else ENCODINGS)]
    encoding, text, bad = max(readings, key=lambda found: likeness(*found[1:]))
    refuse(too_many(sum(map(weight, bad)), content) or too_many(controls(text), text), NO_TEXT, SAVE_AS_TEXT)
    print(f"encoding: {encoding}")
    if bad:
        number = sum(end - start for start, end in bad)
        before = [(start, reading(content[:start], encoding)[1]) for start, _ in bad[:3]]
        places = [f"line {line_at(text, len(text))} (byte {start})" for start, text in before]
        print(f"left out: {number:,} of {len(content):,} bytes, no {encoding}: {listed(places, len(bad))}")
    return text


def reading(content: bytes, encoding) -> tuple[str, str, list[tuple[int, int]]]:
    """(encoding, the text of `content` in it, where it begins and ends of each stretch of bytes that are none)."""
    bad = []

    def note(error):
        begins = bad.pop()[0] if bad and bad[-1][1] == error.start else error.start
        bad.append((begins, error.end))
        return "", error.end

    codecs.register_error("noted", note)
    text = content.decode("utf-8-sig" if encoding == "utf_8" else encoding, "noted")
    return encoding, text.removeprefix("\ufeff"), bad


def weight(stretch) -> int:
    """How much a stretch of bad bytes counts: one where it may be a single character that one stray byte has broken."""
    start, end = stretch
    return 1 if end - start <= 4 else end - start


def too_many(faults: int, whole) -> bool:
    """Whether more than a thousandth of a text, or of its bytes, is faulty; three faults are no reason."""
    return faults > max(3, len(whole) / 1000)


def likeness(text, bad) -> int:
    """How much a reading is like a text: its common characters, less what stands in none."""
    common = sum(c in COMMON or c.isascii() and c.isalnum() for c in text)
    return common - controls(text) - sum(map(weight, bad))


def controls(text) -> int:
    """The number of control characters that belong to no text."""
    return sum(c < " " and c not in KEPT for c in text)


def out_of_records(text) -> str:
    """The texts of a book in JSON, {"text": …} a record, a blank line between; any other text as it is.

    A title ({"title": …, "text": …}) comes before its text, and before that of the next record only where it is
    another; a text may be a list of texts and of such records. Marks that begin and end a record's text (<|im_start|>)
    end a text, too. Raises UserError where no record has one.
    """
    if not BEGINS_JSON.match(text):
        return text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "book.jsonl")
        path.write_text(text, encoding="utf-8", newline="\n")
        try:
            records = list(read_records(path))
        except UserError as error:
            raise UserError(error.what.replace(str(path), "the book"), error.todo) from error
    if sum(isinstance(record, dict | str) for _, record in records) * 2 < len(records):
        return text  # it has a brace at its beginning and is no JSON
    texts, marks, title = [], 0, ""
    others = {"no JSON": [], "records without a text": []}
    for place, record in records:
        pages = pages_of(record)
        if not any(text for _, text in pages):
            others["no JSON" if record is None else "records without a text"].append(place)
            continue
        for heading, text in pages:
            if heading not in ("", title):
                texts.append(heading)
                title = heading
            if texts[-1:] == [title] and text.lstrip().startswith(title):
                texts.pop()  # the text begins with it
            pieces = MARKS.split(text)
            marks += len(pieces) - 1
            texts += filter(None, map(str.strip, pieces))
    refuse(
        not texts,
        "no record of this JSON has a text",
        'write {"text": "…"} a line, or give conversations to data/prepare_sft.py',
    )
    print(f"JSON: {len(records) - sum(map(len, others.values())):,} records with a text")
    for kind, at in others.items():
        if at:
            print(f"left out: {len(at):,} {kind}: {listed(at[:3], len(at))}")
    if marks:
        print(f"left out: {marks:,} marks such as <|im_start|> between the texts")
    return "\n\n".join(texts)


def pages_of(record) -> list[tuple[str, str]]:
    """(title, text) of a record and of all that stands in lists of texts in it; each may be empty."""
    pages, ahead = [], [record]
    while ahead:
        title, held = page_of(ahead.pop())
        pages.append((title, held if isinstance(held, str) else ""))
        ahead += reversed(held) if isinstance(held, list) else []
    return pages


def page_of(record) -> tuple[str, str | list]:
    """(title, the text or the list of texts) of a record: itself, or what it has in the fields of TEXTS."""
    fields = fields_of(record) if isinstance(record, dict) else {"text": ("", record)}

    def first(wanted, kinds):
        values = (fields[name][1] for name in wanted if name in fields)
        return next((value for value in values if isinstance(value, kinds) and not is_empty(value)), "")

    chapter, title = first(CHAPTERS, str).strip(), first(TITLES, str).strip()
    title = title if chapter in title else f"{chapter} {title}".strip()
    return title, first(TEXTS, str | list if isinstance(record, dict) else str)


def without_lost(text) -> str:
    """`text` with single line ends and nothing of what LOST names."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for kind, pattern in LOST.items():
        found = [match.start() for match in pattern.finditer(text)]
        if found:
            places = [f"line {line_at(text, place)}" for place in found[:3]]
            print(f"left out: {len(found):,} {kind}: {listed(places, len(found))}")
            text = pattern.sub("", text)
    return text


def without_licence(text) -> str:
    """`text` without Project Gutenberg's licence before and behind it."""
    start, end = inside_licence(text)
    inside = text[start:end].strip("\n") if (start, end) != (0, len(text)) else text
    if len(inside) < len(text):
        print(f"left out: {len(text) - len(inside):,} characters of Project Gutenberg's licence around the text")
    if found := re.search("Project Gutenberg", inside, re.I):
        line = line_at(inside, found.start())
        print(f"line {line} of the book names Project Gutenberg: see whether their licence is still in it")
    return inside


def inside_licence(text) -> tuple[int, int]:
    """Where, in a text of Project Gutenberg's, the book begins and ends; the whole where no marks of theirs are."""
    first = START.search(text)
    start = first.end() if first else 0
    last = END.search(text, start)
    return start, last.start() if last else len(text)


def line_at(text, place) -> int:
    """The number of the line in which a place of a text is."""
    return len(re.findall(r"\r\n|\r|\n", text[:place])) + 1


def listed(places, number) -> str:
    """The first places of a number of them."""
    return ", ".join(places) + (" …" if number > len(places) else "")
