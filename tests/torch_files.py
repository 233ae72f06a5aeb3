"""PyTorch's files written without PyTorch: torch.save's zip archive, and the plain pickles from before 1.6.

test_oracles.py compares what is written here with files that PyTorch wrote, and, where it is installed, lets PyTorch
read them.
"""

import argparse
import io
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np

STORAGES = {
    "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float64": "DoubleStorage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Name:
    """Something that a pickle asks for by its module and its name, such as a class that is not installed here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """What a pickle makes by calling a name, with a state that is set afterwards if there is one."""

    def __init__(self, name, arguments=(), state=None):
        self.name, self.arguments, self.state = name, arguments, state


class Storage:
    def __init__(self, dtype, key, count):
        self.dtype, self.key, self.count = dtype, key, count


class Pickler(pickle._Pickler):
    """Arrays become tensors. Python's own class, so that names need not exist."""

    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.arrays, self.legacy = {}, legacy

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        kind = Name("torch", STORAGES[str(obj.dtype)])
        view = (None,) if self.legacy else ()
        return ("storage", kind, obj.key, "cpu", obj.count, *view)

    def save_name(self, name):
        self.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())

    def save_call(self, call):
        self.save(call.name)
        self.save(tuple(call.arguments))
        self.write(pickle.REDUCE)
        if call.state is not None:
            self.save(call.state)
            self.write(pickle.BUILD)
        self.memoize(call)

    def save_array(self, array):
        key = str(len(self.arrays))
        self.arrays[key] = np.asarray(array)
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        storage = Storage(array.dtype, key, array.size)
        tensor = (storage, 0, tuple(array.shape), strides, False, OrderedDict())
        self.save_call(Call(Name("torch._utils", "_rebuild_tensor_v2"), tensor))

    def save_namespace(self, namespace):
        made = Name("argparse", "Namespace")
        self.save(made)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(vars(namespace))
        self.write(pickle.BUILD)
        self.memoize(namespace)

    dispatch[Name] = save_name
    dispatch[Call] = save_call
    dispatch[np.ndarray] = save_array
    dispatch[argparse.Namespace] = save_namespace


def pickled(obj, legacy=False):
    """The pickle, and the arrays by their keys."""
    file = io.BytesIO()
    pickler = Pickler(file, legacy)
    pickler.dump(obj)
    return file.getvalue(), pickler.arrays


def save(path, obj, legacy=False, root="archive"):
    """As torch.save(obj, path) does, with `legacy` that of before 1.6; arrays stand for tensors."""
    text, arrays = pickled(obj, legacy)
    if not legacy:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(f"{root}/data.pkl", text)
            made.writestr(f"{root}/byteorder", "little")
            for key, array in arrays.items():
                made.writestr(f"{root}/data/{key}", array.tobytes())
            made.writestr(f"{root}/version", "3\n")
        return
    about = {
        "protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4},
    }  # fmt: skip
    with open(path, "wb") as file:
        for one in (0x1950A86A20F9469CFC6C, 1001, about):
            pickle.dump(one, file, protocol=2)
        file.write(text)
        pickle.dump(sorted(arrays), file, protocol=2)
        for key in sorted(arrays):
            file.write(arrays[key].size.to_bytes(8, "little") + arrays[key].tobytes())
