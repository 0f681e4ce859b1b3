"""Files of conversations in the forms that public data sets use -> turns, [{"role", "content"}, …].

    for place, record in read_records("questions.jsonl"):
        try:
            talk = turns_of(record)
        except BadRecord as reason:
            print(f"questions.jsonl {place} {reason}")

A file has a record a line, or one JSON list of records, an object of such lists, or records of several lines each; in
UTF-8 or UTF-16. It is read in a stream: memory stays flat however large it is.

A record is a conversation (a bare list, or in "messages", "conversations", …) or a question and its answer, in fields
that FIELDS names, in any capitals and in either Chinese script. The items of a conversation are messages that say who
and what ("role" and "content", "from" and "value", …), questions with answers ({"human", "assistant"}, or a pair), or
texts, by turns the user's and the assistant's; a list of whole questions and answers ({"question", "answer"}) is a
list of records. "system" and "history" become turns; what a question is about ("input", "context") goes under it, and
so do the options of an exam ("A", "B", …), which is told.

What does not fit is mended where it can be, and each change is told (Talk.changes):
- an answer before the first question and a question after the last answer are left out, neighbours of one role joined;
- what means something but is no turn (pictures, lists of tools, thoughts) is left out, unless it is empty ("[]");
- numbers are read as text, and a text is freed of control characters and halves of characters (lone surrogates).
Any other record is a BadRecord, whose reason names the field and what was found: null, NaN and white space are empty,
true and objects are no texts, a role is unknown or out of turn. So is one to learn from whose answer is marked as bad.
"""

import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from miniglm.errors import UserError, refuse
from miniglm.files import open_text, todo_for_encoding
from miniglm.json_stream import first_value, json_or_none, values
from miniglm.typed import SIMPLIFIED, in_script

Turn = dict[str, str]  # {"role", "content"}: the role is one of conversation.MARKERS


@lru_cache(4096)
def plain(name: str) -> str:
    """A name as it is looked up: "System_Prompt" and "system prompt" are one, and so are 問題 and 问题."""
    name = re.sub(r"[\W_]+", "", name).casefold()
    return name if name.isascii() else in_script(name, SIMPLIFIED)


def names(text: str) -> tuple[str, ...]:
    """The plain names in a text, the most telling first."""
    return tuple(map(plain, text.split()))


