"""What a run's history says to its user: that the network has not learned, or that the splits do not fit together."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.dataset import as_split
from cnnjax.network import Network
from cnnjax.train.metrics import EpochMetrics

IMAGES = 64
CHANCE = 0.98
"""Share of the loss at chance, ln(classes), from which on a network has learned nothing."""
ALIKE = 0.02
"""Answers whose probabilities differ by less are the same."""
LONG_ENOUGH = 500
"""Steps after which a network whose answers differ should be better than guessing."""
GAP = 0.25
"""Accuracy by which validation is below training where the two do not belong together."""


def diagnose(history: Sequence[EpochMetrics], network: Network, dataset: Any) -> list[str]:
    """Sentences on what went wrong in a run that ended; none if nothing did."""
    return [text for text in (_stuck(history, network, dataset), _apart(history, network)) if text]


def _stuck(history: Sequence[EpochMetrics], network: Network, dataset: Any) -> str | None:
    classes = max(2, len(network.class_names))
    chance = math.log(classes)
    if not history or not network.class_names or min(row["valid_loss"] for row in history) < CHANCE * chance:
        return None
    split = as_split(dataset.train)
    images = jnp.asarray(split.images[np.arange(0, len(split), max(1, len(split) // IMAGES))[:IMAGES]])
    odds, alive = jax.device_get(_answers(network, images))
    if float(np.ptp(odds, axis=0).max()) > ALIKE:
        return _no_better_than_guessing(history, classes)
    silent = [~units for units in alive]
    share = sum(int(units.sum()) for units in silent) / max(1, sum(units.size for units in silent))
    return (
        f"the network has learned nothing: its loss stays at that of guessing, ln {classes} = {chance:.3f}, and it "
        f"gives every image the same answer; {share:.0%} of its units were not active on any of {len(images)} training "
        f"images: train again with another train.seed, a lower learning_rate, or a warm-up (schedule='warmup')"
    )


def _no_better_than_guessing(history: Sequence[EpochMetrics], classes: int) -> str | None:
    """Of a network whose answers differ from image to image, once it had time to learn."""
    if history[-1].get("step", 0) < LONG_ENOUGH:
        return None
    chance, lowest = math.log(classes), min(row["train_loss"] for row in history)
    if lowest >= CHANCE * chance:
        return (
            f"the network has learned nothing: its loss stays at that of guessing, ln {classes} = {chance:.3f}: check "
            f"the labels, or train again with another learning_rate"
        )
    return (
        f"what the network learned of its training images does not hold for others: the training loss fell to "
        f"{lowest:.3f}, and the validation loss never below that of guessing, ln {classes} = {chance:.3f}: check the "
        f"labels, or train with more images or with augmentation"
    )


@jax.jit
def _answers(network: Network, images: Any) -> tuple[Any, list[Any]]:
    """The probabilities, and of every layer but the last whether each channel is active anywhere."""
    activations = list(network(images)[1].values())[:-1]
    channels = [values.max(axis=tuple(range(values.ndim - 1))) > 0 for values in activations if values.ndim > 1]
    return network.probabilities(images), channels


def _apart(history: Sequence[EpochMetrics], network: Network) -> str | None:
    rows = [row for row in history if {"train_accuracy", "valid_accuracy"} <= row.keys()]
    if not rows or any(row["train_accuracy"] - row["valid_accuracy"] < GAP for row in rows):
        return None
    first = rows[0]
    remedy = "check that the folders of the splits hold images of the same kinds and classes"
    if jax.tree.leaves(network.model_state):
        remedy += ", and give BatchNorm's running statistics more steps"
    return (
        f"validation is far below training from the first epoch on ({first['valid_accuracy']:.0%} against "
        f"{first['train_accuracy']:.0%} in epoch 1): {remedy}"
    )
