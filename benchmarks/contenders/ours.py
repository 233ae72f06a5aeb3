"""This package at a step: train, forward or input-gradient, of the small network, VGG16 or another of its models."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import workloads

from cnnjax import models, runtime
from cnnjax.data import Augment

runtime.configure()


def prepare(work: dict) -> Callable[[], object]:
    """A call that does the work once; see `step_time.py` for what `work` holds."""
    size = work["image_size"]
    images = np.random.default_rng(0).random((work["batch_size"], size, size, 3), np.float32)
    if work["task"] == "input-gradient":
        return _input_gradient(images, work["layer"])
    network = workloads.create(work["model"], size)
    if work["task"] == "forward":
        graphdef, *arrays = models.split(network)
        forward = jax.jit(lambda arrays, images: models.apply(graphdef, *arrays, images).logits)
        images = jnp.asarray(images)
        return lambda: forward(arrays, images).block_until_ready()
    return workloads.training(network, work, augment=Augment() if work.get("augment") else None)


def _input_gradient(images: np.ndarray, layer: str) -> Callable[[], object]:
    graphdef, *arrays = models.split(models.create("vgg16", image_size=images.shape[1], include_top=False))

    @partial(jax.jit, donate_argnums=0)
    def step(images: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda x: models.apply(graphdef, *arrays, x).activations[layer].mean())(images)
        return images + gradient

    images = jnp.asarray(images)

    def call() -> None:
        nonlocal images
        images = step(images).block_until_ready()

    return call
