"""The same networks as anyone writes them in Flax: nnx.Conv, nnx.max_pool, nnx.Optimizer, default flags."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

VGG16 = (2, 2, 3, 3, 3)


class Network(nnx.Module):
    """Blocks of 3×3 convolutions with relu, each pooled; dropout and dense layers."""

    def __init__(self, blocks, flat, dense, outputs, early_dropout, rngs):
        inputs, self.blocks = 3, nnx.List([])
        for channels, count in blocks:
            convs = nnx.List([])
            for _ in range(count):
                convs.append(nnx.Conv(inputs, channels, (3, 3), padding="SAME", rngs=rngs))
                inputs = channels
            self.blocks.append(convs)
        units = [flat, *dense]
        self.dense = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(units, dense, strict=False)])
        self.last = nnx.Linear(units[-1], outputs, rngs=rngs)
        self.dropout, self.early = nnx.Dropout(0.5, rngs=rngs), early_dropout

    def convolve(self, x, until=None):
        """The last map, or that of the block and convolution `until` (counted from 1)."""
        for b, convs in enumerate(self.blocks, 1):
            for i, conv in enumerate(convs, 1):
                x = nnx.relu(conv(x))
                if (b, i) == until:
                    return x
            x = nnx.max_pool(x, (2, 2), (2, 2))
        return x

    def __call__(self, x):
        x = self.convolve(x)
        x = x.reshape(x.shape[0], -1)
        x = self.dropout(x) if self.early else x
        for layer in self.dense:
            x = nnx.relu(layer(x))
            x = x if self.early else self.dropout(x)
        return self.last(x)


def build(name: str, image_size: int, rngs: nnx.Rngs) -> Network:
    """The article's small network, or VGG16."""
    if name == "small-cnn":
        blocks = [(channels, 1) for channels in (32, 64, 128, 128)]
        return Network(blocks, (image_size // 16) ** 2 * 128, (512, 256), 1, True, rngs)
    blocks = list(zip((64, 128, 256, 512, 512), VGG16, strict=True))
    return Network(blocks, (image_size // 32) ** 2 * 512, (4096, 4096), 1000, False, rngs)


def prepare(work: dict) -> Callable[[], None]:
    """A call that does the work once; see `step_time.py` for what `work` holds."""
    small, batch, image_size = work["model"] == "small-cnn", work["batch_size"], work["image_size"]
    images = jnp.asarray(np.random.default_rng(0).random((batch, image_size, image_size, 3), np.float32))
    network = build(work["model"], image_size, nnx.Rngs(0))
    if work["task"] == "forward":
        network.eval()
        forward = nnx.jit(lambda network, images: network(images))
        return lambda: forward(network, images).block_until_ready()
    if work["task"] == "input-gradient":
        network.eval()
        until = tuple(int(part[-1]) for part in work["layer"].split("_"))
        ascend = nnx.jit(lambda network, x: x + jax.grad(lambda x: network.convolve(x, until).mean())(x))

        def climb() -> None:
            nonlocal images
            images = ascend(network, images).block_until_ready()

        return climb
    rule = optax.adam(1e-3) if small else optax.sgd(1e-3, momentum=0.9)
    optimizer = nnx.Optimizer(network, rule, wrt=nnx.Param)
    labels = jnp.arange(batch) % (2 if small else 1000)

    def loss(network, images, labels):
        logits = network(images)
        if small:
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(jnp.float32)).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @nnx.jit
    def step(network, optimizer, images, labels):
        value, gradient = nnx.value_and_grad(loss)(network, images, labels)
        optimizer.update(network, gradient)
        return value

    return lambda: step(network, optimizer, images, labels).block_until_ready()
