"""From a file's arrays to a network: which it is, whether every array fits, and each put in its place.

An array is read a few rows at a time, turned into this package's layout on the way, and looked through for numbers
that are not finite; so reading takes little more memory than the network.
"""

import math
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnnjax import models
from cnnjax.data.normalize import Cleaning
from cnnjax.errors import UserError
from cnnjax.formats import architecture
from cnnjax.formats.architecture import Architecture
from cnnjax.formats.classes import default_names
from cnnjax.formats.description import Description
from cnnjax.formats.lazy_tensors import FLOATS, LINE, Contents, Tensor, listed, spans
from cnnjax.formats.network import Network, network

INFLATION = 4
"""Times that a file's arrays may be larger than it: trained parameters hardly compress."""
HUGE = 1 << 22
"""Bytes from which an array's memory is asked of the system itself."""
ZEROS = np.zeros(1 << 16, np.float32)


def assemble(
    path: Path,
    contents: Contents,
    *,
    top: bool = True,
    side: int = 0,
    class_names: Sequence[str] = (),
    new_head: Sequence[str] = (),
    cleaning: Cleaning | None = None,
    seed: int = 0,
) -> Network:
    """The network in a file; the arguments are `formats.load`'s. Raises UserError when anything does not fit."""
    described = Description.of(path, contents.about) if contents.about else None
    found = described.architecture if described else _inferred(path, contents)
    if new_head and not top:
        raise UserError("a new head needs the layers before it: leave out top=False, or the new head")
    if found.top and not top and found.model.name == "small-cnn":
        raise UserError(f"{path} holds a small-cnn, which needs its dense layers: only a VGG does without them")
    if top and not found.top:
        raise UserError(
            f"{path} holds a {found.model.name} without its dense layers, so it has no logits: say that you want it so "
            "(--no-top, or top=False), or give a file with fc1, fc2 and predictions"
        )
    if side or (contents.side and not described):
        found = _at_side(path, found, side or contents.side, top)
    tensors = dict(contents.tensors)
    size = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())
    if path.is_file() and size > INFLATION * path.stat().st_size:
        raise UserError(
            f"{path} would become {size / 1e6:,.0f} MB of numbers, though it has {path.stat().st_size / 1e6:,.0f} MB: "
            "no file of weights is like that"
        )
    dropped = _drop(tensors, found, top, bool(new_head))
    names = described.class_names if described else default_names(found.outputs)
    if class_names:
        if len(class_names) != len(names):
            raise UserError(
                f"{path} has {len(names)} classes, not the {len(class_names)} that were named: a new head for others "
                "is asked for by new_head"
            )
        names = tuple(class_names)
    if not top:
        names = ()
    wanted, outputs = (tuple(new_head), 0) if new_head else (names, found.outputs)

    def create() -> nnx.Module:
        return models.create(found.model, side=found.side, num_classes=len(wanted), seed=seed, outputs=outputs, top=top)

    graph, expected = models.split(nnx.eval_shape(create))
    head = (architecture.layers(found.model)[-1],) if new_head else ()
    params = _filled(path, contents, tensors, {n: v for n, v in expected.items() if n not in head})
    for name in head:
        params[name] = models.split(create())[1][name]
    cleaning = cleaning or (described.cleaning if described else contents.cleaning)
    made = dict(described.made) if described else {"from": contents.format, "file": path.name}
    types = sorted({str(t.dtype) for t in contents.tensors.values()} - {"float32"})
    made |= {"stored as": types} if types else {}
    made |= {"left out": dropped} if dropped else {}
    made |= {"new head": {"classes": list(new_head), "seed": seed}} if new_head else {}
    return network(graph, params, found.model, found.side, wanted, cleaning, made)


def _inferred(path: Path, contents: Contents) -> Architecture:
    found = architecture.infer({name: shape_here(tensor) for name, tensor in contents.tensors.items()})
    if found is None:
        there = [tensor.name for tensor in contents.tensors.values()] + contents.left
        raise UserError(
            f"{path} ({contents.format}) holds no network known here, but {listed(there) or 'no arrays'}: "
            "give the weights of a VGG11, 13, 16 or 19 without batch normalisation, or of a SmallCNN"
        )
    return found


def _at_side(path: Path, found: Architecture, side: int, top: bool) -> Architecture:
    halvings = 4 if found.model.name == "small-cnn" else 5
    if top and side >> halvings != found.side >> halvings:
        least = found.side >> halvings << halvings
        raise UserError(
            f"{path} holds dense layers for pictures of side {least} to {least + 2**halvings - 1}, not {side}: "
            "its convolutions alone (top=False) take any"
        )
    return found._replace(side=side)


