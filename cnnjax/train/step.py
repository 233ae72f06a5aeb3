"""One training step and one evaluation step: pure functions of the batch that they are given.

They know nothing of devices. Given an axis name, gradients and BatchNorm's statistics are averaged and metrics summed
over that axis, and that is all. What is random about an example is a function of (key, step, its position in the global
batch), so it does not matter which device computes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from cnnjax import losses, models
from cnnjax.data.mixup import Mix
from cnnjax.data.normalize import Normalizer, normalize
from cnnjax.models import ModelState, Params
from cnnjax.ops.trilinear import varying_axes
from cnnjax.train import metrics
from cnnjax.train.metrics import Metric
from cnnjax.train.optimizers import with_standard_promotion
from cnnjax.train.state import TrainState, partition_params, update_average

AUGMENT, DROPOUT, MIX = 0, 1, 2

Augmentation = Callable[[Key[Array, " batch"], Float[Array, "batch height width channels"]], Array]
"""(one key for each example, images in [0, 1]) -> images of the same shape, such as `data.Augment`."""


@dataclass(frozen=True)
class StepConfig:
    """What a step is made of; all of it is static. `fit` explains each part."""

    graphdef: nnx.GraphDef
    tx: optax.GradientTransformation
    loss: losses.LossFunction = losses.cross_entropy()
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": metrics.accuracy})
    num_classes: int = 2
    augment: Augmentation | None = None
    mix: Mix | None = None
    ema: float | None = None
    precision: str = "float32"
    cast_params: bool = False
    """Whether the step casts the parameters to `precision`; models of `cnnjax.models` do so by themselves."""
    microbatches: int = 1
    frozen: frozenset[str] = frozenset()
    """Top-level layers that keep their parameters: they have no gradient and no optimizer state."""
    optimizer: Callable[..., optax.GradientTransformation] | None = None
    """Where several runs share a program: `tx` as a function of its hyperparameters, which the program is given."""

    def with_hyperparams(self, values: Mapping[str, Array] | None) -> "StepConfig":
        """This with the optimizer of these hyperparameters, which may be traced; itself for None."""
        if values is None:
            return self
        assert self.optimizer is not None, "hyperparameters are given to programs of runs that share an optimizer"
        return replace(self, tx=with_standard_promotion(self.optimizer(**values)))


class Batch(NamedTuple):
    """Images (uint8 in [0, 255], or float in [0, 1]), labels (integers, or distributions over the classes), and each
    example's position in the global batch (not in this device's part of it)."""

    images: Shaped[Array, "batch height width channels"]
    labels: Shaped[Array, "batch ..."]
    positions: Int[Array, " batch"]


def example_keys(key: Key[Array, ""], step: Int[Array, ""], positions: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One key for each example of a step."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), positions)


def to_float01(images: Shaped[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    """uint8 images in [0, 255] become float32 in [0, 1]; images of floats are returned as they are."""
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images


def train_step(
    config: StepConfig,
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    normalizer: Normalizer,
    axis: str | None = None,
) -> tuple[TrainState, metrics.Sums]:
    """Augment, mix, normalize, predict, and update. Returns the next state and the batch's metrics as sums.

    Frozen layers are passed through: where they come first, their activations are computed and no gradient flows back.
    `axis` names the axis over which the global batch is spread in equal parts; None when `batch` is all of it.
    With microbatches, BatchNorm's statistics are each microbatch's, applied in order.
    """
    keys = example_keys(key, state.step, batch.positions)
    frozen, trained = partition_params(state.params, config.frozen)
    # Without pcast, shard_map would sum the gradient of replicated parameters over devices before pmean averages it.
    params = trained if axis is None else lax.pcast(trained, axis, to="varying")
    examples = Batch(to_float01(batch.images), batch.labels, batch.positions)
    if config.mix is not None:
        examples = _mixed(config, config.mix, examples, keys, jax.random.fold_in(key, state.step), axis)
    compute = partial(_gradient, config, params, frozen, normalizer, axis)
    gradient, sums, model_state = _accumulate(compute, examples, keys, state.model_state, config.microbatches, axis)
    if axis is not None:
        gradient, sums = lax.pmean(gradient, axis), lax.psum(sums, axis)
    updates, opt_state = config.tx.update(gradient, state.opt_state, trained)
    params = {**frozen, **cast(Params, optax.apply_updates(trained, updates))}
    ema = state.ema
    if ema is not None and config.ema is not None:
        ema = update_average(ema, params, model_state, state.step, config.ema)
    return TrainState(state.step + 1, params, model_state, opt_state, ema), sums


def _augmented(config: StepConfig, images: Array, keys: Key[Array, " batch"]) -> Array:
    return images if config.augment is None else config.augment(_fold(keys, AUGMENT), images)


def _mixed(
    config: StepConfig, mix: Mix, batch: Batch, keys: Key[Array, " batch"], key: Key[Array, ""], axis: str | None
) -> Batch:
    """The batch, augmented, each example mixed with a partner of the global batch."""
    images, labels = _augmented(config, batch.images, keys), batch.labels
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, config.num_classes, dtype=jnp.float32)
    everything = images, labels
    if axis is not None:
        everything = lax.all_gather(everything, axis, tiled=True)
    key = jax.random.fold_in(key, MIX)
    partners = mix.partners(key, len(everything[0]))[batch.positions]
    images, labels = mix.combine(key, images, everything[0][partners], labels, everything[1][partners], batch.positions)
    return Batch(images, labels, batch.positions)


def _gradient(
    config: StepConfig,
    params: Params,
    frozen: Params,
    normalizer: Normalizer,
    axis: str | None,
    batch: Batch,
    keys: Key[Array, " batch"],
    model_state: ModelState,
) -> tuple[Params, metrics.Sums, ModelState]:
    """The gradient of the mean loss by the trained `params`, the metrics as sums, and the next model state."""
    images = batch.images if config.mix is not None else _augmented(config, batch.images, keys)
    images = normalize(normalizer, images).astype(config.precision)

    def mean_loss(params: Params) -> tuple[Array, tuple[Array, models.Output]]:
        whole = _cast(config, {**frozen, **params})
        output = models.apply(
            config.graphdef, whole, model_state, images, train=True, keys=_fold(keys, DROPOUT), axis_name=axis
        )
        losses_ = config.loss(output.logits, batch.labels, output.activations)
        metrics.check_values("loss", losses_, len(images))
        # What nobody reads need not leave the gradient.
        return losses_.mean(), (losses_, output._replace(activations={}))

    gradient, (losses_, output) = jax.grad(mean_loss, has_aux=True)(params)
    mask = jnp.ones(len(images), bool)
    sums = metrics.batch_sums(_values(config, losses_, output.logits, batch.labels), mask)
    return gradient, sums, _synchronized(output.model_state, axis, images)


def _cast(config: StepConfig, params: Params) -> Params:
    if not config.cast_params:
        return params
    return jax.tree.map(lambda p: p.astype(config.precision) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)


def _values(config: StepConfig, losses_: Array, logits: PyTree[Array], labels: Array) -> dict[str, Array]:
    return {"loss": losses_} | {name: metric(logits, labels) for name, metric in config.metrics.items()}


def _synchronized(model_state: ModelState, axis: str | None, images: Array) -> ModelState:
    """The model state, averaged over devices where it differs. BatchNorm's does not: its statistics are global."""
    if axis is None:
        return model_state
    checked = bool(varying_axes(images))  # shard_map tells which values differ between devices; pmap does not

    def average(leaf: Array) -> Array:
        if (checked and axis not in varying_axes(leaf)) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return lax.pmean(leaf, axis)
        return lax.pmax(leaf, axis) if checked else leaf

    return jax.tree.map(average, model_state)


