"""What results depend on, as texts and digests that are the same in every process."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any

import jax
import numpy as np

from cnnjax import checksums
from cnnjax.network import Json, Network
from cnnjax.visualize.recipes import Recipe


def of_network(network: Network) -> dict[str, Json]:
    """What a network computes: two of the same weights may normalize images differently."""
    normalizer = network.normalizer
    arrays = {"mean": normalizer.mean, "components": normalizer.components, "scales": normalizer.scales}
    given = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    preprocessing = f"{normalizer.kind} {checksums.digest(given)}"
    return {"weights": network.digest, "model": network.model_name, "preprocessing": preprocessing}


def of_recipe(recipe: Recipe) -> dict[str, Json]:
    """What pictures depend on: two recipes may share a name."""
    text = describe(recipe)
    return {"recipe": recipe.name, "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(), "steps": recipe.steps}


def describe(thing: Any) -> str:
    """What an object is made of, down to the variables that its functions hold.

    Arrays count by their values, functions by their names, defaults and variables, but not by their code: a function
    whose code was edited, and nothing else, has the same description.
    """
    return _describe(thing, ())


def _describe(thing: Any, above: tuple[int, ...]) -> str:
    if id(thing) in above:
        return "…"  # a function that holds itself
    above = (*above, id(thing))
    if isinstance(thing, jax.Array | np.ndarray):
        return checksums.digest({"": thing})
    if isinstance(thing, partial):
        parts: Any = (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, FunctionType):
        parts = (thing.__module__, thing.__qualname__, thing.__defaults__, thing.__kwdefaults__, _variables(thing))
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = (type(thing).__qualname__, {one.name: getattr(thing, one.name) for one in dataclasses.fields(thing)})
    elif isinstance(thing, Mapping):
        parts = tuple(thing.items())
    elif isinstance(thing, tuple | list):
        parts = thing
    else:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))
    return f"({', '.join(_describe(part, above) for part in parts)})"


def _variables(function: FunctionType) -> list[Any]:
    """The values of the variables of enclosing functions; an empty cell has none."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(None)
    return found
