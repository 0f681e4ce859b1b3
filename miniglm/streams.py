"""What a script reads from and prints to: UTF-8 under any locale, and a reader who goes away stops no work."""

import errno
import io
import os
import sys

GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)  # what writing to a closed pipe gives


class Patient(io.FileIO):
    """A pipe or file to print to that, once its reader has gone (as `head` does), leads to nowhere."""

    def write(self, content):
        """How many bytes were written: all, where nobody reads them any more."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for the processes that this one starts, too
            os.close(nowhere)
            return len(content)


def open_streams():
    """Make stdin, stdout and stderr UTF-8, and the latter two Patient.

    Where the locale is ASCII, which can name no Chinese file, the script begins anew in Python's UTF-8 mode.
    """
    if sys.getfilesystemencoding() == "ascii":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(encoding="utf-8", errors="replace")
        if name != "stdin" and isinstance(raw := getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            lasting = patient(raw.fileno(), stream)
            setattr(sys, name, lasting)
            setattr(sys, f"__{name}__", lasting)


def patient(fd, stream) -> io.TextIOWrapper:
    """A Patient text stream on a file descriptor, which writes as soon as `stream` does."""
    stream.flush()
    raw = Patient(fd, "wb", closefd=False)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, "utf-8", "replace", line_buffering=stream.line_buffering, write_through=stream.write_through
    )
