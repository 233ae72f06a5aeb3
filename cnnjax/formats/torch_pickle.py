"""The pickles of PyTorch's files, read without running anything that is in them.

An interpreter that knows only the few instructions and names that a checkpoint needs. Each name stands for something
here that only records its arguments. Beside tensors, checkpoints hold what their scripts were started with: a
Namespace, paths, NumPy's numbers, classes of other packages. They become a `Record`, which has no content and is never
called. At any other name or instruction the interpreter stops before anything has happened.

Time and memory follow from the length of the pickle: keys are texts, numbers or Records, whose hashes are no work, and
what a name is called with is looked at only up to a fixed length.
"""

import io
import math
import pickle
import re
import sys
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cnnjax.formats.lazy_tensors import Damaged, Refused

MOST = 1 << 22
"""Bytes that the pickles may take; a VGG's take 10,000, those of a checkpoint with its optimizer some times as many."""
MOST_AXES = 32
LARGEST = 1 << 63
"""A tensor's size and strides, which PyTorch keeps in 64 bits, are below it."""
TYPES = {
    "FloatStorage": np.float32, "HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
INSTRUCTIONS = (
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK", "STOP", "POP", "POP_MARK",
    "DUP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "NEWOBJ", "NEWOBJ_EX", "EMPTY_SET", "ADDITEMS",
    "FROZENSET",
)  # fmt: skip
INERT = {
    "argparse": ("Namespace",), "types": ("SimpleNamespace",), "collections": ("defaultdict", "Counter", "deque"),
    "pathlib": (
        "Path", "PurePath", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath",
    ),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"), "decimal": ("Decimal",), "uuid": ("UUID",),
    "builtins": ("set", "frozenset", "complex", "bytearray", "slice", "range", "object", "dict", "list", "tuple"),
    "_codecs": ("encode",), "copyreg": ("_reconstructor",), "random": ("Random",),
    "torch": ("Size", "device", "dtype", "Generator"), "torch.serialization": ("_get_layout",),
    "torch.torch_version": ("TorchVersion",),
    "numpy": ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_"),
    **{
        f"numpy.{core}.{module}": names
        for core in ("core", "_core")
        for module, names in {"multiarray": ("scalar", "_reconstruct"), "numeric": ("_frombuffer",)}.items()
    },
}  # fmt: skip
"""What may be called in a pickle and is recorded as nothing, by module."""
OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}
PYTHONS = sys.stdlib_module_names | {"__builtin__", "copy_reg", "commands", "popen2", "exceptions", "distutils"}
"""Modules whose names are code, if they are not in `INERT`."""


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


class Record:
    """Stands for an object that is not used. Whatever is put into it is gone. is_array: it was one of NumPy's."""

    def __init__(self, is_array: bool = False):
        self.is_array = is_array

    def __str__(self) -> str:
        return "an object"

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class Named(NamedTuple):
    """Stands for a class or a function, by its name alone. It cannot be called unless it is `inert`."""

    module: str
    name: str

    @property
    def inert(self) -> bool:
        """Whether a pickle may make an object of it: those of `INERT`, and other packages' classes."""
        module = OLD_NAMES.get(self.module, self.module)
        root = module.partition(".")[0]
        if root in PYTHONS or root in ("torch", "numpy", "torchvision", "cnnjax"):
            return self.name in INERT.get(module, ())
        return re.fullmatch(r"_?[A-Z]\w*", self.name) is not None

    @property
    def refused(self) -> Refused:
        return Refused(
            f"its pickle asks for {self.module}.{self.name}, which is code and no weights: nothing was executed; "
            "save model.state_dict()"
        )


