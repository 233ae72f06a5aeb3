"""Losses for each example: (logits, labels, activations) -> (n,). Labels are integers, or distributions over classes."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

Labels = Int[Array, " n"] | Float[Array, "n classes"]
LossFunction = Callable[[PyTree[Array], Array, dict[str, Array]], Array]
"""(logits, labels, activations) -> one loss for each example. A `Loss` is one; so is any function of this form."""


@dataclass(frozen=True)
class Loss:
    """A loss to train with, and the plain one that evaluation reports."""

    training: LossFunction
    evaluation: LossFunction

    def __call__(self, logits: PyTree[Array], labels: Array, activations: dict[str, Array]) -> Float[Array, " n"]:
        """The training loss of each example."""
        return self.training(logits, labels, activations)

    def __add__(self, other: LossFunction) -> "Loss":
        """An auxiliary loss added for training; evaluation reports this loss alone."""
        return Loss(lambda *inputs: self.training(*inputs) + other(*inputs), self.evaluation)

    def __mul__(self, weight: float) -> "Loss":
        """The training loss weighted."""
        return Loss(lambda *inputs: weight * self.training(*inputs), self.evaluation)

    __rmul__ = __mul__


@dataclass(frozen=True)
class _CrossEntropy:
    kind: str
    label_smoothing: float = 0.0

    def __call__(self, logits: Array, labels: Array, activations: dict[str, Array]) -> Array:
        logits = logits.astype(jnp.float32)
        one = self.kind == "sigmoid" or (self.kind == "either" and logits.shape[1] == 1)
        if one:
            target = labels.astype(jnp.float32) if labels.ndim == 1 else labels[:, 1]
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], target)
        if labels.ndim == 1 and not self.label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        target = jax.nn.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
        target = target * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[1]
        return optax.softmax_cross_entropy(logits, target)


def _make(kind: str, label_smoothing: float) -> Loss:
    return Loss(_CrossEntropy(kind, label_smoothing), _CrossEntropy(kind))


def softmax_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of several logits (n, classes), in nats."""
    return _make("softmax", label_smoothing)


def sigmoid_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of one logit (n, 1), in nats: positive says class 1."""
    return _make("sigmoid", label_smoothing)


def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """`sigmoid_cross_entropy` of one logit, `softmax_cross_entropy` of several."""
    return _make("either", label_smoothing)


def evaluation_of(loss: LossFunction) -> LossFunction:
    """The plain loss that evaluation reports."""
    return loss.evaluation if isinstance(loss, Loss) else loss
