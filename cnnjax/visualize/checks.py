"""What is wrong with an objective: with a function before the ascent, with its values before and after."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError, unknown
from cnnjax.network import Network
from cnnjax.signatures import check_takes
from cnnjax.visualize.objectives import Function, Objective

REMEDY = "guard its divisions, roots and logarithms against 0"


def check_functions(network: Network, objective: Objective, what: str) -> None:
    """Raises UserError for a function that does not return a scalar, or reads a layer that does not exist.

    what: "the objective" or "the penalty".
    """
    for part in objective.parts():
        if isinstance(part, Function):
            _check_function(network, part.function, f"{what} {part.describe(0)}")


def _check_function(network: Network, function: Any, what: str) -> None:
    check_takes(function, ("logits", "activations", "image"), what.rpartition(" ")[0])
    layers: list[str] = []

    def value(network: Network, image: jax.Array) -> Any:
        logits, activations = network(image[None] / 255)
        layers.extend(activations)
        found = function(logits[0], {name: values[0] for name, values in activations.items()}, image)
        if found is None:
            raise UserError(f"{what} returned None: end it with return and a scalar")
        return found

    image = jax.ShapeDtypeStruct(network.image_shape, jnp.float32)
    try:
        found = jax.eval_shape(value, network, image)
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or name in layers:
            raise
        raise unknown("layer", name, layers) from error
    shape = getattr(found, "shape", None)
    if shape is None:
        raise UserError(f"{what} returned a {type(found).__name__}: an objective must return a scalar, one number")
    if shape != ():
        raise UserError(
            f"{what} returned an array of shape {shape} for one image: an objective must return a scalar, such as its "
            "mean()"
        )


def check_start(objective: Objective, values: Any, count: int) -> None:
    """Raises UserError for the first of `count` objectives whose value for the start makes an ascent pointless."""
    for index, value in enumerate(np.asarray(values)[:count]):
        if np.isnan(value) or value == np.inf:
            raise UserError(
                f"the objective {objective.describe(index)} is {value} for the image that the ascent starts from: "
                f"{REMEDY}"
            )


def check_stage(objective: Objective, best: Any, params: Any, count: int) -> None:
    """Raises UserError for the first of `count` images that had no finite score, or whose own numbers are not finite.

    best: each image's highest score. params: a pytree, each leaf with a leading axis for the images.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    scores = np.asarray(best)
    for index in range(count):
        if not np.isfinite(scores[index]):
            raise UserError(
                f"the objective {objective.describe(index)}, less its penalty, was not a finite number in any step of "
                f"the ascent: {REMEDY}"
            )
        if not all(np.isfinite(leaf[index]).all() for leaf in leaves):
            raise UserError(
                f"the gradient of the objective {objective.describe(index)} is not finite, so that the image is not "
                f"either: {REMEDY}, and their arguments as well (jnp.where)"
            )


def check_end(objective: Objective, values: Any, count: int) -> None:
    """Raises UserError for the first of `count` objectives whose value for the saved image is not finite."""
    for index, value in enumerate(np.asarray(values)[:count]):
        if not np.isfinite(value):
            raise UserError(f"the objective {objective.describe(index)} is {value} for the image it led to: {REMEDY}")
