"""The network of the oracle `keras_vis` as a `cnnjax.Network`, and small models of plain Flax layers."""

import jax
import jax.numpy as jnp
from flax import nnx
from oracles import keras_vis

from cnnjax import Network, models
from cnnjax.data import normalize
from cnnjax.ops import conv, max_pool

NAMES = ("rabbit", "hammer", "lamp")


class Tiny(nnx.Module):
    """Convolution (4), relu, max pooling, convolution (5), relu, dense; one parameter for each of the oracle's."""

    def __init__(self, params):
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))

    def __call__(self, images, *, perturbations=None):
        a = {}

        def named(name, x):
            if perturbations and name in perturbations:
                x = x + perturbations[name]
            a[name] = x
            return x

        x = named("conv_1", jax.nn.relu(conv(images, self.kernel_1[...]) + self.bias_1[...][None, None, None]))
        x = named("pool_1", max_pool(x))
        x = named("conv_2", jax.nn.relu(conv(x, self.kernel_2[...]) + self.bias_2[...][None, None, None]))
        x = named("predictions", x.reshape(len(x), -1) @ self.dense[...] + self.bias[...][None])
        return x, a


def network(image_size=12, dtype=jnp.float32, logits=3, names=NAMES, normalizer=None, **changes):
    params = keras_vis.parameters(image_size) | changes
    params |= {"dense": params["dense"][:, :logits], "bias": params["bias"][:logits]}
    model = Tiny({name: jnp.asarray(value, dtype) for name, value in params.items()})
    return Network(*models.split(model), normalizer or normalize.identity(), names, (image_size, image_size), 3)


class Plain(nnx.Module):
    """Of Flax's layers, with BatchNorm, global pooling and logits alone: any height and width, activations captured."""

    def __init__(self, channels=3, num_classes=3, *, rngs):
        self.conv = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.deep = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, num_classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.conv(images)))
        x = nnx.relu(self.deep(x))
        return self.head(self.dropout(x.mean(axis=(1, 2))))


class Flat(nnx.Module):
    """Of Flax's layers, with a dense layer that fixes the image size."""

    def __init__(self, image_size, channels=3, num_classes=3, *, rngs):
        self.conv = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4 * image_size[0] * image_size[1], num_classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.conv(images))
        return self.head(x.reshape(len(x), -1))


class Dense(nnx.Module):
    """Of dense layers alone, so that no layer has maps, and one number for each image besides."""

    def __init__(self, inputs, num_classes=3, *, rngs):
        self.hidden = nnx.Linear(inputs, 5, rngs=rngs)
        self.head = nnx.Linear(5, num_classes, rngs=rngs)
        self.brightness = Brightness()

    def __call__(self, images):
        self.brightness(images)
        return self.head(nnx.relu(self.hidden(images.reshape(len(images), -1))))


class Brightness(nnx.Module):
    def __call__(self, images):
        return images.mean(axis=(1, 2, 3))


def flax(model, image_size, channels=3):
    """A network of such a model, whose biases are not zero."""
    network = Network.create(model, normalizer=normalize.identity(), image_size=image_size, channels=channels)
    keys = iter(jax.random.split(jax.random.key(5), 100))
    return network.replace(
        params=jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), network.params)
    )