FIELDS = {  # what a field holds: its names; of several that are filled, the first counts
    "conversation": names("messages conversations conversation dialog dialogs dialogue dialogues chat turns 对话 会话"),
    "history": names("history chat_history conversation_history 历史 历史对话"),
    "system": names("system system_prompt system_message meta_instruction 系统 系统提示 系统提示词"),
    "question": names(
        "instruction question prompt query problem ask user human user_input 问题 提问 指令 用户 q 问 input"
        " 输入 input_text text sentence content"
    ),
    "subject": names(  # what the question is about
        "input context passage article document question query 输入 上下文 背景 背景知识 材料 文章"
    ),
    "answer": names(
        "output answer response completion target reply assistant gpt chatgpt bot moss 答案 回答 回复 输出 助手"
        " 参考答案 标准答案 a 答 solution output_text target_text summary label"
    ),
    "last": names("answer completion output response reply target 答案 回答 回复 输出"),  # of a talk that lacks one
    "better": names("chosen chosen_response preferred better 更好 好的回答"),  # of two answers
    "worse": names("rejected rejected_response dispreferred worse 更差 差的回答"),
    "options": names("a b c d e f g h"),  # of an exam's question, where there is a b
    "who": names("role from speaker sender author 角色"),
    "what": names("content value text message utterance parts markdown arguments records 内容"),
    "calls": names("tool_calls function_call"),
    "media": names("images image videos video audios audio"),  # means something, but becomes no turn, as the next two
    "unkept": names(
        "tools functions files documents options choices reasoning_content reasoning think thinking thought thoughts"
        " cot complex_cot chain_of_thought rationale inner_thoughts commands tool_responses"
    ),
    "heading": names("title desc description 标题 描述"),  # of a record, or of a whole file
}
MEANING = {name for kind in FIELDS if kind not in ("who", "what") for name in FIELDS[kind]}
NAMES = {name for held in FIELDS.values() for name in held}
MESSAGE_MEANING = {*FIELDS["what"], *FIELDS["media"], *FIELDS["unkept"]}  # the same of a message
BAD = {  # where an answer is marked as none to learn from: as what, in JSON
    "label": ("false",),
    "ktotag": ("false",),
    "loss": ("false", "0", "0.0"),
    "weight": ("0", "0.0"),
}
ROLES = {  # what a form calls a role: what it is called here
    name: role
    for role, called in {
        "system": "system developer 系统",
        "user": "user human prompter client customer question q 用户 人类 客户 患者 问",
        "assistant": "assistant gpt chatgpt bing bard claude bot model ai agent answer a"
        " 助手 助理 机器人 模型 客服 医生 答",
        "search": "search function_call tool_call",
        "return": "return observation tool function tool_response ipython",
    }.items()
    for name in names(called)
}
SPEAKERS = names("user human assistant gpt chatgpt bot moss 用户 助手")  # fields of a conversation's turn, of no record
QUESTIONS, ANSWERS = 'a question ("question", "prompt", …)', 'an answer ("answer", "response", …)'
FORMS = {  # the plain names of a record's or of its first item's two fields: what its form is known as
    ("question", "answer"): "Question",
    ("instruction", "output"): "Alpaca",
    ("input", "target"): "Firefly",
    ("prompt", "response"): "Safety-Prompts",
    ("human", "assistant"): "MOSS",
    ("human", "moss"): "MOSS chat",
    ("from", "value"): "ShareGPT",
}
AFTER = {  # a role: the roles that it may follow, None at the beginning
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "return"),
    "search": ("user", "return"),
    "return": ("search", "return"),
}
NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, lone surrogates
MOSS_MARKS = re.compile(r"^\s*<\|[\w ]+\|>:|<eo\w>\s*$")  # around what is said in MOSS' own files
BEGINS_OBJECT = re.compile(r"\s*\{\s*[\"']")
PLACEHOLDERS = re.compile(r"<(?:image|video|audio)>\s*")  # where a picture stood in a text
KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
LONGEST_HEAD = 1 << 18  # characters at a file's beginning that are looked at to recognise its shape
ANY: Mapping[str, list[str]] = {}  # conditions that every record meets
MOST_NAMES = 8  # fields that a reason lists


class BadRecord(Exception):
    """Why a record cannot be used, in words that follow its place: 'has an empty "Answer"'."""


class Talk(NamedTuple):
    """A conversation as it was read from a record."""

    form: str  # of the record: "Alpaca", "ShareGPT", "prompt/completion"
    turns: list[Turn]
    changes: list[str]  # what was changed, in words that follow the record: "had its leading answer left out"


class Pair(NamedTuple):
    """Two conversations that begin alike and are answered differently, as they were read from a record."""

    form: str  # of the record: "prompt/chosen/rejected"
    asked: list[Turn]  # what both begin with, up to a question
    better: list[Turn]  # what follows in the better one
    worse: list[Turn]
    changes: list[str]  # see Talk


class Said(NamedTuple):
    """A turn as it stands in a record."""

    role: str
    content: str  # may be empty
    place: str  # where it stands: '"content"', 'turn in "messages"'


def turns_of(record) -> Talk:
    """The conversation of a record, a JSON value, to learn from; None is one that could not be read.

    No turn is empty, a system's comes first if at all, a user's before each of the assistant's, and the last is the
    assistant's. Raises BadRecord.
    """
    reading = Reading(record)
    if not any(said.role == "assistant" for said in reading.said):
        raise BadRecord(reading.lacking("answer"))
    if reading.bad:
        raise BadRecord(f"is marked as a bad answer ({quoted(reading.bad)})")
    return reading.talk(reading.up_to_last("assistant"))