def _accumulate(
    compute: Callable[..., tuple[Params, metrics.Sums, ModelState]],
    batch: Batch,
    keys: Key[Array, " batch"],
    model_state: ModelState,
    count: int,
    axis: str | None,
) -> tuple[Params, metrics.Sums, ModelState]:
    """`compute(batch, keys, model_state)` for `count` equal parts of the batch, one after another: the mean of the
    gradients, the sums of the metrics and the last model state.

    Part i has the examples i, i + count, i + 2 · count, …: of a batch that is sharded each device then cuts its own.
    """
    if count == 1:
        return compute(batch, keys, model_state)
    parts = jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:]).swapaxes(0, 1), (batch, keys))
    first = jax.tree.map(lambda a: a[0], parts)
    shapes = jax.eval_shape(compute, *first, model_state)[:2]
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    zeros = zeros if axis is None else lax.pcast(zeros, axis, to="varying")

    def body(carry: tuple, part: tuple) -> tuple[tuple, None]:
        so_far, model_state = carry
        *more, model_state = compute(*part, model_state)
        return (jax.tree.map(jnp.add, so_far, tuple(more)), model_state), None

    ((total, sums), model_state), _ = lax.scan(body, (zeros, model_state), parts)
    return jax.tree.map(lambda g: g / count, total), sums, model_state


def eval_step(
    config: StepConfig,
    params: Params,
    model_state: ModelState,
    images: Shaped[Array, "batch height width channels"],
    labels: Shaped[Array, "batch ..."],
    mask: Bool[Array, " batch"],
    normalizer: Normalizer,
    axis: str | None = None,
) -> metrics.Sums:
    """Metrics as sums over the examples in `mask`: no augmentation, no dropout, running statistics, the plain loss."""
    images = normalize(normalizer, to_float01(images)).astype(config.precision)
    output = models.apply(config.graphdef, _cast(config, params), model_state, images)
    losses_ = losses.evaluation_of(config.loss)(output.logits, labels, output.activations)
    sums = metrics.batch_sums(_values(config, losses_, output.logits, labels), mask)
    return sums if axis is None else lax.psum(sums, axis)


def _fold(keys: Key[Array, " batch"], number: int) -> Key[Array, " batch"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
