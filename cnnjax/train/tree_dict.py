"""A pytree as nested dicts of arrays with text keys, as checkpoints hold it, and back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def as_dict(tree: PyTree, transform: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Every array of the tree by its path, in nested dicts with text keys, random keys as the integers they are.

    Orbax writes nothing else the same way in all its versions. With `transform` (jax.eval_shape) arrays stay abstract.
    """

    def plain(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.random.key_data(leaf) if transform is None else transform(jax.random.key_data, leaf)

    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *parents, last = (_key_name(key) for key in path)
        place = nested
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = plain(leaf)
    return jax.device_get(nested) if transform is None else nested


def from_dict(nested: dict[str, Any], like: PyTree) -> Any:
    """The inverse of `as_dict`, in the structure of `like`."""

    def find(path: tuple, leaf: Any) -> Any:
        value: Any = nested
        for key in path:
            value = value[_key_name(key)]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
        return value

    return jax.tree_util.tree_map_with_path(find, like)


def _key_name(key: Any) -> str:
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))
