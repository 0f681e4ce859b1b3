"""The page: talk to a trained model in the browser, let it go on from a text, compare two models, look inside one.

python sample_gradio.py --out_dir=out/demo-chat     # then open http://127.0.0.1:7860
python sample_gradio.py --out_dir=out/demo-pretrain --lora=out/lora-a --lora=out/lora-b      # adapters on one model
"""

import json
import os
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from miniglm.proxy import bypass_proxies

# Before the import: nothing is reported to anybody; and httpx, which gradio starts then, would end at a SOCKS proxy.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
bypass_proxies("*")

import gradio as gr

from configurator import Bounds, FilePath, configure
from miniglm.errors import UserError, refuse
from miniglm.machine import WeightDtype
from miniglm.page.controls import CALM, LIVELY, buttons, clickable, remember, render, settings
from miniglm.page.kept import kept_talks
from miniglm.page.lessons import ROUTES
from miniglm.page.look import CSS, THEME, script
from miniglm.page.markup import NOVEL, examples, welcome
from miniglm.page.models import Models
from miniglm.page.protocol import Protocol
from miniglm.page.speech import answered, looked_inside, said_to, written
from miniglm.page.talks import asked, before, failed, messages_of, question_of, shown
from miniglm.page.visitors import Visitors
from miniglm.page.words import Trouble, languages, say, tells, told, trouble
from miniglm.rewards import RewardModel
from miniglm.search import Table, read_table

# -----------------------------------------------------------------------------
out_dir: FilePath = "out/demo-chat"  # the model that the page opens with; those beside it can be chosen there
lora: list[FilePath] = []  # directories of adapters for it, which can be chosen too; the page opens with the first
table: FilePath = (
    ""  # FILE.jsonl of records, one a line, that a model which has learnt to search may search in the chat
)
lookup: Literal["auto", "never"] = "auto"  # whether a model that has learnt it looks into its book before it answers
reward: FilePath = ""  # the out_dir of a reward model, whose score stands under each answer
judged: FilePath = (
    "judged.jsonl"  # what visitors judge in the comparison is added here, pairs for data/prepare_pairs.py
)
port: Annotated[int, Bounds(1, 65535)] = 7860  # of the page
host = "127.0.0.1"  # 0.0.0.0 lets other machines in, with --auth only
auth = os.environ.get("MINIGLM_AUTH", "")  # NAME:PASSWORD that a visitor must give; from there nobody can read it off
share = False  # a public address through gradio's servers, with --auth only
device = "auto"  # auto, cpu, cuda, mps
dtype: WeightDtype = "auto"  # of the weights, auto: as stored; the narrower, the faster on large models
# -----------------------------------------------------------------------------

configure(globals())
refuse(
    not auth and (host not in ("127.0.0.1", "localhost") or share),
    "the page would be open to everybody",
    "set MINIGLM_AUTH=NAME:PASSWORD in the environment (or --auth), or leave --host and --share away",
)
refuse(auth and not all(auth.partition(":")), "--auth is no name and password", "write --auth=NAME:PASSWORD")

# What the tabs do ------------------------------------------------------------
visitors = Visitors()
records = read_table(table) if table else None
models = Models(visitors, out_dir, lora, device, dtype, lookup == "auto")
judge = RewardModel(reward, device) if reward else None


def tool_of(loaded):
    """Where a model may look something up: the table, or its book."""
    return Table(records) if records and loaded.searches else loaded.book


async def reply(request, turns, name, *settings):
    """The box, emptied once; the talk with an answer to its last question; what that rests on; the speed.

    What goes wrong is told in the talk, which goes on.
    """
    yield gr.Textbox("", submit_btn=False, stop_btn=True), turns, "", ""
    try:
        loaded, messages, said = await models.open(name), messages_of(turns), []
        tool = tool_of(loaded)
        async for said, rests_on, speed in answered(visitors, loaded, tool, messages, request, *settings):
            seen = said[-1:] if tool is loaded.book else said  # what was looked up in the book is shown below the talk
            yield gr.skip(), [*turns, *shown(seen)], rests_on, speed
        if judge and said:
            (score,) = await visitors.compute(judge.scores, [[*messages, *said]])
            yield gr.skip(), [*turns, *shown(seen)], rests_on, f"{speed} · {told('score', request)} {score:.2f}"
    except UserError as error:
        yield gr.skip(), [*turns, failed(trouble(error, request))], "", ""


async def ask(request: gr.Request, question, turns, *settings):
    """What stands in the box is answered."""
    async for outputs in reply(request, asked(question, turns), *settings):
        yield outputs


async def ask_card(request: gr.Request, event: gr.EventData, question, turns, *settings):
    """An example of the welcome is answered."""
    async for outputs in reply(request, asked(event.question, turns), *settings):
        yield outputs


