"""The talks that are kept in the visitor's browser: the list of them at the side of the page, and what it does."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from miniglm.page.controls import clickable
from miniglm.page.talks import messages_of, read_talks, shown
from miniglm.page.words import say, tells


@tells
async def read_back(request: gr.Request, path):
    """The talks in a file."""
    yield read_talks(path)


def kept_talks(page: gr.Blocks, chatbot: gr.Chatbot, box: gr.Textbox, emptied: Sequence, changes: Sequence):
    """List the talks at the side: open, rename, delete, save them all as a file, read one back.

    box: where questions are written; what stands there outlives the page's being loaded anew. emptied: the texts that
    belong to a talk, and go when another one is shown. changes: events after which the talk that is shown has changed.
    """
    alone: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    with gr.Sidebar(label=say("talks"), open=False):
        gr.Markdown(f"### {say('talks')}")
        new = gr.Button(say("new"), variant="primary", elem_id="new")
        listed = gr.HTML(elem_id="talks", js_on_load=clickable("talk", "choose", "miniglm.choose"))
        name = gr.Textbox(label=say("rename"), max_length=60, elem_id="talk-name")
        forget = gr.Button(say("forget"), size="sm", elem_id="forget")
        save = gr.Button(say("export"), size="sm", elem_id="save")
        upload = gr.UploadButton(
            say("import"),  # ty: ignore[invalid-argument-type], which is translated here, too
            size="sm",
            file_types=[".jsonl", ".json"],
            elem_id="upload",
        )

    def show(messages):
        if messages is None:  # the talk that is there is being answered, and stays
            return [gr.skip()] * (1 + len(emptied))
        return [shown(messages), *[""] * len(emptied)]

    talk, read = gr.JSON(visible=False), gr.JSON(visible=False)  # messages between the browser and the chatbot
    for change in changes:
        kept = change.then(messages_of, [chatbot], [talk], **alone)
        kept.then(None, [talk], [listed], js="messages => [miniglm.keep(messages)]", **alone)
    gr.on([name.submit, name.blur], None, [name], [listed], js="name => [miniglm.rename(name)]", **alone)
    save.click(None, js="() => miniglm.save()", **alone)
    opened: dict[str, Any] = {"outputs": [talk, name, listed], **alone}
    for event in (
        listed.choose(None, None, js="() => miniglm.open()", **opened),
        new.click(None, None, js="() => miniglm.begin()", **opened),
        forget.click(None, None, js="() => miniglm.forget()", **opened),
        page.load(None, None, [talk, name, listed, box], js="() => miniglm.reload()", **alone),
        upload.upload(read_back, [upload], [read], api_visibility="private").success(
            None, [read], js="talks => miniglm.readBack(talks)", **opened
        ),
    ):
        event.then(show, [talk], [chatbot, *emptied], **alone)
