"""How the page looks, and what the browser does alone: style.css and page.js, with what they need to know."""

import json
from pathlib import Path

import gradio as gr

from miniglm.page.words import TEXTS

HERE = Path(__file__).parent
CSS = (HERE / "style.css").read_text(encoding="utf-8")
FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]  # no web fonts: no network
THEME = gr.themes.Soft(font=FONTS, font_mono=["monospace"]).set(  # with more contrast where there is too little
    block_title_text_color="*primary_700",
    block_label_text_color="*primary_700",
    block_info_text_color="*neutral_500",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    color_accent="*primary_600",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
    button_primary_background_fill_dark="*primary_600",
)

LABELS = {  # what gradio calls some buttons: the word for it
    "Toggle Sidebar": "talks",
    "Close": "close",
    "Copy": "copy",
    "Copy message": "copy",
    "Copy conversation": "copy_all",
    "Reset to default value": "reset",
    "More tabs": "more_tabs",
    "chatbot conversation": "talk",
}


def script(paths: dict[str, str]) -> str:
    """What stands in the page's head. paths: the models' directories by what they are called."""
    words = {key: TEXTS[key] for key in ("offline", "full", "error", *LABELS.values())}
    code = (HERE / "page.js").read_text(encoding="utf-8")
    known = f"const WORDS = {json.dumps(words)}, LABELS = {json.dumps(LABELS)}, PATHS = {json.dumps(paths)};".replace(
        "</", r"<\/"
    )
    return f"<script>{known}\n{code}</script>"
