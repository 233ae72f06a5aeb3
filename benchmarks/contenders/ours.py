"""This package at a step: train, forward or input-gradient, of the small network or VGG16."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import models
from cnnjax.cli.config import AugmentConfig, ModelConfig, OptimizerConfig
from cnnjax.data.normalize import Cleaning, clean
from cnnjax.models import VGG16
from cnnjax.train import optimizers
from cnnjax.train.step import Batch, Task, create_state, train_step

NONE = Cleaning("none", jnp.zeros((0,)), jnp.zeros((0, 0)), jnp.zeros((0,)))


def prepare(work: dict) -> Callable[[], None]:
    """A call that does the work once; see `step_time.py` for what `work` holds."""
    small, batch, side = work["model"] == "small-cnn", work["batch"], work["side"]
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    if work["task"] == "input-gradient":
        return _input_gradient(pictures, work["layer"])
    classes = 2 if small else 1000
    network = models.create(ModelConfig(name=work["model"]), side=side, num_classes=classes, seed=0)
    graph, params = models.split(network)
    if work["task"] == "forward":
        images = jnp.asarray(pictures, jnp.float32) / 255
        forward = jax.jit(lambda params, images: models.apply(graph, params, clean(NONE, images))[0])
        return lambda: forward(params, images).block_until_ready()
    rule = OptimizerConfig(name="adam") if small else OptimizerConfig(name="sgd", learning_rate=1e-3)
    task = Task(graph, optimizers.create(rule, 1000), AugmentConfig(enabled=work.get("augment", False)))
    labels = jnp.arange(batch, dtype=jnp.int32) % classes
    data = Batch(jnp.asarray(pictures), labels, jnp.arange(batch, dtype=jnp.int32))
    step = jax.jit(partial(train_step, task), donate_argnums=0)
    state, key = create_state(params, task.optimizer), jax.random.key(0)

    def call() -> None:
        nonlocal state
        state, sums = step(state, data, key, NONE)
        jax.block_until_ready((state, sums))

    return call


def _input_gradient(pictures: np.ndarray, layer: str) -> Callable[[], None]:
    graph, params = models.split(VGG16(top=False, rngs=nnx.Rngs(0)))

    @partial(jax.jit, donate_argnums=0)
    def step(images: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda x: models.apply(graph, params, x)[1][layer].mean())(images)
        return images + gradient

    images = jnp.asarray(pictures, jnp.float32) / 255

    def call() -> None:
        nonlocal images
        images = step(images).block_until_ready()

    return call
