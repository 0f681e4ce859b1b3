"""The layout keeps its promises: what stands where, who knows whom, a training script that is read once."""

import ast
import re

import pytest

from tools import ROOT

SCRIPTS = [*ROOT.glob("*.py"), *(ROOT / "data").glob("*.py")]
PACKAGE = list((ROOT / "miniglm").rglob("*.py"))
# A family's inner names, which model.py and families.py alone may spell.
INNER = r"transformer\.(h|wte|wpe|ln_f)\b|\b(c_attn|c_proj|c_fc|ln_1|ln_2|ln_f|wte|wpe|lm_head)\b"


def imported(path):
    """The names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_at_the_top_stands_what_is_run_or_named():
    """Whoever lists the folder sees the commands, and nothing else."""
    names = {path.stem for path in ROOT.glob("*.py")}
    named = {"configurator", "data_utils", "evaluations", "model", "sample", "sample_gradio", "train", "visualize"}
    assert names == named | {"demo", "bench", "export"}


def test_knowledge_runs_one_way():
    """model.py knows nothing of ours; the package knows no script; no script is imported by another."""
    ours = {path.stem for path in SCRIPTS} | {"miniglm"}
    assert not ours & {name.split(".")[0] for name in imported(ROOT / "model.py")}
    for path in PACKAGE:
        assert not (ours - {"miniglm", "model"}) & {name.split(".")[0] for name in imported(path)}, path
    for path in SCRIPTS:
        assert not (ours - {"miniglm", "model", "configurator", "data_utils"}) & set(imported(path)), path


@pytest.mark.parametrize("path", [*SCRIPTS, *PACKAGE], ids=lambda path: path.name)
def test_a_familys_inner_names_stand_in_two_files(path):
    """So that another family is a record, and no search through the project."""
    if path.name not in ("model.py", "families.py"):
        assert not re.search(INNER, path.read_text(encoding="utf-8"))


def test_the_training_script_is_read_once():
    """At most 350 lines, the loop begun before line 250, no global, no setting bound twice."""
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    loops = [node for node in tree.body if isinstance(node, ast.While)]
    assert len(source.splitlines()) <= 350 and len(loops) == 1 and loops[0].lineno < 250
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))
    bound = [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)]
    bound += [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert len(bound) == len(set(bound)) > 50


@pytest.mark.parametrize("name", ["README.md", "README.en.md"])
def test_the_readmes_are_short_and_their_links_lead_somewhere(name):
    """16 kB at most; every relative link is a file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.encode()) <= 16_000
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / link).exists(), link