def question_of(record) -> Talk:
    """The conversation of a record up to its last question, whether that has an answer or not. Raises BadRecord."""
    reading = Reading(record)
    return reading.talk(reading.up_to_last("user"))


def pair_of(record) -> Pair:
    """The two conversations of a record that holds a better and a worse answer. Raises BadRecord.

    Each answer is a text, a message or a list of messages, which may begin with the question, too.
    """
    found = fields_of(record) if isinstance(record, dict) else {}
    fields, answers = zip(*(filled(found, FIELDS[which]) for which in ("better", "worse")))
    if not all(fields):
        known = 'no pair of answers ("chosen" and "rejected")'
        raise BadRecord(f"has {known}; it has {listed(record)}" if found else f"has {known}")
    rest = {field: value for field, value in record.items() if field not in fields}
    own = [field for field in rest if plain(field) in FIELDS["answer"]]
    rest = {field: value for field, value in rest.items() if field not in own}
    talks = []
    for field, answer in zip(fields, answers):
        answer = [answer] if isinstance(answer, dict) else unwritten(answer)
        if is_empty(answer):
            raise BadRecord(f"has an empty {quoted(field)}")
        whole = isinstance(answer, list) and any(is_message(each) and asks(each) for each in answer)
        talks.append(turns_of({"messages": answer} if whole else rest | {"answer": answer}))
    better, worse = (talk.turns for talk in talks)
    if better == worse:
        raise BadRecord("has the same answer twice")
    alike = next((place for place, (one, other) in enumerate(zip(better, worse)) if one != other), len(worse))
    while alike and better[alike - 1]["role"] != "user":
        alike -= 1
    if not alike:
        raise BadRecord("has answers to two questions")
    asked = next((field for field in rest if plain(field) in MEANING), "")
    changes = [*talks[0].changes, *talks[1].changes, *(f"had its {quoted(field)} left out" for field in own)]
    form = "/".join(map(plain, filter(None, (asked, *fields))))
    return Pair(form, better[:alike], better[alike:], worse[alike:], list(dict.fromkeys(changes)))


def asks(message: dict) -> bool:
    """Whether a message is the user's."""
    return ROLES.get(plain(str(filled(fields_of(message), FIELDS["who"])[1]))) == "user"


def tell_changes(path, changes: Counter):
    """Print how many records of a file were changed in which way."""
    for change, count in changes.most_common():
        print(f"{path}: changed {count:,}, each {change}", file=sys.stderr)


