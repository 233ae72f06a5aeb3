"""Keras' files: HDF5 in the layouts of Keras 1 and 2 (`.h5`) and 3 (`.weights.h5`), and the `.keras` archive.

Only numbers and their names are read: no layer is created, and code in a config is never run. What would lead out of
the file (links to other files, numbers that are stored elsewhere, filters that are loaded as plug-ins) is refused.
"""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from cnnjax.data.normalize import caffe, identity
from cnnjax.errors import UserError
from cnnjax.formats import keras_config, keras_legacy, keras_names
from cnnjax.formats.archive import members
from cnnjax.formats.description import KEY
from cnnjax.formats.lazy_tensors import Bytes, Contents, Damaged, Refused, Tensor, opened

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
SECONDS, BYTES = 5, 1 << 28
"""What looking at a file's structure may take: seconds of a processor, and memory beside the file's own size."""
WAIT = 60
"""Seconds until it ends on a machine that does other things, too."""
MOST_OBJECTS = 100_000
MAX_CONFIG = 1 << 24
"""Bytes."""
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
IGNORED = ("optimizer", "optimizer_weights", "compile_metrics", "seed_generator", "_metrics")
"""State that is no part of a network: that of its training, and of dropout's random numbers."""


@contextmanager
def read(path: Path) -> Iterator[Contents]:
    """An HDF5 file. Raises Damaged, or Refused for what leads out of it."""
    _walk(path, 0, path.stat().st_size)
    with _file(path) as file:
        yield _contents(file, None)


@contextmanager
def read_archive(path: Path) -> Iterator[Contents]:
    """A `.keras` archive, whose config is only checked. Raises as `read`, and Refused for layers not known here."""
    with opened(path) as bytes_:
        found = members(path, bytes_)
        offset, size = found[CONFIG]
        if size > MAX_CONFIG:
            raise Damaged("its config is longer than it may be")
        config = _json(bytes_.read(offset, size))
        _walk(path, *found[WEIGHTS])
        with _file(Part(bytes_, *found[WEIGHTS])) as file:
            yield _contents(file, config)


def is_archive(path: Path) -> bool:
    """Whether a zip archive is Keras'. Raises Damaged when it is none."""
    with opened(path) as bytes_:
        return {CONFIG, WEIGHTS} <= members(path, bytes_, checked=False).keys()


def _walk(path: Path, start: int, size: int) -> None:
    """Look at the file's structure in a process with limits: see hdf5_walk.py. Raises Damaged if it is not sound."""
    arguments = [str(path), *map(str, (start, size, SECONDS, BYTES + size))]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("hdf5_walk.py")), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Damaged("reading its structure does not end") from None
    if said := done.stdout.decode("utf-8", "replace").strip():
        raise Damaged(said)
    if done.returncode < 0:
        crashed = done.returncode in (-signal.SIGSEGV, -signal.SIGABRT)
        raise Damaged("the HDF5 library crashes on it" if crashed else "reading its structure does not end")


class Part(io.RawIOBase):
    """A part of a file as a file, for h5py."""

    def __init__(self, bytes_: Bytes, start: int, size: int):
        super().__init__()
        self._bytes, self._start, self._size, self._place = bytes_, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._place)]
        self._bytes.into(view, self._start + self._place)
        self._place += len(view)
        return len(view)


@contextmanager
def _file(where: Path | Part) -> Iterator[h5py.File]:
    try:
        with h5py.File(where, "r", locking=False) if isinstance(where, Path) else h5py.File(where, "r") as file:
            yield file
    except (Damaged, Refused, UserError):
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(said[0][:150]) from error


def _contents(file: h5py.File, config: dict[str, Any] | None) -> Contents:
    description = _json(file.attrs[KEY]) if KEY in file.attrs else None
    root: Any = file
    if keras_legacy.names(file, "layer_names") is None and "model_weights" in file:
        root = _follow(file, "model_weights")
        config = _json(file.attrs["model_config"]) if "model_config" in file.attrs else None
    known = None if config is None else keras_config.read(config)
    if (names := keras_legacy.names(root, "layer_names")) is not None:
        source, layers = "Keras' HDF5 file", _old_layers(root, names)
    else:
        source, layers = "Keras 3's weights", _new_layers(root)
    architecture = keras_names.architecture(layers, known)
    found, unknown, head = keras_names.arrays(layers, architecture, known)
    normalizer = caffe() if architecture.keras_normalizer == "caffe" else identity()
    contents = Contents(source, found, unknown, normalizer, description, head=head)
    if known is None:
        return contents
    told = known.normalizer is not None
    contents = contents._replace(image_size=known.image_size, head_problem=known.head_problem)
    return contents._replace(normalizer=known.normalizer or normalizer, tells_normalizer=told)


