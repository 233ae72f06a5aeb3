"""Per-example losses: `(logits, labels, activations) -> losses (n,)`.

Labels are integers (n,) or distributions over the classes (n, classes), for example those of mixup. A loss for training
may smooth the labels and add auxiliary terms; what evaluation reports is the plain loss, `evaluation_of(loss)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from cnnjax.errors import UserError

Labels = Int[Array, " n"] | Float[Array, "n classes"]
"""Class indices, or one distribution over the classes per example."""

LossFunction = Callable[[PyTree[Array], PyTree[Array], Mapping[str, Array]], Array]
"""`(logits, labels, activations) -> losses (n,)`; the activations are those of the model, by name."""


@dataclass(frozen=True, repr=False)
class Loss:
    """A per-example loss with auxiliary terms. Instances are hashable and compare by value.

    `loss + other` adds an auxiliary loss (a `Loss` or a plain function of the same signature), and `weight * loss`
    scales it: `cross_entropy() + 0.1 * Loss(sparsity)`. Both change what is minimized in training and nothing else:
    `evaluation` is always the unweighted plain loss of the first term.

    function: the first term.
    plain: what evaluation reports in its place; None when that is `function` itself.
    weight: the factor of the first term.
    auxiliary: further terms, each with its own weight.
    """

    function: LossFunction
    plain: LossFunction | None = None
    weight: float = 1.0
    auxiliary: tuple["Loss", ...] = ()

    def __call__(
        self, logits: PyTree[Array], labels: PyTree[Array], activations: Mapping[str, Array]
    ) -> Float[Array, " n"]:
        """The values that training minimizes, one per example. Raises UserError when a term has another shape."""
        total = self.function(logits, labels, activations)
        if total.ndim != 1:
            raise UserError(
                f"the loss {Loss(self.function)!r} returned an array of shape {total.shape}: a loss must return one "
                "value per example, shape (n,)"
            )
        total = total if self.weight == 1 else self.weight * total
        for term in self.auxiliary:
            total = total + term(logits, labels, activations)
        return total

    @property
    def evaluation(self) -> "Loss":
        """The plain loss: no label smoothing, no auxiliary terms, no weight."""
        return Loss(self.plain or self.function)

    def __add__(self, other: LossFunction) -> "Loss":
        other = _as_loss(other)
        return replace(self, auxiliary=(*self.auxiliary, replace(other, auxiliary=()), *other.auxiliary))

    def __radd__(self, other: LossFunction) -> "Loss":
        return _as_loss(other) + self

    def __mul__(self, weight: float) -> "Loss":
        auxiliary = tuple(term * weight for term in self.auxiliary)
        return replace(self, weight=self.weight * weight, auxiliary=auxiliary)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", None) or repr(self.function)
        first = name if self.weight == 1 else f"{self.weight:g} * {name}"
        return " + ".join([first, *map(repr, self.auxiliary)])


def evaluation_of(loss: LossFunction) -> LossFunction:
    """The plain loss that evaluation reports: `loss.evaluation`, or a plain function itself."""
    return loss.evaluation if isinstance(loss, Loss) else loss


def softmax_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy of logits (n, classes), in nats.

    label_smoothing: s in [0, 1) replaces the label distribution y by (1 - s) · y + s / classes, in training only
    (Szegedy et al., 2016, "Rethinking the Inception architecture for computer vision", section 7). Raises UserError for
    other values.
    """
    return _cross_entropy("softmax", label_smoothing)


def sigmoid_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Binary cross-entropy of one sigmoid logit (n, 1), in nats; the logit is that of class 1.

    Labels are 0 and 1, or distributions (n, 2), whose column 1 is the target. label_smoothing: as in
    `softmax_cross_entropy` with two classes. Raises UserError for values outside of [0, 1), and when called with more
    than one logit.
    """
    return _cross_entropy("sigmoid", label_smoothing)


def cross_entropy(label_smoothing: float = 0.0, class_weights: Sequence[float] | np.ndarray | Array = ()) -> Loss:
    """`sigmoid_cross_entropy` for a model of one logit, `softmax_cross_entropy` for a model of several.

    class_weights: one positive number for each class, by which its examples count in training; `()` for none. What is
    reported stays unweighted but for the training loss. Another number of weights raises UserError when it is called.
    """
    loss = _cross_entropy("auto", label_smoothing)
    if isinstance(class_weights, Mapping):
        raise UserError(f"class_weights={class_weights!r} is a mapping: give a sequence in the order of the classes")
    weights = tuple(map(float, class_weights))
    if not weights:
        return loss
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"class_weights={weights} must be positive numbers, one for each class")
    return Loss(_Weighted(loss.function, weights), loss.plain or loss.function)


@dataclass(frozen=True)
class _CrossEntropy:
    kind: str  # "auto", "sigmoid" or "softmax"
    label_smoothing: float

    def __call__(
        self, logits: Float[Array, "n outputs"], labels: Labels, activations: Mapping[str, Array]
    ) -> Float[Array, " n"]:
        del activations
        outputs = logits.shape[1]
        logits = logits.astype(np.promote_types(logits.dtype, np.float32))
        sigmoid = self.kind == "sigmoid" or (self.kind == "auto" and outputs == 1)
        if sigmoid and outputs != 1:
            raise UserError(f"sigmoid_cross_entropy takes one logit per example, not {outputs}: use cross_entropy()")
        classes = 2 if sigmoid else outputs
        if labels.ndim == 2 and labels.shape[1] != classes:
            raise UserError(
                f"the labels are distributions over {labels.shape[1]} classes, and the model has {outputs} "
                f"{'logit' if outputs == 1 else 'logits'}: they must describe the same {classes} classes"
            )
        return (_sigmoid if sigmoid else _softmax)(logits, labels, self.label_smoothing)

    def __repr__(self) -> str:
        name = "cross_entropy" if self.kind == "auto" else f"{self.kind}_cross_entropy"
        return f"{name}(label_smoothing={self.label_smoothing:g})" if self.label_smoothing else f"{name}()"


@dataclass(frozen=True)
class _Weighted:
    function: LossFunction
    weights: tuple[float, ...]

    def __call__(self, logits: PyTree[Array], labels: Labels, activations: Mapping[str, Array]) -> Float[Array, " n"]:
        classes = labels.shape[1] if labels.ndim == 2 else max(jnp.shape(logits)[1], 2)
        if classes != len(self.weights):
            raise UserError(f"there are {len(self.weights)} class_weights for {classes} classes: give one each")
        weights = jnp.asarray(self.weights, jnp.float32)
        chosen = weights[labels] if labels.ndim == 1 else labels @ weights
        return chosen * self.function(logits, labels, activations)

    def __repr__(self) -> str:
        return f"weighted({self.function!r}, {self.weights})"


def _cross_entropy(kind: str, label_smoothing: float) -> Loss:
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing={label_smoothing} must be at least 0 and less than 1")
    plain = _CrossEntropy(kind, 0.0)
    return Loss(_CrossEntropy(kind, label_smoothing), plain) if label_smoothing else Loss(plain)


def _softmax(logits: Array, labels: Array, smoothing: float) -> Array:
    if labels.ndim == 1 and not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    distributions = jax.nn.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    distributions = distributions.astype(logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(distributions, smoothing))


def _sigmoid(logits: Array, labels: Array, smoothing: float) -> Array:
    targets = (labels if labels.ndim == 1 else labels[:, 1]).astype(logits.dtype)
    if smoothing:
        targets = (1 - smoothing) * targets + smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], targets)


def _as_loss(loss: LossFunction) -> Loss:
    return loss if isinstance(loss, Loss) else Loss(loss)
