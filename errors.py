"""How a script tells its user of a mistake: one line that says what is wrong and what to do."""

import sys


class UserError(Exception):
    """A mistake of the user's. Ends a script with `error: WHAT; WHAT TO DO` on stderr and status 2."""

    def __init__(self, what, todo):
        super().__init__(f"{what}; {todo}")
        self.what, self.todo = what, todo


def require(condition, what, todo):
    """Raise UserError(what, todo) unless `condition` holds."""
    if not condition:
        raise UserError(what, todo)


def _excepthook(kind, error, traceback):
    if issubclass(kind, UserError):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2)
    if issubclass(kind, OSError):
        place = f" {error.filename}" if error.filename else ""
        print(
            f"error: cannot use{place}: {error.strerror or error}; check the path, its rights and the free space",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if kind.__name__ == "DistBackendError" or issubclass(kind, RuntimeError) and "gloo" in str(error):
        print(
            "error: another process of this run has died or cannot be reached; see what it said, then run the same"
            " command with --init_from=resume",
            file=sys.stderr,
        )
        raise SystemExit(1)
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        raise SystemExit(130)
    sys.__excepthook__(kind, error, traceback)


sys.excepthook = _excepthook
