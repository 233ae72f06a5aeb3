"""Metrics: per-example values, their exact sums over an epoch, and the history of a run.

A metric is a function `(logits, labels) -> values (n,)`, one value per example, whose mean over the examples is
reported. Labels are integers (n,) or distributions (n, classes).
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from cnnjax import files
from cnnjax.errors import UserError
from cnnjax.losses import Labels

Metric = Callable[[PyTree[Array], PyTree[Array]], Array]
"""`(logits, labels) -> values (n,)`."""

EpochMetrics = dict[str, float]
"""One epoch: epoch, step, train_loss, train_accuracy, valid_loss, valid_accuracy, images_per_second, seconds, and
train_NAME and valid_NAME of each further metric."""

Sums = Mapping[str, Array | np.ndarray]
"""Running sums over examples. Each name has a float32 array (2,): the sum, and the rounding error that it has left out.
"count" is the number of examples, "finite" that of the batches before the loss was no longer finite; both are int32."""

RESERVED = ("count", "finite")


def accuracy(logits: Float[Array, "n outputs"], labels: Labels) -> Float[Array, " n"]:
    """1 where the most probable class is the label (the label's most probable class), else 0.

    One logit says class 1 when it is positive.
    """
    predicted = logits[:, 0] > 0 if logits.shape[1] == 1 else jnp.argmax(logits, axis=1)
    expected = _class_indices(labels)
    return (predicted.astype(expected.dtype) == expected).astype(jnp.float32)


@dataclass(frozen=True)
class TopK:
    """The metric that `top_k` returns."""

    k: int

    def __call__(self, logits: Float[Array, "n outputs"], labels: Labels) -> Float[Array, " n"]:
        """1 where the label is among the `k` largest logits, else 0. Raises UserError if there are fewer than `k`."""
        if self.k > logits.shape[1]:
            raise UserError(f"top_k({self.k}) needs a model of at least {self.k} logits, and this one has "
                            f"{logits.shape[1]}")  # fmt: skip
        if logits.shape[1] == 1:
            return accuracy(logits, labels)
        _, largest = jax.lax.top_k(logits, self.k)
        expected = _class_indices(labels)
        return jnp.any(largest.astype(expected.dtype) == expected[:, None], axis=1).astype(jnp.float32)


def top_k(k: int) -> Metric:
    """The metric "the label is among the `k` largest logits"; `top_k(1)` is the accuracy. UserError unless k ≥ 1."""
    if k < 1:
        raise UserError(f"top_k({k}): k must be at least 1")
    return TopK(k)


def zeros(names: Iterable[str] = ("loss", "accuracy")) -> Sums:
    """The sums over no examples, of the loss and of the metrics called `names`. UserError for a reserved name."""
    names = dict.fromkeys(("loss", *names))
    for name in RESERVED:
        if name in names:
            raise UserError(f"a metric cannot be called {name!r}, which the history uses itself: choose another name")
    return {name: jnp.zeros(2, jnp.float32) for name in names} | {name: jnp.zeros((), jnp.int32) for name in RESERVED}


def batch_sums(values: Mapping[str, Shaped[Array, "..."]], mask: Bool[Array, " n"]) -> dict[str, Array]:
    """Sums of per-example `values` over the examples in `mask`, and their "count".

    The others do not matter, whatever their values (NaN, for example). The result may be summed over devices and over
    parts of the batch. Raises UserError for values that are not one per example.
    """
    sums = {}
    for name, value in values.items():
        check_values(name, value, mask.size)
        sums[name] = jnp.sum(jnp.where(mask, value.astype(jnp.float32), 0.0))
    return sums | {"count": jnp.sum(mask, dtype=jnp.int32)}


def check_values(name: str, value: object, count: int) -> None:
    """Raises UserError unless the loss ("loss"), or the metric of this name, returned a value for each example."""
    shape = getattr(value, "shape", None)
    if shape != (count,):
        kind, what = ("loss", "the loss") if name == "loss" else ("metric", f"the metric {name!r}")
        found = type(value).__name__ if shape is None else f"values of shape {shape}"
        raise UserError(
            f"{what} returned {found} for {count} examples: a {kind} must return one value per example, shape "
            f"({count},), so leave out the mean over the examples"
        )


def add(sums: Sums, batch: Sums) -> Sums:
    """The running sums with those of one more batch, which has the same names.

    Sums are compensated (Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B): counts of correct
    answers stay exact beyond float32's 2^24, and the mean loss does not depend on the length of the epoch.
    """
    total = {
        name: _add_compensated(jnp.asarray(sums[name]), jnp.asarray(value))
        for name, value in batch.items()
        if name not in RESERVED
    }
    # Once the sum of the losses is not finite, it stays so.
    finite = jnp.isfinite(total["loss"][0]).astype(jnp.int32)
    return total | {"count": sums["count"] + batch["count"], "finite": sums["finite"] + finite}


def compute(sums: Mapping[str, Array | np.ndarray]) -> dict[str, float]:
    """The mean per example of the loss and of each metric. This waits for the device."""
    values = jax.device_get(sums)
    count = max(int(values["count"]), 1)
    return {
        name: float(value.astype("float64").sum()) / count for name, value in values.items() if name not in RESERVED
    }


def selection_key(row: Mapping[str, float]) -> tuple[float, float, float]:
    """What "best" means, ascending: the lower validation loss, then validation accuracy, then the later epoch."""
    loss = row["valid_loss"]
    return (-loss if math.isfinite(loss) else -math.inf, row.get("valid_accuracy", 0.0), row["epoch"])


def best(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """The epoch whose parameters a run keeps."""
    return max(history, key=selection_key)


def epochs_without_improvement(history: Sequence[EpochMetrics]) -> int:
    """How many epochs ago the validation loss was lowest."""
    losses = [row["valid_loss"] if math.isfinite(row["valid_loss"]) else math.inf for row in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


class MeanStd(TypedDict):
    """Statistics of a number over several seeds, as JSON-able data."""

    mean: float
    deviation: float
    seeds: dict[str, float]


def mean_std(values: Mapping[int, float]) -> MeanStd:
    """Mean and sample standard deviation (0 for a single seed) of a number that each seed gave."""
    found = list(values.values())
    return {
        "mean": statistics.mean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else 0.0,
        "seeds": {str(seed): value for seed, value in values.items()},
    }


def describe_mean_std(found: MeanStd, is_share: bool) -> str:
    """`76.2 ± 1.5 %` of a share, `0.5370 ± 0.0123` of another number. Of a single seed no deviation is known."""
    several = len(found["seeds"]) > 1
    if is_share:
        return f"{100 * found['mean']:.1f}" + (f" ± {100 * found['deviation']:.1f} %" if several else " %")
    return f"{found['mean']:.4f}" + (f" ± {found['deviation']:.4f}" if several else "")


def append(path: Path, row: EpochMetrics) -> None:
    """Add one line to a metrics.jsonl."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rewrite(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Make metrics.jsonl hold exactly `history`: on resuming, lines past the checkpoint go."""
    lines = "".join(json.dumps(row) + "\n" for row in history)
    files.atomic_write(path, lambda temporary: temporary.write_text(lines))


def read(path: Path) -> list[EpochMetrics]:
    """The history in a metrics.jsonl. Raises UserError when it cannot be read."""
    try:
        rows = [json.loads(line) for line in files.read_text(path).splitlines()]
        if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or not all("valid_loss" in r for r in rows):
            raise ValueError("its lines are not one for each epoch")
        return rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a run's metrics ({error}): restore it, or delete the run's folder and start over"
        ) from error


