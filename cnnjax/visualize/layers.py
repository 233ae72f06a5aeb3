"""A network's layers by name, and a network as something that jit can take as an argument."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.errors import UserError, unknown


def shapes(network: Any, side: int | None = None) -> dict[str, tuple[int, ...]]:
    """Each layer's activation shape for one picture of this side (default: the network's), in the layers' order."""
    side = side or network.side
    found = {}

    def trace(params: Any, images: jax.Array) -> None:
        for name, activation in network.forward(params, images)[1].items():
            found[name] = activation.shape[1:]

    jax.eval_shape(trace, network.params, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    return found


def require(
    known: dict[str, tuple[int, ...]], layer: str, channels: int | Sequence[int], *, maps: bool = False
) -> list[int]:
    """The channels asked for in a layer; a number means the first so many (or all, if there are fewer).

    Raises UserError for a layer or a channel that is not there, or, if `maps`, for a layer without height and width.
    """
    if layer not in known:
        raise unknown("layer", layer, known)
    if maps and len(known[layer]) != 3:
        spatial = [name for name, shape in known.items() if len(shape) == 3]
        raise UserError(f"layer {layer!r} has no maps: choose one that does, such as {spatial[0]} or {spatial[-1]}")
    count = known[layer][-1]
    if isinstance(channels, int):
        channels = range(min(channels, count))
    for channel in channels:
        if not 0 <= channel < count:
            raise UserError(f"layer {layer!r} has no channel {channel}: its {count} channels are 0 to {count - 1}")
    if not len(channels):
        raise UserError(f"no channel of layer {layer!r} was asked for: name at least one")
    return list(channels)


def at_side(network: Any, side: int | None) -> Any:
    """The network for pictures of another side, without the dense layers that fix it; itself for its own side.

    Raises UserError for a network that cannot do without them.
    """
    if side is None or side == network.side:
        return network
    model = nnx.merge(network.graph, network.params)
    if not hasattr(model, "top"):
        raise UserError(
            f"this network only takes pictures of side {network.side}, not {side}: "
            "only a VGG's convolutions can be looked at alone"
        )
    model.top = False
    return network._replace(graph=nnx.split(model, nnx.Param)[0], side=side)


def pack(network: Any) -> tuple[list[jax.Array], Hashable]:
    """A network as its arrays and all the rest, hashable: a dynamic and a static argument for jit.

    So one compiled program serves every network of one architecture, and no function is compiled per call.
    """
    leaves, tree = jax.tree.flatten(network._replace(seal=None, made={}))
    dynamic = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    arrays = [jnp.asarray(leaf) for leaf, d in zip(leaves, dynamic, strict=True) if d]
    return arrays, (tree, tuple(None if d else leaf for leaf, d in zip(leaves, dynamic, strict=True)), tuple(dynamic))


def unpack(arrays: list[jax.Array], rest: Hashable) -> Any:
    """The inverse of `pack`."""
    tree, leaves, dynamic = rest
    supply = iter(arrays)
    return jax.tree.unflatten(tree, [next(supply) if d else leaf for leaf, d in zip(leaves, dynamic, strict=True)])
