"""The first SIGTERM is only noted, its echo too; a later one ends the process."""

import os
import signal
import time

import pytest

from cnnjax.train import preemption


def test_a_later_sigterm_acts_as_it_did_before(monkeypatch):
    def ended(*_) -> None:
        raise SystemExit("ended")

    before, clock = signal.signal(signal.SIGTERM, ended), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    try:
        with preemption.watch_sigterm() as came:
            assert not came()
            os.kill(os.getpid(), signal.SIGTERM)
            assert came()
            clock[0] = 0.5
            os.kill(os.getpid(), signal.SIGTERM)
            clock[0] = 1.5
            with pytest.raises(SystemExit, match="ended"):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == ended
    finally:
        signal.signal(signal.SIGTERM, before)
