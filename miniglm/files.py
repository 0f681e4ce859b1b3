"""Reading and writing files: nothing whole is ever replaced by something half, and nobody else writes meanwhile."""

import atexit
import codecs
import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, TextIO

from filelock import FileLock, Timeout

from miniglm.errors import UserError, refuse


@contextmanager
def writing(path):
    """Make the folder of `path` for the block. Raises UserError where an OSError keeps the block from writing there."""
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
            with suppress(OSError):  # a folder with something in it stays
                path.parent.rmdir()


@contextmanager
def replace_whole(path):
    """A path beside `path` for the block to write a file to, which is renamed to `path` once the block ends well.

    Until then, and where the block fails, what `path` held before stays as it was. Raises UserError.
    """
    path = Path(path)
    taken = os.path.lexists(path) and not path.is_file()
    refuse(not path.name or taken, f"{path} is no file name", "give the name of a file to write")
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
    """A folder beside `path` for the block to fill, which is renamed to `path` once the block ends well.

    Raises UserError where there is something at `path` already, other than an empty folder.
    """
    path = Path(path)
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    taken = os.path.lexists(path) and not empty
    refuse(not path.name or taken, f"{path} is there already", "name a folder that is not, or delete that one first")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            partial.mkdir()
            yield partial
            for each in partial.iterdir():
                with open(each, "rb+") as file:
                    os.fsync(file.fileno())
            if path.exists():
                path.rmdir()
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def write_whole(path, mode: Literal["w", "wb"] = "w") -> Generator[IO[Any]]:
    """Open a file that takes `path`'s place only when the block ends well: written beside, flushed, renamed.

    Text is written as UTF-8 with single line ends; a lone surrogate, as in a broken input, becomes a question mark.
    """
    with replace_whole(path) as partial:
        if mode == "wb":
            with open(partial, "wb") as file:
                yield file
        else:
            with open(partial, "w", encoding="utf-8", errors="replace", newline="\n") as file:
                yield file


def link_whole(source, path):
    """Give the file `source` the second name `path`, in place of what has it now; a copy where no link can be made."""
    with replace_whole(path) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


claims: dict[Path, FileLock] = {}  # the system takes the locks back when this process ends, however it ends


def claim(folder):
    """Keep other processes that claim `folder` from writing there; make it where it is missing.

    The claim is held until this process ends, or until release_claims. Raises UserError where another process holds it.
    """
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
def release_claims():
    """Give up all claims of this process: leave no lock file behind, nor a folder in which nothing was written."""
    for folder, lock in claims.items():
        with suppress(OSError):  # Windows removes it only when it is free
            (folder / ".lock").unlink()
        lock.release()
        with suppress(OSError):
            folder.rmdir()
    claims.clear()


@contextmanager
def reading_utf8(path, todo):
    """Raise UserError, which ends with `todo`, where the block meets bytes that are no UTF-8 while it reads `path`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text", todo) from error


def read_text(path, todo) -> str:
    """The text of a UTF-8 file, its byte order mark skipped. Raises UserError, ending in `todo`, for other bytes."""
    with reading_utf8(path, todo):
        return Path(path).read_text(encoding="utf-8-sig")


WITHOUT_MARK = {(True, False) * 2: "utf-16-le", (False, True) * 2: "utf-16-be"}  # by which of four bytes are not NUL


def open_text(path) -> TextIO:
    r"""A text file, open for reading, without its byte order mark; a line ends with \n alone.

    It is UTF-8, or UTF-16 where such a mark is followed by a character, or where every other byte of the first four,
    which are two characters of ASCII then, is NUL.
    """
    with open(path, "rb") as file:
        mark = file.read(4)
    encoding = WITHOUT_MARK.get(tuple(map(bool, mark)), "utf-8-sig")
    if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        first = mark.decode("utf-16", "replace")
        if first.isprintable() or first.isspace():
            encoding = "utf-16"
    return open(path, encoding=encoding, newline="\n")


def todo_for_encoding(path) -> str:
    """What to do about a file that is no UTF-8 text."""
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    try:
        codecs.getincrementaldecoder("gb18030")().decode(head)
    except UnicodeDecodeError:
        return "save it as UTF-8"
    return "it may be GB18030 (GBK): save it as UTF-8, for example with iconv -f GB18030 -t UTF-8"


def write_json(path, value):
    """Write `value` as indented JSON, Chinese characters as they are."""
    with write_whole(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path, todo) -> dict[str, Any]:
    """The JSON object in `path`. Raises UserError, which ends with `todo`, where there is none."""
    refuse(not Path(path).is_file(), f"no file {path}", todo)
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is broken", todo)
    return value


def read_json_lines(path, todo) -> list[tuple[int, Any]]:
    """[(line number, JSON value)] of the lines of `path` that are not empty.

    Raises UserError, which ends with `todo`, where one is no JSON or the file is no UTF-8 or empty.
    """
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


def is_plain_name(name) -> bool:
    """Whether `name` is that of a file or folder, without a path that leads elsewhere, and not hidden."""
    return bool(name) and name == Path(name).name and not name.startswith(".")


def sha256(path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
