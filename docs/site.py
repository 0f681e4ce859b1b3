"""README, the course and the documentation as one site: writes out/site, open out/site/README.html in a browser.

    python docs/site.py     # or make docs

A dead link, to a page, to a heading or to a file, ends it with an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import latex2mathml.converter

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "out/site-pages"  # what mkdocs reads: the pages where they stand in the repository, formulas drawn
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def drawn(found: re.Match) -> str:
    """A formula of LaTeX as MathML, which browsers draw by themselves."""
    block, inline = found.groups()
    return latex2mathml.converter.convert(block or inline, display="block" if block else "inline")


def prepared(text: str) -> str:
    """A page as mkdocs wants it: formulas drawn, and Markdown within <details>; code stays as it is."""
    parts = CODE.split(text)
    parts[::2] = [FORMULA.sub(drawn, part).replace("<details>", '<details markdown="1">') for part in parts[::2]]
    return "".join(parts)


def lay_out():
    """Fill PAGES with the pages and with all files that they link to."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for page in [*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("lessons/*.md")]:
        text, target = page.read_text(encoding="utf-8"), PAGES / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(prepared(text), encoding="utf-8", newline="\n")
        for link in LINK.findall(text):
            linked = (page.parent / link).resolve()
            if linked.is_file() and linked.suffix != ".md" and linked.is_relative_to(ROOT):
                copy = PAGES / linked.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(linked, copy)


lay_out()
command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml"]
done = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
if done.returncode:
    told = done.stderr.decode("utf-8", "replace").splitlines()
    sys.exit("\n".join(line for line in told if not line.startswith("INFO")) + "\nerror: mend these, then make docs again")
print("open out/site/README.html in a browser")