class Reading:
    """A record being read: what is said in it, and what has to be changed."""

    def __init__(self, record):
        """Read a JSON value, None where it is none. Raises BadRecord, also where nobody asks anything."""
        self.record, self.form, self.changes = record, "", {}
        self.bad = ""  # the field that marks an answer as bad
        if record is None:
            raise BadRecord("is no JSON, or has a name twice in an object")
        if not isinstance(record, dict | list):
            raise BadRecord(f"is {kind(record)}, no JSON object")
        try:
            said = self.items(record, "list") if isinstance(record, list) else self.fields(record)
        except RecursionError as error:
            raise BadRecord("is nested too deep") from error
        asked = next((place for place, each in enumerate(said) if each.role == "user"), None)
        if asked is None:
            raise BadRecord(self.lacking("question"))
        if any(each.role == "assistant" for each in said[:asked]):
            self.changed("had its leading answer left out")
        self.said = [each for place, each in enumerate(said) if place > asked or each.role != "assistant"]

    def changed(self, change: str):
        """Note a change, once however often it is made."""
        self.changes[change] = None

    def fields(self, record: dict) -> list[Said]:
        """What is said in an object that is no message: its system, then its conversation, or question and answer."""
        found = fields_of(record)
        options = [found[name] for name in FIELDS["options"] if name in found] if "b" in found else []
        used = [field for field, _ in options]

        def take(what):
            field, value = filled(
                found, [name for name in FIELDS[what] if name in found and found[name][0] not in used]
            )
            used.append(field)
            return field, value

        said = []
        system, content = take("system")
        if not is_empty(content):
            said.append(Said("system", self.text(content, system), quoted(system)))
        talk, items = take("conversation")
        items = unwritten(items)
        if isinstance(items, dict | list) and items:
            said += self.items(items, talk)
            last, answer = take("last") if said and said[-1].role == "user" else ("", None)
            if not is_empty(answer):
                said += self.texts("assistant", answer, last)
            return self.without_unkept(record, used, said)
        asked, question = take("question")
        subject, about = take("subject") if asked else ("", None)
        answered, answer = take("answer")
        if talk and not asked and (not answered or not is_empty(items)):
            raise BadRecord(self.no_list(items, talk))
        used.remove(talk)
        if asked and answered:
            self.name(asked, answered)
        past, turns = take("history")
        turns = unwritten(turns)
        if not is_empty(turns):
            said += self.items(turns, past)
        if asked:
            said += self.texts("user", question, asked)
            chosen = [(letter, self.text(option, letter)) for letter, option in options]
            under = [self.text(about, subject), *(f"{letter}. {option}" for letter, option in chosen if option)]
            said[-1] = said[-1]._replace(content="\n".join(filter(None, [said[-1].content, *under])))
        if asked and options:
            self.changed("had its options put under its question")
        if answered:
            said += self.texts("assistant", answer, answered)
        return self.without_unkept(record, used, said)

    def name(self, *two: str):
        """Name the form after two fields, unless it has a name."""
        pair = tuple(map(plain, two))
        self.form = self.form or FORMS.get(pair) or "/".join(pair)

    def without_unkept(self, record: dict, used: Iterable[str], said: list[Said], meaning=MEANING) -> list[Said]:
        """`said`, and a change noted for each field of an object that means something and is not in it."""
        for field, value in record.items():
            if field in used:
                continue
            if plain(field) in BAD and as_text(value) in BAD[plain(field)]:
                self.bad = field
            if plain(field) not in meaning or says_nothing(value):
                continue
            if isinstance(value, int | float) and plain(field) == "label":  # a class, which no text is
                continue
            if isinstance(value, str) and any(value.strip() in each.content for each in said):
                continue
            self.changed(f"had its {quoted(field)} left out")
            if plain(field) in FIELDS["media"]:
                said = [each._replace(content=PLACEHOLDERS.sub("", each.content)) for each in said]
        return said

    def texts(self, role: str, value, field: str) -> list[Said]:
        """What a question's or an answer's field holds: a text, or a list of messages."""
        if isinstance(value, list) and value and all(map(is_message, value)):
            return self.items(value, field)
        return [Said(role, self.text(value, field), quoted(field))]

    def items(self, value, field: str) -> list[Said]:
        """What is said in a conversation: a list, or an object, see items_in."""
        if isinstance(value, dict):
            value = items_in(value)
        if not isinstance(value, list) or not value:
            raise BadRecord(self.no_list(value, field))
        if len(value) > 1 and all(isinstance(item, str) and plain(item) in NAMES for item in value):
            raise BadRecord(f"has names of fields in {quoted(field)} where texts were to be")
        said = []
        for number, item in enumerate(value):
            if isinstance(item, dict) and who_in(item):
                said += self.message(item)
            elif isinstance(item, dict):
                said += self.exchange(item, field)
            elif isinstance(item, list) and all(isinstance(text, str | None) for text in item):
                said += self.items(item, field)
            elif isinstance(item, str | None):
                role = ("user", "assistant")[number % 2]
                said.append(Said(role, self.text(item, field), f"turn in {quoted(field)}"))
            else:
                raise BadRecord(f"has {kind(item)} in {quoted(field)} where a turn was to be")
        return said

    def no_list(self, value, field: str) -> str:
        """Why a value is no conversation."""
        if is_empty(value):
            return f"has an empty {quoted(field)}"
        return f"has {kind(value)} for {quoted(field)} where a list was to be"

    def exchange(self, item: dict, field: str) -> list[Said]:
        """What is said in an item of a conversation that is no message: a question, an answer, or both."""
        if any(name in fields_of(item) for name in FIELDS["conversation"]):
            raise BadRecord(f"has a conversation in {quoted(field)} where a turn was to be")
        said = self.fields(item)
        if not said:
            raise BadRecord(f"has a turn in which nobody speaks; it has {listed(item)}")
        return said

    def message(self, message: dict) -> list[Said]:
        """What a message says, one turn; none where it is an empty one of the system's."""
        found = fields_of(message)
        who, name = filled(found, FIELDS["who"])
        if not isinstance(name, str):
            raise BadRecord(f"has {kind(name)} for {quoted(who)} where a role was to be")
        role = ROLES.get(plain(name))
        if role is None:
            raise BadRecord(f"has an unknown role {quoted(name)}")
        field, value = filled(found, FIELDS["what"])
        called, calls = filled(found, FIELDS["calls"])
        if called and not says_nothing(calls):
            said = Said("search", self.clean(as_text(self.arguments(calls, called))).strip(), quoted(called))
            if not is_empty(value):
                self.changed(f"had the {quoted(field)} beside a call left out")
        elif not field:
            raise BadRecord(f'has a turn without a text ("content", "value", …); it has {listed(message)}')
        elif role in ("search", "return") and value is not None and not is_text_parts(value):
            said = Said(role, self.clean(as_text(value)).strip(), quoted(field))
        else:
            said = Said(role, self.text(value, field), quoted(field))
        if (who, field) == ("from", "value"):
            self.name(who, field)
        marks = {
            each: message[each] for each in message if plain(each) not in BAD or said.role in ("assistant", "search")
        }
        heard = [] if said.role == "system" and not said.content else [said]
        return self.without_unkept(marks, (who, field, called), heard, MESSAGE_MEANING)

    def arguments(self, calls, field: str):
        """The arguments of a message's calls of tools: of the only one, or a list of them. Raises BadRecord."""
        if isinstance(calls, str):
            calls = json_or_none(calls)
        try:
            functions = [call.get("function") or call for call in ([calls] if isinstance(calls, dict) else calls)]
            arguments = [function["arguments"] for function in functions]
        except (TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f'has {quoted(field)} without "arguments"') from error
        if any(function.get("name") for function in functions):
            self.changed("had the name of a called tool left out")
        return arguments[0] if len(arguments) == 1 else arguments

    def text(self, value, field: str) -> str:
        """The text of a field's value without white space around it, "" for an empty one. Raises BadRecord."""
        if is_empty(value):
            return ""
        if is_parts(value):
            value = self.parts(value, field)
        elif type(value) is int or type(value) is float and math.isfinite(value):
            self.changed("had a number read as text")
            value = str(value)
        if not isinstance(value, str):
            raise BadRecord(f"has {kind(value)} for {quoted(field)} where a text was to be")
        return self.clean(value).strip()

    def parts(self, parts: list, field: str) -> str:
        """The texts in a list of parts, as one; pictures are left out. Raises BadRecord where there is none."""
        texts, others = [], {}
        for part in parts:
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                others[quoted(str(part.get("type") or next(iter(part))))] = None
        if others and not "".join(texts).strip():
            raise BadRecord(f"has no text in {quoted(field)}, only {', '.join(others)}")
        for other in others:
            self.changed(f"had its {other} left out")
        return "".join(texts)

    def clean(self, text: str) -> str:
        """A text without characters that are none."""
        cleaned = NO_TEXT.sub("", text)
        if cleaned != text:
            self.changed("had control characters or halves of characters left out")
        return cleaned

    def lacking(self, what: str) -> str:
        """Why a record in which nobody asks, or nobody answers, is none. what: "question" or "answer"."""
        if isinstance(self.record, list) or not is_empty(filled(fields_of(self.record), FIELDS["conversation"])[1]):
            return "does not end with an answer" if what == "answer" else "has no question before its answer"
        there, known = {"answer": ("question", ANSWERS), "question": ("answer", QUESTIONS)}[what]
        field, _ = filled(fields_of(self.record), FIELDS[there])
        if not field:
            return f"has no known form; it has {listed(self.record)}"
        return f"has no known form: {quoted(field)} without {known}; it has {listed(self.record)}"

    def up_to_last(self, role: str) -> list[Said]:
        """What is said until somebody speaks for the last time; a change is noted where a question is left out."""
        last = max(place for place, said in enumerate(self.said) if said.role == role)
        rest = self.said[last + 1 :]
        if role == "assistant" and any(said.role in ("search", "return") for said in rest):
            raise BadRecord("does not end with an answer")
        if role == "assistant" and any(said.content for said in rest):
            self.changed("had its trailing question left out")
        return self.said[: last + 1]

    def talk(self, said: list[Said]) -> Talk:
        """The conversation of what is said, its neighbours of one role joined. Raises BadRecord.

        It is a bad one with an empty turn, or with a role out of turn.
        """
        turns: list[Turn] = []
        for role, content, place in said:
            if not content:
                raise BadRecord(f"has an empty {place}")
            if not turns or turns[-1]["role"] != role or role in ("search", "return"):
                turns.append({"role": role, "content": content})
            elif role != "system" or content != turns[-1]["content"]:
                self.changed("had neighbouring turns of one role joined")
                turns[-1]["content"] += "\n" + content
        check_order(turns)
        return Talk(self.form or "messages", turns, list(self.changes))


