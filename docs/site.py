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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from miniglm.page.lessons import with_formulas

PAGES = ROOT / "out/site-pages"  # what mkdocs reads: the pages where they stand in the repository, formulas drawn
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def prepared(text: str) -> str:
    """A page as mkdocs wants it: formulas drawn, Markdown read within <details>, one word behind a fence."""
    text = with_formulas(text).replace("<details>", '<details markdown="1">')
    return text.replace("```output demo\n", "```output\n")


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
    told = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if not line.startswith("INFO")]
    sys.exit("\n".join([*told, "error: a page or a link is wrong; mend it, then make docs again"]))
print("open out/site/README.html in a browser")
