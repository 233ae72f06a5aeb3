"""A file's arrays, each checked before any is read, and then read into memory that JAX takes as it is.

An array is read a few rows at a time, transposed into this package's layout on the way, and checked for numbers that
are not finite. So reading takes little more memory than the network.
"""

import math
import mmap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from cnnjax.errors import UserError
from cnnjax.formats.lazy_tensors import LINE, Tensor, listed, spans

HUGE = 1 << 22
"""Bytes from which an array's memory is asked of the system itself."""
ZEROS = np.zeros(1 << 16, np.float32)
TO_FLOAT32 = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64))
"""Types that become float32: the first two without loss, the last one rounded."""


def read_arrays(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Any],
    unknown: list[str],
    cells: tuple[int, int] | None,
    guessed: str = "",
) -> dict[str, jax.Array]:
    """The arrays that a model expects, by name.

    expected: arrays or jax.ShapeDtypeStruct. unknown: names of arrays of the file that belong to no layer. cells:
    height and width of the feature maps that are flattened for the first dense layer. guessed: the array from whose
    shape alone the size of the images was taken, as that of a square.
    Raises UserError if one is missing, left over, of another shape or type, or not finite.
    """
    _check(path, tensors, expected, unknown, cells, guessed)
    out = {name: _memory(_stored(leaf).shape, _stored(leaf).dtype) for name, leaf in expected.items()}

    def read(name: str, first: int, last: int) -> None:
        with np.errstate(over="ignore"):  # what float32 does not hold is not finite then
            block = np.ascontiguousarray(tensors[name].rows(first, last), out[name].dtype)
        if not finite(block):
            raise UserError(
                f"{path} has numbers that are not finite in {tensors[name].name}: its training failed; train it again"
            )
        place(out[name], block, tensors[name], first, cells)

    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(read, name, *span) for name in expected for span in spans(tensors[name])]
        try:
            for job in jobs:
                job.result()
        finally:
            threads.shutdown(cancel_futures=True)
    return {name: _on_device(out[name], leaf) for name, leaf in expected.items()}


def _check(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Any],
    unknown: list[str],
    cells: tuple[int, int] | None,
    guessed: str,
) -> None:
    missing = [name for name in expected if name not in tensors]
    left = [tensors[name].name for name in tensors if name not in expected] + unknown
    if missing or left:
        lacks = f"lacks {listed(missing)}, which its network has" if missing else ""
        has = f"has {listed(left)}, which its network does not have" if left else ""
        raise UserError(f"{path} {' and '.join(filter(None, (lacks, has)))}: train or fetch it again")
    for name, leaf in expected.items():
        tensor, leaf = tensors[name], _stored(leaf)
        here, there = tensor.shape_here, f"{tensor.name} as {tensor.dtype} {tensor.shape}"
        turned = tensor.layout == "ochw" and len(tensor.shape) == 4 and tensor.shape[2:] != cells
        if here != leaf.shape or turned:
            same = "" if here == tensor.shape else f", which is {here} here"
            remedy = ": give image_size=(height, width) of its images" if name == guessed else ""
            raise UserError(f"{path} has {there}{same}, but its network needs {leaf.dtype} {leaf.shape}{remedy}")
        if tensor.dtype != leaf.dtype and not becomes_float32(tensor, leaf):
            raise UserError(
                f"{path} has {there}, but its network needs {leaf.dtype}: only float16, bfloat16 and float64 "
                "become float32"
            )


def becomes_float32(tensor: Tensor | None, leaf: Any) -> bool:
    """Whether a tensor of half or double precision becomes a float32 array."""
    return tensor is not None and tensor.dtype in TO_FLOAT32 and leaf.dtype == np.float32


def _stored(leaf: Any) -> Any:
    """The array as which a leaf is stored: of random keys, their data."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))


def _on_device(array: np.ndarray, leaf: Any) -> jax.Array:
    placed = jax.device_put(array, may_alias=True)
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return placed
    kinds = []  # of an abstract key, JAX tells the kind only while it traces
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.random.wrap_key_data(placed, impl=kinds[0])


def place(out: np.ndarray, block: np.ndarray, tensor: Tensor, first: int, cells: tuple[int, int] | None = None) -> None:
    """Put a tensor's rows, from `first` on, into `out`, which has this package's layout."""
    if tensor.layout == "ours":
        (out if out.ndim else out.reshape(1))[first : first + len(block)] = block
        return
    shape = block.shape[1:]
    if tensor.layout == "ochw":
        height, width = cells or (1, 1)
        shape = (len(out) // (height * width), height, width)
        out = out.reshape(height, width, shape[0], -1)
    elif tensor.layout == "oi":
        shape = (len(out),)
    axes = (*range(2, len(shape) + 1), 1, 0)
    for start in range(0, len(block), LINE):
        rows = block[start : start + LINE]
        out[..., first + start : first + start + len(rows)] = rows.reshape(-1, *shape).transpose(axes)


def finite(block: np.ndarray) -> bool:
    """Whether all numbers are; a product with zeros is faster than looking at each, and needs no memory."""
    if block.dtype != np.float32:
        return block.dtype.kind not in "fV" or bool(np.isfinite(block).all())
    line = block.reshape(-1)
    with np.errstate(invalid="ignore"):
        return all(
            np.dot(line[i : i + len(ZEROS)], ZEROS[: len(line) - i]) == 0 for i in range(0, len(line), len(ZEROS))
        )


def _memory(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that JAX on a CPU takes as it is, without a copy; a large one in huge pages."""
    size = math.prod(shape) * dtype.itemsize
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(pages, dtype).reshape(shape)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