async def ask_again(request: gr.Request, event: gr.EventData, question, turns, *settings):
    """An earlier question is answered anew, as it was or as it has been rewritten; what came behind it goes."""
    async for outputs in reply(request, asked(question_of(event), before(turns, event)), *settings):
        yield outputs


def not_blank(request: gr.Request, question, *others):
    """Whether there is a question; the talk stays as it is where there is none."""
    return [gr.validate(bool(question.strip()), told("blank", request)), *[gr.validate(True, "")] * len(others)]


def take_back(event: gr.UndoData, turns):
    """The last question stands in the box again."""
    return question_of(event), before(turns, event), "", ""


async def say_once(question: str) -> AsyncIterator[str]:
    """What the model that the page opens with answers to a question, longer and longer; for clients."""
    messages = [{"role": "user", "content": question}]
    defaults = [0, *(slider.value for slider in chat_settings[1:])]
    async for said, _, _ in answered(visitors, models.first, tool_of(models.first), messages, None, *defaults):
        yield said[-1]["content"]


@tells
async def go_on(request: gr.Request, text, name, *settings):
    """The tab that goes on from a text."""
    async for outputs in written(visitors, await models.open(name), text, *settings):
        yield outputs


@tells
async def compare(request: gr.Request, text, left, right, *settings):
    """The tab that asks two models the same, or one with two settings: both texts and speeds, and what was asked."""
    both, half = [("", ""), ("", "")], len(settings) // 2
    for side, (name, own) in enumerate(((left, settings[:half]), (right, settings[half:]))):
        loaded = await models.open(name)
        async for both[side] in said_to(visitors, loaded, tool_of(loaded), text, *own):
            yield *both[0], *both[1], text


def prefer(which):
    """A function that keeps that the left answer (0) or the right one (1) of a comparison is the better one."""

    @tells
    async def keep(request: gr.Request, question, *answers):
        chosen, rejected = answers[which], answers[1 - which]
        if not question or not chosen.strip() or not rejected.strip() or chosen == rejected:
            raise Trouble("nothing_to_judge")
        pair = {"Question": question, "chosen": chosen, "rejected": rejected}
        try:
            with open(judged, "a", encoding="utf-8") as file:
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
        except OSError as error:
            raise Trouble("not_kept", f"{judged}: {error.strerror}") from error
        yield told("kept_pair", request).format(judged)

    return keep


@tells
async def inside(request: gr.Request, text, chosen, name, *settings):
    """The tab that looks inside: a growing table of what was chosen and what else could have been."""
    async for outputs in looked_inside(visitors, await models.open(name), text, [], request, *settings):
        yield outputs


@tells
async def inside_from(request: gr.Request, event: gr.EventData, text, chosen, name, *settings):
    """Another token of the table is chosen, and the text goes on from there."""
    place, token = map(int, event.index.split(","))
    if place >= len(chosen):
        raise Trouble("gone")
    path = [*chosen[:place], chosen[place]._replace(token=token)]
    async for outputs in looked_inside(visitors, await models.open(name), text, path, request, *settings):
        yield outputs


# The page --------------------------------------------------------------------
def model_box(name, **more):
    """A list to choose a model from."""
    return gr.Dropdown(models.choices, value=name, label=say("model"), elem_classes="model", **more)


