"""How a script tells its user of a mistake: one line that says what is wrong and what to do."""

import re
import sys

OUT_OF_MEMORY = "allocate memory|out of memory"  # what torch says of a CPU, of a GPU


class UserError(Exception):
    """A mistake of the user's. Ends a script with `error: WHAT; WHAT TO DO` on stderr and status 2."""

    def __init__(self, what, todo):
        super().__init__(f"{what}; {todo}")
        self.what, self.todo = what, todo


def refuse(fault, what, todo):
    """Raise UserError(what, todo) where `fault` is true."""
    if fault:
        raise UserError(what, todo)


def tell_mistakes_in_one_line():
    """From now on an exception that ends the script, and is no bug of ours, is printed as one line."""
    sys.excepthook = _excepthook


def _in_one_line(kind, error):
    """(what to print, exit status) of an exception that is no bug of ours, else None."""
    if issubclass(kind, KeyboardInterrupt):
        return "stopped", 130
    if issubclass(kind, UserError):
        return f"error: {' '.join(str(error).split())}", 2
    if issubclass(kind, OSError):
        place = f" {error.filename}" if error.filename else ""
        reason = error.strerror or error
        return f"error: cannot use{place}: {reason}; check the path, its rights and the free space", 2
    if issubclass(kind, MemoryError) or issubclass(kind, RuntimeError) and re.search(OUT_OF_MEMORY, str(error)):
        return "error: not enough memory; choose a smaller --batch_size, --block_size or model", 2
    if kind.__name__ == "DistBackendError" or issubclass(kind, RuntimeError) and "gloo" in str(error):
        return (
            "error: another process of this run has died or cannot be reached; see what it said, then run the same"
            " command with --init_from=resume"
        ), 2
    return None


def _excepthook(kind, error, traceback):
    found = _in_one_line(kind, error)
    if found is None:
        return sys.__excepthook__(kind, error, traceback)
    line, status = found
    if "tqdm" in sys.modules:  # a progress bar would stand on the same line
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()
    line = "".join(c if c.isprintable() else "?" for c in line)  # no terminal escapes from a file or a server
    print(line, file=sys.__stderr__)  # torch.distributed puts a hook around this one that swallows sys.stderr
    raise SystemExit(status)