def check_order(turns: list[Turn]):
    """Raise BadRecord where a role is out of turn."""
    before = None
    for turn in turns:
        role = turn["role"]
        if before not in AFTER[role]:
            raise BadRecord(f"has a role out of turn: {role} after {before or 'nothing'}")
        before = role


def fields_of(record: dict) -> dict[str, tuple[str, Any]]:
    """{plain name: (the name as it is written, the value)} of an object; of the same names one that is filled."""
    found = {}
    for field, value in record.items():
        if plain(field) not in found or is_empty(found[plain(field)][1]):
            found[plain(field)] = field, value
    return found


def filled(found: dict[str, tuple[str, Any]], wanted: Iterable[str]) -> tuple[str, Any]:
    """(name, value) of the first of the wanted fields that holds something, else of the first, else "", None."""
    there = [found[name] for name in wanted if name in found]
    return next((each for each in there if not is_empty(each[1])), there[0] if there else ("", None))


def who_in(item: dict) -> str:
    """The field of an item that says who speaks, "" where the item is no message."""
    return filled(fields_of(item), FIELDS["who"])[0]


def is_message(value) -> bool:
    """Whether a JSON value is a message, said in a role that is known."""
    if not isinstance(value, dict):
        return False
    _, role = filled(fields_of(value), FIELDS["who"])
    return isinstance(role, str) and plain(role) in ROLES


