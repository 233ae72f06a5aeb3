"""The parts of data images that fire each filter most: the receptive fields of the units with the largest values."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from cnnjax.visualize.atlas.selection import Layer
from cnnjax.visualize.atlas.statistics import Statistics

LARGEST = 64
"""Pixels of a patch's side at most; a larger receptive field is made smaller."""
_STRIPES = (96, 160)
"""Grey values of the stripes that mark what lies outside the image."""


class Patch(NamedTuple):
    """One patch: where it is, and how strongly the filter fires there.

    image: the image's number in the data set. caption: of the image. value: of the unit. row, column: of the unit in
    its map. box: (top, left, bottom, right) of the receptive field in the image; parts outside the image are padding.
    """

    image: int
    caption: str
    value: float
    row: int
    column: int
    box: tuple[int, int, int, int]


def find(
    layer: Layer,
    found: Statistics,
    channel: int,
    image_size: tuple[int, int],
    map_width: int,
    caption: Callable[[int], str],
) -> list[Patch]:
    """The patches that fire a filter most, strongest first; fewer than nine if no more images fire it at all.

    map_width: of the layer's map for an image of this size. caption: of an image, by its number.
    """
    lowest, result = float(found.lowest[channel]), []
    values, images, units = (
        part[channel].tolist() for part in (found.patch_values, found.patch_images, found.patch_units)
    )
    for value, image, unit in zip(values, images, units, strict=True):
        if image < 0 or value <= lowest:
            continue
        row, column = divmod(unit, map_width)
        result.append(Patch(image, caption(image), value, row, column, box(layer, row, column, image_size)))
    return result


def box(layer: Layer, row: int, column: int, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The receptive field of a unit, (top, left, bottom, right), in pixels of the image.

    Along an axis on which the field is as large as the image, or unknown, it is the entire image.
    """
    ends = []
    for axis, unit in enumerate((row, column)):
        size = image_size[axis]
        if layer.field is None or layer.stride is None or layer.start is None or layer.field[axis] >= size:
            ends.append((0, size))
        else:
            first = layer.start[axis] + unit * layer.stride[axis]
            ends.append((first, first + layer.field[axis]))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def crop(
    image: UInt8[np.ndarray, "height width channels"], box: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "rows columns channels"]:
    """A part of an image, with diagonal grey stripes where it lies outside."""
    top, left, bottom, right = box
    down, across = np.indices((bottom - top, right - left))
    stripes = np.where((down + across) // 3 % 2, *_STRIPES).astype(np.uint8)
    patch = np.repeat(stripes[..., None], image.shape[2], axis=2)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    first_row, first_column = max(-top, 0), max(-left, 0)
    patch[first_row : first_row + inside.shape[0], first_column : first_column + inside.shape[1]] = inside
    return patch
