"""Whether a heat map lies on the object: pointing game (Zhang et al. 2018), energy in the mask (Wang et al. 2020)."""

import numpy as np
from jaxtyping import Bool, Float

from cnnjax.errors import UserError

Maps = Float[np.ndarray, "images height width"]
Masks = Bool[np.ndarray, "_images _height _width"]
"""Of the shape of the maps."""


def pointing_game(maps: Maps, masks: Masks, tolerance: int = 0) -> Float[np.ndarray, " images"]:
    """1 for each heat map whose largest value lies in the object's mask, else 0 (Zhang et al. 2018).

    Of equal largest values the share that lies in the mask counts, so a map without any answer scores as a guess does.
    tolerance: how many pixels off the mask still count, along each axis; the paper has 15 for images of 224 and more.
    Raises UserError for masks of another shape.
    """
    _check(maps, masks)
    near = masks
    for axis in (1, 2):
        near = _spread(near, tolerance, axis)
    largest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (largest & near).sum(axis=(1, 2)) / largest.sum(axis=(1, 2))


def energy_in_mask(maps: Maps, masks: Masks) -> Float[np.ndarray, " images"]:
    """The share of each heat map's positive values that lies in the object's mask (Wang et al. 2020, Score-CAM).

    Compare it with the share of the image that the mask covers, which is what a map of one value everywhere has; one
    without positive values counts as such a map. Raises UserError for masks of another shape.
    """
    _check(maps, masks)
    positive = np.maximum(np.asarray(maps, np.float64), 0)
    total = positive.sum(axis=(1, 2))
    inside = np.where(masks, positive, 0).sum(axis=(1, 2))
    return np.where(total > 0, inside / np.where(total > 0, total, 1), masks.mean(axis=(1, 2)))


def _spread(masks: Masks, by: int, axis: int) -> Masks:
    """Masks that are True within some pixels of a True one along an axis."""
    length, near = masks.shape[axis], masks.copy()
    for shift in range(1, min(by, length - 1) + 1):
        front, back = [slice(None)] * 3, [slice(None)] * 3
        front[axis], back[axis] = slice(shift, None), slice(None, length - shift)
        near[tuple(front)] |= masks[tuple(back)]
        near[tuple(back)] |= masks[tuple(front)]
    return near


def _check(maps: np.ndarray, masks: np.ndarray) -> None:
    if maps.shape != masks.shape:
        raise UserError(
            f"heat maps of shape {maps.shape} do not fit masks of shape {masks.shape}: give both for each image"
        )
