"""A talk as the page's chatbot shows it, and as messages; and one that is read back from a file."""

import html
from pathlib import Path

import gradio as gr

from miniglm.conversation import Messages
from miniglm.errors import UserError
from miniglm.page.words import Trouble
from miniglm.records import BadRecord, read_records, turns_of
from miniglm.template import MARKERS

WARNING = "⚠ "  # stands before what went wrong


def plain(content) -> str:
    """The text of a message as gradio keeps it: a text, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)


def escaped(text: str) -> str:
    """A text as the chatbot must be given it: it shows HTML as HTML, whatever its settings are."""
    return html.escape(text, quote=False)


def shown(messages: Messages) -> list[dict]:
    """Messages as turns of the chatbot: a search with what it found is one, its title the call."""
    turns: list[dict] = []
    for message in messages:
        text = escaped(message["content"])
        if message["role"] == "search":
            turns.append({"role": "assistant", "content": "…", "metadata": {"title": MARKERS["search"] + text}})
        elif message["role"] == "return":
            turns[-1]["content"] = text
        else:
            turns.append({"role": message["role"], "content": text})
    return turns


def failed(message: str) -> dict:
    """The turn that tells what went wrong."""
    return {"role": "assistant", "content": WARNING + escaped(message)}


def messages_of(turns: list[dict] | None) -> Messages:
    """The conversation that the chatbot's turns show, without what went wrong."""
    messages: Messages = []
    for turn in turns or []:
        title = html.unescape((turn.get("metadata") or {}).get("title") or "")
        content = html.unescape(plain(turn["content"]))
        if content.startswith(WARNING):
            messages.pop()  # the question
        elif title.startswith(MARKERS["search"]):
            messages.append({"role": "search", "content": title.removeprefix(MARKERS["search"])})
            messages.append({"role": "return", "content": content})
        else:
            messages.append({"role": turn["role"], "content": content})
    return messages


def asked(question: str, turns: list[dict]) -> list[dict]:
    """The turns with one more question."""
    return [*turns, *shown([{"role": "user", "content": question}])]


def question_of(event: gr.EventData) -> str:
    """The question that an event is about, as it was or as it has been rewritten."""
    return html.unescape(plain(event.value["content"] if isinstance(event.value, dict) else event.value))


def before(turns: list[dict], event: gr.EventData) -> list[dict]:
    """The turns before the one that an event is about."""
    index = event.index[0] if isinstance(event.index, list | tuple) else event.index
    return turns[:index]


def read_talks(path) -> list[Messages]:
    """The conversations in a file, in any form that data/prepare_sft.py reads. Raises Trouble."""
    found = []
    try:
        for _, record in read_records(path):
            found.append(turns_of(record).turns)
    except BadRecord as reason:
        raise Trouble("no_talk", reason) from reason
    except UserError as error:
        raise Trouble("no_talk", error.what.replace(str(path), Path(path).name)) from error
    if not found:
        raise Trouble("no_talk", "0")
    return found
