"""A script's settings: its own top-level assignments, overridden by a config file, then by --key=value.

    python train.py config/train_config.py --batch_size=32

A setting is one line of the script: its type with its bounds or choices, its default, its meaning.

    batch_size: Positive = 12  # rows a device reads at once
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: faster per token on small runs

A config file is plain Python that assigns settings. It is executed: run only those you have read.
"""

import ast
import difflib
import math
import os
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from miniglm.errors import UserError, refuse, tell_mistakes_in_one_line
from miniglm.proxy import LOCAL, bypass_proxies
from miniglm.streams import open_streams

ROOT = Path(__file__).resolve().parent
SETTING_TYPES = (bool, int, float, str, list)
TYPE_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list of texts"}


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest value of a number, both allowed; None for no bound."""

    lowest: float | None = None
    highest: float | None = None

    def __contains__(self, value):
        return (self.lowest is None or value >= self.lowest) and (self.highest is None or value <= self.highest)

    def __str__(self):
        ends = (("at least", self.lowest), ("at most", self.highest))
        return " and ".join(f"{words} {end}" for words, end in ends if end is not None)


EXPANDED = "a path: ~ is the user's home"

# The types of settings, for their annotations. Literal["a", "b"] gives choices.
Positive = Annotated[int, Bounds(1)]
Natural = Annotated[int, Bounds(0)]
NotNegative = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0.0, 0.999999)]  # of a whole, never all of it
FilePath = Annotated[str, EXPANDED]


def configure(script: dict[str, Any], positional: str = "") -> dict[str, Any]:
    """Override the settings of `script` (its `globals()`), in place, by what the command line says.

    A setting is a lower-case top-level name, bound so far to a bool, int, float, str or list of str.
    Its type stays what its default has, its bounds and choices are those of its annotation. A list collects repeated
    keys. `--help` prints the settings as they stand in the script. Relative paths count from the repository root,
    which becomes the working directory. From here on, mistakes end the script with one line, what is read and printed
    is UTF-8, and local addresses are reached without a proxy.

    positional: the name of the list setting that takes the words without `--`.
    Returns {name: value} of all settings. Raises UserError.
    """
    open_streams()
    tell_mistakes_in_one_line()
    bypass_proxies(*LOCAL)
    defaults = {k: v for k, v in script.items() if k.islower() and k[0] != "_" and type(v) in SETTING_TYPES}
    settings = dict(defaults)
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        print(_help(script, defaults))
        raise SystemExit(0)
    os.chdir(ROOT)
    for path in [word for word in words if word.endswith(".py") and not word.startswith("-")]:
        settings |= _read_config(os.path.expanduser(path), settings)
    collected = {}
    for word in words:
        if word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            name = _known(key, settings, "--")
            collected.setdefault(name, []).append(_parse(key, text if equals else None, defaults[name]))
        elif not word.endswith(".py"):
            refuse(not positional, f"'{word}' is no setting", "write --key=value, or --help to see the settings")
            collected.setdefault(positional, []).append(word)
    for name, values in collected.items():
        settings[name] = values if isinstance(defaults[name], list) else values[-1]
    for name, annotation in script.get("__annotations__", {}).items():
        if name in settings:
            settings[name] = _within(name, settings[name], annotation)
    script.update(settings)
    return settings


def _within(name, value, annotation):
    """`value`, a path with `~` expanded, or a UserError where it is beyond the bounds or choices of `annotation`."""
    if typing.get_origin(annotation) is list:
        return [_within(name, each, typing.get_args(annotation)[0]) for each in value]
    if typing.get_origin(annotation) is typing.Literal:
        choices = typing.get_args(annotation)
        refuse(value not in choices, f"--{name}={value} is not known", f"choose one of {', '.join(map(str, choices))}")
    for more in getattr(annotation, "__metadata__", ()):
        if isinstance(more, Bounds):
            refuse(value not in more, f"--{name}={value} is out of range", f"give a number that is {more}")
        elif more == EXPANDED:
            value = os.path.expanduser(value)
    return value


def _known(key, settings, prefix=""):
    """The setting that `key` names (`from` is `from_` in Python), or a UserError with the closest one."""
    name = key if key in settings else key + "_"
    if name not in settings:
        closest = difflib.get_close_matches(key, settings, n=1, cutoff=0)[0].rstrip("_")
        raise UserError(f"unknown setting {prefix}{key}", f"did you mean {prefix}{closest}? --help lists them all")
    return name


def _parse(key, text, default):
    """The value that `text` gives a setting of `default`'s type. A bare --key switches a bool on."""
    kind = type(default)
    if text is None:
        refuse(kind is not bool, f"--{key} has no value", f"write --{key}=VALUE")
        return True
    if kind in (str, list):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    return _of_type(f"--{key}={text}", value, kind)


def _of_type(what, value, kind):
    """`value` as a `kind`, an int as a float where one is wanted, or a UserError that names `what`."""
    if kind is float and type(value) is int and abs(value) < 1e300:
        value = float(value)
    fits = type(value) is kind
    if isinstance(value, float):
        fits = fits and math.isfinite(value)
    elif isinstance(value, int):
        fits = fits and abs(value) < 1 << 62
    elif isinstance(value, list):
        fits = fits and all(isinstance(item, str) for item in value)
    refuse(not fits, f"{what[:200]} has the wrong type", f"give {TYPE_NAMES[kind]}")
    return value


def _read_config(path, settings):
    """The settings that the Python file `path` assigns. It sees the present ones."""
    refuse(not Path(path).is_file(), f"no config file {path}", "see config/ for those there are")
    namespace = dict(settings)
    try:
        exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), namespace)
    except (Exception, SystemExit) as error:
        raise UserError(f"config file {path} does not run: {error!r}", "mend it; it is plain Python") from error
    plain = (*SETTING_TYPES, type(None))
    found = {k: v for k, v in namespace.items() if k in settings or (k[0] != "_" and isinstance(v, plain))}
    return {
        _known(key, settings): _of_type(f"{key} in {path}", value, type(settings[_known(key, settings)]))
        for key, value in found.items()
    }


def _help(script, settings):
    """The script's docstring and its settings, the very lines of its source."""
    source = Path(script["__file__"]).read_text(encoding="utf-8")
    lines: dict[str, Any] = {}  # name: its first assignment
    for node in ast.parse(source).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        for target in targets:
            if getattr(target, "id", None) in settings:
                lines.setdefault(target.id, node)
    first, last = min(node.lineno for node in lines.values()) - 1, max(node.end_lineno for node in lines.values())
    shown = "\n".join(source.splitlines()[first:last])
    return f"{(script['__doc__'] or '').strip()}\n\nSettings, each a --key=value:\n\n{shown}"
