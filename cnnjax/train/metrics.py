"""Sums over examples, their means, a run's history and where it is written."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cnnjax.errors import UserError

Row = dict[str, Any]
"""One epoch: epoch, step, train_loss, train_accuracy, valid_loss, valid_accuracy, images_per_second, seconds."""

Sums = dict[str, Any]
"""Over examples: loss, correct answers, count; and how many batches there were before the loss was not finite."""


def zeros() -> Sums:
    """The sums over no examples."""
    return {
        "loss": jnp.zeros((), jnp.float32),
        "correct": jnp.zeros((), jnp.int32),
        "count": jnp.zeros((), jnp.int32),
        "finite": jnp.zeros((), jnp.int32),
    }


def measure(
    losses: Float[Array, " batch"],
    logits: Float[Array, "batch outputs"],
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
) -> dict[str, Array]:
    """Sums over the examples in `mask`: loss, correct answers, count. One logit says class 1 when it is positive."""
    answers = logits[:, 0] > 0 if logits.shape[1] == 1 else jnp.argmax(logits, axis=1)
    right = (answers.astype(labels.dtype) == labels) & mask
    return {
        "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
        "correct": jnp.sum(right, dtype=jnp.int32),
        "count": jnp.sum(mask, dtype=jnp.int32),
    }


def add(sums: Sums, more: dict[str, Array]) -> Sums:
    """The sums so far and those of one batch more."""
    total = {name: sums[name] + more[name] for name in more}
    # Once it is not finite a sum stays so: this counts the batches before the first bad one.
    return total | {"finite": sums["finite"] + jnp.isfinite(total["loss"]).astype(jnp.int32)}


def means(sums: Sums) -> dict[str, float]:
    """Loss and accuracy (0 to 1) per example; this is what waits for the device."""
    loss, correct, count = (float(x) for x in jax.device_get((sums["loss"], sums["correct"], sums["count"])))
    count = max(count, 1.0)
    return {"loss": loss / count, "accuracy": correct / count}


def rank(row: Row) -> tuple[float, float, int]:
    """What "best" means, ascending: the lower validation loss, then validation accuracy, then the later epoch."""
    loss = row["valid_loss"]
    return (-loss if math.isfinite(loss) else -math.inf, row["valid_accuracy"], row["epoch"])


def best(history: list[Row]) -> Row:
    """The epoch whose parameters a run keeps."""
    return max(history, key=rank)


def epochs_without_gain(history: list[Row]) -> int:
    """How many epochs ago the validation loss was lowest."""
    losses = [row["valid_loss"] if math.isfinite(row["valid_loss"]) else math.inf for row in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def over_seeds(values: dict[int, float]) -> dict[str, Any]:
    """Mean and (sample) standard deviation of a number that each seed gave, and the numbers, as JSON-able data."""
    found = list(values.values())
    return {
        "mean": statistics.mean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else 0.0,
        "seeds": {str(seed): value for seed, value in values.items()},
    }


def append(path: Path, row: Row) -> None:
    """Add one line to a metrics.jsonl."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rewrite(path: Path, history: list[Row]) -> None:
    """Make metrics.jsonl hold exactly `history`: on resuming, lines past the checkpoint go."""
    path.write_text("".join(json.dumps(row) + "\n" for row in history))


def read(path: Path) -> list[Row]:
    """The history in a metrics.jsonl. Raises UserError when it cannot be read."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a run's metrics ({error}): restore it, or use --fresh") from error


def tensorboard(folder: Path, first_step: int) -> Callable[[Row], None]:
    """A function that writes an epoch's numbers for TensorBoard; events of steps from `first_step` on are superseded.

    Raises UserError when tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("--train.tensorboard needs tensorboardX: pip install 'cnnjax[tensorboard]'") from error
    writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(row: Row) -> None:
        for name in row.keys() - {"epoch", "step"}:
            writer.add_scalar(name, row[name], row["step"])
        writer.flush()

    return write
