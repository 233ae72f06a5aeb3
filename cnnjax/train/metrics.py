"""Sums over examples, their means, a run's history and where it is written."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from cnnjax.errors import UserError

EpochMetrics = dict[str, float]
"""One epoch: epoch, step, train_loss, train_accuracy, valid_loss, valid_accuracy, images_per_second, seconds."""

Sums = dict[str, Array]
"""Over examples: each metric, count; and the number of batches before the loss was not finite."""

Metric = Callable[[PyTree[Array], Array], Array]
"""(logits, labels) -> one value for each example."""


def accuracy(logits: Float[Array, "n outputs"], labels: Array) -> Float[Array, " n"]:
    """Whether the prediction is right. One logit says class 1 when it is positive."""
    labels = labels if labels.ndim == 1 else jnp.argmax(labels, axis=1)
    found = logits[:, 0] > 0 if logits.shape[1] == 1 else jnp.argmax(logits, axis=1)
    return (found.astype(labels.dtype) == labels).astype(jnp.float32)


def top_k(k: int) -> Metric:
    """Whether the label is among the k largest logits."""

    def metric(logits: Array, labels: Array) -> Array:
        labels = labels if labels.ndim == 1 else jnp.argmax(labels, axis=1)
        found = jax.lax.top_k(logits, min(k, logits.shape[1]))[1]
        return (found == labels[:, None]).any(axis=1).astype(jnp.float32)

    return metric


def zeros(names: Sequence[str]) -> Sums:
    """The sums over no examples."""
    sums = {name: jnp.zeros((), jnp.float32) for name in names}
    return sums | {"count": jnp.zeros((), jnp.int32), "finite": jnp.zeros((), jnp.int32)}


def batch_sums(values: Mapping[str, Float[Array, " n"]], mask: Bool[Array, " n"]) -> Sums:
    """Sums over the examples in `mask`."""
    sums = {name: jnp.sum(jnp.where(mask, value, 0.0)) for name, value in values.items()}
    return sums | {"count": jnp.sum(mask, dtype=jnp.int32)}


def add(sums: Sums, more: Sums) -> Sums:
    """The sums so far and those of one batch more."""
    total = {name: sums[name] + more[name] for name in more}
    # Once it is not finite a sum stays so: this counts the batches before the first bad one.
    return total | {"finite": sums["finite"] + jnp.isfinite(total["loss"]).astype(jnp.int32)}


def compute(sums: Sums) -> dict[str, float]:
    """Means over the examples; this waits for the device."""
    found = jax.device_get({name: value for name, value in sums.items() if name != "finite"})
    count = max(float(found.pop("count")), 1.0)
    return {name: float(value) / count for name, value in found.items()}


def selection_key(row: EpochMetrics) -> tuple[float, float, int]:
    """What "best" means, ascending: the lower validation loss, then validation accuracy, then the later epoch."""
    loss = row["valid_loss"]
    return (-loss if math.isfinite(loss) else -math.inf, row["valid_accuracy"], row["epoch"])


def best(history: list[EpochMetrics]) -> EpochMetrics:
    """The epoch whose parameters a run keeps."""
    return max(history, key=selection_key)


def epochs_without_improvement(history: list[EpochMetrics]) -> int:
    """How many epochs ago the validation loss was lowest."""
    losses = [row["valid_loss"] if math.isfinite(row["valid_loss"]) else math.inf for row in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def mean_std(values: dict[int, float]) -> dict[str, Any]:
    """Mean and (sample) standard deviation of a number that each seed gave, and the numbers, as JSON-able data."""
    found = list(values.values())
    return {
        "mean": statistics.mean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else 0.0,
        "seeds": {str(seed): value for seed, value in values.items()},
    }


def append(path: Path, row: EpochMetrics) -> None:
    """Add one line to a metrics.jsonl."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rewrite(path: Path, history: list[EpochMetrics]) -> None:
    """Make metrics.jsonl hold exactly `history`: on resuming, lines past the checkpoint go."""
    path.write_text("".join(json.dumps(row) + "\n" for row in history))


def read(path: Path) -> list[EpochMetrics]:
    """The history in a metrics.jsonl. Raises UserError when it cannot be read."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a run's metrics ({error}): restore it, or use --fresh") from error


def tensorboard(folder: Path, first_step: int) -> Callable[[EpochMetrics], None]:
    """A function that writes an epoch's numbers for TensorBoard; events of steps from `first_step` on are superseded.

    Raises UserError when tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("--train.tensorboard needs tensorboardX: pip install 'cnnjax[tensorboard]'") from error
    writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(row: EpochMetrics) -> None:
        for name in row.keys() - {"epoch", "step"}:
            writer.add_scalar(name, row[name], row["step"])
        writer.flush()

    return write
