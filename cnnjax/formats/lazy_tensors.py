"""Arrays in a file, known by name, shape and type before any is read, and read a few rows at a time."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from cnnjax.data.normalize import Cleaning

BLOCK = 1 << 21
"""Bytes that are read at a time where an array is turned around."""
LINE = 16
"""Numbers in a line of a processor's cache: so many rows are turned around together."""
FLOATS = {np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16)}
"""Types that become float32 without loss."""


class Damaged(Exception):
    """A file is not as its format says; `formats.load` names the file."""


class Refused(Exception):
    """A file is whole, but not to be read; `formats.load` names the file."""


class Tensor(NamedTuple):
    """One array of a file.

    name: the file's; rows(first, last): that part of the first axis; layout: "ours", or torch's: "oihw" a convolution's
    kernel, "oi" a dense layer's (in timm with two axes of one more), "ochw" that of the first dense layer, whose inputs
    are in the order channel, row, column, of so many `channels`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[int, int], np.ndarray]
    layout: str = "ours"
    channels: int = 0


class Contents(NamedTuple):
    """What a reader found.

    format: in words, for sentences and `made`; tensors: by our names; left: names of arrays that are none of ours;
    cleaning: that of the published weights in this format; about: our own description, where we wrote the file; side:
    of the pictures, where the file tells it.
    """

    format: str
    tensors: dict[str, Tensor]
    left: list[str]
    cleaning: Cleaning
    about: dict[str, Any] | None = None
    side: int = 0


def spans(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """All of a tensor's rows, so many at a time that they are about `BLOCK` bytes."""
    length, size = (tensor.shape or (1,))[0], math.prod(tensor.shape) * tensor.dtype.itemsize
    step = max(LINE, BLOCK * length // max(1, size) // LINE * LINE)
    for first in range(0, length, step):
        yield first, min(first + step, length)


def blocks(tensor: Tensor) -> Iterator[np.ndarray]:
    """All of a tensor, some rows at a time."""
    return (tensor.rows(first, last) for first, last in spans(tensor))


def whole(tensor: Tensor) -> np.ndarray:
    """All of a small tensor."""
    out = np.empty(tensor.shape, tensor.dtype)
    for first, last in spans(tensor):
        (out if tensor.shape else out.reshape(1))[first:last] = tensor.rows(first, last)
    return out


def listed(names: list[str], most: int = 6) -> str:
    """Names in a sentence."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class Bytes:
    """A file open for reading at any place, by several threads; a read past its end raises Damaged."""

    def __init__(self, file: BinaryIO):
        self._file, self._lock = file, threading.Lock()
        self.size = os.fstat(file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly so many bytes."""
        if offset + size > self.size:
            raise Damaged("it ends too early")
        buffer = bytearray(size)
        self.into(buffer, offset)
        return bytes(buffer)

    def into(self, buffer: Any, offset: int) -> None:
        """Fill the buffer."""
        view = memoryview(buffer).cast("B")
        with self._lock:
            self._file.seek(offset)
            while len(view):
                # The system may give less than was asked for, above 2 GiB always.
                count = self._file.readinto(view)
                if not count:
                    raise Damaged("it ends too early")
                view = view[count:]


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The file's bytes, while they are needed."""
    with path.open("rb", buffering=0) as file:
        yield Bytes(file)


def dense(
    bytes_: Bytes, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int, layout: str = "ours"
) -> Tensor:
    """A tensor that lies in the file row by row, from `offset` on."""
    width = math.prod(shape[1:]) * dtype.itemsize

    def rows(first: int, last: int) -> np.ndarray:
        block = np.empty((last - first, *shape[1:]), dtype)
        if block.size:
            bytes_.into(block.view(np.uint8).reshape(-1), offset + first * width)
        return block

    return Tensor(name, shape, dtype, rows, layout)
