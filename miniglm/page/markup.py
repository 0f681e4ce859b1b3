"""What the page shows as HTML: its welcome, where the book says an answer, what was likely at each token."""

import codecs
import html
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import gradio as gr

from miniglm.book.reader import BookReader
from miniglm.chat import Candidate, Choice, sources, unborne
from miniglm.errors import UserError
from miniglm.origin import Loaded
from miniglm.page.words import TEXTS, told
from miniglm.records import BadRecord, question_of, read_records
from miniglm.vocabulary import AnyTokenizer

NOVEL = [("beginning", text) for text in ("却说曹操", "次日，玄德引关、张", "孔明曰：“")]  # what can be gone on from
KNOWN_BOOK = [  # what can be asked about the demo's book: (kind, a good example)
    ("who", "赵云是谁？"),
    ("kin", "马超的爹叫什么？"),
    ("death", "夏侯渊死在谁手里？"),
    ("things", "关云长用的是什么刀？"),
    ("episode", "草船借箭是哪一回？"),
    ("chapter", "第一百零六回讲的是什么？"),
    ("words", "最早同时写到曹操和许褚的是哪一句？"),
    ("greeting", "你好呀！"),
]


def examples(loaded: Loaded) -> list[tuple[str, str]]:
    """What can be said to a model, by kind: (the kind, a good example)."""
    if not loaded.chat:
        return NOVEL
    if not loaded.book:
        return [*(("question", question) for question in trained_on(loaded)), ("greeting", "你好！")]
    passages = loaded.book.passages
    if {"赵云", "夏侯渊"} <= passages.people.keys():
        return KNOWN_BOOK
    people, chapters = list(passages.people), [chapter for chapter in passages.headings if chapter]
    made = [("who", f"{name}是谁？") for name in people[:2]]
    made += [("chapter", f"{chapter}讲的是什么？") for chapter in chapters[:1]]
    made += [("episode", f"{episode}是哪一回？") for episode in sorted(passages.episodes)[:1]]
    if len(people) > 1:
        made.append(("words", f"最早同时写到{people[0]}和{people[1]}的是哪一句？"))
    return [*made, ("greeting", "你好！")]


def trained_on(loaded: Loaded) -> list[str]:
    """Some questions that a model was trained on, where they are at hand."""
    path = Path("data", str(loaded.settings.get("dataset")), "questions.jsonl")
    try:
        return [question_of(record).turns[0]["content"] for _, record in islice(read_records(path), 5)]
    except (UserError, BadRecord, OSError):
        return []


