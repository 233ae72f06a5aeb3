"""What the HDF5 files of Keras before version 3 have of their own: long lists of names, and kernels of other backends.

Source: `save_attributes_to_hdf5_group` and `preprocess_weights_for_loading` in keras/engine/saving.py of Keras 2.2.
"""

import functools
import itertools
from typing import Any

import numpy as np

from cnnjax.formats.lazy_tensors import Damaged, Refused, Tensor, read_all

AGAIN = "load it with Keras 2.0 to 2.3 and save it again"


def text(value: Any) -> str:
    """A text of HDF5, which older files have as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def names(group: Any, attribute: str) -> list[str] | None:
    """A list of names; None if there is none. One that is longer than HDF5 allows is in parts: `layer_names0`, ..."""
    if attribute in group.attrs:
        return _texts(group.attrs[attribute])
    if f"{attribute}0" not in group.attrs:
        return None
    parts = itertools.takewhile(lambda part: part in group.attrs, (f"{attribute}{i}" for i in itertools.count()))
    return [name for part in parts for name in _texts(group.attrs[part])]


def of_backend(tensors: list[Tensor], attributes: Any) -> list[Tensor]:
    """A layer's arrays as this package computes with them.

    Theano's convolutions turn their kernels by 180 degrees, and so this turns the kernels of a file that was written
    with it. Raises Refused for kernels in the order of axes (filters, channels, rows, columns) of Keras 1.
    """
    for tensor in tensors:
        if len(tensor.shape) == 4 and tensor.shape[2:] == (3, 3) != tensor.shape[:2]:
            raise Refused(f"{tensor.name} has Keras 1's order of axes, {tensor.shape}, for Theano: {AGAIN}")
    if text(attributes.get("backend", "")) != "theano":
        return tensors
    return [_turned(tensor) if len(tensor.shape) == 4 else tensor for tensor in tensors]


def _turned(tensor: Tensor) -> Tensor:
    @functools.cache
    def whole() -> np.ndarray:
        return read_all(tensor)[::-1, ::-1]

    return tensor._replace(rows=lambda first, last: whole()[first:last])


def _texts(values: Any) -> list[str]:
    if not np.shape(values) and not isinstance(values, list | tuple):
        raise Damaged("a list of its names is none")
    return [text(value) for value in values]
