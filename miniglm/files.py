"""Reading and writing files so that nothing whole is ever replaced by something half."""

import atexit
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from miniglm.errors import UserError, refuse


@contextmanager
def writing(path):
    """Make the folder of `path` for the block, and tell in one line what keeps the block from writing there."""
    folder_is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "free some space or choose another place"
        ) from error
    finally:
        if folder_is_new:
            with suppress(OSError):  # it stays where there is something in it
                path.parent.rmdir()


@contextmanager
def replace_whole(path):
    """A path beside `path`, to be written by the block; it takes `path`'s place only when the block ends well."""
    path = Path(path)
    proper = path.name and (path.is_file() or not os.path.lexists(path))
    refuse(not proper, f"{path} is no file name", "give the name of a file to write")
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            partial.unlink(missing_ok=True)  # a link that lies there would lead elsewhere
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink()


@contextmanager
def new_folder(path):
    """A folder beside `path`, to be filled by the block; it becomes `path`, where nothing is so far, when that ends well."""
    path = Path(path)
    free = not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))
    refuse(not path.name or not free, f"{path} is there already", "name a folder that is not, or delete that one first")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            partial.mkdir()
            yield partial
            for made in partial.iterdir():
                with open(made, "rb+") as file:
                    os.fsync(file.fileno())
            if path.exists():
                path.rmdir()
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def write_whole(path, mode="w"):
    """Open a file that takes `path`'s place only when the block ends well: written beside, flushed, renamed."""
    # A lone surrogate, as a broken input may hold, becomes a question mark.
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "replace", "newline": "\n"}
    with replace_whole(path) as partial, open(partial, mode, **text) as file:
        yield file


def link_whole(source, path):
    """Give the file `source` the second name `path`, in place of what has it now; a copy where no link can be made."""
    with replace_whole(path) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


claims = {}  # folder: its lock, which the system takes back when this process ends, however it ends


def claim(folder):
    """Keep every other process that claims `folder` from writing there. Raises UserError where another one has it."""
    folder = Path(folder)
    if folder in claims:
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"another process is writing to {folder}", "wait until it has ended, or choose another directory"
        ) from error
    claims[folder] = lock


@atexit.register
def _give_back():
    """Leave no lock behind, nor a folder in which nothing was written."""
    for folder, lock in claims.items():
        with suppress(OSError):  # Windows removes it only when it is free
            (folder / ".lock").unlink()
        lock.release()
        with suppress(OSError):
            folder.rmdir()


def write_json(path, value):
    """Write `value` as indented JSON, Chinese characters as they are."""
    with write_whole(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path, todo):
    """The JSON object in `path`, a dict. Raises UserError, which ends with `todo`, where there is none."""
    refuse(not Path(path).is_file(), f"no file {path}", todo)
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        value = None
    refuse(not isinstance(value, dict), f"{path} is broken", todo)
    return value


def read_json_lines(path, todo):
    """[(line number, JSON value)] of the lines of `path` that are not empty. Raises UserError where one is no JSON."""
    refuse(not Path(path).is_file(), f"no file {path}", "check the path; relative ones count from the repository root")
    values, number = [], 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    values.append((number, json.loads(line)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON lines in UTF-8, see line {max(1, number)}", todo) from error
    refuse(not values, f"{path} is empty", todo)
    return values


def is_plain_name(name):
    """Whether `name` is that of a file or folder, and leads nowhere else."""
    return bool(name) and name == Path(name).name and not name.startswith(".")


def sha256(path):
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