class Holder:
    """Stands for a Parameter, and for a tensor that is created first and filled afterwards (before 0.1.10)."""

    def __init__(self, data: Any = None):
        self.data = data

    def set_state(self, state: Any) -> None:
        """Source: torch.Tensor.__setstate__: four parts are a tensor's, the first of five is one, three are flags."""
        if not isinstance(state, tuple) or len(state) not in (3, 4, 5):
            raise Damaged("malformed tensor record")
        if len(state) > 3:
            self.data = _tensor(*state) if len(state) == 4 else state[0]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Strided:
    proper = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= MOST_AXES
    if not proper or not isinstance(storage, Storage):
        raise Damaged("malformed tensor record")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise Damaged("a tensor has a negative shape")
    if max(offset, *strides, math.prod(filter(None, shape))) >= LARGEST:
        raise Damaged("a tensor is larger than any file")
    return Strided(storage, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _state(*pairs: Any) -> State:
    """An OrderedDict, which Python 2 made of a list of pairs."""
    state = State()
    if len(pairs) > 1 or (pairs and not isinstance(pairs[0], list)):
        raise Damaged("malformed state dict")
    for pair in pairs[0] if pairs else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Damaged("malformed state dict")
        state[_key(pair[0])] = pair[1]
    return state


def _key(key: Any) -> Any:
    """A key whose hash is no work: that of nested tuples can take for ever."""
    if type(key) not in (str, int, float, bool, bytes, type(None), Record):
        raise Refused("its pickle has a dict whose keys are neither texts nor numbers: save model.state_dict()")
    return key


MAKERS = {
    ("collections", "OrderedDict"): _state,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.nn.parameter", "Parameter"): Holder,
    ("torch", "FloatTensor"): Holder,
}
KINDS = {("torch", name): Kind(np.dtype(kind)) for name, kind in TYPES.items()}
GETATTR = ("builtins", "getattr")


class Interpreter(pickle._Unpickler):
    """Python's own class, because its instructions can be chosen."""

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in INSTRUCTIONS}

    items_left = MOST
    """How many pairs may still be given to OrderedDict: one list could be given again and again. Each takes 4 bytes."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.kinds: dict[str, np.dtype] = {}
        """The type of the numbers of every storage by its key, also of those within objects that are not used."""

    def find_class(self, module: str, name: str) -> Any:
        found = Named(module, name)
        own = OLD_NAMES.get(module, module), name
        if own in KINDS:
            return KINDS[own]
        # A class of PyTorch or of another package may be mentioned; Python's own functions not even that.
        if own in MAKERS or own == GETATTR or found.inert or module.partition(".")[0] not in PYTHONS:
            return found
        raise found.refused

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise Damaged("malformed storage record")
        tag, kind, key, _, count, *rest = pid
        view = rest[0] if rest else None
        if view is not None and (not isinstance(view, tuple) or len(view) != 3):
            raise Damaged("malformed storage record")
        key, start, count = (key, 0, count) if view is None else (key, view[1], view[2])
        proper = all(type(number) is int and 0 <= number < LARGEST for number in (start, count))
        if tag != "storage" or not isinstance(kind, Kind) or not isinstance(key, str) or not proper:
            raise Damaged("malformed storage record")
        self.kinds[key] = kind.dtype
        return Storage(kind.dtype, key, start, count)

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        self.append(self._made(name, arguments))

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def _made(self, name: Any, arguments: Any) -> Any:
        """What a pickle makes of a name and its arguments. Nothing of it is called but what is defined here."""
        if not isinstance(name, Named) or not isinstance(arguments, tuple):
            raise Refused(
                "its pickle calls what it has made, which is code and no weights: nothing was executed; save "
                "model.state_dict()"
            )
        own = OLD_NAMES.get(name.module, name.module), name.name
        if own in MAKERS:
            self.items_left -= sum(len(value) for value in arguments if isinstance(value, list))
            if self.items_left < 0:
                raise Damaged("its pickle repeats itself too often")
            return MAKERS[own](*arguments)
        if own == GETATTR and len(arguments) == 2 and isinstance(arguments[0], Named):
            return Record()  # how a method is mentioned, such as that of a schedule
        if not name.inert:
            raise name.refused
        if own in (("collections", "defaultdict"), ("collections", "Counter")):
            return State()
        return Record(name.module.startswith("numpy.") and name.name in ("_reconstruct", "_frombuffer"))

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Holder):
            self.stack[-1].set_state(state)
        elif not isinstance(self.stack[-1], State | Record):
            raise Damaged("its pickle changes what is neither a tensor nor a dict")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if not isinstance(self.stack[-1], dict | Record):
            raise Damaged("its pickle sets an item of what is no dict")
        self.stack[-1][_key(key)] = value

    def load_empty_set(self) -> None:
        self.append(Record())

    def load_additems(self) -> None:
        self.pop_mark()

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Record())

    dispatch |= {
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
        pickle.EMPTY_SET[0]: load_empty_set, pickle.ADDITEMS[0]: load_additems, pickle.FROZENSET[0]: load_frozenset,
    }  # fmt: skip


def load(file: io.BytesIO) -> Any:
    """What the pickle at the file's place describes. Raises Damaged, or Refused for one that asks for more."""
    return load_with_kinds(file)[0]


def load_with_kinds(file: io.BytesIO) -> tuple[Any, dict[str, np.dtype]]:
    """What `load` returns, and the type of the numbers of each storage that the pickle names, by its key."""
    interpreter = Interpreter(file)
    interpreter.items_left = len(file.getbuffer()) // 4
    try:
        return interpreter.load(), interpreter.kinds
    except (Refused, Damaged):
        raise
    except KeyError as error:
        raise Refused(
            f"its pickle has an instruction ({error}) that weights do not need: nothing was executed"
        ) from None
    except Exception as error:
        raise Damaged("its pickle cannot be read") from error
