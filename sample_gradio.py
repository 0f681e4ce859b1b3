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

TEXTS = {  # what the page says, by the browser's language
    "chat": ("对话", "Chat"),
    "continue": ("续写", "Go on"),
    "compare": ("对比", "Compare"),
    "inside": ("看里面", "Look inside"),
    "settings": ("设置", "Settings"),
    "model": ("模型", "Model"),
    "temperature": ("温度 temperature", "Temperature"),
    "temperature_info": ("0 每次取最可能的词；越高越大胆", "0 takes the likeliest token each time; higher is bolder"),
    "top_k_info": ("只在最可能的 k 个词里抽；0 不限", "draw from the k likeliest tokens; 0 is no limit"),
    "top_p_info": ("只在概率之和达到 p 的词里抽；1 不限", "draw from the fewest tokens with a share p; 1 is no limit"),
    "min_p_info": ("不抽概率低于最可能的词的 p 倍的；0 不限", "drop tokens below p times the likeliest; 0 is no limit"),
    "penalty": ("重复惩罚 repetition penalty", "Repetition penalty"),
    "penalty_info": ("大于 1 时少说已说过的词；1 不罚", "above 1 says less of what was said; 1 is off"),
    "ngram": ("不许重复 no-repeat n-gram", "No-repeat n-gram"),
    "ngram_info": ("这么多个词连着不许再出现；0 不限", "never so many tokens in a row twice; 0 is no limit"),
    "beams": ("束搜索 beams", "Beams"),
    "beams_info": ("大于 1：找最可能的整段，不再抽，也不逐字显示", "above 1: the likeliest text, shown at its end"),
    "length": ("长短 length penalty", "Length penalty"),
    "length_info": ("束搜索时大于 0 偏长，小于 0 偏短", "of beams: above 0 favours long texts, below 0 short ones"),
    "longest": ("最长 max new tokens", "Max new tokens"),
    "longest_info": ("一次最多写多少个 token", "written at most in one go"),
    "seed": ("种子 seed", "Seed"),
    "seed_info": ("同样的种子和设置，同样的话；0 每次不同", "the same seed gives the same text; 0 another each time"),
    "turns": ("带上前几轮 turns", "Earlier turns"),
    "turns_info": ("把前几轮问答也给模型看", "shown to the model, too"),
    "question": ("问一句，或写一句开头", "A question, or the beginning of a text"),
    "beginning": ("开头", "Beginning"),
    "text": ("写出来的", "What it says"),
    "go": ("开始", "Go"),
    "stop": ("停", "Stop"),
    "save": ("存下对话 JSONL", "Save the conversation (JSONL)"),
    "examples": ("例子", "Examples"),
    "inside_help": (
        "每一行是模型写下的一个词，后面是当时最可能的五个和各自的概率（温度为 0 时按 1 算）。"
        "标记：greedy 取的那个，top-k、top-p 各自会留下的。最多看 100 个词，不用束搜索。",
        "Each line is a token that the model wrote, and the five likeliest at that moment with their probabilities "
        "(at temperature 1 where it is 0). Marked: which one greedy takes, which ones top-k and top-p would each keep. "
        "At most 100 tokens, without beams.",
    ),
    "kept_k_info": ("标出这个 k 会留下的", "marks what this k would keep"),
    "kept_p_info": ("标出这个 p 会留下的", "marks what this p would keep"),
}  # fmt: skip
CHAT_EXAMPLES = [
    "你好！",
    "赵云是谁？",
    "夏侯渊死在谁手里？",
    "草船借箭是哪一回？",
    "第一百零六回讲什么？",
]
NOVEL_EXAMPLES = ["却说曹操", "次日，玄德引关、张", "孔明曰：“"]
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
    """Call a function in its turn; a UserError is shown on the page."""
    try:
        return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)
    except UserError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error


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


