"""Ctrl-C: the first one is an orderly end, an impatient second one is ignored, and a later one ends at once.

While a command is still being imported there is nothing to end in order, so that the first one ends at once.
"""

import os
import signal
import sys
import threading
import time
from typing import Any


def begin() -> None:
    """End the process at once on Ctrl-C, until `listen`. It is called before anything else is imported."""
    _handle(_end_at_once)


def listen() -> None:
    """Handle Ctrl-C so for the rest of the process, unless somebody else handles it, or this is not the main thread."""
    _handle(Interrupts())


def end() -> None:
    """Leave the process if a Ctrl-C of the user's is what ended its work. Everything must be written.

    What Python does at the end would wait for XLA's threads, which have crashed at that, and end by a second Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Interrupts) and handler.first is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(130)


def _handle(handler: Any) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _end_at_once):
        signal.signal(signal.SIGINT, handler)


def _end_at_once(*_: Any) -> None:
    _say(b"\ninterrupted before anything was begun\n")
    os._exit(130)


def _say(text: bytes) -> None:
    """Write to standard error as a signal's handler may. Where it is closed, another file may have its number."""
    if sys.stderr is not None and not getattr(sys.stderr, "is_nothing", False):
        os.write(2, text)


class Interrupts:
    """The handler. Python's own would raise in the middle of what the first Ctrl-C has begun, or at the very end."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, *_: Any) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
            raise KeyboardInterrupt
        if now - self.first >= 1:  # what is on the disk is complete at any moment
            _say(b"\ninterrupted again: ended at once\n")
            os._exit(130)
