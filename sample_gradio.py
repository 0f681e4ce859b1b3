"""The page: talk to a trained model in the browser, let it go on from a text, compare two models, look inside one.

python sample_gradio.py --out_dir=out/demo-chat     # then open http://127.0.0.1:7860
python sample_gradio.py --out_dir=out/demo-pretrain --lora=out/lora-a --lora=out/lora-b      # adapters on one model
"""

import asyncio
import functools
import html
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

from miniglm.proxy import bypass_proxies

# Before the import: nothing is reported to anybody; and httpx, which gradio starts then, would end at a SOCKS proxy.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
bypass_proxies("*")

import gradio as gr

from configurator import Bounds, FilePath, configure
from miniglm import origin
from miniglm.chat import (
    Blank,
    TooLong,
    answer_with,
    answered,
    beams,
    grow,
    look_inside,
    prompt_ids,
    recent_turns,
    sources,
    stream,
    unborne,
)
from miniglm.checkpoint import CHECKPOINT, locate
from miniglm.conversation import MARKERS
from miniglm.decoding import Sampling
from miniglm.errors import UserError, refuse
from miniglm.files import read_json
from miniglm.machine import WeightDtype
from miniglm.page import DOWNLOAD, STYLE, say, told
from miniglm.search import Table, read_table

# -----------------------------------------------------------------------------
out_dir: FilePath = "out/demo-chat"  # the model that the page opens with; those beside it can be chosen there
lora: list[FilePath] = []  # directories of adapters for it, which can be chosen too; the page opens with the first
table: FilePath = (
    ""  # FILE.jsonl of records, one a line, that a model which has learnt to search may search in the chat
)
lookup: Literal["auto", "never"] = "auto"  # whether a model that has learnt it looks into its book before it answers
port: Annotated[int, Bounds(1, 65535)] = 7860  # of the page
host = "127.0.0.1"  # 0.0.0.0 lets other machines in, with --auth only
auth = os.environ.get("MINIGLM_AUTH", "")  # NAME:PASSWORD that a visitor must give; from there nobody can read it off
share = False  # a public address through gradio's servers, with --auth only
device = "auto"  # auto, cpu, cuda, mps
dtype: WeightDtype = "float32"  # of the weights; the narrower, the faster on large models
# -----------------------------------------------------------------------------

CHAT_EXAMPLES = [
    "你好！",
    "赵云是谁？",
    "夏侯渊死在谁手里？",
    "草船借箭是哪一回？",
    "第一百零六回讲什么？",
]
NOVEL_EXAMPLES = ["却说曹操", "次日，玄德引关、张", "孔明曰：“"]
WARNING = "⚠ "  # stands before what went wrong
UPDATES = 20  # of pages in a second, all visitors' together: each costs as much as some tokens

configure(globals())
refuse(
    not auth and (host not in ("127.0.0.1", "localhost") or share),
    "the page would be open to everybody",
    "set MINIGLM_AUTH=NAME:PASSWORD in the environment (or --auth), or leave --host and --share away",
)
refuse(auth and not all(auth.partition(":")), "--auth is no name and password", "write --auth=NAME:PASSWORD")


# Computes for all visitors, a token each in turn. No other thread may: OpenMP would have a team of threads for each of
# them, and three times slower ones, since they then wait for each other asleep.
worker = ThreadPoolExecutor(1)


@functools.lru_cache(maxsize=4)
def opened(name):
    """The model in a directory, or out_dir's with one of the adapters, a Loaded that is kept for the next time."""
    looks = lookup == "auto"
    if name in lora:
        return origin.load(out_dir, device, dtype, name, looks)
    return origin.load(name, device, dtype, lookup=looks)


def is_chat(name):
    """Whether the model in a directory was fine-tuned on conversations; None where config.json cannot be read."""
    if name in given:
        return worker.submit(opened, name).result().chat
    try:
        return bool(read_json(locate(name)[0] / "config.json", "train it again").get("chat"))
    except UserError:
        return None


records = read_table(table) if table else None
given = [*lora, out_dir]
for name in given:  # what is wrong with a model is told before the page opens
    worker.submit(opened, name).result()
first = worker.submit(opened, given[0]).result()  # the model that the page opens with
folder, _ = locate(out_dir)
beside = sorted(str(path.parent) for path in folder.parent.glob(f"*/{CHECKPOINT}"))
origin_of_first = locate(str(first.settings.get("ckpt_dir")))[0]
beside.sort(key=lambda name: Path(name) != origin_of_first)  # what it was fine-tuned from comes first
named = set(map(Path, given))
models = [*given, *(name for name in beside if Path(name) not in named and is_chat(name) is not None)]
novel_model = next((name for name in models if not is_chat(name)), out_dir)
visitors = set()  # the generators whose items are being shown at the moment