def _drop(tensors: dict[str, Tensor], found: Architecture, top: bool, head: bool) -> list[str]:
    """Take out the layers that are not wanted; returns their names."""
    unwanted = architecture.layers(found.model)[-1:] if head else []
    if not top:
        unwanted = architecture.layers(found.model)[-3:]
    dropped = [name for name in unwanted if any(key.startswith(f"{name}/") for key in tensors)]
    for key in [key for key in tensors if key.partition("/")[0] in dropped]:
        del tensors[key]
    return dropped


def _filled(path: Path, contents: Contents, tensors: dict[str, Tensor], expected: dict[str, Any]) -> dict[str, Any]:
    """The arrays in the nesting of `expected`, each checked before any is read."""
    leaves, nesting = jax.tree_util.tree_flatten_with_path(expected)
    wanted = {"/".join(str(key.key) for key in keys): leaf for keys, leaf in leaves}
    missing = [name for name in wanted if name not in tensors]
    left = [tensors[name].name for name in tensors if name not in wanted] + contents.left
    if missing or left:
        lacks = f"lacks {listed(missing)}, which its network has" if missing else ""
        has = f"has {listed(left)}, which its network does not have" if left else ""
        raise UserError(f"{path} {' and '.join(filter(None, (lacks, has)))}: train or fetch it again")
    for name, leaf in wanted.items():
        tensor = tensors[name]
        here, there = shape_here(tensor), f"{tensor.name} as {tensor.dtype} {tensor.shape}"
        if here != leaf.shape:
            same = "" if here == tensor.shape else f", which is {here} here"
            raise UserError(f"{path} has {there}{same}, but its network needs {leaf.dtype} {leaf.shape}")
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"{path} has {there}, but its network needs {leaf.dtype}: only float16 and bfloat16 become that "
                "without loss"
            )
    out = {name: aligned(leaf.shape) for name, leaf in wanted.items()}

    def read(name: str, first: int, last: int) -> None:
        block = np.ascontiguousarray(tensors[name].rows(first, last), np.float32)
        if not finite(block):
            raise UserError(
                f"{path} has numbers that are not finite in {tensors[name].name}: its training failed; train it again"
            )
        place(out[name], block, tensors[name], first, last)

    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(read, name, *span) for name in wanted for span in spans(tensors[name])]
        try:
            for job in jobs:
                job.result()
        finally:
            threads.shutdown(cancel_futures=True)
    return jax.tree_util.tree_unflatten(nesting, [jax.device_put(out[name], may_alias=True) for name in wanted])


def shape_here(tensor: Tensor) -> tuple[int, ...]:
    """A tensor's shape in this package's layout."""
    shape = tensor.shape
    if tensor.layout == "oihw" and len(shape) == 4:
        return (*shape[2:], *shape[1::-1])
    if tensor.layout in ("oi", "ochw") and len(shape) in (2, 4):
        return int(np.prod(shape[1:])), shape[0]
    return shape


def place(out: np.ndarray, block: np.ndarray, tensor: Tensor, first: int, last: int) -> None:
    """Rows `first` to `last` of the tensor, into `out`, which has this package's layout."""
    if tensor.layout == "ours":
        out[first:last] = block
        return
    shape = block.shape[1:]
    if tensor.layout == "ochw":
        side = math.isqrt(len(out) // tensor.channels)
        shape, out = (tensor.channels, side, side), out.reshape(side, side, tensor.channels, -1)
    elif tensor.layout == "oi":
        shape = (len(out),)
    axes = (*range(2, len(shape) + 1), 1, 0)
    for start in range(0, len(block), LINE):
        rows = block[start : start + LINE]
        out[..., first + start : first + start + len(rows)] = rows.reshape(-1, *shape).transpose(axes)


def finite(block: np.ndarray) -> bool:
    """Whether all numbers are; a product with zeros is faster than looking at each, and needs no memory."""
    line = block.reshape(-1)
    with np.errstate(invalid="ignore"):
        return all(
            np.dot(line[i : i + len(ZEROS)], ZEROS[: len(line) - i]) == 0 for i in range(0, len(line), len(ZEROS))
        )


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array that JAX on a CPU takes as it is, without a copy; a large one in huge pages."""
    size = math.prod(shape) * 4
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(pages, np.float32).reshape(shape)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)
