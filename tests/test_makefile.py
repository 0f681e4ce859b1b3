"""make and its .venv: made, left half made, broken; told in one line where it cannot be mended."""

import os
import shutil
import subprocess
import sys

import pytest

from tools import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="needs make")


@pytest.fixture
def make(tmp_path):
    """make .venv/run.stamp in a folder whose requirements are a torch that is there: a function (status, output)."""
    folder, there = tmp_path / "我的 clone", tmp_path / "there"
    (there / "torch-1.dist-info").mkdir(parents=True)
    (there / "torch-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1\n")
    (there / "torch.py").write_text(
        "import sys\nif not sys.prefix.endswith('.venv') or 'clone' not in sys.prefix: raise ImportError\n"
    )
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.txt").write_text("torch==1  # 有\n", encoding="utf-8")
    (folder / "requirements.lock").touch()

    def run(python=sys.executable):
        command = ["make", "--no-print-directory", ".venv/run.stamp", f"PYTHON={python}"]
        environment = os.environ | {"PYTHONPATH": str(there), "MAKEFLAGS": ""}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
        return done.returncode, done.stdout + done.stderr

    run.folder, run.there = folder, there
    return run


def pip_works(folder):
    """Whether the .venv in a folder has a pip of its own."""
    return not subprocess.run(
        [".venv/bin/python", "-m", "pip", "--version"], cwd=folder, capture_output=True
    ).returncode


def without_pip(venv):
    """What a break in that step leaves."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)


def dangling(venv):
    """What an upgrade of Python leaves."""
    without_pip(venv)
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/nowhere/python3")


def of_the_system(venv):
    """What a break at the very beginning leaves: a Python that would install into the system."""
    without_pip(venv)
    (venv / "pyvenv.cfg").unlink()


def half(venv):
    """A folder with nothing that runs."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text("")


def test_a_venv_that_breaks_later_is_mended(make):
    """Its stamp says that all is there."""
    assert make()[0] == 0
    (make.folder / ".venv/bin/python").unlink()
    (make.folder / ".venv/bin/python").symlink_to("/nowhere/python3")
    status, output = make()
    assert status == 0 and "not found" not in output and pip_works(make.folder)


@pytest.mark.parametrize("broken", [None, without_pip, dangling, of_the_system, half])
def test_a_venv_left_half_made_is_mended(make, broken):
    """Whatever it lacks; and a whole one is left alone."""
    if broken:
        broken(make.folder / ".venv")
    status, output = make()
    assert status == 0, output
    assert pip_works(make.folder) and (make.folder / ".venv/run.stamp").exists()
    assert "up to date" in make()[1]


def test_packages_that_have_gone_are_installed_again(make):
    """Though the stamp says that they are there: a new Python looks for them elsewhere."""
    assert make()[0] == 0 and "up to date" in make()[1]
    shutil.rmtree(make.there / "torch-1.dist-info")
    status, output = make()
    assert status == 0 and "pip install" in output


def test_without_ensurepip_one_line_says_what_to_install(make):
    """Debian without python3-venv; once it is there, the same command goes on."""
    (make.there / "ensurepip.py").write_text("raise ImportError\n")
    status, output = make()
    told = [line for line in output.splitlines() if not line.startswith("make")]
    assert status and len(told) == 1 and told[0].startswith("error: ") and "apt install python3-venv" in told[0]
    (make.there / "ensurepip.py").unlink()
    assert make()[0] == 0 and pip_works(make.folder)


@pytest.mark.parametrize("python", ["/bin/false", "python-that-is-nowhere"])
def test_an_old_python_is_told_in_one_line(make, python):
    """And so is one that is not there."""
    status, output = make(python)
    told = [line for line in output.splitlines() if not line.startswith("make")]
    assert status and len(told) == 1 and told[0].startswith("error: ") and "make PYTHON=python3.12" in told[0]
    assert not (make.folder / ".venv").exists()
