"""The course keeps to what its code does: every number that a lesson quotes comes out, every picture is drawn by it."""

import gzip
import re
import subprocess
import sys

import numpy as np
import pytest

from tools import ROOT, Project

LESSONS = ROOT / "lessons"
SCRIPTS = sorted(LESSONS.glob("[0-9]*.py"))
NUMBER = r"-?\d[\d,]*\.?\d*"


def quoted(page):
    """[(line, whether a trained model said it)] of a lesson's page that stand for what its script prints."""
    return [
        (line, bool(of_model))
        for of_model, block in re.findall("```output( demo)?\n(.*?)```", page.read_text("utf-8"), re.S)
        for line in block.splitlines()
    ]


def numbers(line):
    """The numbers in a line."""
    return [float(each.replace(",", "")) for each in re.findall(NUMBER, line)]


def check(script, printed, folder, trained):
    """Hold a lesson's pages, in both languages, against what its script printed and what it drew in a folder.

    Within 2 %, as kinds of processors round differently; what a trained model said within a half, as each training is
    another. trained: whether there was one.
    """
    pages = [LESSONS / f"{script.stem}{language}.md" for language in ("", ".en")]
    assert quoted(pages[0]) == quoted(pages[1]) != []
    for line, of_model in quoted(pages[0]):
        if of_model and not trained:
            continue
        words = re.sub(NUMBER, "#", line)
        same = [numbers(each) for each in printed if re.sub(NUMBER, "#", each) == words]
        tolerance = 0.5 if of_model else 0.02
        assert any(each == pytest.approx(numbers(line), rel=tolerance) for each in same), line
    shown = [set(re.findall(r"pictures/(\w+\.\w+)", page.read_text("utf-8"))) for page in pages]
    assert shown[0] == shown[1] != set() and all((LESSONS / "pictures" / name).is_file() for name in shown[0])
    drawn = {path.name for path in (folder / "lessons/out").glob(f"{script.stem[:2]}_*.*")}
    assert drawn == shown[0] if trained else drawn <= shown[0]


@pytest.mark.parametrize("script", SCRIPTS[:3], ids=lambda path: path.stem)
def test_a_lesson_quotes_what_comes_out(project, script):
    """The first three; without a trained model what needs one is named and skipped."""
    printed = project.run(f"lessons/{script.name}", process=True).stdout
    check(script, printed.splitlines(), project.folder, trained="skipped" not in printed)


@pytest.mark.parametrize("script", SCRIPTS[3:], ids=lambda path: path.stem)
def test_a_lesson_without_a_model_says_what_makes_one(tmp_path, script):
    """In a fresh clone the others end in good order, too."""
    fresh = Project(tmp_path / "fresh")
    printed = fresh.run(f"lessons/{script.name}").stdout
    needs = any(of_model for _, of_model in quoted(LESSONS / f"{script.stem}.md"))
    assert needs == bool(re.search("^skipped, there is no .+ yet: it comes from .+$", printed, re.M))


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_lesson_quotes_what_comes_out(experiments, script):
    """All of them, with the models of this checkout's own make demo, reviews, hotel and align."""
    printed = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", check=True).stdout
    assert "skipped" not in printed
    check(script, printed.splitlines(), ROOT, trained=True)


@pytest.fixture(scope="module")
def experiments():
    """This checkout's own experiments, each made where it has not been: the better part of an hour at first."""
    for name in ("chat", "reviews", "hotel", "align"):
        subprocess.run([sys.executable, ROOT / "demo.py", name], check=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_lesson_is_short(path):
    """At most 120 lines, so that it is read in one sitting."""
    assert len(path.read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", sorted(LESSONS.glob("[0-9]*.md")), ids=lambda path: path.name)
def test_the_code_that_a_lesson_shows_is_that_of_its_script(page):
    """Line for line, but for comments and indentation; what begins with an import is the reader's own."""
    script = (LESSONS / f"{page.name.partition('.')[0]}.py").read_text("utf-8")
    known = {line.partition("  #")[0].strip() for line in script.splitlines()}
    blocks = re.findall("```python\n(.*?)```", page.read_text("utf-8"), re.S)
    shown = [block for block in blocks if not block.startswith("from ")]
    assert shown and all(line.partition("  #")[0].strip() in known for block in shown for line in block.splitlines())


@pytest.mark.parametrize("page", sorted(LESSONS.glob("*.md")), ids=lambda path: path.name)
def test_a_lessons_links_lead_somewhere(page):
    """Every relative link is a file, and every answer is folded away."""
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (LESSONS / link).exists(), link
    assert text.count("<details>") == text.count("</details>")


def test_mnists_files_are_read(project):
    """The four files, in their own format; one that is cut off is told in a line."""
    folder, drawn = project.folder / "mnist", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 64), ("t10k", 16)):
        labels = drawn.integers(0, 10, count, dtype=np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), labels, :] = 255  # a line at the height that the label says
        for kind, header, values in (("images-idx3", [3, count, 28, 28], images), ("labels-idx1", [1, count], labels)):
            content = bytes([0, 0, 8, header[0]]) + b"".join(each.to_bytes(4, "big") for each in header[1:])
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content + values.tobytes()))
    words = ["lessons/01_function.py", "--mnist=mnist", "--epochs=10", "--dropout=0"]
    printed = project.run(*words, process=True).stdout
    assert "64 digits to learn from, 16 to be tested on\n784 points an image" in printed
    assert float(re.search(r"([\d.]+)% of the test digits", printed)[1]) > 60
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path.name} is damaged" in project.fails(*words, process=True)
