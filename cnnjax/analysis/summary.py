"""Shapes, parameters, FLOPs and receptive fields of any network, read from its traced program; nothing is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.analysis.jaxpr_analysis import Value, Walk


@dataclass(frozen=True)
class Row:
    """One layer, for one image. `flops` counts 2 per multiply-add of convolutions and dots.

    `field`: height and width in pixels of the part of the image that one output sees, as the kernels give it (it may
    reach into the padding); the whole image where no height or width is left; None where it could not be followed.
    `stride`: pixels between neighbouring outputs, by axis; None where there is no such axis.
    """

    layer: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    field: tuple[int, int] | None
    stride: tuple[int, int] | None


@dataclass(frozen=True)
class Summary:
    """A network's layers in order; prints as a table."""

    rows: tuple[Row, ...]
    image_shape: tuple[int, int, int]

    @property
    def parameters(self) -> int:
        """All parameters of the network."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Of one forward pass of one image."""
        return sum(row.flops for row in self.rows)

    def __getitem__(self, layer: str) -> Row:
        return {row.layer: row for row in self.rows}[layer]

    def table(self) -> str:
        """Aligned columns, with totals in the last line."""
        head = ("layer", "output", "parameters", "FLOPs", "receptive field", "stride")
        lines = [("image", _times(self.image_shape), "", "", "", "")]
        lines += [
            (r.layer, _times(r.shape), f"{r.parameters:,}", _short(r.flops), _square(r.field), _square(r.stride))
            for r in self.rows
        ]
        lines.append(("total", "", f"{self.parameters:,}", _short(self.flops), "", ""))
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]

        def line(cells: Sequence[str]) -> str:
            left = (cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True))
            right = (cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True))
            return "  ".join((*left, *right)).rstrip()

        return "\n".join(map(line, (head, *lines)))

    __str__ = table


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _square(pair: tuple[int, int] | None) -> str:
    if pair is None:
        return "–"
    return str(pair[0]) if pair[0] == pair[1] else _times(pair)


def _short(flops: int) -> str:
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if flops >= scale:
            return f"{flops / scale:.2f} {unit}"
    return str(flops)


def summary(model: Callable[..., Any], image_shape: tuple[int, int, int]) -> Summary:
    """What each layer of `model` is, for images of this shape (height, width, channels).

    `model(images)` returns (logits, activations by name), as this package's networks do, or an array alone. A layer is
    charged with what it needs and no layer before it does. Parameters are those of an nnx.Module, which may be abstract
    (nnx.eval_shape); it is seen in evaluation mode.
    """
    if isinstance(model, nnx.Module):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
    else:
        graph, params, rest = None, {}, {}
    names: list[str] = []

    def run(params: Any, rest: Any, images: jax.Array) -> list[jax.Array]:
        network = model
        if graph is not None:
            network = nnx.merge(graph, params, rest)
            network.eval()
        out = network(images)
        logits, activations = out if isinstance(out, tuple) else (out, {})
        names[:] = activations
        if not any(value is logits for value in activations.values()):
            names.append("output" if not activations else "logits")
            return [*activations.values(), logits]
        return list(activations.values())

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    closed = jax.make_jaxpr(run)(params, rest, image)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    walk = Walk()
    other = [Value() for _ in jax.tree.leaves(rest)]
    inputs = [walk.parameter() for _ in sizes] + other + [walk.image(image.shape)]
    outputs = walk.run(closed.jaxpr, inputs)

    rows, claimed = [], frozenset()
    for name, value, aval in zip(names, outputs, closed.out_avals, strict=True):
        new = value.sources - claimed
        claimed |= new
        parameters = sum(sizes[i] for i in new if i < len(sizes))
        flops = sum(walk.flops.get(i, 0) for i in new)
        field, stride = walk.seen(value, image_shape[:2])
        rows.append(Row(name, aval.shape[1:], parameters, flops, field, stride))
    if unused := sum(size for i, size in enumerate(sizes) if i not in claimed):
        rows.append(Row("(unused)", (), unused, 0, None, None))
    return Summary(tuple(rows), image_shape)


def receptive_field(kernels: Sequence[int], strides: Sequence[int] | None = None) -> tuple[int, int]:
    """Pixels (a side) that one output of a stack of layers sees, and pixels between neighbouring outputs.

    Two 3×3 kernels see 5 pixels, as one 5×5 does, and three see 7 (article, section 2.7). Pooling is a layer as well.
    """
    size, jump = 1, 1
    for kernel, stride in zip(kernels, strides or [1] * len(kernels), strict=True):
        size += (kernel - 1) * jump
        jump *= stride
    return size, jump