async def compute(function, *arguments):
    """Call a function in its turn."""
    return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)


def trouble(error, request):
    """What a UserError says to a visitor, in their language."""
    if isinstance(error, Blank | TooLong):
        return told("blank" if isinstance(error, Blank) else "too_long", request)
    return told("failed", request) + str(error)


def shows_errors(function):
    """A tab's function whose UserErrors are shown on the page; what stands there stays."""

    async def shown(request: gr.Request, *arguments):
        try:
            async for outputs in function(*arguments):
                yield outputs
        except UserError as error:
            raise gr.Error(trouble(error, request), duration=10, print_exception=False) from error

    return shown


async def gathered(generator):
    """The items of a generator, each computed in its turn, in lists, not oftener than pages are updated."""
    visitors.add(generator)
    items, updated, end = [], 0.0, object()
    try:
        while (item := await compute(next, generator, end)) is not end:
            items.append(item)
            if time.perf_counter() - updated > len(visitors) / UPDATES:
                yield items
                items, updated = [], time.perf_counter()
        if items:
            yield items
    finally:  # also where the visitor has pressed stop or closed the page
        visitors.discard(generator)


def sampling_of(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, seed):
    """The sliders' values as a Sampling."""
    seed = int(seed or 0) or None
    return Sampling(temperature, int(top_k), top_p, min_p, repetition_penalty, int(no_repeat_ngram_size), seed)


async def written(name, prompt, turns, num_beams, length_penalty, max_new_tokens, *sampling):
    """What the model in a directory says to a prompt, longer and longer: (text, its speed)."""
    loaded = await compute(opened, name)
    if not loaded.chat:
        prompt = prompt[-1]["content"] if isinstance(prompt, list) else prompt
    elif isinstance(prompt, list):
        prompt = recent_turns(loaded, prompt, int(turns))
    ids = await compute(prompt_ids, loaded, prompt)
    text, tokens, started = "" if loaded.chat else prompt, 0, time.perf_counter()
    if num_beams > 1:
        found = beams(loaded, ids, int(max_new_tokens), sampling_of(*sampling), int(num_beams), length_penalty)
        async for steps in gathered(found):
            if steps[-1]:
                text += loaded.tokenizer.decode(steps[-1][0])
            tokens += len(steps)
            yield text, speed_of(tokens, started)
        return
    async for steps in gathered(stream(loaded, [ids], int(max_new_tokens), sampling_of(*sampling))):
        text += "".join(piece for (piece,) in steps)
        tokens += len(steps)
        yield text, speed_of(tokens, started)


def speed_of(tokens, started):
    """The line that shows how fast an answer came."""
    return f"{tokens} token, {tokens / max(1e-9, time.perf_counter() - started):.0f} token/s"


async def reply(text, history, request: gr.Request, name, *settings):
    """The chat tab: `answer`; what went wrong is told in the talk, which goes on."""
    try:
        async for outputs in answer(text, history, name, *settings):
            yield outputs
    except UserError as error:
        yield WARNING + trouble(error, request), "", ""


async def answer(text, history, name, *settings):
    """The answer to `text`, longer and longer, the speed, and what the answer rests on."""
    loaded = await compute(opened, name)
    tool = Table(records) if records and loaded.searches else loaded.book
    messages = [*messages_of(history), {"role": "user", "content": text}]
    if not tool or settings[1] > 1:  # beams look nothing up
        async for said, speed in written(name, messages, *settings):
            yield said, speed, ""
        return
    async for added, speed, places in searched(loaded, tool, messages, *settings):
        if tool is loaded.book:
            said = added[-1]["content"] if added[-1]["role"] == "assistant" else "…"
            rests_on = "" if said == "…" else sources_html(tool, text, said, places)
            yield said, speed, rests_on
        else:
            yield turns_of(added), speed, ""


async def searched(loaded, tool, messages, turns, num_beams, length_penalty, max_new_tokens, *sampling):
    """What a model that may look things up says, a list of messages, with the speed and the places found in a book."""
    shown, added, places = recent_turns(loaded, messages, int(turns)), [], ()
    tokens, started = 0, time.perf_counter()
    async for steps in gathered(answer_with(tool, loaded, [shown], int(max_new_tokens), sampling_of(*sampling))):
        for _, role, piece, count, found in (said for step in steps for said in step):
            grow(added, role, piece)
            places, tokens = found or places, tokens + count
        if added:
            yield added, speed_of(tokens, started), places


