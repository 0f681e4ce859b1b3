r"""Conversations to ids and loss mask, in one place for training, talking and other programs.

A conversation is a list of {"role", "content"}. How it is written for a model of ours:

    问：张飞字什么？\n答：张飞字翼德。<|endoftext|>
    0 0 0 0 0 0 0 0 0  0 0 1 1 1 1 1 1 1     the loss mask: what the assistant says, and its end

A model of others whose tokenizer has a chat template gets it as that writes it.
"""

from miniglm.errors import UserError
from miniglm.foreign import Foreign
from miniglm.template import LEARNED, MARKERS
from miniglm.typed import Normalisation
from miniglm.vocabulary import AnyTokenizer

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
    Raises UserError where a chat template of others fails.
    """
    if isinstance(tokenizer, Foreign) and tokenizer.template:
        return encode_by_template(tokenizer, messages)
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
    """The ids after which the assistant's next answer begins: the conversation so far and 答：.

    Raises UserError where a chat template of others fails.
    """
    if isinstance(tokenizer, Foreign) and tokenizer.template:
        return tokenizer.encode_rendered(tokenizer.template.write(messages, begin=True))[0]
    ids, _ = encode_conversation(tokenizer, messages)
    return ids + tokenizer.encode(MARKERS["assistant"])


def encode_by_template(tokenizer: Foreign, messages: Messages) -> tuple[list[int], list[int]]:
    """(ids, loss_mask) of a conversation as its model's chat template writes it.

    What the assistant says begins where the template would have it begin and reaches to its end token; one that the
    template does not write is added at the end of the conversation.
    """
    assert tokenizer.template
    write, spans = tokenizer.template.write, []
    text = write(messages, begin=False)
    places = [place for place, message in enumerate(messages) if message["role"] in LEARNED]
    for place in places:
        before = write(messages[:place], begin=True)
        if not text.startswith(before):
            raise UserError(
                "the chat template of the model writes a talk otherwise once it is answered",
                "mend its chat_template, or leave earlier turns away",
            )
        spans.append((len(before), messages[place]["content"]))
    ids, starts = tokenizer.encode_rendered(text)
    mask = [0] * len(ids)
    limits = [start for start, _ in spans[1:]] + [len(text)]
    for (start, content), limit in zip(spans, limits):
        said = text.find(content, start, limit)
        stop = said + len(content) if said >= 0 else limit
        ends = [each for each, number in zip(starts, ids) if number in tokenizer.end_ids and stop <= each < limit]
        ended = bool(ends) and not text[stop : ends[0]].strip()
        last = limit == len(text) and messages[-1]["role"] in LEARNED
        stop = ends[0] + 1 if ended else limit if last else stop
        for place, each in enumerate(starts):
            if start <= each < stop:
                mask[place] = 1
        if last and not ended:
            ids, mask = [*ids, tokenizer.end_id], [*mask, 1]
    return ids, mask
