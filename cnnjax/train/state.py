"""What changes in training: parameters, the model's other state, the optimizer's state and the moving average."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from cnnjax.errors import UserError, unknown
from cnnjax.models import ModelState, Params


class MovingAverage(NamedTuple):
    """Exponential moving averages of the parameters and of the floating-point model state, such as BatchNorm's."""

    params: Params
    model_state: ModelState


class TrainState(NamedTuple):
    """All that a training step changes. `step` counts the steps made; `ema` is None without a moving average."""

    step: Int[Array, ""]
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    ema: MovingAverage | None = None


def create_state(
    params: Params,
    model_state: ModelState,
    tx: optax.GradientTransformation,
    frozen: Iterable[str] = (),
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step. The optimizer's state covers only the layers that are not `frozen`."""
    return _create(params, model_state, tx, frozenset(frozen), ema)


# As one program: by itself each copy and each array of zeros would be compiled, once for every shape.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _create(
    params: Params, model_state: ModelState, tx: optax.GradientTransformation, frozen: frozenset[str], ema: bool
) -> TrainState:
    # Copies: the step reuses the memory of each array, so no two may share it, nor may the caller's be among them.
    params, model_state = jax.tree.map(jnp.copy, (params, model_state))
    average = jax.tree.map(jnp.copy, MovingAverage(params, model_state)) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, model_state, tx.init(partition_params(params, frozen)[1]), average
    )


def partition_params(params: Params, frozen: Iterable[str]) -> tuple[Params, Params]:
    """The parameters of the top-level layers named in `frozen`, and those of the layers that are trained."""
    frozen = frozenset(frozen)
    return (
        {name: leaves for name, leaves in params.items() if name in frozen},
        {name: leaves for name, leaves in params.items() if name not in frozen},
    )


def frozen_layers(names: str | Sequence[str], params: Params) -> frozenset[str]:
    """The top-level layers of `params` that `names` means: each a layer's name, or a block's for all its layers.

    Raises UserError for a name that no layer has, or when no layer is left to train.
    """
    names = [names] if isinstance(names, str) else names
    layers = [str(layer) for layer in params]
    found: set[str] = set()
    for name in names:
        matching = {layer for layer in layers if layer == name or layer.startswith((f"{name}_conv", f"{name}_bn"))}
        if not matching:
            known = {layer.partition("_conv")[0] for layer in layers} | set(layers)
            raise unknown("layer to freeze", name, sorted(known))
        found |= matching
    if len(found) == len(params):
        raise UserError(f"freeze={' '.join(names)} leaves no layer to train: freeze fewer layers")
    return frozenset(found)


def update_average(
    average: MovingAverage, params: Params, model_state: ModelState, step: Int[Array, ""], decay: float
) -> MovingAverage:
    """The moving average after one more step.

    The decay rises as min(decay, (1 + step) / (10 + step)), as tf.train.ExponentialMovingAverage does, so that the
    initial parameters are forgotten soon. Integers and random keys are copied.
    """
    rate = jnp.minimum(jnp.float32(decay), (1 + step.astype(jnp.float32)) / (10 + step.astype(jnp.float32)))

    def mix(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return (rate * old.astype(jnp.float32) + (1 - rate) * new.astype(jnp.float32)).astype(new.dtype)

    return jax.tree.map(mix, average, MovingAverage(params, model_state))
