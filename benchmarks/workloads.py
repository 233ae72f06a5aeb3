"""What this package's contenders have in common: the networks, and the training step that `train.fit` runs for them.

A workload is a dict with "model" (a name in `models.MODELS`), "batch_size" and "image_size" (images are square).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from cnnjax import models
from cnnjax.data import normalize
from cnnjax.data.dataset import ArraySplit
from cnnjax.train import metrics, optimizers, schedules, strategy
from cnnjax.train.state import TrainState, create_state
from cnnjax.train.step import StepConfig
from cnnjax.train.strategy import Strategy


def num_classes(model: str) -> int:
    """The classes that a network tells apart: cats and dogs, or ImageNet's."""
    return 2 if model == "small-cnn" else 1000


def create(model: str, image_size: int, **arguments: Any) -> nnx.Module:
    """The network for a workload; for two classes it has one logit."""
    logits = 1 if num_classes(model) == 2 else num_classes(model)
    return models.create(model, num_classes=logits, image_size=image_size, **arguments)


def abstract(model: str, image_size: int) -> nnx.Module:
    """The network with shapes in place of its parameters: no memory and no device are used."""
    return nnx.eval_shape(lambda: create(model, image_size))


def optimizer(model: str) -> optax.GradientTransformation:
    """Adam for the small network, gradient descent with momentum for the others."""
    name = "adam" if model == "small-cnn" else "sgd"
    return optimizers.with_standard_promotion(optimizers.create(name, schedules.create("constant", 1e-3, 1)))


def random_split(model: str, size: int, image_size: int) -> ArraySplit:
    """Noise, with labels of all classes in turn."""
    images = np.random.default_rng(0).integers(0, 256, (size, image_size, image_size, 3), np.uint8)
    return ArraySplit(images, np.arange(size, dtype=np.int32) % num_classes(model))


def step_config(network: nnx.Module, model: str, *, remat: bool = False, **changes: Any) -> StepConfig:
    """What `train.fit` makes of its arguments: Adam or gradient descent, no augmentation, cross-entropy and accuracy.

    network: may be abstract. changes: fields of the `StepConfig`.
    """
    graphdef, params, model_state = models.split(network)
    if remat:
        graphdef = models.with_remat(graphdef, params, model_state, True)
    return StepConfig(graphdef, optimizer(model), num_classes=num_classes(model), **changes)


def begin(network: nnx.Module, config: StepConfig) -> TrainState:
    """The state in which the training of a network begins."""
    _, params, model_state = models.split(network)
    return create_state(params, model_state, config.tx)


def abstract_state(network: nnx.Module, config: StepConfig) -> TrainState:
    """The same of an abstract network: shapes in place of arrays."""
    _, params, model_state = models.split(network)
    return jax.eval_shape(lambda *arrays: create_state(*arrays, config.tx), params, model_state)


def training(
    network: nnx.Module, work: Mapping[str, Any], where: Strategy | None = None, steps: int = 1, **changes: Any
) -> Callable[[], float]:
    """A call that trains `steps` steps, each on the same batch of noise, and returns the mean loss.

    where: the devices; by default the first one. changes: see `step_config`.
    """
    batch_size = work["batch_size"]
    where = where or strategy.make_strategy("jit", batch_size)
    where = strategy.looped(where) if steps > 1 else where
    config = step_config(network, work["model"], **changes)
    split = random_split(work["model"], batch_size, work["image_size"])
    state = begin(network, config)
    fixed = (jax.random.key(0), normalize.identity(), split)
    state, *fixed = strategy.replicate(where, (state, *fixed))
    program = strategy.compile_train_steps(where, config, state, *fixed, steps, batch_size)
    indices = np.tile(np.arange(batch_size, dtype=np.int32), (steps, 1))

    def call() -> float:
        nonlocal state
        state, sums = program(state, strategy.replicate(where, metrics.zeros()), indices)
        jax.block_until_ready(state)
        return metrics.compute(sums)["loss"]

    return call
