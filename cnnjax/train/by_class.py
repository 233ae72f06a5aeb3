"""Accuracy class by class, which the accuracy of all examples hides where classes have unequal numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.dataset import ArraySplit, LazySplit
from cnnjax.network import Network
from cnnjax.train import metrics

BATCH = 64
UNEQUAL = 1.2
"""Classes are called unequal when the largest has this many times the examples of the smallest."""


def counts(labels: Any, classes: int) -> list[int]:
    """How many examples each class has. Distributions count for their largest entry."""
    labels = np.asarray(labels)
    return np.bincount(labels if labels.ndim == 1 else labels.argmax(axis=1), minlength=classes).tolist()


def are_unequal(numbers: Sequence[int]) -> bool:
    """Whether the numbers of the classes' examples differ by more than a fifth."""
    return max(numbers) > UNEQUAL * max(1, min(numbers))


def balanced_weights(numbers: Sequence[int]) -> tuple[float, ...]:
    """A weight for each class, inverse to its number of examples; their mean over all examples is 1."""
    total = sum(numbers)
    return tuple(total / (len(numbers) * max(1, number)) for number in numbers)


def accuracy_by_class(network: Network, split: ArraySplit | LazySplit) -> dict[str, float]:
    """The share of each class's examples that the network gets right, by name, and their mean as "balanced_accuracy".

    Classes without examples take no part.
    """
    labels = np.asarray(split.labels)
    right = np.zeros(len(labels))
    for first in range(0, len(labels), BATCH):
        rows = np.arange(first, first + BATCH) % len(labels)  # the last batch is filled up
        found = _right(network, jnp.asarray(split.images[rows]), jnp.asarray(labels[rows]))
        right[rows[: len(labels) - first]] = np.asarray(found)[: len(labels) - first]
    indices = labels if labels.ndim == 1 else labels.argmax(axis=1)
    shares = {
        name: float(right[indices == number].mean())
        for number, name in enumerate(network.class_names)
        if (indices == number).any()
    }
    return shares | {"balanced_accuracy": float(np.mean(list(shares.values())))}


@jax.jit
def _right(network: Network, images: Any, labels: Any) -> Any:
    return metrics.accuracy(network(images)[0], labels)


def describe(shares: Mapping[str, float], numbers: Mapping[str, int]) -> str:
    """Balanced accuracy and the accuracy of each class, the worst ten of many, in a sentence."""
    named = sorted((name for name in shares if name in numbers), key=lambda name: shares[name])
    parts = [f"{name} {shares[name]:.1%} of {numbers[name]:,}" for name in named[:10]]
    more = f" and {len(named) - 10} more" if len(named) > 10 else ""
    return f"balanced accuracy {shares['balanced_accuracy']:.1%}; by class: {', '.join(parts)}{more}"