def sources_html(book, question, answer, places):
    """What an answer rests on, as HTML: each place with its chapter, which a click opens there; what is quoted marked.

    What the book does not bear out is told. places: that were looked up.
    """
    quotes, found = re.findall("「(.+?)」", answer), sources(book, question, answer, places)
    rows = [f"<p>⚠ {html.escape(word)}</p>" for word in unborne(book, question, answer, found)]
    for source in found:
        begin, chapter, end = book.passages.around(source.number)
        quoted = re.escape(next((quote for quote in quotes if quote in source.text), ""))
        text = marked(source.text.lstrip("”’"), quoted)
        place = f"{html.escape(begin)}<mark>{html.escape(chapter)}</mark>{html.escape(end)}"
        mark = "✓ " if source.quoted else ""
        rows.append(
            "<details ontoggle=\"this.querySelector('.chapter mark').scrollIntoView({block:'center'})\">"
            f"<summary>{mark}"
            f"<b>{html.escape(source.where)}</b> {text}</summary><div class='chapter'>{place}</div></details>"
        )
    return f"<div class='sources'>{''.join(rows)}</div>" if rows else ""


def marked(text, pattern):
    """A text as HTML in which what a pattern finds is marked."""
    if not pattern:
        return html.escape(text)
    return re.sub(html.escape(pattern), lambda match: f"<mark>{match[0]}</mark>", html.escape(text))


def turns_of(messages):
    """What the assistant did, as turns of the chatbot: a search with what it found is one, its title the call."""
    turns = []
    for message in messages:
        if message["role"] == "search":
            turns.append(
                {"role": "assistant", "content": "…", "metadata": {"title": MARKERS["search"] + message["content"]}}
            )
        elif message["role"] == "return":
            turns[-1]["content"] = message["content"]
        else:
            turns.append(message)
    return turns


def messages_of(history):
    """The conversation, a list of messages, that the chatbot's turns show, without what went wrong."""
    messages = []
    for turn in history:
        title, content = (turn.get("metadata") or {}).get("title") or "", plain(turn["content"])
        if content.startswith(WARNING):
            messages.pop()
        elif title.startswith(MARKERS["search"]):
            messages.append({"role": "search", "content": html.unescape(title).removeprefix(MARKERS["search"])})
            messages.append({"role": "return", "content": content})
        else:
            messages.append({"role": turn["role"], "content": content})
    return messages


async def go_on(text, name, *settings):
    """The tab that goes on from a text."""
    async for longer, speed in written(name, text, 0, *settings):
        yield longer, speed


async def compare(text, left, right, *settings):
    """The tab that asks two models the same, or one with two settings: both texts and speeds."""
    shown, half = [("", ""), ("", "")], len(settings) // 2
    for side, (name, own) in enumerate(((left, settings[:half]), (right, settings[half:]))):
        async for shown[side] in written(name, text, 0, *own):
            yield *shown[0], *shown[1]


async def inside(text, name, kept_k, kept_p, num_beams, length_penalty, max_new_tokens, *sampling):
    """The tab that looks inside: a growing table of what was chosen and what else could have been."""
    loaded = await compute(opened, name)
    ids = await compute(prompt_ids, loaded, text)
    rows, longest = "", min(int(max_new_tokens), 100)
    seen = look_inside(loaded, ids, longest, int(kept_k), kept_p, sampling_of(*sampling))
    async for steps in gathered(seen):
        rows += "".join(map(inside_row, steps))
        yield f"<table class='inside'>{rows}</table>"


def inside_row(step):
    """One line of the table: the chosen token, then the candidates with bars and marks."""
    chosen, candidates = step
    cells = ""
    for place, each in enumerate(candidates):
        kept = {"greedy": place == 0, "top-k": each.top_k, "top-p": each.top_p}
        marks = "".join(f"<i>{mark}</i>" for mark, yes in kept.items() if yes)
        cells += (
            f"<td class='{'taken' if each.text == chosen else ''}' style='--share:{100 * each.probability:.1f}%'>"
            f"<b>{visible(each.text)}</b> {100 * each.probability:.1f}%<br>{marks}</td>"
        )
    return f"<tr><th>{visible(chosen)}</th>{cells}</tr>"


def visible(text):
    """A token as HTML, with line ends and spaces that can be seen."""
    return html.escape(text.replace("\n", "↵").replace(" ", "␣"))


