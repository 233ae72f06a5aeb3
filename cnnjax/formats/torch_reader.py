"""PyTorch's .pth files, today's zip archives and the plain files from before 1.6, without PyTorch.

Both hold a pickle, which says where the tensors are in the numbers that follow: see torch_pickle.py. What a training
script saves beside the parameters is not read, and only named.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.formats import torch_checkpoint, torch_names
from cnnjax.formats.archive import members
from cnnjax.formats.lazy_tensors import Bytes, Contents, Damaged, Refused, Tensor, opened, stored
from cnnjax.formats.torch_pickle import MOST, Strided, load, load_with_kinds

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


@contextmanager
def read_archive(path: Path) -> Iterator[Contents]:
    """A zip archive by torch.save. Raises Damaged or Refused for one that holds no state dict."""
    with opened(path) as bytes_:
        found = members(path, bytes_)
        pickles = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise Refused(
                "it is a zip archive, but neither PyTorch's nor Keras': give a .pth or .keras file with weights"
            )
        root = pickles[0].removesuffix("data.pkl")
        order = found.get(f"{root}byteorder")
        if order is not None and bytes_.read(*order) != b"little":
            raise Refused("it was written on a big-endian machine: save it again on another")
        offset, size = found[pickles[0]]
        if size > MOST:
            raise Refused(
                f"its pickle has {size:,} bytes, where tensors' names take few: it holds other data, such as NumPy "
                "arrays; save model.state_dict() alone"
            )
        state = load(io.BytesIO(bytes_.read(offset, size)))
        places = {name.removeprefix(f"{root}data/"): place for name, place in found.items()}
        yield _contents("PyTorch's zip archive", bytes_, state, places)


@contextmanager
def read_legacy(path: Path) -> Iterator[Contents]:
    """What torch.save wrote before 1.6: five pickles, then each storage's length and numbers."""
    with opened(path) as bytes_:
        file = io.BytesIO(bytes_.read(0, min(bytes_.size, MOST)))
        magic = load(file)
        if magic != MAGIC:
            raise Refused(
                "it is a Python pickle, but not one of PyTorch's: nothing was executed; save the weights as safetensors"
            )
        if load(file) != PROTOCOL:
            raise Damaged("its version is unknown")
        about, (state, kinds), keys = load(file), load_with_kinds(file), load(file)
        if not isinstance(about, dict) or not about.get("little_endian"):
            raise Refused("it was written on a big-endian machine: save it again on another")
        places, offset = {}, file.tell()
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in kinds:
                raise Damaged("it holds numbers that belong to no tensor")
            count = int.from_bytes(bytes_.read(offset, 8), "little")
            size = count * kinds[key].itemsize
            if offset + 8 + size > bytes_.size:
                raise Damaged("it ends too early")
            places[key] = (offset + 8, size)
            offset += 8 + size
        yield _contents("PyTorch's file from before 1.6", bytes_, state, places)


def _contents(format: str, bytes_: Bytes, saved: Any, places: dict[str, tuple[int, int]]) -> Contents:
    state, heads, notes = torch_checkpoint.state_dict(saved)
    read = lru_cache(2)(bytes_.read)  # some rows at a time are read from one place again and again
    tensors = {name: _located(bytes_, name, t, places, read) for name, t in state.items()}
    found = torch_names.contents(format, tensors, None)
    return found._replace(
        unknown=found.unknown + heads, head=[*found.head, *heads], notes=_together(notes, found.notes)
    )


def _together(notes: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    both = notes.keys() & more.keys()
    return {**notes, **more, **{name: [*notes[name], *more[name]] for name in both}}


def _located(
    bytes_: Bytes,
    name: str,
    tensor: Strided,
    places: dict[str, tuple[int, int]],
    read: Callable[[int, int], bytes],
) -> Tensor:
    """The tensor in the file, within the bounds of its storage. read: `bytes_.read` that keeps what it read last."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    width, count = storage.dtype.itemsize, math.prod(shape)
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0
    if storage.key not in places:
        raise Damaged(f"the numbers of {name} are not there")
    offset, size = places[storage.key]
    if (storage.start + storage.count) * width > size or tensor.offset + span > storage.count or count > storage.count:
        raise Damaged(f"{name} is larger than its storage")
    offset += (storage.start + tensor.offset) * width
    plain = not count or all(s == math.prod(shape[i + 1 :]) for i, s in enumerate(strides) if shape[i] > 1)
    if plain:
        return stored(bytes_, name, shape, storage.dtype, offset)

    # Where rows lie among each other, as in a transposed tensor, those of any block reach over nearly all of it.
    mixed = strides[0] < max(strides)

    def rows(first: int, last: int) -> np.ndarray:
        part = (last - first, *shape[1:])
        reach = 1 + sum((n - 1) * s for n, s in zip(part, strides, strict=True))
        start = first * strides[0]
        if mixed:
            flat = np.frombuffer(read(offset, span * width), storage.dtype)[start:]
        else:
            flat = np.frombuffer(bytes_.read(offset + start * width, reach * width), storage.dtype)
        return np.lib.stride_tricks.as_strided(flat, part, [s * width for s in strides], writeable=False)

    return Tensor(name, shape, storage.dtype, rows)
