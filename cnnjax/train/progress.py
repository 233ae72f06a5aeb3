"""How far a run is: a progress bar on a terminal, one line an epoch anywhere, or calls of a function."""

import sys
from collections.abc import Callable, Mapping

from tqdm import tqdm

from cnnjax import distributed
from cnnjax.train.metrics import EpochMetrics

OnProgress = Callable[[int, int, dict[str, float]], None]
"""Called with the steps done, all steps, and the latest numbers."""

_SHOWN = {
    "loss": "train_loss", "accuracy": "train_accuracy", "valid loss": "valid_loss", "valid accuracy": "valid_accuracy",
}  # fmt: skip


class Progress:
    """Shows a run's progress over all its images, or calls `on_progress` instead. Only the primary host shows it."""

    def __init__(self, epochs: int, steps: int, batch_size: int, done: int, on_progress: OnProgress | None):
        self._batch_size, self._report, self._epochs = batch_size, on_progress, epochs
        self._done, self._total = done, epochs * steps
        self._latest: dict[str, float] = {}
        self._silent = on_progress is not None or not distributed.is_primary()
        self._bar = tqdm(
            total=self._total * batch_size,
            initial=done * batch_size,
            unit=" images",
            disable=self._silent or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def describe(self, activity: str) -> None:
        """Show what is being done."""
        self._bar.set_description(activity)

    def steps(self, number: int, numbers: Mapping[str, float]) -> None:
        """`number` more steps are done; `numbers` are the running epoch's."""
        self._done += number
        self._bar.update(number * self._batch_size)
        self._show(numbers)

    def epoch(self, row: EpochMetrics, name: str = "", epochs: int | None = None) -> None:
        """An epoch has been evaluated; where there are several runs, of the one of this name, with its own epochs."""
        self._show(row)
        if not self._silent:
            beginning = f"{name}: " if name else ""
            tqdm.write(beginning + format_epoch(row, epochs or self._epochs), file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _show(self, numbers: Mapping[str, float]) -> None:
        self._latest |= numbers
        shown = {name: f"{self._latest[key]:.3f}" for name, key in _SHOWN.items() if key in self._latest}
        self._bar.set_postfix(shown, refresh=False)
        if self._report:
            self._report(self._done, self._total, dict(self._latest))


def format_epoch(row: EpochMetrics, epochs: int) -> str:
    """One epoch in a line: `epoch 3/20: loss 0.512, accuracy 74.1%, valid loss 0.540, …, 812 images/s`."""
    parts = []
    for name, value in row.items():
        kind = name.partition("_")[2]
        if name.startswith(("train_", "valid_")):
            words = name.removeprefix("train_").replace("_", " ")
            parts.append(f"{words} {value:.1%}" if kind == "accuracy" else f"{words} {value:.4g}")
    return f"epoch {row['epoch']:.0f}/{epochs}: {', '.join(parts)}, {row['images_per_second']:.0f} images/s"
