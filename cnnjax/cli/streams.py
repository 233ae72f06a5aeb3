"""Standard output and error of a command: what cannot be encoded is escaped, and a reader may close its pipe."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cnnjax.errors import UserError


class Stream:
    """A text stream that ends nobody's work: after the reader of a pipe has gone, what is written is dropped."""

    def __init__(self, stream: Any, name: str, is_nothing: bool = False) -> None:
        self._stream, self._name, self._gone = stream, name, False
        self.is_nothing = is_nothing
        """Whether the process was started without this stream."""
        with suppress(AttributeError, ValueError):  # notebooks and tests have streams of their own kinds
            if stream.errors in ("strict", "surrogateescape"):
                stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text. Raises UserError where the stream is a file that cannot be written."""
        return self._attempt(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        """Write what is kept back."""
        self._attempt(self._stream.flush, None)

    def _attempt(self, work: Any, default: Any) -> Any:
        if self._gone:
            return default
        try:
            return work()
        except OSError as error:
            self._gone = True
            # Python itself writes what is kept back when it ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if error.errno in (errno.EPIPE, errno.EINVAL):  # the second is Windows' name for it
                return default
            raise UserError(f"the {self._name} cannot be written ({error.strerror}): make room there") from error


@contextmanager
def guarded() -> Iterator[None]:
    """Within it standard output and error are `Stream`s; what is written to one that is closed is dropped."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nothing:
        # Each is None if the process was started without it.
        sys.stdout = Stream(sys.stdout or nothing, "standard output", sys.stdout is None)
        sys.stderr = Stream(sys.stderr or nothing, "standard error", sys.stderr is None)
        try:
            yield
            flush()
        finally:
            sys.stdout, sys.stderr = before


def flush() -> None:
    """Write what both streams keep back: what a `Stream` cannot write is then no matter of Python's own end."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
