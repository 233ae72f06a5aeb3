"""What takes the place of checkpoints in a run without a folder."""

import jax

from cnnjax.errors import UserError
from cnnjax.train import metrics
from cnnjax.train.metrics import EpochMetrics, best
from cnnjax.train.state import TrainState

History = list[EpochMetrics]
"""The metrics of all epochs so far."""


class MemoryCheckpoints:
    """What a run without a folder keeps: the state of the best epoch, in the host's memory."""

    latest = None

    def __init__(self) -> None:
        self.step = 0
        self._best: tuple[TrainState, EpochMetrics] | None = None

    def __enter__(self) -> "MemoryCheckpoints":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def describe(self) -> str:
        """Where the latest checkpoint is, in words."""
        return "nothing was saved, since the run has no run_dir"

    def save(self, state: TrainState, sums: metrics.Sums, history: History) -> None:
        """Keep the state if its epoch is the best so far."""
        self.step = int(state.step)
        if history and history[-1]["step"] == self.step and best(history) is history[-1]:
            self._best = jax.device_get(state), history[-1]

    def wait(self) -> None:
        """Nothing is being written."""

    def load(self, state: TrainState, sums: metrics.Sums) -> tuple[TrainState, metrics.Sums, History]:
        """The state as it is given: nothing is kept that a run could continue from."""
        return state, sums, []

    def load_best(self, like: TrainState, history: History) -> tuple[TrainState, EpochMetrics]:
        """The state and metrics of the best epoch."""
        if self._best is None:
            raise UserError("no epoch was finished, so there is no best one: train for one epoch or more")
        return self._best
