"""The page's words, in both of its languages."""

import functools

import gradio as gr

from miniglm.chat import Blank, TooLong
from miniglm.errors import UserError
from miniglm.page.lessons import links

TEXTS = {  # what it says: (Chinese, English)
    "title_chat": ("MiniGLM · 与书对话", "MiniGLM · Talk to a book"),
    "title_novel": ("MiniGLM · 续写", "MiniGLM · Go on from a text"),
    "about_book": (
        "这是一个读过{title}的小语言模型，从零训练，就在这台机器上跑。它的回答出自书里，旁边列出是哪几处。可以这样问：",
        "A small language model that was trained from nothing on {title} and runs on this machine. "
        "What it says is from the book, and beside it stands where. Ask, for example:",
    ),
    "about_chat": (
        "这是一个学过问答的小语言模型，就在这台机器上跑。可以这样问：",
        "A small language model that has learnt to answer, running on this machine. Ask, for example:",
    ),
    "about_novel": (
        "这是一个只读过书的小语言模型，就在这台机器上跑。写一句开头，它接着写，比如：",
        "A small language model that has read books and learnt no answering, running on this machine. "
        "Write a beginning, and it goes on:",
    ),
    "cannot_book": (
        "看法、算术、别的书，它答不了，会直说；也会答错，书里对不上的字，旁边有 ⚠。",
        "Opinions, sums, other books are beyond it, and it says so. It can be wrong: "
        "what the book does not bear out is marked with ⚠.",
    ),
    "cannot_chat": ("没学过的，它会答错。", "What it has not learnt, it gets wrong."),
    "cannot_novel": (
        "它不会回答问题；写得像书，未必讲得通。",
        "It answers no questions; what it writes sounds like the book and need not make sense.",
    ),
    "who": ("人物", "Who"),
    "kin": ("亲戚", "Family"),
    "death": ("生死", "Deaths"),
    "things": ("兵器坐骑", "Arms and horses"),
    "episode": ("故事", "Episodes"),
    "chapter": ("回目", "Chapters"),
    "words": ("原文", "The book's words"),
    "greeting": ("招呼", "Greetings"),
    "question": ("提问", "Questions"),
    "beginning": ("开头", "Beginning"),
    "answers": ("会问答的", "answers questions"),
    "novel": ("只读过书的", "has read books only"),
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
    "asked": ("问一句", "Ask something"),
    "begun": ("写一句开头", "Write a beginning"),
    "either": ("问一句，或写一句开头", "A question, or the beginning of a text"),
    "text": ("写出来的", "What it says"),
    "left_better": ("左边好", "Left is better"),
    "right_better": ("右边好", "Right is better"),
    "kept_pair": ("记下了：{}", "Kept in {}"),
    "nothing_to_judge": (
        "没什么可比的：先按“开始”，两边都答了、答得不一样，再说哪边好。",
        "There is nothing to judge: press Go, and choose once both sides have answered differently.",
    ),
    "not_kept": (
        "没有记下：看看磁盘和 --judged。（{}）",
        "This was not kept: look at the disk and at --judged. ({})",
    ),
    "score": ("评分", "score"),
    "go": ("开始", "Go"),
    "stop": ("停", "Stop"),
    "talk": ("对话", "Talk"),
    "talks": ("存在这个浏览器里的对话", "Talks kept in this browser"),
    "close": ("关掉", "Close"),
    "copy": ("复制", "Copy"),
    "copy_all": ("复制整段对话", "Copy the conversation"),
    "reset": ("恢复原来的值", "Reset to the default"),
    "more_tabs": ("更多", "More tabs"),
    "new": ("新对话", "New talk"),
    "rename": ("改名", "Rename"),
    "forget": ("删掉这段", "Delete this one"),
    "export": ("存成 JSONL", "Save as JSONL"),
    "import": ("读回 JSONL", "Read back JSONL"),
    "examples": ("例子", "Examples"),
    "sources": (
        "### 书里怎么说\n问一句，这里就列出书里的哪几处；点一处，翻开那一回。",
        "### Where the book says it\nAsk something, and the places stand here; click one to open its chapter.",
    ),
    "unborne": ("书里对不上：", "The book does not bear out: "),
    "more": ("更多设置", "More settings"),
    "blank": ("先写点什么，再发出去。", "Write something first."),
    "too_long": (
        "太长了，模型读不下：写短一点，再问一次。",
        "This is longer than the model can read: ask a shorter one.",
    ),
    "not_opened": (
        "这个模型打不开：换一个，或者重新训练它。（{}）",
        "This model cannot be opened: choose another, or train it again. ({})",
    ),
    "no_talk": (
        "这个文件不是对话：选一个从这里存下的 JSONL 文件。（{}）",
        "This file is no talk: choose a JSONL file that was saved here. ({})",
    ),
    "gone": ("先点一次“开始”，再点表里的词。", "Press Go once more, then click a token of the table."),
    "offline": (
        "连不上模型了：看看 sample_gradio.py 还在不在跑，再问一次。",
        "The model cannot be reached: see whether sample_gradio.py still runs, then ask again.",
    ),
    "full": (
        "浏览器存不下更多对话了：先存成 JSONL，删掉几段。",
        "The browser has no room for more talks: save them as JSONL and delete some.",
    ),
    "error": ("没成", "That failed"),
    "failed": ("没成：", "That failed: "),
    "chosen": ("写下的", "Written"),
    "rank": ("第 {} 个", "Number {}"),
    "inside_help": (
        "每一行是模型写下的一个词，后面是当时最可能的五个和各自的概率（温度为 0 时按 1 算）。"
        "点其中一个，就改从它写下去。标记：greedy 取的那个，top-k、top-p 各自会留下的。"
        "最多看 100 个词，不查书，不用束搜索。",
        "Each line is a token that the model wrote, and the five likeliest at that moment with their probabilities "
        "(at temperature 1 where it is 0). Click one, and the text goes on from it instead. Marked: which one greedy "
        "takes, which ones top-k and top-p would each keep. At most 100 tokens, without the book and without beams.",
    ),
    "kept_k_info": ("标出这个 k 会留下的", "marks what this k would keep"),
    "kept_p_info": ("标出这个 p 会留下的", "marks what this p would keep"),
}  # fmt: skip

