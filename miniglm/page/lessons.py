"""The course beside the page: its lessons as pages of their own, which the settings' explanations link to."""

import re
from pathlib import Path

import latex2mathml.converter
from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

ROOT = Path(__file__).resolve().parents[2]
CHOOSING = ("temperature", "top_k", "top_p", "min_p", "penalty", "ngram", "beams", "length", "seed", "kept_k", "kept_p")
# {a setting of the page: the lesson that explains it}
EXPLAINED = {**dict.fromkeys(CHOOSING, "08_choosing"), "longest": "04_tokens", "turns": "05_decoder"}
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>MiniGLM</title><style>
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.7 system-ui, sans-serif }}
:root {{ color-scheme: light dark }} img {{ max-width: 100%; background: white }}
pre {{ overflow-x: auto; padding: .8rem; background: #8882 }} code {{ font-family: monospace }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #8886; padding: .3rem .6rem }}
</style>{}"""


def links() -> dict[str, tuple[str, str]]:
    """{a setting: the link, in Markdown, to the lesson that explains it, in Chinese and in English}."""
    found = {}
    for setting, lesson in EXPLAINED.items():
        number = int(lesson.partition("_")[0])
        found[setting] = f"[第 {number} 课](lessons/{lesson}.md)", f"[Lesson {number}](lessons/{lesson}.en.md)"
    return found


def with_formulas(text: str) -> str:
    """A page's Markdown with its formulas of LaTeX as MathML, which browsers draw by themselves; code stays."""
    parts = CODE.split(text)
    parts[::2] = [FORMULA.sub(drawn, part) for part in parts[::2]]
    return "".join(parts)


def drawn(found: re.Match) -> str:
    """A formula as MathML."""
    block, inline = found.groups()
    return latex2mathml.converter.convert(block or inline, display="block" if block else "inline")


async def shown(request: Request) -> Response:
    """A file of the course or of the documentation: a page as HTML, a script or a picture as it is."""
    path = (ROOT / request.url.path.lstrip("/")).resolve()
    known = any(path.is_relative_to(ROOT / folder) for folder in ("lessons", "docs")) or path == ROOT / "model.py"
    if not known or path.suffix not in (".md", ".py", ".png", ".gif") or not path.is_file():
        return RedirectResponse("/lessons/README.md")
    if path.suffix != ".md":
        return FileResponse(path, media_type="text/plain; charset=utf-8" if path.suffix == ".py" else None)
    text = with_formulas(path.read_text(encoding="utf-8"))
    return HTMLResponse(PAGE.format(MarkdownIt("commonmark", {"html": True}).enable("table").render(text)))


ROUTES = [Route(path, shown) for path in ("/lessons/{path:path}", "/docs/{path:path}", "/model.py")]
