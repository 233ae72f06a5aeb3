"""One training step and one evaluation step: pure functions of the batch they are given.

They know nothing of devices. Given an axis name, gradients are averaged and metrics summed over that axis, and that
is all. What is random about an example is a function of (key, step, its position in the global batch), so it does not
matter which device computes it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from cnnjax import models
from cnnjax.cli.config import AugmentConfig
from cnnjax.data.augment import augment
from cnnjax.data.normalize import Cleaning, clean
from cnnjax.train import metrics

AUGMENT, DROPOUT = 0, 1


class TrainState(NamedTuple):
    """All that changes in training."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


class Task(NamedTuple):
    """What a step is made of, all of it static: the network's graph, the optimizer, the augmentation, and three things
    that `TrainConfig` explains."""

    graph: Any
    optimizer: optax.GradientTransformation
    augment: AugmentConfig
    precision: str = "float32"
    microbatches: int = 1
    remat: bool = False
    frozen: frozenset[str] = frozenset()
    """Layers that stay as they are: they have no gradient and no optimizer state."""


class Batch(NamedTuple):
    """Pictures in [0, 255], labels, and each example's position in the global batch (not in this device's part)."""

    images: UInt8[Array, "batch height width channels"]
    labels: Int[Array, " batch"]
    positions: Int[Array, " batch"]


def create_state(
    params: Any, optimizer: optax.GradientTransformation, frozen: frozenset[str] = frozenset()
) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(part(params, frozen)[1]))


def part(params: dict[str, Any], frozen: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of the layers that are `frozen`, and of those that learn."""
    return (
        {name: leaves for name, leaves in params.items() if name in frozen},
        {name: leaves for name, leaves in params.items() if name not in frozen},
    )


def example_keys(key: Key[Array, ""], step: Int[Array, ""], positions: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One key for each example of a step."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), positions)


def unit(images: UInt8[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    """Pictures from [0, 255] to float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def example_losses(logits: Float[Array, "batch outputs"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Binary cross-entropy of one sigmoid logit (class 1 is "yes"), or softmax cross-entropy of several, in nats."""
    logits = logits.astype(jnp.float32)
    if logits.shape[1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def train_step(
    task: Task, state: TrainState, batch: Batch, key: Key[Array, ""], cleaning: Cleaning, axis: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """Augment, clean, predict, descend. Gives the next state and the batch's metrics as sums.

    Frozen layers are passed through: where they come first, their activations are computed and nothing flows back.
    `axis` names the axis over which the global batch is spread in equal parts; None when `batch` is all of it.
    """
    keys = example_keys(key, state.step, batch.positions)
    frozen, learning = part(state.params, task.frozen)
    # Without pcast, shard_map would sum the gradient of replicated parameters over devices before pmean averages it.
    params = learning if axis is None else lax.pcast(learning, axis, to="varying")
    gradient = partial(_gradient, task, params, frozen, cleaning)
    gradient, sums = _accumulated(gradient, batch, keys, task.microbatches, axis)
    if axis is not None:
        gradient, sums = lax.pmean(gradient, axis), lax.psum(sums, axis)
    updates, opt_state = task.optimizer.update(gradient, state.opt_state, learning)
    return TrainState(state.step + 1, frozen | optax.apply_updates(learning, updates), opt_state), sums


def _gradient(
    task: Task, params: Any, frozen: Any, cleaning: Cleaning, batch: Batch, keys: Key[Array, " batch"]
) -> tuple[Any, dict[str, Array]]:
    """The gradient of the mean loss by `params`, the layers that learn, and the metrics as sums."""
    fold = jax.vmap(jax.random.fold_in, (0, None))
    images = clean(cleaning, augment(fold(keys, AUGMENT), unit(batch.images), task.augment))

    def mean_loss(params: Any) -> tuple[Array, tuple[Array, Array]]:
        inputs = images.astype(task.precision)
        logits, _ = models.apply(task.graph, frozen | params, inputs, fold(keys, DROPOUT), remat=task.remat)
        losses = example_losses(logits, batch.labels)
        return losses.mean(), (losses, logits)

    gradient, (losses, logits) = jax.grad(mean_loss, has_aux=True)(params)
    return gradient, metrics.measure(losses, logits, batch.labels, jnp.ones(batch.labels.shape, bool))


def _accumulated(
    gradient: Callable[..., tuple[Any, dict[str, Array]]],
    batch: Batch,
    keys: Key[Array, " batch"],
    count: int,
    axis: str | None,
) -> tuple[Any, dict[str, Array]]:
    """`gradient(batch, keys)`, of `count` equal parts of the batch, one after another: their mean, and all sums.

    Part i has the examples i, i + count, i + 2 · count, …: of a batch that is sharded each device then cuts its own.
    """
    if count == 1:
        return gradient(batch, keys)
    parts = jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:]).swapaxes(0, 1), (batch, keys))
    shapes = jax.eval_shape(gradient, *jax.tree.map(lambda a: a[0], parts))
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    start = start if axis is None else lax.pcast(start, axis, to="varying")
    (total, sums), _ = lax.scan(
        lambda so_far, part: (jax.tree.map(jnp.add, so_far, gradient(*part)), None), start, parts
    )
    return jax.tree.map(lambda g: g / count, total), sums


def eval_step(
    graph: Any,
    params: Any,
    images: UInt8[Array, "batch height width channels"],
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
    cleaning: Cleaning,
    axis: str | None = None,
    precision: str = "float32",
) -> dict[str, Array]:
    """Metrics as sums over the examples in `mask`: no augmentation, no dropout."""
    logits, _ = models.apply(graph, params, clean(cleaning, unit(images)).astype(precision))
    sums = metrics.measure(example_losses(logits, labels), logits, labels, mask)
    return sums if axis is None else lax.psum(sums, axis)
