"""The course keeps to what its code does: every number that a lesson quotes comes out, every picture is drawn by it."""

import gzip
import re

import numpy as np
import pytest

from tools import ROOT

LESSONS = ROOT / "lessons"
SCRIPTS = sorted(LESSONS.glob("[0-9]*.py"))
NUMBER = r"-?\d[\d,]*\.?\d*"


def quoted(page):
    """The lines of a lesson's page that stand for what its script prints."""
    return [
        line
        for block in re.findall("```output\n(.*?)```", page.read_text("utf-8"), re.S)
        for line in block.splitlines()
    ]


def numbers(line):
    """The numbers in a line."""
    return [float(each.replace(",", "")) for each in re.findall(NUMBER, line)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_lesson_quotes_what_comes_out(project, script):
    """In both languages, within 2 % (kinds of processors round differently); and the pictures it shows are drawn."""
    printed = project.run(f"lessons/{script.name}", process=True).stdout.splitlines()
    pages = [LESSONS / f"{script.stem}{language}.md" for language in ("", ".en")]
    assert quoted(pages[0]) == quoted(pages[1]) != []
    for line in quoted(pages[0]):
        words = re.sub(NUMBER, "#", line)
        (same,) = [each for each in printed if re.sub(NUMBER, "#", each) == words]
        assert numbers(same) == pytest.approx(numbers(line), rel=0.02)
    shown = set(re.findall(r"pictures/(\w+\.png)", pages[0].read_text("utf-8")))
    assert shown == set(re.findall(r"pictures/(\w+\.png)", pages[1].read_text("utf-8"))) != set()
    drawn = {path.name for path in (project.folder / "lessons/out").glob(f"{script.stem[:2]}_*.png")}
    assert drawn == shown and all((LESSONS / "pictures" / name).is_file() for name in shown)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_lesson_is_short(path):
    """At most 120 lines, so that it is read in one sitting."""
    assert len(path.read_text("utf-8").splitlines()) <= 120


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
    words = ["lessons/01_function.py", "--mnist=mnist", "--epochs=20", "--dropout=0"]
    printed = project.run(*words, process=True).stdout
    assert "64 digits to learn from, 16 to be tested on\n784 points an image" in printed
    assert float(re.search(r"([\d.]+)% of the test digits", printed)[1]) > 60
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path.name} is damaged" in project.fails(*words, process=True)