def is_question_answered(value) -> bool:
    """Whether a JSON value is a question and its answer that make a record, and no turn of a conversation."""
    if not isinstance(value, dict):
        return False
    found = fields_of(value)
    if any(name in found for name in (*FIELDS["who"], *FIELDS["conversation"], *SPEAKERS)):
        return False
    return all(any(name in found for name in FIELDS[what]) for what in ("question", "answer"))


def is_empty(value) -> bool:
    """Whether a JSON value holds nothing."""
    return not value.strip() if isinstance(value, str) else value is None or value != value or value in ([], {})


def says_nothing(value) -> bool:
    """Whether a field that becomes no turn holds nothing whose loss were to be told."""
    empty_text = isinstance(value, str) and value.strip().casefold() in ("[]", "{}", "null", "none")
    return is_empty(value) or empty_text or isinstance(value, bool)


def is_parts(value) -> bool:
    """Whether a JSON value is a list of a message's parts, some of which say that they are: {"type", …} or {"text"}."""
    if not isinstance(value, list) or not all(isinstance(part, dict) and part for part in value):
        return False
    return any("type" in part or "text" in part for part in value)


def is_text_parts(value) -> bool:
    """Whether a JSON value is a list of parts that are texts, which say so."""
    return is_parts(value) and all(part.get("type") == "text" for part in value)