async def reply(text, history, name, *settings):
    """The chat tab: the answer to `text`, longer and longer, the speed, and what the answer rests on."""
    loaded = await compute(opened, name)
    tool = Table(records) if records and loaded.searches else loaded.book
    messages = [*messages_of(history), {"role": "user", "content": text}]
    if not tool or settings[1] > 1:  # beams look nothing up
        async for answer, speed in written(name, messages, *settings):
            yield answer, speed, ""
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
        text = marked(source.text, quoted)
        place = f"{html.escape(begin)}<mark>{html.escape(chapter)}</mark>{html.escape(end)}"
        mark = "✓ " if source.quoted else ""
        rows.append(
            f"<details ontoggle=\"this.querySelector('mark').scrollIntoView({{block:'center'}})\"><summary>{mark}"
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
    """The conversation, a list of messages, that the chatbot's turns show."""
    messages = []
    for turn in history:
        title, content = (turn.get("metadata") or {}).get("title") or "", plain(turn["content"])
        if title.startswith(MARKERS["search"]):
            messages.append({"role": "search", "content": html.unescape(title).removeprefix(MARKERS["search"])})
            messages.append({"role": "return", "content": content})
        else:
            messages.append({"role": turn["role"], "content": content})
    return messages


async def go_on(text, name, *settings):
    """The tab that goes on from a text."""
    async for longer, speed in written(name, text, *settings):
        yield longer, speed


async def compare(text, left, right, *settings):
    """The tab that asks two models the same: both texts and speeds."""
    shown = [("", ""), ("", "")]
    for side, name in enumerate((left, right)):
        async for shown[side] in written(name, text, *settings):
            yield *shown[0], *shown[1]


async def inside(text, name, kept_k, kept_p, turns, num_beams, length_penalty, max_new_tokens, *sampling):
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


say = gr.I18n(
    **{locale: {key: zh for key, (zh, _) in TEXTS.items()} for locale in ("zh-CN", "zh-TW", "zh")},
    en={key: en for key, (_, en) in TEXTS.items()},
)
STYLE = """
.inside { border-collapse: collapse; font-size: 14px; white-space: nowrap }
.inside th { text-align: left; padding: 2px 10px; font-size: 16px; border: 1px solid #8884 !important }
.inside td { border: 1px solid #8884; padding: 2px 6px; min-width: 76px; line-height: 1.3;
             background: linear-gradient(to right, #7c6cf040 var(--share), transparent var(--share)) }
.inside td.taken { outline: 2px solid #7c6cf0; outline-offset: -2px }
.inside i { font-style: normal; font-size: 11px; margin-right: 4px; padding: 0 3px; border-radius: 3px;
            background: #8883 }
.table { overflow-x: auto }
.sources summary { cursor: pointer; padding: 2px 0; line-height: 1.5 }
.sources b { font-weight: 600; margin-right: 4px }
.sources mark { background: #ffe08a; color: inherit; padding: 0 1px }
.sources .chapter { max-height: 240px; overflow-y: auto; white-space: pre-wrap; border-left: 3px solid #8884;
                    margin: 4px 0 8px; padding: 4px 10px; line-height: 1.7 }
#speed, .speed { min-height: 1.6em }
"""
DOWNLOAD = """line => { if (!line) return;
const link = document.createElement("a");
link.href = URL.createObjectURL(new Blob([line], {type: "application/jsonl"}));
link.download = "conversation.jsonl"; link.click() }"""


def model_box(name, **more):
    """A list to choose a model from."""
    return gr.Dropdown(models, value=name, label=say("model"), **more)


def buttons(function, inputs, outputs, box, prefix):
    """A button that starts an action and one that stops it; Enter in `box` starts it too."""
    with gr.Row():
        start = gr.Button(say("go"), variant="primary", elem_id=f"{prefix}-go")
        stop = gr.Button(say("stop"), elem_id=f"{prefix}-stop")
    running = gr.on([start.click, box.submit], function, inputs, outputs, api_visibility="private")
    stop.click(None, cancels=[running], api_visibility="private")


earlier = 4 if records else 2 if first.book else 0
warmth = 0 if first.chat else 0.8
title = "MiniGLM · 与书对话" if first.chat else "MiniGLM · 续写"
with gr.Blocks(title=title, analytics_enabled=False) as page:
    gr.Markdown(f"# {title}")
    with gr.Accordion(say("settings"), open=False, elem_id="settings"), gr.Row():
        sliders = [
            gr.Slider(
                0, 4, 4 if records else 2 if first.book else 0, step=1, label=say("turns"), info=say("turns_info")
            ),
            gr.Slider(1, 8, 1, step=1, label=say("beams"), info=say("beams_info")),
            gr.Slider(-2, 2, 1, step=0.5, label=say("length"), info=say("length_info")),
            gr.Slider(8, 512, 200, step=8, label=say("longest"), info=say("longest_info")),
            gr.Slider(0, 1.5, warmth, step=0.05, label=say("temperature"), info=say("temperature_info")),
            gr.Slider(0, 200, 0, step=1, label="top-k", info=say("top_k_info")),
            gr.Slider(0.05, 1, 1, step=0.05, label="top-p", info=say("top_p_info")),
            gr.Slider(0, 1, 0, step=0.01, label="min-p", info=say("min_p_info")),
            gr.Slider(1, 2, 1, step=0.05, label=say("penalty"), info=say("penalty_info")),
            gr.Slider(0, 8, 0, step=1, label=say("ngram"), info=say("ngram_info")),
            gr.Number(0, minimum=0, maximum=2**53 - 1, precision=0, label=say("seed"), info=say("seed_info")),
        ]
    with gr.Tab(say("chat"), id="chat"):
        chat_model = model_box(models[0], elem_id="chat-model")
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
                placeholder=say("question"),
                show_label=False,
                elem_id="question",
                max_length=4000,
                submit_btn=True,
                stop_btn=True,
                render=False,
            ),
            additional_inputs=[chat_model, *sliders],
            additional_outputs=[speed, rests_on],
            examples=[[question] for question in example_questions()],
            examples_label=say("examples"),
            run_examples_on_click=True,
            cache_examples=False,
            flagging_mode="never",
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
        text = gr.Textbox(label=say("text"), lines=10, elem_id="continued", buttons=["copy"])
        speed = gr.Markdown(elem_classes="speed")
        buttons(go_on, [box, name, *sliders], [text, speed], box, "continue")
        gr.Examples([[start] for start in NOVEL_EXAMPLES], [box], label=say("examples"))
    with gr.Tab(say("compare"), id="compare"):
        box = gr.Textbox(example_questions()[0], label=say("question"), max_length=4000, elem_id="both-asked")
        names, outputs = [], []
        with gr.Row():
            for side, name in (("left", models[0]), ("right", (models[1:] or models)[0])):
                with gr.Column():
                    names.append(model_box(name, elem_id=f"{side}-model"))
                    outputs.append(gr.Textbox(label=say("text"), lines=6, elem_id=f"{side}-answer"))
                    outputs.append(gr.Markdown(elem_classes="speed"))
        buttons(compare, [box, *names, *sliders], outputs, box, "compare")
    with gr.Tab(say("inside"), id="inside"):
        gr.Markdown(say("inside_help"))
        name = model_box(models[0])
        box = gr.Textbox(example_questions()[0], label=say("question"), max_length=4000, elem_id="looked-at")
        with gr.Row():
            kept_k = gr.Slider(1, 50, 3, step=1, label="top-k", info=say("kept_k_info"))
            kept_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="top-p", info=say("kept_p_info"))
        rows = gr.HTML(elem_classes="table", elem_id="inside-table")
        buttons(inside, [box, name, kept_k, kept_p, *sliders], [rows], box, "inside")

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
