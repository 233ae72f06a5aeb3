"""PyTorch's .pth files, today's zip archives and the plain files from before 1.6, without PyTorch.

Both hold a pickle, which says where the tensors are in the numbers that follow. It is read by an interpreter that knows
only the few instructions and names that a state dict needs. Each name stands for something here that only records its
arguments; at any other name or instruction the interpreter stops before anything has happened.
"""

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cnnjax.formats import torch_names
from cnnjax.formats.archive import members
from cnnjax.formats.lazy_tensors import Bytes, Contents, Damaged, Refused, Tensor, opened, stored

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MOST = 1 << 24
"""Bytes that the pickles may take; a VGG's take 10,000."""
TYPES = {
    "FloatStorage": np.float32, "HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
INSTRUCTIONS = (
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK", "STOP", "POP", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
)  # fmt: skip


class Kind(NamedTuple):
    """Stands for a class of storages."""

    dtype: np.dtype


class Storage(NamedTuple):
    """A run of numbers in the file: `count` of them from `start` on in what is called `key`."""

    dtype: np.dtype
    key: str
    start: int
    count: int


class Strided(NamedTuple):
    """A tensor: where its numbers are in a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class State(dict):
    """Stands for OrderedDict; its attributes (`_metadata`) are not used."""

    def __setstate__(self, state: Any) -> None:
        pass


class Holder:
    """Stands for a Parameter, and for a tensor that is created first and filled afterwards (before 0.1.10)."""

    def __init__(self, data: Any = None, *_: Any):
        self.data = data

    def set_state(self, state: Any) -> None:
        """Source: torch.Tensor.__setstate__: four parts are a tensor's, the first of five is one, three are flags."""
        if not isinstance(state, tuple) or len(state) not in (3, 4, 5):
            raise Damaged("malformed tensor record")
        if len(state) > 3:
            self.data = _tensor(*state) if len(state) == 4 else state[0]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Strided:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise Damaged("malformed tensor record")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise Damaged("a tensor has a negative shape")
    return Strided(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): State,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): Holder,
    ("torch", "FloatTensor"): Holder,
    **{("torch", name): Kind(np.dtype(kind)) for name, kind in TYPES.items()},
}


class Notes(pickle._Unpickler):
    """Reads a state dict's pickle and runs nothing. Python's own class, because its instructions can be chosen."""

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in INSTRUCTIONS}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise Refused(
                f"its pickle asks for {module}.{name}, which is code and no weights: nothing was executed; "
                "only state dicts are read, save model.state_dict()"
            )
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        tag, kind, key, _, count, *rest = pid
        view = rest[0] if rest else None
        key, start, count = (key, 0, count) if view is None else (key, view[1], view[2])
        proper = all(type(number) is int and number >= 0 for number in (start, count))
        if tag != "storage" or not isinstance(kind, Kind) or not isinstance(key, str) or not proper:
            raise Damaged("malformed storage record")
        return Storage(kind.dtype, key, start, count)

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Holder):
            self.stack[-1].set_state(state)
        elif not isinstance(self.stack[-1], State):
            raise Damaged("its pickle changes what is neither a tensor nor a dict")

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        if self.stack.pop() is not Holder:
            raise Damaged("its pickle makes what is no tensor")
        self.append(Holder(*arguments))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.NEWOBJ[0]] = load_newobj


def _load(file: io.BytesIO) -> Any:
    try:
        return Notes(file, encoding="utf-8").load()
    except (Refused, Damaged):
        raise
    except KeyError as error:
        raise Refused(
            f"its pickle has an instruction ({error}) that weights do not need: nothing was executed"
        ) from None
    except Exception as error:
        raise Damaged("its pickle cannot be read") from error


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
            raise Damaged("its pickle is longer than it may be")
        state = _load(io.BytesIO(bytes_.read(offset, size)))
        places = {name.removeprefix(f"{root}data/"): place for name, place in found.items()}
        yield _contents("PyTorch's zip archive", bytes_, state, places)


@contextmanager
def read_legacy(path: Path) -> Iterator[Contents]:
    """What torch.save wrote before 1.6: five pickles, then each storage's length and numbers."""
    with opened(path) as bytes_:
        file = io.BytesIO(bytes_.read(0, min(bytes_.size, MOST)))
        magic = _load(file)
        if magic != MAGIC:
            raise Refused(
                "it is a Python pickle, but not one of PyTorch's: nothing was executed; save the weights as safetensors"
            )
        if _load(file) != PROTOCOL:
            raise Damaged("its version is unknown")
        about, state, keys = _load(file), _load(file), _load(file)
        if not isinstance(about, dict) or not about.get("little_endian"):
            raise Refused("it was written on a big-endian machine: save it again on another")
        kinds = {t.storage.key: t.storage.dtype for t in _tensors(state).values()}
        places, offset = {}, file.tell()
        for key in keys if isinstance(keys, list) else ():
            if key not in kinds:
                raise Damaged("it holds numbers that belong to no tensor")
            count = int.from_bytes(bytes_.read(offset, 8), "little")
            size = count * kinds[key].itemsize
            if offset + 8 + size > bytes_.size:
                raise Damaged("it ends too early")
            places[key] = (offset + 8, size)
            offset += 8 + size
        yield _contents("PyTorch's file from before 1.6", bytes_, state, places)


def _tensors(state: Any) -> dict[str, Strided]:
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise Refused("it holds no state dict: save model.state_dict()")
    state = {name: value.data if isinstance(value, Holder) else value for name, value in state.items()}
    if other := [name for name, value in state.items() if not isinstance(value, Strided)]:
        raise Refused(f"it holds {other[0]!r}, which is no tensor: save model.state_dict() alone")
    return state


def _contents(format: str, bytes_: Bytes, state: Any, places: dict[str, tuple[int, int]]) -> Contents:
    tensors = {name: _located(bytes_, name, t, places) for name, t in _tensors(state).items()}
    return torch_names.contents(format, tensors, None)


def _located(bytes_: Bytes, name: str, tensor: Strided, places: dict[str, tuple[int, int]]) -> Tensor:
    """The tensor in the file, within the bounds of its storage."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    width, count = storage.dtype.itemsize, math.prod(shape)
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0
    if storage.key not in places:
        raise Damaged(f"the numbers of {name} are not there")
    offset, size = places[storage.key]
    if (storage.start + storage.count) * width > size or tensor.offset + span > storage.count or count > storage.count:
        raise Damaged(f"{name} is larger than its storage")
    offset += (storage.start + tensor.offset) * width
    plain = all(s == math.prod(shape[i + 1 :]) for i, s in enumerate(strides) if shape[i] > 1)
    if plain:
        return stored(bytes_, name, shape, storage.dtype, offset)

    def rows(first: int, last: int) -> np.ndarray:
        part = (last - first, *shape[1:])
        reach = 1 + sum((n - 1) * s for n, s in zip(part, strides, strict=True))
        flat = np.frombuffer(bytes_.read(offset + first * strides[0] * width, reach * width), storage.dtype)
        return np.lib.stride_tricks.as_strided(flat, part, [s * width for s in strides], writeable=False)

    return Tensor(name, shape, storage.dtype, rows)
