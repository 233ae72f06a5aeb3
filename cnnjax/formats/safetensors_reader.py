"""A safetensors file: a header in JSON, then nothing but numbers. Which network's names it has decides what it is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cnnjax.formats import native, torch_names
from cnnjax.formats.description import KEY
from cnnjax.formats.lazy_tensors import Bytes, Contents, Damaged, Tensor, dense, opened

TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
MOST = 100_000_000
"""Bytes of a header, as in the safetensors library."""


@contextmanager
def read(path: Path) -> Iterator[Contents]:
    """What a safetensors file holds. Raises Damaged for a header that is not true."""
    with opened(path) as bytes_:
        tensors, about = header(bytes_)
        if any(name.startswith(("params/", "cleaning/")) for name in tensors):
            yield native.contents(tensors, about)
            return
        try:
            described = json.loads(about[KEY]) if KEY in about else None
        except ValueError as error:
            raise Damaged("its description is not JSON") from error
        if described is not None and not isinstance(described, dict):
            raise Damaged("its description is not one")
        yield torch_names.contents("safetensors with PyTorch's names", tensors, described)


def header(bytes_: Bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor by its name, and the metadata. Raises Damaged unless they fill the file exactly."""
    length = int.from_bytes(bytes_.read(0, 8), "little")
    if length > min(MOST, bytes_.size - 8):
        raise Damaged("its header is longer than it may be")
    try:
        entries = json.loads(bytes_.read(8, length), object_pairs_hook=_unique)
        about = entries.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in about.values()):
            raise Damaged("its metadata is not text")
        tensors, ends = {}, []
        for name, entry in entries.items():
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            dtype = np.dtype(TYPES[entry["dtype"]])
            if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
                raise Damaged(f"{name} has no proper shape")
            count = 1
            for number in shape:
                count *= number
            if last - first != count * dtype.itemsize:
                raise Damaged(f"{name} is not as long as its shape")
            ends.append((first, last))
            tensors[name] = dense(bytes_, name, shape, dtype, 8 + length + first)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("its header cannot be read") from error
    place = 0
    for first, last in sorted(ends):
        if first != place:
            raise Damaged("its tensors overlap or leave gaps")
        place = last
    if 8 + length + place != bytes_.size:
        raise Damaged("it is not as long as its header says")
    return tensors, about


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