def as_text(value) -> str:
    """A text as it is, another value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def unwritten(value):
    """What a text holds that is a list or an object written as JSON; any other value as it is."""
    held = json_or_none(value) if isinstance(value, str) and value.lstrip().startswith(("[", "{")) else None
    return value if held is None else held


def items_in(talk: dict) -> list:
    """The items of a conversation that is an object.

    They are MOSS' {"turn_1": {"Human": "<|Human|>: …<eoh>", …}, …}, or its lists are columns, as a table has them:
    {"from": ["human", "gpt"], "value": ["…", "…"]}. Any other object is the only item.
    """
    held = list(talk.values())
    if all(isinstance(each, dict) for each in held):
        return [without_marks(each) for each in held]
    if all(isinstance(each, list) and len(each) == len(held[0]) for each in held):
        return [dict(zip(talk, row)) for row in zip(*held)]
    return [talk]


def without_marks(item: dict) -> dict:
    """One of MOSS' own turns without the marks around each text."""
    return {field: MOSS_MARKS.sub("", text) if isinstance(text, str) else text for field, text in item.items()}


def kind(value) -> str:
    """What a JSON value is, in words."""
    return KINDS.get(type(value), "an object")


def quoted(name: str) -> str:
    """A name from a file, fit to be shown."""
    return '"' + "".join(c if c.isprintable() else "?" for c in name[:40]) + '"'


def listed(record: dict) -> str:
    """The names of an object's fields, fit to be shown."""
    shown = [quoted(field) for field in list(record)[:MOST_NAMES]] + ["…"] * (len(record) > MOST_NAMES)
    return ", ".join(shown) or "no field"


def read_records(path) -> Iterator[tuple[str, Any]]:
    """(its place, the JSON value or None where it is none) of each record of a file; a place is "line 3" or "item 3".

    A list of whole questions and answers is not one record but several, at "line 3 item 1", "line 3 item 2" and so on.
    Raises UserError where there is no file, it is no UTF-8 text, or its JSON breaks off.
    """
    refuse(not Path(path).is_file(), f"no file {path}", "check the path; relative ones count from the repository root")
    place = "its beginning"
    try:
        with open_text(path) as file:
            depth = depth_of(file.read(LONGEST_HEAD))
        with open_text(path) as file:
            texts = file if depth is None else values(file, depth)
            unit = "line" if depth is None else "item"
            for number, text in enumerate(texts, 1):
                if text.strip():
                    place = f"{unit} {number}"
                    value = json_or_none(text.strip().removeprefix("\ufeff").removesuffix(","))
                    if isinstance(value, list) and len(value) > 1 and all(map(is_question_answered, value)):
                        yield from ((f"{place} item {item}", each) for item, each in enumerate(value, 1))
                    else:
                        yield place, value
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no {error.encoding.upper()} text after {place}", todo_for_encoding(path)) from error
    except EOFError as error:
        raise UserError(
            f"{path} is no whole JSON, it breaks off after {place}", "copy it again; its end is missing"
        ) from error


def conditions(where: str) -> dict[str, list[str]]:
    """{field: the values it may have} of FIELD=VALUE[,FIELD=VALUE ...]. Raises UserError."""
    wanted = {}
    for condition in filter(None, where.split(",")):
        field, equals, value = condition.partition("=")
        refuse(not field or not equals, f"--where={where} is no choice", "give --where=FIELD=VALUE,FIELD=VALUE")
        wanted.setdefault(field, []).append(value)
    return wanted


def unlike(record, wanted: Mapping[str, list[str]]) -> str:
    """In which field a record has none of the wanted values, in words that follow it; "" where it has them all."""
    found = fields_of(record) if isinstance(record, dict) else {}
    for field, choices in wanted.items():
        _, value = found.get(plain(field), ("", None))
        values = value if isinstance(value, list) else [value]
        if not any(as_text(each) in choices for each in values):
            return f"has another {quoted(field)}" if plain(field) in found else f"has no {quoted(field)}"
    return ""


