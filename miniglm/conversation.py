r"""Conversations to ids and loss mask, in one place for training, talking and other programs.

A conversation is a list of {"role", "content"}. How it is written for a model of ours:

    问：张飞字什么？\n答：张飞字翼德。<|endoftext|>
    0 0 0 0 0 0 0 0 0  0 0 1 1 1 1 1 1 1     the loss mask: what the assistant says, and its end
"""

from miniglm.tokenizer import END
from miniglm.typed import Normalisation
from miniglm.vocabulary import AnyTokenizer

# How each role's turn begins. What the assistant says (an answer, or a call of the search tool) closes with the end.
MARKERS = {"system": "系统：", "user": "问：", "assistant": "答：", "search": "查：", "return": "果："}
LEARNED = ("assistant", "search")

Messages = list[dict[str, str]]


def normalised(messages: Messages, normalisation: Normalisation | None) -> Messages:
    """A conversation as a model reads one: its questions normalised, and no white space around any message."""
    contents = [message["content"].strip() for message in messages]
    if normalisation:
        asked = [message["role"] == "user" for message in messages]
        contents = [normalisation(content) if is_asked else content for content, is_asked in zip(contents, asked)]
    return [{**message, "content": content} for message, content in zip(messages, contents)]


def encode_conversation(
    tokenizer: AnyTokenizer, messages: Messages, choosing: bool = False
) -> tuple[list[int], list[int]]:
    """(ids, loss_mask), two lists of equal length, of a conversation with the roles of MARKERS.

    The mask is 1 on what the assistant says and on its end. Where the model must choose, the markers 答： and 查：
    count too: choosing says that it may search in any conversation, and in one with a search call it does.
    """
    ids, mask, prompt = [], [], ""
    choosing = choosing or any(message["role"] == "search" for message in messages)
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in LEARNED:
            prompt += f"{MARKERS[role]}{content}\n"
            continue
        # What leads up to an answer is encoded in one piece, as an engine that renders text would.
        lead, marker = tokenizer.encode(prompt), tokenizer.encode(MARKERS[role])
        said = [*tokenizer.encode(content), tokenizer.end_id]
        ids += lead + marker + said
        mask += [0] * len(lead) + [int(choosing)] * len(marker) + [1] * len(said)
        prompt = ""
    tail = tokenizer.encode(prompt)
    return ids + tail, mask + [0] * len(tail)


def encode_prompt(tokenizer: AnyTokenizer, messages: Messages) -> list[int]:
    """The ids after which the assistant's next answer begins: the conversation so far and 答：."""
    ids, _ = encode_conversation(tokenizer, messages)
    return ids + tokenizer.encode(MARKERS["assistant"])


def chat_template(end: str = END) -> str:
    """How encode_prompt writes a conversation, as a Jinja template for other programs. end: the text of end_id."""
    turns = []
    for role, marker in MARKERS.items():
        close = end if role in LEARNED else "\\n"
        turn = f"{{{{ '{marker}' + message['content'] + '{close}' }}}}"
        turns.append(f"{{%- if message['role'] == '{role}' %}}{turn}{{%- endif %}}")
    begin = f"{{%- if add_generation_prompt %}}{{{{ '{MARKERS['assistant']}' }}}}{{%- endif %}}"
    return "{%- for message in messages %}" + "".join(turns) + "{%- endfor %}" + begin
