"""The chat page: talk to a trained model in the browser, or let it go on from a text.

python sample_gradio.py --out_dir=out/demo-chat     # then open http://127.0.0.1:7860
"""

import html
import json
import os
import time
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: nothing is reported to anybody

import gradio as gr

from checkpoint import load_model
from configurator import configure
from errors import UserError, require
from generation import prompt_ids, stream
from machine import WEIGHT_DTYPES

# -----------------------------------------------------------------------------
out_dir = "out/demo-chat"  # the trained model
port = 7860  # of the page
host = "127.0.0.1"  # 0.0.0.0 lets other machines in, with --auth only
auth = ""  # NAME:PASSWORD that a visitor must give
share = False  # a public address through gradio's servers, with --auth only
device = "auto"  # auto, cpu, cuda, mps
dtype = "float32"  # of the weights: float32, bfloat16, float16 or int8; the narrower, the faster on large models
# -----------------------------------------------------------------------------

CHAT_EXAMPLES = [
    "张飞字什么？",
    "谁字孔明？",
    "赵云最早在第几回出现？",
    "第一百零六回的回目是什么？",
    "哪一句最先写到貂蝉？",
]
NOVEL_EXAMPLES = ["却说曹操", "次日，玄德引关、张", "孔明曰：“"]

configure(globals(), limits={"port": (1, 65535)}, choices={"dtype": WEIGHT_DTYPES})
require(
    auth or host in ("127.0.0.1", "localhost") and not share,
    "the page would be open to everybody",
    "set a name and password with --auth=NAME:PASSWORD, or leave --host and --share away",
)
require(not auth or ":" in auth, "--auth is no name and password", "write --auth=NAME:PASSWORD")
model, tokenizer, config = load_model(out_dir, device, dtype)
chat = config["chat"]


class PlainChatbot(gr.Chatbot):
    """A Chatbot that shows what is said as text: gradio's own would show its HTML tags as HTML."""

    is_template = True  # drawn as gr.Chatbot is

    def postprocess(self, value):
        """Escape the messages on their way to the browser."""
        return super().postprocess([{**turn, "content": html.escape(plain(turn["content"]))} for turn in value or []])

    def preprocess(self, payload):
        """And undo it on their way back."""
        return [{**turn, "content": html.unescape(plain(turn["content"]))} for turn in super().preprocess(payload)]


def reply(text, history, temperature, top_k, top_p, repetition_penalty, max_new_tokens, turns):
    """Stream the model's answer to `text`: yields it longer and longer, and the speed."""
    if chat:
        earlier = (
            [{"role": turn["role"], "content": plain(turn["content"])} for turn in history[-2 * int(turns) :]]
            if turns
            else []
        )
        prompt = [*earlier, {"role": "user", "content": text}]
    else:
        prompt = text
    try:
        ids = prompt_ids(model, tokenizer, prompt, chat)
    except UserError as error:
        raise gr.Error(f"换个问法再试：{error}", duration=None) from error
    answer, tokens, started = "" if chat else text, 0, time.monotonic()
    settings = {
        "temperature": temperature,
        "top_k": int(top_k),
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
    }
    for (piece,) in stream(model, tokenizer, [ids], int(max_new_tokens), **settings):
        tokens += 1
        if piece:
            answer += piece
            yield answer, f"{tokens / (time.monotonic() - started):.0f} token/秒"
    yield answer or "（没有话说）", f"{tokens} 个 token，{tokens / (time.monotonic() - started):.0f} token/秒"


def plain(content):
    """The text of a message as gradio keeps it: a text, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)


def example_questions():
    """Questions from the data set that the model was trained on where it is at hand, else well-known ones."""
    path = Path("data", str(config["settings"].get("dataset")), "questions.jsonl")
    if not chat:
        return NOVEL_EXAMPLES
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(next(file))["Question"] for _ in range(5)]
    except (OSError, StopIteration, ValueError, KeyError, TypeError):
        return CHAT_EXAMPLES


speed = gr.Markdown(elem_id="speed", render=False)
controls = [
    gr.Slider(
        0,
        1.5,
        0 if chat else 0.8,
        step=0.05,
        label="温度 temperature",
        info="0 每次取最可能的词；越高越大胆",
        render=False,
    ),
    gr.Slider(0, 200, 0, step=1, label="top-k", info="只在最可能的 k 个词里抽；0 不限", render=False),
    gr.Slider(0.05, 1, 1, step=0.05, label="top-p", info="只在概率之和达到 p 的词里抽；1 不限", render=False),
    gr.Slider(1, 2, 1, step=0.05, label="重复惩罚 repetition penalty", info="大于 1 时少说已说过的词", render=False),
    gr.Slider(8, 512, 200, step=8, label="最长 max new tokens", info="一次最多写多少个 token", render=False),
    gr.Slider(
        0,
        4,
        0,
        step=1,
        label="带上前几轮",
        info="把前几轮问答也给模型看；演示的模型只学过单轮",
        visible=chat,
        render=False,
    ),
]
page = gr.ChatInterface(
    reply,
    chatbot=PlainChatbot(
        render_markdown=False,
        buttons=["copy", "copy_all"],
        show_label=False,
        height=460,
        elem_id="chatbot",
        placeholder="问问书里的人物和章回" if chat else "写一句开头，模型接着写",
    ),
    textbox=gr.Textbox(
        placeholder="张飞字什么？" if chat else "却说曹操",
        show_label=False,
        elem_id="question",
        max_length=4000,
        submit_btn=True,
        stop_btn=True,
    ),
    additional_inputs=controls,
    additional_inputs_accordion=gr.Accordion("设置 Settings", open=False),
    additional_outputs=[speed],
    examples=[[question] for question in example_questions()],
    examples_label="例子",
    run_examples_on_click=True,
    cache_examples=False,
    title="MiniGLM · 与书对话" if chat else "MiniGLM · 续写",
    description=f"{out_dir}，{model.num_parameters():,} 个参数，训练 {config['iter_num']:,} 步",
    analytics_enabled=False,
    flagging_mode="never",
    api_visibility="private",
)
with page:
    speed.render()
page.queue(default_concurrency_limit=4)
fonts = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
try:
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=tuple(auth.split(":", 1)) if auth else None,
        theme=gr.themes.Soft(font=fonts, font_mono=["monospace"]),  # no web fonts: the page works without a network
        footer_links=[],
        quiet=False,
    )
except OSError as error:
    raise UserError(f"port {port} is taken or not allowed", "choose another --port") from error
