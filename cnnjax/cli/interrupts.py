"""Ctrl-C: the first one is an orderly end, an impatient second one is ignored, and a later one ends at once."""

import os
import signal
import sys
import threading
import time
from typing import Any


def listen() -> None:
    """Handle Ctrl-C so for the rest of the process, unless somebody else handles it, or this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, Interrupts())


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
            if sys.stderr is not None:
                os.write(2, b"\ninterrupted again: ended at once\n")
            os._exit(130)