def plain(content):
    """The text of a message as gradio keeps it: a text, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)


def as_jsonl(history):
    """The answered questions of a conversation as a line that data/prepare_sft.py reads."""
    messages = sum(answered(messages_of(history)), [])
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n" if messages else ""


def example_questions():
    """Well-known questions; about another book those that its model was trained on, where they are at hand."""
    dataset = str(first.settings.get("dataset"))
    if not first.chat:
        return NOVEL_EXAMPLES
    try:
        with open(Path("data", dataset, "questions.jsonl"), encoding="utf-8") as file:
            records = [json.loads(next(file)) for _ in range(5)]
            asked = [each["messages"][0]["content"] if "messages" in each else each["Question"] for each in records]
    except (OSError, StopIteration, ValueError, LookupError, TypeError, RecursionError):
        return CHAT_EXAMPLES
    return CHAT_EXAMPLES if dataset == "sanguo_sft" else asked


def as_html(turn):
    """A turn of the chatbot with its text, and its title where it is a search, escaped."""
    escaped = {**turn, "content": html.escape(plain(turn["content"]), quote=False)}
    title = (turn.get("metadata") or {}).get("title")
    return escaped | {"metadata": {**turn["metadata"], "title": html.escape(title, quote=False)}} if title else escaped


def show_as_text(chatbot):
    """Let a gr.Chatbot show what is said as text: it would show HTML tags as HTML. Gives the chatbot."""
    to_browser, from_browser = chatbot.postprocess, chatbot.preprocess

    def postprocess(value):
        return to_browser([as_html(turn) for turn in value or []])

    def preprocess(payload):
        return [
            {**turn, "content": [{"type": "text", "text": html.unescape(plain(turn["content"]))}]}
            for turn in from_browser(payload)
        ]

    chatbot.postprocess, chatbot.preprocess = postprocess, preprocess
    return chatbot


def not_blank(text, request: gr.Request):
    """Whether there is a question; the talk stays as it is where there is none."""
    return gr.validate(bool(text.strip()), told("blank", request))


def model_box(name, **more):
    """A list to choose a model from."""
    return gr.Dropdown(models, value=name, label=say("model"), **more)


def buttons(function, inputs, outputs, box, prefix):
    """A button that starts an action and one that stops it; Enter in `box` starts it too."""
    with gr.Row():
        start = gr.Button(say("go"), variant="primary", elem_id=f"{prefix}-go")
        stop = gr.Button(say("stop"), elem_id=f"{prefix}-stop")
    running = gr.on([start.click, box.submit], shows_errors(function), inputs, outputs, api_visibility="private")
    stop.click(None, cancels=[running], api_visibility="private")


def settings(temperature, top_p, prefix, turns=None):
    """The sliders of a tab, not rendered, in the order of the arguments of `written`.

    turns: how many earlier ones are shown; None for a tab that is no talk, which has no slider for that.
    """

    def slider(least, most, value, step, label, info, name=None):
        name = f"{prefix}-{name}" if name else None
        return gr.Slider(least, most, value, step=step, label=label, info=say(info), elem_id=name, render=False)

    earlier = [] if turns is None else [slider(0, 4, turns, 1, say("turns"), "turns_info")]
    return [
        *earlier,
        slider(1, 8, 1, 1, say("beams"), "beams_info"),
        slider(-2, 2, 1, 0.5, say("length"), "length_info"),
        slider(8, 512, 200, 8, say("longest"), "longest_info"),
        slider(0, 1.5, temperature, 0.05, say("temperature"), "temperature_info", "temperature"),
        slider(0, 200, 0, 1, "top-k", "top_k_info"),
        slider(0.05, 1, top_p, 0.05, "top-p", "top_p_info", "top-p"),
        slider(0, 1, 0, 0.01, "min-p", "min_p_info"),
        slider(1, 2, 1, 0.05, say("penalty"), "penalty_info"),
        slider(0, 8, 0, 1, say("ngram"), "ngram_info"),
        gr.Number(0, minimum=0, maximum=2**53 - 1, precision=0, label=say("seed"), info=say("seed_info"), render=False),
    ]


def render(sliders):
    """Show the settings of a tab: two in sight, the others folded."""
    in_sight = sliders[-7], sliders[-5]  # the temperature and top-p
    with gr.Row():
        for slider in in_sight:
            slider.render()
    with gr.Accordion(say("more"), open=False), gr.Row():
        for slider in sliders:
            if slider not in in_sight:
                slider.render()


CALM, LIVELY = (0, 1), (0.8, 0.9)  # temperature and top-p: the likeliest each time; bold, but not wild
title = "MiniGLM · 与书对话" if first.chat else "MiniGLM · 续写"
with gr.Blocks(title=title, analytics_enabled=False) as page:
    gr.Markdown(f"# {title}")
    with gr.Tab(say("chat"), id="chat"):
        chat_model = model_box(models[0], elem_id="chat-model")
        sliders = settings(*CALM if first.chat else LIVELY, "chat", turns=4 if records else 2 if first.book else 0)
        speed = gr.Markdown(elem_id="speed", render=False)
        rests_on = gr.HTML(elem_id="rests-on", render=False)
        chatbot = gr.Chatbot(
            render_markdown=False,
            buttons=["copy", "copy_all"],
            show_label=False,
            height="48vh",
            elem_id="chatbot",
            render=False,
        )
        gr.ChatInterface(
            reply,
            chatbot=show_as_text(chatbot),
            textbox=gr.Textbox(
                label=say("question"),
                placeholder=say("question"),
                show_label=False,
                elem_id="question",
                max_length=4000,
                submit_btn=True,
                stop_btn=True,
                render=False,
            ),
            additional_inputs=[chat_model, *sliders],
            additional_inputs_accordion=gr.Accordion(say("settings"), open=False, render=False),
            additional_outputs=[speed, rests_on],
            examples=[[question] for question in example_questions()],
            examples_label=say("examples"),
            run_examples_on_click=True,
            cache_examples=False,
            flagging_mode="never",
            validator=not_blank,
            api_name="chat",
        )
        rests_on.render()
        speed.render()
        saved = gr.Textbox(visible=False)
        gr.Button(say("save"), size="sm", elem_id="save").click(
            as_jsonl, [chatbot], [saved], api_visibility="private"
        ).then(None, [saved], js=DOWNLOAD)
    with gr.Tab(say("continue"), id="continue"):
        name = model_box(novel_model)
        box = gr.Textbox(NOVEL_EXAMPLES[0], label=say("beginning"), max_length=4000, elem_id="beginning")
        text = gr.Textbox(label=say("text"), lines=10, elem_id="continued", buttons=["copy"], render=False)
        speed, sliders = gr.Markdown(elem_classes="speed", render=False), settings(*LIVELY, "continue")
        buttons(go_on, [box, name, *sliders], [text, speed], box, "continue")
        text.render()
        speed.render()
        render(sliders)
        gr.Examples([[start] for start in NOVEL_EXAMPLES], [box], label=say("examples"))
    with gr.Tab(say("compare"), id="compare"):
        box = gr.Textbox(example_questions()[0], label=say("question"), max_length=4000, elem_id="both-asked")
        names, outputs, sides = [], [], []
        for side, name in (("left", models[0]), ("right", (models[1:] or models)[0])):
            names.append(model_box(name, elem_id=f"{side}-model", render=False))
            outputs.append(gr.Textbox(label=say("text"), lines=6, elem_id=f"{side}-answer", render=False))
            outputs.append(gr.Markdown(elem_classes="speed", render=False))
            sides.append(settings(*CALM if is_chat(name) else LIVELY, side))
        buttons(compare, [box, *names, *sides[0], *sides[1]], outputs, box, "compare")
        with gr.Row():
            for number, sliders in enumerate(sides):
                with gr.Column():
                    names[number].render()
                    for output in outputs[2 * number : 2 * number + 2]:
                        output.render()
                    render(sliders)
    with gr.Tab(say("inside"), id="inside"):
        gr.Markdown(say("inside_help"))
        name = model_box(models[0])
        box = gr.Textbox(example_questions()[0], label=say("question"), max_length=4000, elem_id="looked-at")
        with gr.Row():
            kept_k = gr.Slider(1, 50, 3, step=1, label="top-k", info=say("kept_k_info"))
            kept_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="top-p", info=say("kept_p_info"))
        rows = gr.HTML(elem_classes="table", elem_id="inside-table", render=False)
        sliders = settings(*CALM, "inside")
        buttons(inside, [box, name, kept_k, kept_p, *sliders], [rows], box, "inside")
        rows.render()
        render(sliders)

page.queue(default_concurrency_limit=None)
fonts = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
try:
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=tuple(auth.split(":", 1)) if auth else None,
        i18n=say,
        css=STYLE,
        theme=gr.themes.Soft(font=fonts, font_mono=["monospace"]),  # no web fonts: the page works without a network
        footer_links=[],
        quiet=False,
    )
except OSError as error:
    raise UserError(f"port {port} is taken or not allowed", "choose another --port") from error