LOCALES = {"zh-CN": 0, "zh-TW": 0, "zh": 0, "en": 1}  # of a browser: which of two texts


def languages(**more: tuple[str, str]) -> gr.I18n:
    """All that the page says, and what more, by the browser's language. Settings lead to the lesson about them."""
    explained = {f"{setting}_info": lesson for setting, lesson in links().items()}
    linked = {key: (f"{TEXTS[key][0]}。{zh}", f"{TEXTS[key][1]}. {en}") for key, (zh, en) in explained.items()}
    texts = TEXTS | linked | more
    return gr.I18n(**{locale: {key: both[which] for key, both in texts.items()} for locale, which in LOCALES.items()})


say = languages()


def in_english(request: gr.Request | None) -> bool:
    """Whether a visitor's browser wants another language than Chinese."""
    return not (request and request.headers.get("accept-language") or "zh").startswith("zh")


def told(key: str, request: gr.Request | None) -> str:
    """What the page says, in the language of a visitor's browser."""
    return TEXTS[key][in_english(request)]


class Trouble(UserError):
    """What goes wrong on the page alone."""

    def __init__(self, key: str, reason=""):
        """key: of what is told. reason: the details, in the command line's words."""
        super().__init__(TEXTS[key][1].format(reason), "")
        self.key, self.reason = key, reason


def tells(function):
    """A function of the page, an async generator, whose UserErrors are told there; what stands there stays."""

    @functools.wraps(function)
    async def telling(request: gr.Request, *arguments):
        try:
            async for outputs in function(request, *arguments):
                yield outputs
        except UserError as error:
            raise gr.Error(trouble(error, request), 10, title=told("error", request), print_exception=False) from error

    return telling


def trouble(error: UserError, request: gr.Request | None) -> str:
    """What a UserError says to a visitor, in their language."""
    if isinstance(error, Trouble):
        return told(error.key, request).format(error.reason)
    if isinstance(error, Blank | TooLong):
        return told("blank" if isinstance(error, Blank) else "too_long", request)
    return told("failed", request) + str(error)
