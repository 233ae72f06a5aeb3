"""A network whose convolutions can be varied; ordinary Flax layers. Not a command."""

import jax.numpy as jnp
from flax import nnx


class BlocksCNN(nnx.Module):
    """Blocks of convolutions and relu, each followed by max pooling; dropout; a dense layer of 256 and the logits.

    blocks: channels of the convolutions of each block. norm: batch normalization before each relu.
    """

    def __init__(self, blocks, *, kernel: int = 3, norm: bool = False, image_size: int = 64, rngs: nnx.Rngs):
        inputs, layers = 3, []
        for block in blocks:
            for units in block:
                layers.append(nnx.Conv(inputs, units, (kernel, kernel), use_bias=not norm, rngs=rngs))
                layers += [nnx.BatchNorm(units, rngs=rngs)] if norm else []
                layers.append(nnx.relu)
                inputs = units
            layers.append(lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)))
        self.features = nnx.Sequential(*layers)
        self.dropout = nnx.Dropout(0.5)
        self.dense = nnx.Linear((image_size >> len(blocks)) ** 2 * inputs, 256, rngs=rngs)
        self.output = nnx.Linear(256, 2, rngs=rngs)

    def __call__(self, images):
        x = self.features(images)
        x = nnx.relu(self.dense(self.dropout(x.reshape(len(x), -1))))
        return self.output(jnp.asarray(x, jnp.float32))