def read_prompts(path, wanted: Mapping[str, list[str]] = ANY) -> list[list[Turn]]:
    """The prompts in a file, each a conversation that ends with the question.

    They are those of its records, or its lines where most of them are no JSON objects or lists; of a JSON list of
    texts, or of lines that are JSON texts, the texts. wanted: see conditions; of records alone. Raises UserError where
    there is none, for a record that asks nothing, and where half of the lines begin as JSON objects do and are none.
    """
    records = list(read_records(path))
    refuse(not records, f"{path} is empty", "write one prompt a line")
    items = dict | list | str if records[0][0].startswith("item") else dict | list
    if 2 * sum(isinstance(record, items) for _, record in records) < len(records):
        with open_text(path) as file:
            lines = [line.rstrip("\r\n") for line in file if line.strip()]
        broken = sum(json_or_none(line) is None for line in lines if BEGINS_OBJECT.match(line))
        refuse(
            2 * broken >= len(lines), f"{path} has {broken:,} lines that are no JSON", 'write {"question": "…"} a line'
        )
        return [[{"role": "user", "content": prompt_in(line)}] for line in lines]
    prompts, changes = [], Counter()
    for place, record in records:
        if unlike(record, wanted):
            continue
        try:
            talk = question_of([record] if isinstance(record, str) else record)
        except BadRecord as reason:
            raise UserError(f"{path} {place} {reason}", "mend it, or write one prompt a line") from reason
        prompts.append(talk.turns)
        changes.update(talk.changes)
    tell_changes(path, changes)
    return prompts


def prompt_in(line: str) -> str:
    """The prompt in a line of its own: the text that the line is in JSON, or else the line."""
    text = json_or_none(line)
    return text if isinstance(text, str) and text.strip() and not NO_TEXT.search(text) else line


def depth_of(head: str) -> int | None:
    """In how many containers a file's records stand, by its beginning; None where each has a line of its own.

    0 are records of several lines, one after the other, 1 is a list of records, 2 is an object of such lists.
    """
    head, is_cut = head.lstrip(), len(head) == LONGEST_HEAD
    line, _, more = head.partition("\n")
    first = json_or_none(line)
    if first is not None and more.strip() or not line.startswith(("[", "{")):
        return None
    text = first_value(head, 0)
    whole = json_or_none(text)
    if line.startswith("["):
        items = list(map(json_or_none, islice(values(io.StringIO(head), 1, partial=True), 50)))
        item = items[0] if items else None
        if item is None and not more.startswith("["):  # the first of a list may be broken
            item = next((each for each in items if isinstance(each, dict | list)), None)
        if is_message(item):
            return 0 if first is None and (whole is not None or line.strip() in ("[", "[{")) else None
        return 1 if item is not None or is_cut and not items else None
    if whole is not None:
        return 2 if holds_lists(whole) else 0 if first is None else None
    opening = re.match(r'\{\s*"([^"\\]*)"\s*:\s*\[\s*[\[{]', head)
    if is_cut and opening and plain(opening[1]) not in MEANING:
        return 2
    is_lines = any(isinstance(json_or_none(each), dict) for each in more.split("\n")[:50] if each.startswith("{"))
    return 0 if not is_lines and ("\n" in text or is_cut and more and not text) else None


def holds_lists(value) -> bool:
    """Whether a JSON value is an object of lists of records that is no record itself."""
    if not isinstance(value, dict):
        return False
    of_record = MEANING.difference(FIELDS["heading"])
    for name, (_, held) in fields_of(value).items():
        if name in FIELDS["conversation"] or name in of_record and not isinstance(held, list):
            return False
    lists = [held for held in value.values() if isinstance(held, list) and held]
    return any(all(isinstance(each, dict | list) and not is_message(each) for each in held) for held in lists)