@contextmanager
def tensorboard(folder: Path, first_step: int) -> Iterator[Callable[[EpochMetrics], None]]:
    """A function that writes an epoch's numbers for TensorBoard; events of steps from `first_step` on are superseded.

    Raises UserError when tensorboardX is not installed.
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar
    except ImportError as error:
        raise UserError("tensorboard=True needs tensorboardX: pip install 'cnnjax[tensorboard]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    # Not SummaryWriter: its flush() does not wait for the thread that writes, so a killed run would lose epochs.
    writer = EventsWriter(str(folder / "events"))
    start = SessionLog(status=SessionLog.START)
    writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(row: EpochMetrics) -> None:
        for name in row.keys() - {"epoch", "step"}:
            writer.write_event(Event(wall_time=time.time(), step=int(row["step"]), summary=scalar(name, row[name])))
        writer.flush()

    try:
        yield write
    finally:
        writer.close()


def _class_indices(labels: Labels) -> Int[Array, " n"]:
    return labels if labels.ndim == 1 else jnp.argmax(labels, axis=1)


def _add_compensated(total: Float[Array, "2"], value: Float[Array, ""]) -> Float[Array, "2"]:
    high, low = total
    rounded = high + value
    part = rounded - high
    error = (high - (rounded - part)) + (value - part)
    return jnp.stack([rounded, low + error])
