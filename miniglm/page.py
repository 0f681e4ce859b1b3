"""The page's words, in both of its languages, and its looks."""

import gradio as gr

TEXTS = {  # what it says: (Chinese, English)
    "chat": ("对话", "Chat"),
    "continue": ("续写", "Go on"),
    "compare": ("对比", "Compare"),
    "inside": ("看里面", "Look inside"),
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
    "settings": ("设置", "Settings"),
    "more": ("更多设置", "More settings"),
    "blank": ("先写点什么，再发出去。", "Write something first."),
    "too_long": (
        "太长了，模型读不下：写短一点，再问一次。",
        "This is longer than the model can read: ask a shorter one.",
    ),
    "failed": ("没成：", "That failed: "),
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

say = gr.I18n(  # by the browser's language
    **{locale: {key: zh for key, (zh, _) in TEXTS.items()} for locale in ("zh-CN", "zh-TW", "zh")},
    en={key: en for key, (_, en) in TEXTS.items()},
)


def told(key: str, request: gr.Request) -> str:
    """What the page says, in the language of a visitor's browser."""
    language = (request.headers.get("accept-language") or "zh") if request else "zh"
    return TEXTS[key][0 if language.startswith("zh") else 1]


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