def welcome(loaded: Loaded, cards: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """What this is, what it can be asked and what it cannot, in both languages, as HTML."""
    title = re.search("《.+?》", loaded.book.passages.forms.beyond) if loaded.book else None
    kind = "book" if loaded.book else "chat" if loaded.chat else "novel"
    shown = []
    for language, nameless in enumerate(("一本书", "a book")):
        text = TEXTS[f"about_{kind}"][language].format(title=title[0] if title else nameless)
        buttons = "".join(
            f'<li><button type="button" data-question="{html.escape(question)}">'
            f"<small>{TEXTS[name][language]}</small>{html.escape(question)}</button></li>"
            for name, question in cards
        )
        shown.append(f"<p>{text}</p><ul>{buttons}</ul><p><small>{TEXTS[f'cannot_{kind}'][language]}</small></p>")
    return shown[0], shown[1]


def sources_html(book: BookReader, question: str, answer: str, places: Sequence, request: gr.Request | None) -> str:
    """What an answer rests on: each place with its chapter, which a click opens there; what is quoted marked.

    What the book does not bear out is told. places: that were looked up.
    """
    quotes, found = re.findall("「(.+?)」", answer), sources(book, question, answer, places)
    rows = [
        f"<p>⚠ {told('unborne', request)}{html.escape(word)}</p>" for word in unborne(book, question, answer, found)
    ]
    for source in found:
        begin, chapter, end = book.passages.around(source.number)
        text = marked(source.text.lstrip("”’"), next((quote for quote in quotes if quote in source.text), ""))
        mark = "<span title='✓'>✓</span> " if source.quoted else ""
        rows.append(
            f"<details><summary>{mark}<b>{html.escape(source.where)}</b> {text}</summary>"
            f"<div class='chapter' tabindex='0'>{html.escape(begin)}<mark>{html.escape(chapter)}</mark>"
            f"{html.escape(end)}</div></details>"
        )
    return "".join(rows)


def marked(text: str, quote: str) -> str:
    """A text as HTML in which a quotation is marked."""
    shown, quote = html.escape(text), html.escape(quote)
    return shown.replace(quote, f"<mark>{quote}</mark>") if quote else shown


def inside_html(tokenizer: AnyTokenizer, choices: Sequence[Choice], request: gr.Request | None) -> str:
    """A table, a row a token: what was chosen, then the candidates with bars and marks, each a button.

    Tokens that share a character stand under it together.
    """
    heads = "".join(f"<th scope='col'>{told('rank', request).format(rank)}</th>" for rank in range(1, 6))
    rows = f"<thead><tr><th scope='col'>{told('chosen', request)}</th>{heads}</tr></thead><tbody>"
    number = 0
    for text, group in characters(tokenizer, choices):
        begun = b""
        for part, choice in enumerate(group):
            head = f"<th scope='row' rowspan='{len(group)}'>{visible(text)}</th>" if part == 0 else ""
            cells = ""
            for place, each in enumerate(choice.candidates):
                chosen = each.token == choice.token
                whole = f"{visible(text)}<sub>{part + 1}</sub>" if chosen and len(group) > 1 else ""
                shown = whole or candidate_html(tokenizer, begun, each.token)
                cells += cell(shown, each, place, chosen, f"{number},{each.token}")
            rows += f"<tr>{head}{cells}</tr>"
            begun += tokenizer.token_bytes(choice.token)
            number += 1
    return f"<table class='inside'>{rows}</tbody></table>"


def cell(shown: str, candidate: Candidate, place: int, chosen: bool, index: str) -> str:
    """One candidate of a row: its text, its probability as a number and a bar, who would keep it."""
    kept = {"greedy": place == 0, "top-k": candidate.top_k, "top-p": candidate.top_p}
    marks = "".join(f"<i>{mark}</i>" for mark, yes in kept.items() if yes)
    share = 100 * candidate.probability
    return (
        f"<td{' class=taken' if chosen else ''} style='--share:{share:.1f}%'>"
        f"<button type='button' data-index='{index}'><b>{shown}</b> {share:.1f}%</button>{marks}</td>"
    )


def characters(tokenizer: AnyTokenizer, choices: Sequence[Choice]) -> list[tuple[str, list[Choice]]]:
    """The text of a row of choices in pieces that hold whole characters, each with its choices."""
    pieces, group, utf8 = [], [], codecs.getincrementaldecoder("utf-8")(errors="ignore")
    text = ""
    for choice in choices:
        group.append(choice)
        text += utf8.decode(tokenizer.token_bytes(choice.token))
        if not utf8.getstate()[0]:
            pieces.append((text or tokenizer.show(choice.token), group))
            text, group = "", []
    return [*pieces, (text + "…", group)] if group else pieces


def candidate_html(tokenizer: AnyTokenizer, begun: bytes, token: int) -> str:
    """A token behind the bytes of a character that is begun; where it is a part of one, its bytes."""
    held = tokenizer.token_bytes(token)
    if not held:
        return visible(tokenizer.show(token))
    try:
        return visible((begun + held).decode("utf-8"))
    except UnicodeDecodeError:
        whole = (begun + held).decode("utf-8", "ignore")
        return f"{visible(whole)}<small>{held.hex(' ')}</small>"


def visible(text: str) -> str:
    """A text as HTML, with line ends and spaces that can be seen."""
    return html.escape(text.replace("\n", "↵").replace(" ", "␣"))
