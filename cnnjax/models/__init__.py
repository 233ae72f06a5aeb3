"""Networks, and the functional boundary: outside this package a network is a graph definition and a dict of arrays."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from cnnjax.cli.config import ModelConfig
from cnnjax.errors import UserError
from cnnjax.models.small_cnn import SmallCNN
from cnnjax.models.vgg import STAGES, VGG, VGG11, VGG13, VGG16, VGG19

__all__ = ["VGG", "VGG11", "VGG13", "VGG16", "VGG19", "SmallCNN", "apply", "create", "head", "layer_shapes", "split"]


def create(
    config: ModelConfig, *, side: int, num_classes: int, seed: int, outputs: int = 0, top: bool = True
) -> nnx.Module:
    """A freshly initialised network for images of this side; two classes get one sigmoid logit.

    outputs: another number of logits, as other libraries' files may have. Without `top`, a VGG ends at block5_pool and
    needs no classes. Raises UserError for fewer than two classes, a side that is too small, or a small network without
    its top.
    """
    if top and num_classes < 2:
        raise UserError(f"a classifier needs two classes or more, not {num_classes}")
    outputs = outputs or (1 if num_classes == 2 else num_classes)
    if config.name == "small-cnn":
        if not top:
            raise UserError("small-cnn needs its dense layers: only a VGG does without them")
        kind = SmallCNN
    else:
        kind = partial(VGG, STAGES[int(config.name.removeprefix("vgg"))], dense=config.dense or None, top=top)
    make = partial(kind, side=side, outputs=outputs, width=config.width, dropout=config.dropout)
    # One program for all parameters: drawn one by one, each would be compiled and kept apart.
    return nnx.jit(lambda rngs: make(rngs=rngs))(nnx.Rngs(seed))


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """A network as its graph definition and its parameters, a plain nested dict of arrays named as the layers."""
    graph, params = nnx.split(model, nnx.Param)
    return graph, nnx.to_pure_dict(params)


def apply(
    graph: nnx.GraphDef,
    params: dict[str, Any],
    images: Float[Array, "batch height width channels"],
    keys: Key[Array, " batch"] | None = None,
    *,
    remat: bool = False,
) -> tuple[Float[Array, "batch ..."], dict[str, Array]]:
    """Logits and activations of the network `graph` with these parameters; pure. See the networks' `__call__`.

    The layers compute in the type of the images, float32 or bfloat16; logits and the gradient of the parameters stay
    float32. With `remat` a gradient keeps the input of each block of convolutions and computes the rest of it again.
    The activations are in the order of the layers; what jax.jit returns is in alphabetical order instead.
    """
    return nnx.merge(graph, params)(images, keys, remat=remat)


def head(
    graph: nnx.GraphDef,
    params: dict[str, Any],
    features: Float[Array, "batch features"],
    keys: Key[Array, " batch"] | None = None,
) -> Float[Array, "batch outputs"]:
    """The logits of a VGG's dense layers for what its convolutions gave: `apply`'s activation `flatten`. Pure."""
    return nnx.merge(graph, params).head(features, keys)[0]


def layer_shapes(
    graph: nnx.GraphDef, params: dict[str, Any], image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Each layer's activation shape for one image (height, width, channels), in the order of the layers."""
    shapes = {}

    def run(params, images):
        for name, value in apply(graph, params, images)[1].items():
            shapes[name] = value.shape[1:]

    jax.eval_shape(run, params, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return shapes
