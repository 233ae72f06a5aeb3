"""ResNet-18 (He et al., 2016) of ordinary Flax layers, trained by a step that is written by hand around jax.jit."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Block(nnx.Module):
    """Two 3×3 convolutions with batch normalization, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.conv1 = conv(inputs, outputs, (3, 3), stride, padding=1)
        self.bn1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = conv(outputs, outputs, (3, 3), padding=1)
        self.bn2 = nnx.BatchNorm(outputs, rngs=rngs)
        self.project = stride != 1 or inputs != outputs
        if self.project:
            self.conv3 = conv(inputs, outputs, (1, 1), stride, padding=0)
            self.bn3 = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (self.bn3(self.conv3(x)) if self.project else x))


class ResNet18(nnx.Module):
    """Images (n, h, w, 3) to logits (n, classes)."""

    def __init__(self, num_classes: int, *, width: int = 64, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, width, (7, 7), 2, padding=3, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, rngs=rngs)
        self.blocks, inputs = nnx.List([]), width
        for stage in range(4):
            for stride in (2 if stage else 1, 1):
                self.blocks.append(Block(inputs, width * 2**stage, stride, rngs))
                inputs = width * 2**stage
        self.fc = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.conv(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((1, 2)))


def build(work: dict) -> ResNet18:
    """The network; its parameters are drawn by one compiled program."""
    width = work.get("width", 64)
    return nnx.jit(lambda rngs: ResNet18(1000, width=width, rngs=rngs))(nnx.Rngs(0))


def prepare(work: dict) -> Callable[[], float]:
    """A call that makes one step on a fixed batch and returns its loss. work["configure"]: with cnnjax.configure()."""
    if work.get("configure"):
        import cnnjax

        cnnjax.configure()
    batch_size, size = work["batch_size"], work["image_size"]
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), np.uint8))
    labels = jnp.arange(batch_size, dtype=jnp.int32) % 1000
    graphdef, params, rest = nnx.split(build(work), nnx.Param, ...)
    optimizer = optax.sgd(1e-3, momentum=0.9)

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, rest, opt_state, images, labels):
        def loss(params):
            network = nnx.merge(graphdef, params, rest, copy=True)
            network.train()
            logits = network(images.astype(jnp.float32) / 255)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), nnx.state(network, nnx.Not(nnx.Param))

        (value, rest_), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), rest_, opt_state, value

    state = params, rest, optimizer.init(params)

    def call() -> float:
        nonlocal state
        *state, value = jax.block_until_ready(step(*state, images, labels))
        return float(value)

    return call
