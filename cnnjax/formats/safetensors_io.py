"""Safetensors files by the library of that name: a header in JSON, then nothing but numbers.

The library checks the header and writes files. Rows are read here, at the offsets that follow from the header: the
library either maps the file, which takes twice its size in memory, or reads a tensor whole for every slice of it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cnnjax.files import atomic_write
from cnnjax.formats.lazy_tensors import Bytes, Damaged, Refused, Tensor, opened, stored

TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


@contextmanager
def tensors(path: Path) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Every tensor of a file by its name, and the file's metadata. Raises Damaged if the header is not true."""
    with opened(path) as bytes_:
        try:
            with safe_open(path, framework="numpy") as file:
                yield _located(bytes_, file), file.metadata() or {}
        except SafetensorError as error:
            raise Damaged(str(error).removeprefix("Error while deserializing header: ").splitlines()[0]) from error


def _located(bytes_: Bytes, file: safe_open) -> dict[str, Tensor]:
    """The tensors, one after the other: the library has made sure that there are no gaps."""
    found, offset = {}, 8 + int.from_bytes(bytes_.read(0, 8), "little")
    for name in file.offset_keys():
        entry = file.get_slice(name)
        if entry.get_dtype() not in TYPES:
            raise Refused(f"{name} has the type {entry.get_dtype()}, which networks do not use")
        dtype = np.dtype(TYPES[entry.get_dtype()])
        found[name] = stored(bytes_, name, tuple(entry.get_shape()), dtype, offset)
        offset += found[name].nbytes
    return found


def write(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a file; an interruption leaves the previous one. Raises UserError if it cannot be written."""

    def save(temporary: Path) -> None:
        try:
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    atomic_write(path, save)