cards = examples(models.first)
sides = [models.names[0], (models.names[1:] or models.names)[0]]
chat_settings = settings(*LIVELY if cards is NOVEL else CALM, "chat", 4 if records else 2 if models.first.book else 0)
novel_settings = settings(*LIVELY, "continue")
side_settings = [settings(*CALM if models.chat[name] else LIVELY, side) for side, name in zip(("left", "right"), sides)]
seen_settings = settings(*LIVELY, "inside")
with gr.Blocks(title="MiniGLM", analytics_enabled=False, delete_cache=(60, 60)) as page:
    gr.Markdown(f"# {say('title_novel' if cards is NOVEL else 'title_chat')}")
    with gr.Tab(say("chat"), id="chat"), gr.Row():
        with gr.Column(scale=3, min_width=320):
            chat_model = model_box(models.names[0], elem_id="chat-model")
            with gr.Group(elem_id="talk"):
                welcomed = gr.HTML(say("welcome"), elem_id="welcome", js_on_load=clickable("question", "ask"))
                chatbot = gr.Chatbot(
                    render_markdown=False, editable="user", buttons=["copy", "copy_all"], label=say("talk"),
                    show_label=False, height="48vh", elem_id="chatbot",
                )  # fmt: skip
            box = gr.Textbox(
                label=say("asked"), placeholder=say("asked"), show_label=False, elem_id="question",
                max_length=4000, submit_btn=True, autofocus=True,
            )  # fmt: skip
            speed = gr.Markdown(elem_id="speed")
            render(chat_settings)
        with gr.Column(scale=2, min_width=320, visible=bool(models.first.book)):
            gr.Markdown(say("sources"))
            rests_on = gr.HTML(elem_id="rests-on")
    with gr.Tab(say("continue"), id="continue"):
        model = model_box(models.novel)
        begun = gr.Textbox(NOVEL[0][1], label=say("begun"), max_length=4000, elem_id="beginning")
        gr.Examples([text for _, text in NOVEL], [begun], label=say("examples"))
        text = gr.Textbox(
            label=say("text"), lines=10, max_lines=10, elem_id="continued", buttons=["copy"], render=False
        )
        novel_speed = gr.Markdown(elem_classes="speed", render=False)
        buttons(go_on, [begun, model, *novel_settings], [text, novel_speed], begun, "continue")
        text.render()
        novel_speed.render()
        render(novel_settings)
    with gr.Tab(say("compare"), id="compare"):
        both = gr.Textbox(cards[0][1], label=say("either"), max_length=4000, elem_id="both-asked")
        names, outputs, betters = [], [], []
        for side, name in zip(("left", "right"), sides):
            names.append(model_box(name, elem_id=f"{side}-model", render=False))
            outputs.append(gr.Textbox(label=say("text"), lines=8, max_lines=8, elem_id=f"{side}-answer", render=False))
            outputs.append(gr.Markdown(elem_classes="speed", render=False))
        compared = gr.State("")
        inputs = [both, *names, *side_settings[0], *side_settings[1]]
        buttons(compare, inputs, [*outputs, compared], both, "compare")
        with gr.Row():
            for side in (0, 1):
                with gr.Column(min_width=300):
                    for each in (names[side], *outputs[2 * side : 2 * side + 2]):
                        each.render()
                    better = gr.Button(say(("left_better", "right_better")[side]), size="sm", elem_id=f"better-{side}")
                    betters.append(better)
                    render(side_settings[side])
        kept = gr.Markdown(elem_id="kept-pair")
        for side, better in enumerate(betters):
            answers = [compared, outputs[0], outputs[2]]
            better.click(prefer(side), answers, [kept], api_visibility="private", show_progress="hidden")
    with gr.Tab(say("inside"), id="inside"):
        gr.Markdown(say("inside_help"))
        model = model_box(models.novel, elem_id="inside-model")
        looked_at = gr.Textbox(NOVEL[0][1], label=say("either"), max_length=4000, elem_id="looked-at")
        with gr.Row():
            kept_k = gr.Slider(1, 50, 3, step=1, label="top-k", info=say("kept_k_info"))
            kept_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="top-p", info=say("kept_p_info"))
        picks = clickable("index", "choose")
        rows = gr.HTML(elem_classes="table", elem_id="inside-table", js_on_load=picks, render=False)
        chosen = gr.State([])
        inputs = [looked_at, chosen, model, kept_k, kept_p, *seen_settings]
        buttons(inside, inputs, [rows, chosen], looked_at, "inside", (rows.choose, inside_from))
        rows.render()
        render(seen_settings)

    # What the chat does; and what the browser keeps.
    quietly: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    inputs, outputs = [box, chatbot, chat_model, *chat_settings], [box, chatbot, rests_on, speed]
    asking: dict[str, Any] = quietly | {"inputs": inputs, "outputs": outputs}
    submitted = box.submit(ask, **asking, trigger_mode="once", validator=not_blank)
    carded = welcomed.ask(ask_card, **asking, trigger_mode="once")
    again = gr.on([chatbot.retry, chatbot.edit], ask_again, **asking, cancels=[submitted, carded])
    box.stop(None, cancels=[submitted, carded, again], api_visibility="private")
    for ended in (submitted, carded, again):
        ended.then(lambda: gr.Textbox(submit_btn=True, stop_btn=False), None, [box], **quietly)
    undone = chatbot.undo(take_back, [chatbot], outputs, **quietly)
    cleared = chatbot.clear(lambda: ("", ""), None, [rests_on, speed], **quietly)
    kept_talks(page, chatbot, box, [rests_on, speed], [submitted, carded, again, undone, cleared])
    remember(page, [*chat_settings, *novel_settings, *sum(side_settings, []), kept_k, kept_p, *seen_settings])
    gr.api(say_once, api_name="chat")

page.queue(default_concurrency_limit=None)
# Seconds between looks for work, and for progress bars, of which there are none: gradio's take 7 % of a core.
page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free = 0.05, 1
try:
    page.launch(
        app_kwargs={"routes": [*ROUTES, *Protocol(models, tool_of, auth).routes]},
        server_name=host,
        server_port=port,
        share=share,
        auth=tuple(auth.split(":", 1)) if auth else None,
        i18n=languages(welcome=welcome(models.first, cards)),
        css=CSS,
        head=script(models.paths),
        theme=THEME,
        footer_links=[],
        prevent_thread_lock=True,
    )
except OSError as error:
    raise UserError(f"port {port} is taken or not allowed", "choose another --port") from error
threading.Event().wait()  # until it is stopped; gradio would look ten times a second whether it is
