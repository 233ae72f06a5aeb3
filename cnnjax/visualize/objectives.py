"""What a picture is optimised for: pure functions (logits, activations, image) -> scalar, which add and multiply.

They see one example: logits (outputs,), activations by layer (height, width, channels) or (units,), and the image
(height, width, 3) in display units, 0 to 255. More is better; penalties are subtracted.
Channel and class numbers may be traced, so one program serves a whole batch of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Value = Callable[[jax.Array, dict[str, jax.Array], jax.Array], jax.Array]
Index = Any  # an int or a traced integer


@dataclass(frozen=True)
class Objective:
    """A function (logits, activations, image) -> scalar that adds to and multiplies with others and with numbers."""

    value: Value

    def __call__(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return self.value(logits, activations, image)

    def __add__(self, other: Any) -> "Objective":
        return Objective(lambda *inputs: self(*inputs) + _of(other, inputs))

    def __sub__(self, other: Any) -> "Objective":
        return Objective(lambda *inputs: self(*inputs) - _of(other, inputs))

    def __mul__(self, other: Any) -> "Objective":
        return Objective(lambda *inputs: self(*inputs) * _of(other, inputs))

    def __neg__(self) -> "Objective":
        return self * -1.0

    __radd__, __rmul__ = __add__, __mul__


def _of(other: Any, inputs: tuple[Any, ...]) -> Any:
    return other(*inputs) if isinstance(other, Objective) else other


def filter_(layer: str, channel: Index) -> Objective:
    """The mean of one channel of a layer (article, section 6.2); of a dense layer, one unit."""

    def value(logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        # All means, then one of them: the gradient stays dense, where indexing first would scatter into the maps.
        maps = activations[layer]
        return maps.reshape(-1, maps.shape[-1]).mean(axis=0)[channel]

    return Objective(value)


def neuron(layer: str, channel: Index, row: Index | None = None, column: Index | None = None) -> Objective:
    """One channel of a layer at one position; the middle by default."""

    def value(logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        maps = activations[layer]
        y = maps.shape[0] // 2 if row is None else row
        x = maps.shape[1] // 2 if column is None else column
        return maps[y, x, channel]

    return Objective(value)


def class_(index: Index) -> Objective:
    """A class's logit, not its probability, which saturates (article, section 6.3).

    A network with one sigmoid output knows two classes: its logit speaks for class 1, its negative for class 0.
    """

    def value(logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if logits.shape[0] == 1:
            return jnp.where(jnp.asarray(index) == 1, logits[0], -logits[0])
        return logits[index]

    return Objective(value)


def total_variation(beta: float = 2.0) -> Objective:
    """Σ((Δh)² + (Δw)²)^(β/2) / size over neighbouring pixels, as keras-vis 0.4.1 has it (Mahendran & Vedaldi 2015)."""

    def value(logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        down = image[1:, :-1] - image[:-1, :-1]
        right = image[:-1, 1:] - image[:-1, :-1]
        squares = down**2 + right**2
        return jnp.sum(squares if beta == 2 else _power(squares, beta / 2)) / image.size

    return Objective(value)


def lp_norm(p: float = 6.0) -> Objective:
    """(Σ|x|^p)^(1/p) / size: keeps values small, as keras-vis 0.4.1 has it."""

    def value(logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return _power(jnp.sum(_power(jnp.abs(image), p)), 1 / p) / image.size

    return Objective(value)


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """x ** exponent for x ≥ 0, whose gradient at 0 is 0 and not NaN or infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, 0.0)
