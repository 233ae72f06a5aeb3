"""A trace of some training steps for XProf."""

from pathlib import Path

import jax

from cnnjax import distributed


class Profiler:
    """Writes a trace of `steps` training steps into `folder`/profile, beginning after the first call."""

    def __init__(self, folder: Path | None, steps: int):
        self._folder, self._left, self._running = folder, steps, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop()

    def step(self, count: int) -> None:
        """`count` more steps have been started."""
        if self._folder is None or not self._left or not distributed.is_primary():
            return
        if not self._running:
            jax.profiler.start_trace(str(self._folder / "profile"))
            self._running = True
            return
        self._left = max(0, self._left - count)
        if not self._left:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
