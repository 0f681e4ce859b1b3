"""How a conversation is written as one text: in our own form, or by the chat template that others' models come with.

A template is a program in Jinja's language (transformers' convention). It runs in Jinja's sandbox: it sees the
conversation and nothing else.
"""

import datetime
import json
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from miniglm.errors import UserError

# How each role's turn begins in our form. What the assistant says (an answer, or a call of the search tool) closes with
# the end.
MARKERS = {"system": "系统：", "user": "问：", "assistant": "答：", "search": "查：", "return": "果："}
LEARNED = ("assistant", "search")
THEIRS = {"search": "assistant", "return": "user"}  # roles that others do not know, and who says it there
LONGEST = 1 << 24  # characters that a template may write


class Marked(jinja2.ext.Extension):
    """The tag that marks what the assistant says; we find that ourselves."""

    tags = {"generation"}

    def parse(self, parser):
        """The statements in it."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def refuse_by_template(message: str):
    """Stop with what a template has to say against a conversation."""
    raise jinja2.TemplateError(message)


def as_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """A value as JSON, without the escapes for HTML that Jinja's own filter adds."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def today(form: str) -> str:
    """The present day and time."""
    return datetime.datetime.now().strftime(form)


class Template:
    """A chat template of others."""

    def __init__(self, source: str, tokens: dict[str, str]):
        """tokens: what it may write by name, as bos_token."""
        self.source, self._tokens = source, tokens

    def _compiled(self) -> jinja2.Template:
        extensions = [Marked, "jinja2.ext.loopcontrols"]
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        sandbox.filters["tojson"] = as_json
        functions: dict[str, Any] = {"raise_exception": refuse_by_template, "strftime_now": today}
        sandbox.globals.update(functions)
        return sandbox.from_string(self.source)

    def write(self, messages: list[dict[str, str]], begin: bool) -> str:
        """The text of a conversation; begin: up to where the assistant's next answer begins.

        Our roles search and return become turns of the assistant and the user. Raises UserError.
        """
        told = []
        for message in messages:
            role, content = message["role"], message["content"]
            if role in THEIRS:
                role, content = THEIRS[role], MARKERS[role] + content
            told.append({"role": role, "content": content})
        try:
            pieces, length = [], 0
            for piece in self._compiled().generate(messages=told, add_generation_prompt=begin, **self._tokens):
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise ValueError("it writes without an end")
            return "".join(pieces)
        except Exception as error:  # a program of somebody else's fails in any way
            what = str(error).split("\n")[0][:100]
            raise UserError(
                f"the chat template of the model fails: {what}", "mend its chat_template, or leave that turn away"
            ) from error


def chat_template(end: str) -> str:
    """How our form writes a conversation, as a Jinja template for other programs. end: the text that ends an answer."""
    turns = []
    for role, marker in MARKERS.items():
        close = end if role in LEARNED else "\\n"
        turn = f"{{{{ '{marker}' + message['content'] + '{close}' }}}}"
        turns.append(f"{{%- if message['role'] == '{role}' %}}{turn}{{%- endif %}}")
    begin = f"{{%- if add_generation_prompt %}}{{{{ '{MARKERS['assistant']}' }}}}{{%- endif %}}"
    return "{%- for message in messages %}" + "".join(turns) + "{%- endfor %}" + begin
