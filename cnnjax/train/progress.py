"""How far a run is, for people or for a program."""

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from cnnjax import distributed
from cnnjax.cli.config import TrainConfig
from cnnjax.train import metrics

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with the steps done, all steps, and the latest numbers."""


class Display:
    """How far a run is: a bar over all its pictures, or a call of `on_progress`."""

    def __init__(self, steps: int, config: TrainConfig, done: int, on_progress: Progress | None):
        self._batch, self._report = config.batch_size, on_progress
        self._done, self._total = done, config.epochs * steps
        self._latest: dict[str, Any] = {}
        self._bar = tqdm(
            total=self._total * self._batch,
            initial=self._done * self._batch,
            unit=" images",
            disable=on_progress is not None or not distributed.is_primary(),
            dynamic_ncols=True,
        )

    def say(self, what: str) -> None:
        self._bar.set_description(what)

    def steps(self, number: int, numbers: dict[str, Any]) -> None:
        """So many steps more are done; `numbers` are the running epoch's."""
        self._done += number
        self._bar.update(number * self._batch)
        self._tell(numbers)

    def epoch(self, row: metrics.Row) -> None:
        """An epoch is evaluated."""
        self._tell(row)

    def close(self) -> None:
        self._bar.close()

    def _tell(self, numbers: dict[str, Any]) -> None:
        self._latest |= numbers
        shown = {"loss": "train_loss", "accuracy": "train_accuracy", "valid loss": "valid_loss",
                 "valid accuracy": "valid_accuracy"}  # fmt: skip
        latest = {name: f"{self._latest[key]:.3f}" for name, key in shown.items() if key in self._latest}
        self._bar.set_postfix(latest)
        if self._report:
            self._report(self._done, self._total, dict(self._latest))
