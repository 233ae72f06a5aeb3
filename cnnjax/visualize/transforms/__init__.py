"""Keyed random changes of the image between the steps of the optimization: functions (key, image) -> image.

A `Transform` is a pytree whose leaves may change without compiling anything again. Plain functions work too.
"""

from cnnjax.visualize.transforms.base import Transform, TransformFunction, TransformLike, Warp, apply, compose
from cnnjax.visualize.transforms.moves import crop, jitter, pad
from cnnjax.visualize.transforms.values import noise
from cnnjax.visualize.transforms.warps import rotate, scale, window

__all__ = [
    "Transform",
    "TransformFunction",
    "TransformLike",
    "Warp",
    "apply",
    "compose",
    "crop",
    "jitter",
    "noise",
    "pad",
    "rotate",
    "scale",
    "window",
]