def _old_layers(root: Any, layer_names: list[str]) -> dict[str, list[Tensor]]:
    """Each layer's arrays, in the file's order: a group for each layer, named in `layer_names`."""
    layers = {}
    for layer in layer_names:
        group = _follow(root, layer)
        names = keras_legacy.names(group, "weight_names") or []
        arrays = [_tensor(f"{layer}: {name}", _follow(group, name)) for name in names]
        arrays = keras_legacy.of_backend(arrays, root.attrs)
        if len({name.rpartition("/")[0] for name in names}) > 1:  # a model that is a layer
            for name, array in zip(names, arrays, strict=True):
                layers.setdefault(name.split("/")[-2] if "/" in name else layer, []).append(array)
        elif arrays:
            layers[layer] = arrays
    return layers


def _new_layers(root: Any) -> dict[str, list[Tensor]]:
    """Each layer's arrays by the layer's name or, in older files, by its place: `conv2d`, `conv2d_1`, …"""
    layers: dict[str, list[Tensor]] = {}
    for path, data in sorted(_datasets(root), key=lambda item: _natural(item[0])):
        if set(path.split("/")) & set(IGNORED):
            continue
        group, _, _ = path.rpartition("/")
        named = root[group].attrs.get("name")
        name = group.removesuffix("/vars") if named is None else keras_legacy.text(named)
        layers.setdefault(name, []).append(_tensor(path, data))
    return layers


def _tensor(name: str, data: Any) -> Tensor:
    """A dataset that is stored in this file. Raises Refused for one that is not."""
    if not isinstance(data, h5py.Dataset):
        raise Damaged(f"{name} is not an array")
    plan = data.id.get_create_plist()
    if data.is_virtual or data.external:
        raise Refused(f"{name} keeps its numbers in other files, which are not opened")
    if any(plan.get_filter(i)[0] not in FILTERS for i in range(plan.get_nfilters())):
        raise Refused(f"{name} is compressed by a plug-in, which would be code: nothing was executed")
    half = data.dtype.itemsize == 2 and keras_legacy.text(data.attrs.get("dtype", "")) == "bfloat16"
    dtype = np.dtype(ml_dtypes.bfloat16) if half else data.dtype.newbyteorder("=")

    def rows(first: int, last: int) -> np.ndarray:
        block = data[first:last]
        return block.view(dtype) if half else block

    if data.shape is None:
        raise Damaged(f"{name} is empty")
    return Tensor(name, data.shape, dtype, rows)


def _follow(group: Any, path: str) -> Any:
    """The object at a path below a group. Raises Refused for a link that may lead elsewhere."""
    for part in path.strip("/").split("/"):
        if not isinstance(group, h5py.Group):
            raise Damaged(f"{path} is not there")
        link = group.get(part, getlink=True)
        if link is None:
            raise Damaged(f"{path} is not there")
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"{path} is a link to another place, which is not followed")
        group = group[part]
    return group


def _datasets(
    group: Any, path: str = "", depth: int = 0, count: Iterator[int] | None = None
) -> Iterator[tuple[str, Any]]:
    if depth > 16:
        raise Damaged("its groups are nested too deep")
    count = count or itertools.count()
    for name in group:
        if next(count) > MOST_OBJECTS:
            raise Damaged("it has too many groups and arrays")
        here = _follow(group, name)
        where = f"{path}{name}"
        if isinstance(here, h5py.Group):
            yield from _datasets(here, f"{where}/", depth + 1, count)
        else:
            yield where, here


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged("its config is not JSON") from error
    if not isinstance(value, dict):
        raise Damaged("its config is not a JSON object")
    return value


def _natural(path: str) -> list[Any]:
    """conv2d_2 before conv2d_10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path)]
