"""From an attribution of every channel of every pixel to a heat map, and from a heat map to one that can be shown."""

import numpy as np
from jaxtyping import Float

from cnnjax.errors import unknown

REDUCTIONS = ("max-abs", "sum", "none")


def reduce_channels(
    values: Float[np.ndarray, "images height width channels"], reduction: str
) -> Float[np.ndarray, "images height width ..."]:
    """ "max-abs": the largest magnitude among the channels; "sum" of the channels; "none": as they are.

    Raises UserError for another reduction.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return values
    return np.abs(values).max(axis=-1) if reduction == "max-abs" else values.sum(axis=-1)


def to_display(
    maps: Float[np.ndarray, "images height width"], percentile: float = 99.5
) -> Float[np.ndarray, "images height width"]:
    """Heat maps in [0, 1]: what speaks for the class, over its `percentile` in each map; the rest is 0.

    The largest values of gradients are single pixels, which would leave all others dark.
    """
    positive = np.maximum(maps, 0)
    high = np.percentile(positive, percentile, axis=(1, 2), keepdims=True)
    high = np.where(high > 0, high, positive.max(axis=(1, 2), keepdims=True))
    return np.clip(positive / np.where(high > 0, high, 1), 0, 1).astype(np.float32)
