"""Arrays in a file, known by name, shape and type before any is read, and read a few rows at a time."""

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from cnnjax.data.normalize import Normalizer
from cnnjax.files import check_regular

BLOCK = 1 << 21
"""Bytes that are read at a time."""
LINE = 16
"""Numbers in a cache line: as many rows are transposed together."""
Layout = Literal["ours", "oihw", "oi", "ochw"]


class Damaged(Exception):
    """A file is not as its format says; `formats.load` names the file."""


class Refused(Exception):
    """A file is intact, but is not to be read; `formats.load` names the file."""


class Tensor(NamedTuple):
    """One array of a file.

    name: the file's. rows: called as rows(first, last), reads that part of the first axis. layout: "ours", or one of
    PyTorch's: "oihw" of a convolution, "oi" of a dense layer (timm adds two axes of size one), "ochw" of the first
    dense layer, whose inputs are ordered by channel, row and column.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[int, int], np.ndarray]
    layout: Layout = "ours"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def shape_here(self) -> tuple[int, ...]:
        """The shape in this package's layout."""
        if self.layout == "oihw" and len(self.shape) == 4:
            return (*self.shape[2:], *self.shape[1::-1])
        if self.layout in ("oi", "ochw") and len(self.shape) in (2, 4):
            return math.prod(self.shape[1:]), self.shape[0]
        return self.shape


class Contents(NamedTuple):
    """What a reader found in a file.

    format: in words. tensors: by this package's names. unknown: names of arrays that belong to no layer. normalizer:
    that of the weights which are published in this format. description: this package's own, where it wrote the file.
    image_size: (height, width), where the file has it. notes: what of the file is not used, for the provenance. head:
    those of `unknown` that come after the convolutions. head_problem: why what comes after them is not the network's
    own head, or "". tells_normalizer: whether the file itself says what its normalizer is.
    """

    format: str
    tensors: dict[str, Tensor]
    unknown: list[str]
    normalizer: Normalizer
    description: dict[str, Any] | None = None
    image_size: tuple[int, int] | None = None
    notes: Mapping[str, Any] = MappingProxyType({})
    head: Sequence[str] = ()
    head_problem: str = ""
    tells_normalizer: bool = False


def spans(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges that cover a tensor's rows, each of about `BLOCK` bytes."""
    length = (tensor.shape or (1,))[0]
    step = max(LINE, BLOCK * length // max(1, tensor.nbytes) // LINE * LINE)
    for first in range(0, length, step):
        yield first, min(first + step, length)


def blocks(tensor: Tensor) -> Iterator[np.ndarray]:
    """All of a tensor, some rows at a time."""
    return (tensor.rows(first, last) for first, last in spans(tensor))


def read_all(tensor: Tensor) -> np.ndarray:
    """A whole tensor, which should be small."""
    out = np.empty(tensor.shape, tensor.dtype)
    for first, last in spans(tensor):
        (out if tensor.shape else out.reshape(1))[first:last] = tensor.rows(first, last)
    return out


def listed(names: list[str], most: int = 6) -> str:
    """Names in a sentence."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class Bytes:
    """A file that several threads can read at any offset; a read past its end raises Damaged."""

    def __init__(self, file: BinaryIO):
        self._file, self._lock = file, threading.Lock()
        self.size = os.fstat(file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
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
                # The system may return less than was asked for; above 2 GiB it always does.
                count = self._file.readinto(view)
                if not count:
                    raise Damaged("it ends too early")
                view = view[count:]


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The file's bytes, while they are needed."""
    with check_regular(path).open("rb", buffering=0) as file:
        yield Bytes(file)


def stored(bytes_: Bytes, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> Tensor:
    """A tensor that is stored row by row from `offset` on."""
    width = math.prod(shape[1:]) * dtype.itemsize

    def rows(first: int, last: int) -> np.ndarray:
        block = np.empty((last - first, *shape[1:]), dtype)
        if block.size:
            bytes_.into(block.view(np.uint8).reshape(-1), offset + first * width)
        return block

    return Tensor(name, shape, dtype, rows)
