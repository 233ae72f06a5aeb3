"""The oracle's network in JAX, with what the visualisation needs of a `pretrained.Network`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from oracles import keras_vis

from cnnjax.cli.config import ModelConfig
from cnnjax.ops import conv, max_pool


class Tiny(NamedTuple):
    graph: Any
    params: dict
    model: ModelConfig
    side: int
    class_names: tuple[str, ...]
    cleaning: Any
    seal: str
    made: dict

    @property
    def digest(self):
        return self.seal

    def forward(self, params, images):
        a = {}
        x = a["conv_1"] = jnp.maximum(conv(images, params["kernel_1"]) + params["bias_1"][None, None, None], 0)
        x = a["pool_1"] = max_pool(x)
        x = a["conv_2"] = jnp.maximum(conv(x, params["kernel_2"]) + params["bias_2"][None, None, None], 0)
        x = a["predictions"] = x.reshape(len(x), -1) @ params["dense"] + params["bias"][None]
        return x, a


def network(side=12, dtype=jnp.float32, outputs=3, names=("rabbit", "hammer", "lamp"), **changes):
    params = keras_vis.parameters(side) | changes
    params |= {"dense": params["dense"][:, :outputs], "bias": params["bias"][:outputs]}
    params = {name: jnp.asarray(value, dtype) for name, value in params.items()}
    return Tiny(None, params, ModelConfig(), side, names, None, "d1" * 32, {})
