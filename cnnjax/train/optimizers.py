"""optax optimizers by name, with Keras' constants."""

from typing import Any

import jax
import optax

from cnnjax.errors import unknown

EPSILON = 1e-7


def create(
    name: str, learning_rate: float | optax.Schedule, *, momentum: float = 0.9, **more: Any
) -> optax.GradientTransformation:
    """Placeholder until the kit lands."""
    if name == "adam":
        return optax.adam(learning_rate, eps=EPSILON)
    if name == "sgd":
        return optax.sgd(learning_rate, momentum=momentum)
    raise unknown("optimizer", name, ("adam", "sgd"))


def with_standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax multiplies Python floats with integer counters, which strict promotion would refuse."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)
