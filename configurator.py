"""A script's settings: its own top-level assignments, overridden by a config file, then by --key=value.

    python train.py config/train_config.py --batch_size=32

A config file is plain Python that assigns settings. It is executed: run only those you have read.
"""

import ast
import difflib
import math
import os
import sys
from pathlib import Path

from miniglm.errors import UserError, require

ROOT = Path(__file__).resolve().parent
SETTING_TYPES = (bool, int, float, str, list)


def configure(script, positional=None, limits=None, choices=None):
    """Override the settings of `script` (its `globals()`), in place, by what the command line says.

    A setting is a lower-case top-level name, bound so far to a bool, int, float, str or list of str.
    Its type stays what its default has. A list collects repeated keys. `--help` prints the settings as
    they stand in the script. Relative paths count from the repository root, which becomes the working directory.

    positional: the name of the list setting that takes the words without `--`.
    limits: {name: (lowest, highest)}, both allowed, None for no bound.
    choices: {name: the allowed values}.
    Returns {name: value} of all settings. Raises UserError.
    """
    defaults = {k: v for k, v in script.items() if k.islower() and k[0] != "_" and type(v) in SETTING_TYPES}
    settings = dict(defaults)
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        print(_help(script, defaults))
        raise SystemExit(0)
    os.chdir(ROOT)
    for stream in filter(None, (sys.stdin, sys.stdout, sys.stderr)):
        stream.reconfigure(encoding="utf-8", errors="replace")  # Chinese in a pipe on Windows, too
    for path in [w for w in words if w.endswith(".py") and not w.startswith("-")]:
        settings |= _read_config(path, settings)
    collected = {}
    for word in words:
        if word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            name = _known(key, settings, "--")
            collected.setdefault(name, []).append(_parse(key, text if equals else None, defaults[name]))
        elif not word.endswith(".py"):
            require(positional, f"'{word}' is no setting", "write --key=value, or --help to see the settings")
            collected.setdefault(positional, []).append(word)
    for name, values in collected.items():
        settings[name] = values if isinstance(defaults[name], list) else values[-1]
    for name, (lowest, highest) in (limits or {}).items():
        inside = (lowest is None or settings[name] >= lowest) and (highest is None or settings[name] <= highest)
        bounds = " and ".join(
            [f"at least {lowest}"] * (lowest is not None) + [f"at most {highest}"] * (highest is not None)
        )
        require(inside, f"--{name}={settings[name]} is out of range", f"give a number that is {bounds}")
    for name, allowed in (choices or {}).items():
        require(
            settings[name] in allowed,
            f"--{name}={settings[name]} is not known",
            f"choose one of {', '.join(map(str, allowed))}",
        )
    script.update(settings)
    return settings


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
        require(kind is bool, f"--{key} has no value", f"write --{key}=VALUE")
        return True
    if kind in (str, list):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    return _checked(f"--{key}={text}", value, kind)


def _checked(what, value, kind):
    """`value` as a `kind`, an int as a float where one is wanted, or a UserError."""
    if kind is float and type(value) is int and abs(value) < 1e300:
        value = float(value)
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list of texts"}
    proper = type(value) is kind and not (kind is float and not math.isfinite(value))
    proper = proper and not (kind is int and abs(value) >= 1 << 62)
    proper = proper and not (kind is list and not all(isinstance(item, str) for item in value))
    require(proper, f"{what[:200]} has the wrong type", f"give {names[kind]}")
    return value


def _read_config(path, settings):
    """The settings that the Python file `path` assigns. It sees the present ones."""
    require(Path(path).is_file(), f"no config file {path}", "see config/ for those there are")
    namespace = dict(settings)
    try:
        exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), namespace)
    except (Exception, SystemExit) as error:
        raise UserError(f"config file {path} does not run: {error!r}", "mend it; it is plain Python") from error
    plain = (*SETTING_TYPES, type(None))
    found = {k: v for k, v in namespace.items() if k in settings or (k[0] != "_" and isinstance(v, plain))}
    return {
        _known(key, settings): _checked(f"{key} in {path}", value, type(settings[_known(key, settings)]))
        for key, value in found.items()
    }


def _help(script, settings):
    """The script's docstring and its settings, the very lines of its source."""
    source = Path(script["__file__"]).read_text(encoding="utf-8")
    lines = {}  # name: its first assignment; a script may change the value further down
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in settings:
            lines.setdefault(node.targets[0].id, node)
    first, last = min(node.lineno for node in lines.values()) - 1, max(node.end_lineno for node in lines.values())
    shown = "\n".join(source.splitlines()[first:last])
    return f"{(script['__doc__'] or '').strip()}\n\nSettings, each a --key=value:\n\n{shown}"
