"""SIGTERM says that the machine will be taken away: a run asks between its calls whether it has come."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """Within it the first SIGTERM only makes the given function true; the next one acts as it did before.

    In another thread than the main one, where Python cannot listen to signals, nothing changes.
    """
    came = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def hear(*_: Any) -> None:
        came.append(True)
        signal.signal(signal.SIGTERM, before)

    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
