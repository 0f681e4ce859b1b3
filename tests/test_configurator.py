"""Settings: defaults, config file, command line, and what a wrong one is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''"""A script for tests."""
from typing import Annotated, Literal
from configurator import Bounds, FilePath, configure
# ---
rate = 0.5  # how fast, per second
steps: Annotated[int, Bounds(1, 100)] = 10  # how many
name: Literal["book", "poem"] = "book"  # which
fast = False  # hurry
words: list[FilePath] = []  # given without --
from_: FilePath = ""  # where from, 从哪里
# ---
LIST = ["not a setting"]
configure(globals(), positional="words")
print(rate, steps, name, fast, words, from_, sep="|")
'''


@pytest.fixture
def script(project):
    """A small script with settings of every type."""
    project.write("script.py", SCRIPT)
    return "script.py"


def test_command_line_overrides_config_file_overrides_default(project, script):
    """The last word has the command line, and a list takes the plain words."""
    project.write("config/some.py", "steps = 20\nrate = 2  # an int where a float is wanted\n")
    out = project.run(script, "config/some.py", "--steps=30", "--fast", "--from=there", "a", "b").stdout
    assert out.strip() == "2.0|30|book|True|['a', 'b']|there"


def test_help_prints_each_setting_with_its_comment(project, script):
    """--help shows the very lines of the source."""
    out = project.run(script, "--help").stdout
    assert "A script for tests." in out
    assert "rate = 0.5  # how fast, per second" in out and 'from_: FilePath = ""  # where from, 从哪里' in out
    assert 'name: Literal["book", "poem"] = "book"  # which' in out and "LIST" not in out


def test_help_speaks_under_any_locale(project, script):
    """A terminal of another encoding gets the same text, in UTF-8."""
    out = project.run(script, "--help", process=True, PYTHONUTF8="0", PYTHONIOENCODING="cp1252", LC_ALL="C").stdout
    assert "从哪里" in out


def test_home_is_home_in_every_path(project, script, tmp_path):
    """~ is expanded in a path, in each of a list, and in nothing else."""
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    out = project.run(script, "--from=~/there", "~/a", "b", **home).stdout
    assert out.strip() == f"0.5|10|book|False|['{tmp_path}/a', 'b']|{tmp_path}/there"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--stebs=3"], "did you mean --steps?"),
        (["--steps=many"], "give a whole number"),
        (["--steps=1.5"], "give a whole number"),
        (["--steps=101"], "at most 100"),
        (["--rate=nan"], "give a number"),
        (["--fast=perhaps"], "True or False"),
        (["--name=song"], "choose one of book, poem"),
        (["--steps"], "write --steps=VALUE"),
        (["config/none.py"], "no config file config/none.py"),
    ],
)
def test_wrong_settings_are_told_in_one_line(project, script, words, message):
    """Each mistake has its own advice."""
    assert message in project.fails(script, *words)


def test_config_file_that_does_not_run(project, script):
    """A broken config file is named, and so is a setting that nobody knows."""
    project.write("config/broken.py", "steps = = 3\n")
    assert "config/broken.py does not run" in project.fails(script, "config/broken.py")
    project.write("config/typo.py", "stebs = 3\n")
    assert "did you mean steps?" in project.fails(script, "config/typo.py")
    project.write("config/type.py", "steps = 'three'\n")
    assert "wrong type" in project.fails(script, "config/type.py")


def test_scripts_run_from_any_folder(project, tmp_path):
    """Relative paths count from the repository root, wherever the script is called from."""
    done = subprocess.run(
        [sys.executable, project.folder / "data/prepare.py", "nobook"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 2 and "python data/fetch_data.py nobook" in done.stderr


TWO_FILES = """
from configurator import configure
from miniglm.files import write_whole
what = ["first", "second"]
configure(globals(), positional="what")
for name in what:
    print("writing", name, flush=True)
    with write_whole(f"out/{name}.txt") as file:
        file.write(name)
"""


@pytest.mark.skipif(os.name == "nt", reason="pipes of a shell")
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_work_goes_on_when_nobody_reads_what_is_printed(project, unbuffered):
    """`script | head -1` writes all its files and ends well, and so where both streams are read by who goes away."""
    project.write("two_files.py", TWO_FILES)
    process = subprocess.Popen(
        [sys.executable, *unbuffered, "two_files.py"],
        cwd=project.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    process.stdout.close()
    assert process.wait(60) == 0
    for name in ("first", "second"):
        assert (project.folder / f"out/{name}.txt").read_text(encoding="utf-8") == name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that is always full")
def test_what_finds_no_room_is_told_all_the_same(project, script):
    """Output into a file on a full disk is lost, not unwanted."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, script], cwd=project.folder, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode and b"No space left" in done.stderr


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "gbk"}, {"LC_ALL": "C"}])
def test_chinese_is_typed_read_and_printed_under_any_locale(project, script, locale):
    """In the command line, in names of files, in messages."""
    project.write("config/设置.py", "from_ = '书'\n")
    locale = {"process": True, "PYTHONUTF8": "0", **locale}
    assert project.run(script, "config/设置.py", "回", **locale).stdout.strip() == "0.5|10|book|False|['回']|书"
    assert "no config file config/没有.py" in project.fails(script, "config/没有.py", **locale)
