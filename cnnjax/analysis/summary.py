"""Shapes, parameters, FLOPs and receptive fields of any model, from its traced program. Nothing is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax import models
from cnnjax.analysis.jaxpr_analysis import Walk
from cnnjax.errors import UserError
from cnnjax.network import Network


@dataclass(frozen=True)
class Row:
    """One layer, for one image.

    shape: of its output, without the batch axis. parameters: their number. flops: 2 for each multiply-add of
    convolutions and dot products; other operations are not counted.
    receptive_field: height and width, in pixels, of the part of the image that one output depends on, by the sizes of
    the kernels: it may extend into the padding. It is the size of the image where the output has no height and width,
    and None where it could not be computed.
    stride: distance in pixels between neighboring outputs along height and width; None where the output has none.
    start: row and column of the first pixel of the first output's receptive field, which are negative within padding;
    None where the output has no height and width, or where it could not be computed.
    """

    layer: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    receptive_field: tuple[int, int] | None
    stride: tuple[int, int] | None
    start: tuple[int, int] | None = None


@dataclass(frozen=True)
class Summary:
    """The layers of a model in order. Printing it shows a table."""

    rows: tuple[Row, ...]
    image_shape: tuple[int, int, int]

    @property
    def parameters(self) -> int:
        """The number of all parameters of the model."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """FLOPs of the forward pass of one image."""
        return sum(row.flops for row in self.rows)

    def __getitem__(self, layer: str) -> Row:
        return {row.layer: row for row in self.rows}[layer]

    def table(self) -> str:
        """The table as text, in aligned columns, with the totals in its last line."""
        head = ("layer", "output", "parameters", "FLOPs", "receptive field", "stride")
        lines = [("image", _times(self.image_shape), "", "", "", "")]
        lines += [
            (
                row.layer,
                _times(row.shape),
                f"{row.parameters:,}",
                _short(row.flops),
                _pair(row.receptive_field),
                _pair(row.stride),
            )
            for row in self.rows
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


def _pair(pair: tuple[int, int] | None) -> str:
    if pair is None:
        return "–"
    return str(pair[0]) if pair[0] == pair[1] else _times(pair)


def _short(flops: int) -> str:
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if flops >= scale:
            return f"{flops / scale:.2f} {unit}"
    return str(flops)


def summary(
    model: Network | nnx.Module | Callable[[jax.Array], Any], image_shape: tuple[int, int, int] | None = None
) -> Summary:
    """Summarize the layers of a model for images of shape (height, width, channels), in evaluation mode.

    Args:
        model: A Network (without its normalizer); an nnx.Module, which may be abstract (`nnx.eval_shape`); or a
            function of images that returns an array, or logits and activations by name.
        image_shape: Of one image; by default, that of the Network.

    Returns:
        A row for each activation. Parameters and FLOPs are counted in the first row that depends on them. Parameters
        that no activation depends on are in a last row, "(unused)".

    Raises:
        UserError: Without an image_shape, if the model is not a Network.
    """
    if isinstance(model, Network):
        image_shape = image_shape or model.image_shape
    if image_shape is None:
        raise UserError("image_shape is missing: pass (height, width, channels)")
    function, params, state = _functional(model)
    names: list[str] = []

    def run(params: Any, state: Any, images: jax.Array) -> list[Any]:
        logits, activations = function(params, state, images)
        outputs = dict(activations)
        if not any(value is logits for value in outputs.values()):
            outputs["logits" if outputs else "output"] = logits
        # The logits may be several arrays.
        arrays = {name: jax.tree.leaves(value) for name, value in outputs.items()}
        names[:] = [name for name, leaves in arrays.items() for _ in leaves]
        return [leaf for leaves in arrays.values() for leaf in leaves]

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    closed = jax.make_jaxpr(run)(params, state, image)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    walk = Walk()
    inputs = [walk.parameter() for _ in (*sizes, *jax.tree.leaves(state))] + [walk.image(image.shape)]
    outputs = walk.run(closed.jaxpr, inputs)

    rows, counted = [], frozenset()
    for name, value, aval in zip(names, outputs, closed.out_avals, strict=True):
        new = value.sources - counted
        counted |= new
        parameters = sum(sizes[i] for i in new if i < len(sizes))
        flops = sum(walk.flops.get(i, 0) for i in new)
        field, stride = walk.receptive_field(value, image_shape[:2])
        rows.append(Row(name, aval.shape[1:], parameters, flops, field, stride, walk.start(value)))
    if unused := sum(size for i, size in enumerate(sizes) if i not in counted):
        rows.append(Row("(unused)", (), unused, 0, None, None))
    return Summary(tuple(rows), image_shape)


def _functional(model: Network | nnx.Module | Callable[[jax.Array], Any]) -> tuple[Callable[..., Any], Any, Any]:
    """A function (params, state, images) -> (logits, activations), the params and the state."""
    if isinstance(model, nnx.Module):
        graphdef, params, state = models.split(model)
    elif isinstance(model, Network):
        graphdef, params, state = model.graphdef, model.params, model.model_state
    else:

        def call(params: Any, state: Any, images: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            result = model(images)
            return result if isinstance(result, tuple) else (result, {})

        return call, {}, {}

    def apply(params: Any, state: Any, images: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        output = models.apply(graphdef, params, state, images)
        return output.logits, output.activations

    return apply, params, state


def receptive_field(kernels: Sequence[int], strides: Sequence[int] | None = None) -> tuple[int, int]:
    """Receptive field and stride, in pixels, of one output of a stack of layers with these kernel sizes and strides.

    Pooling is a layer, too. Two 3×3 kernels have a receptive field of 5 pixels, as one 5×5 kernel has, and three have
    one of 7 (article, section 2.7).
    """
    size, jump = 1, 1
    for kernel, stride in zip(kernels, strides or [1] * len(kernels), strict=True):
        size += (kernel - 1) * jump
        jump *= stride
    return size, jump
