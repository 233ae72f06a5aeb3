"""Cascading randomization (Adebayo et al. 2018): a map that explains a network changes when its layers are redrawn."""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from cnnjax import models
from cnnjax.errors import UserError, unknown
from cnnjax.models.functional import Params
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.reduction import to_display
from cnnjax.visualize.attribution.target import ClassIndex, prepare
from cnnjax.visualize.attribution_metrics.similarity import rank_correlation, structural_similarity

Attribution = Callable[
    [Network, np.ndarray | Array, Int[np.ndarray, " images"]], Float[np.ndarray, "images height width"]
]
"""(network, images, classes) -> heat maps."""


class Cascade(NamedTuple):
    """Similarity of each image's map to that of the trained network, after one layer after another was redrawn.

    layers: from the top; at each of them those before it are redrawn, too. rank_correlation: Spearman's, of the maps.
    similarity: structural, of the maps as they are shown, in [0, 1].
    """

    layers: tuple[str, ...]
    rank_correlation: Float[np.ndarray, "layers images"]
    similarity: Float[np.ndarray, "layers images"]


def cascading_randomization(
    network: Network,
    images: Images,
    method: Attribution,
    class_index: ClassIndex | None = None,
    *,
    key: Key[Array, ""],
    layers: Sequence[str] | None = None,
    batch_size: int = 16,
) -> Cascade:
    """How a method's maps change while the network's layers are drawn anew, from the top down (Adebayo et al. 2018).

    A map that stays the same does not depend on what was learnt. Gradient and Grad-CAM pass; guided backpropagation
    fails. The class stays that of the trained network.
    method: for example `visualize.gradient`. key: of the new parameters. layers: where the maps are compared, some of
    `layers_from_top(network)`; by default all. batch_size: of the images whose likeliest class is asked for.

    Raises UserError for an unknown layer or class.
    """
    network, images, classes = prepare(network, images, class_index, batch_size)
    names = layers_from_top(network)
    for layer in layers or ():
        if layer not in names:
            raise unknown("layer", layer, names)
    wanted = [name for name in names if not layers or name in layers]
    original = method(network, images, classes)
    window = max(2, min(7, *original.shape[1:]))
    found = []
    for number, name in enumerate(names):
        network = randomize_layer(network, name, jax.random.fold_in(key, number))
        if name not in wanted:
            continue
        maps = method(network, images, classes)
        correlation = rank_correlation(maps.reshape(len(maps), -1), original.reshape(len(maps), -1))
        # A map of one value ranks nothing, so it has nothing in common with the original.
        correlation = np.nan_to_num(correlation)
        found.append((correlation, structural_similarity(to_display(maps), to_display(original), window)))
    correlations, similarities = zip(*found, strict=True)
    return Cascade(tuple(wanted), np.stack(correlations), np.stack(similarities))


def layers_from_top(network: Network) -> tuple[str, ...]:
    """The layers with parameters, named by their paths ("layer4.1.conv2"), the one that is used last first.

    Raises UserError for a network without parameters.
    """
    leaves, structure = jax.tree.flatten(network.params)

    def logits(*leaves: Array) -> Array:
        images = jnp.zeros((1, *network.image_shape))
        return network.replace(params=jax.tree.unflatten(structure, leaves))(images)[0]

    program = jax.make_jaxpr(logits)(*leaves).jaxpr
    first: dict[int, int] = {}
    numbers = {var: i for i, var in enumerate(program.invars)}
    for place, equation in enumerate(program.eqns):
        for atom in equation.invars:
            if not hasattr(atom, "val") and atom in numbers:
                first.setdefault(numbers[atom], place)
    used: dict[str, int] = {}
    for number, path in enumerate(models.flatten(network.params)):
        if number in first:
            name = _layer(path)
            used[name] = min(first[number], used.get(name, first[number]))
    if not used:
        raise UserError("this network has no parameters that its logits depend on: there is nothing to draw anew")
    return tuple(sorted(used, key=lambda name: used[name], reverse=True))


def randomize_layer(network: Network, layer: str, key: Key[Array, ""]) -> Network:
    """The network with one layer as before its training: new normal kernels of variance 2 / inputs (He et al. 2015).

    Scales and running variances become 1, all other vectors 0. layer: one of `layers_from_top`.
    """

    def redrawn(path: tuple, leaf: Array) -> Array:
        name = "/".join(str(part.key) for part in path)
        if _layer(name) != layer:
            return leaf
        if leaf.ndim > 1:
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            return jax.random.normal(own, leaf.shape, leaf.dtype) * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.ones_like(leaf) if name.rsplit("/", 1)[-1] in ("scale", "var") else jnp.zeros_like(leaf)

    def through(tree: Params) -> Params:
        return jax.tree_util.tree_map_with_path(redrawn, tree)

    return network.replace(params=through(network.params), model_state=through(network.model_state))


def _layer(path: str) -> str:
    """The layer of a parameter by its path; one at the root of the model is a layer of its own."""
    return path.rsplit("/", 1)[0].replace("/", ".")
