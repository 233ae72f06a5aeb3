"""Dropout with a mask for each example, which does not depend on the rest of the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(
    x: Float[Array, "rows ..."],
    rate: float,
    keys: Key[Array, " batch"] | None,
    layer: int,
    shape: tuple[int, ...] | None = None,
) -> Float[Array, "rows ..."]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate); without keys, x itself.

    Example i's mask follows from keys[i] and the layer's number alone, not from the batch it is in. An example may have
    several consecutive rows of x. shape: that of the mask of one row, where it is not that of a row.
    Source: article, section 4.1; Srivastava et al. 2014.
    """
    if keys is None or rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    rows, shape = len(x) // len(keys), x.shape[1:] if shape is None else shape

    def mask(key: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, (rows, *shape) if rows > 1 else shape)

    keep = jax.vmap(mask)(keys).reshape(len(x), *shape)
    return jnp.where(keep, x / (1 - rate), 0)
