"""SIGTERM says that the machine will be taken away: a run asks between its calls whether it has come."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watch_sigterm(begun: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], bool]]:
    """Within it the first SIGTERM only makes the given function true; one a second or more later acts as it did before.

    So does every one while `begun` is false: then there is nothing to save.

    In another thread than the main one, where Python cannot listen to signals, nothing changes.
    """
    came = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def hear(*_: Any) -> None:
        came.append(time.monotonic())
        # The first may come twice: a scheduler tells every process of a job, and a parent its child.
        if came[-1] - came[0] >= 1 or not begun():
            signal.signal(signal.SIGTERM, before)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
