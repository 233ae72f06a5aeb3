"""What one operation of a traced program does to receptive fields: a rule for each primitive."""

import math
from dataclasses import dataclass, replace
from typing import Any

from cnnjax.analysis.receptive_axes import Axis, NotTraceable, merge, move, regular_step, resize, split


@dataclass(frozen=True)
class Value:
    """What is known of one value of the program.

    size: height and width of the receptive field in pixels; (0, 0) for a value that does not depend on the image, and
    None if it could not be computed. axes: one for each axis of the array; empty if it does not depend on the image.
    """

    sources: frozenset[int] = frozenset()
    size: tuple[int, int] | None = (0, 0)
    axes: tuple[Axis, ...] = ()

    @property
    def depends(self) -> bool:
        """Whether it depends on the image."""
        return self.size is None or any(self.size)


def _widen(size: tuple[int, int], axis: int, by: int) -> tuple[int, int]:
    return tuple(n + by * (i == axis) for i, n in enumerate(size))


Followed = tuple[tuple[int, int], tuple[Axis, ...]]
"""`size` and `axes` of an operation's result."""


MIXING = (
    "cum", "sort", "fft", "scan", "while", "pure_callback", "io_callback", "ffi_call", "pallas_call", "gather",
    "scatter", "cholesky", "triangular_solve",
)  # fmt: skip
"""How the operations begin that may compute an element from others, though their results have the operands' shapes."""


def elementwise(eqn: Any, values: list[Value]) -> Followed:
    """Any operation that is not in FOLLOW: followed if the shapes allow that it works element by element."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name.startswith(MIXING) or any(v.aval.shape != shape for v in eqn.outvars):
        raise NotTraceable
    for own in filter(None, (atom.aval.shape for atom in eqn.invars)):
        if len(own) != len(shape) or any(n not in (1, size) for n, size in zip(own, shape, strict=True)):
            raise NotTraceable
    return _join(values, len(shape))


def _join(values: list[Value], rank: int) -> Followed:
    """The result of an operation on several values of the same shape, element by element."""
    size = tuple(max(value.size[i] for value in values) for i in (0, 1))
    full = [value.axes for value in values if value.axes]
    return size, tuple(_earliest([axes[i] for axes in full if axes[i]]) for i in range(rank))


def _earliest(axes: list[Axis]) -> Axis:
    """One of several axes that correspond to the same pixels: that whose receptive fields start first."""
    known = [axis for axis in axes if all(step.start is not None for step in axis)]
    if len(known) < len(axes):
        return tuple(move(step, None) for step in axes[0])
    return min(axes, key=lambda axis: [step.start for step in axis], default=())


def _concatenate(eqn: Any, values: list[Value]) -> Followed:
    size, axes = _join(values, len(eqn.outvars[0].aval.shape))
    if axes[eqn.params["dimension"]]:
        raise NotTraceable
    return size, axes


def _windows(
    value: Value, axes: list[int], windows: Any, strides: Any, dilations: Any, shape: Any, firsts: Any
) -> Followed:
    """Move a window along some axes. The other arguments have one number for each.

    shape: of the result. firsts: the element at which the first window starts, negative within padding.
    """
    size, out = value.size, list(value.axes)
    for axis, window, stride, dilation, n, first in zip(axes, windows, strides, dilations, shape, firsts, strict=True):
        if window == stride == dilation == 1:
            out[axis] = _shifted(value.axes[axis], int(first))
        elif step := regular_step(value.axes[axis]):
            size = _widen(size, step.axis, (window - 1) * dilation * step.jump)
            moved = move(step, int(first) * step.jump)
            out[axis] = (moved._replace(jump=step.jump * stride, span=(n - 1) * step.jump * stride),)
    return size, tuple(out)


def _shifted(axis: Axis, first: int) -> Axis:
    """The axis from its element `first` on."""
    return tuple(move(step, None if step.jump is None else first * step.jump) for step in axis) if first else axis


def _convolution(eqn: Any, values: list[Value]) -> Followed:
    params, dims = eqn.params, eqn.params["dimension_numbers"]
    if values[1].depends or any(n != 1 for n in params["lhs_dilation"]):
        raise NotTraceable
    batch, features, *spatial = dims.lhs_spec
    if values[0].axes[features]:
        raise NotTraceable
    kernel = [eqn.invars[1].aval.shape[i] for i in dims.rhs_spec[2:]]
    sizes = [eqn.outvars[0].aval.shape[i] for i in dims.out_spec[2:]]
    firsts = [-low for low, _ in params["padding"]]
    size, axes = _windows(values[0], spatial, kernel, params["window_strides"], params["rhs_dilation"], sizes, firsts)
    out: list[Axis] = [()] * len(axes)
    for target, source in zip(dims.out_spec, (batch, None, *spatial), strict=True):
        out[target] = () if source is None else axes[source]
    return size, tuple(out)


def _reduce_window(eqn: Any, values: list[Value]) -> Followed:
    params, shape = eqn.params, eqn.outvars[0].aval.shape
    window, strides = params["window_dimensions"], params["window_strides"]
    dilation = params.get("window_dilation") or (1,) * len(shape)
    if any(n != 1 for n in params.get("base_dilation") or ()):
        raise NotTraceable
    firsts = [-low for low, _ in params["padding"]]
    return _windows(values[0], list(range(len(shape))), window, strides, dilation, shape, firsts)


def _without(value: Value, axes: Any) -> Value:
    """The value after a reduction over some axes."""
    size = value.size
    for axis in axes if value.axes else ():
        for step in value.axes[axis]:
            size = _widen(size, step.axis, step.span)
    return replace(value, size=size, axes=tuple(a for i, a in enumerate(value.axes) if i not in axes))


def _reduce(eqn: Any, values: list[Value]) -> Followed:
    value = _without(values[0], eqn.params["axes"])
    return value.size, value.axes


def _dot(eqn: Any, values: list[Value]) -> Followed:
    contract, batch = eqn.params["dimension_numbers"]
    ranks = [len(atom.aval.shape) for atom in eqn.invars]
    values = [v if v.axes else replace(v, axes=((),) * rank) for v, rank in zip(values, ranks, strict=True)]
    free = [
        [value.axes[i] for i in range(len(value.axes)) if i not in (*contract[k], *batch[k])]
        for k, value in enumerate(values)
    ]
    shared = [values[0].axes[i] or values[1].axes[j] for i, j in zip(*batch, strict=True)]
    summed = [_without(value, contract[k]) for k, value in enumerate(values)]
    size = tuple(max(value.size[i] for value in summed) for i in (0, 1))
    return size, (*shared, *free[0], *free[1])


def _broadcast(eqn: Any, values: list[Value]) -> Followed:
    axes: list[Axis] = [()] * len(eqn.params["shape"])
    for source, target in enumerate(eqn.params["broadcast_dimensions"]):
        axes[target] = values[0].axes[source]
    return values[0].size, tuple(axes)


def _transpose(eqn: Any, values: list[Value]) -> Followed:
    return values[0].size, tuple(values[0].axes[i] for i in eqn.params["permutation"])


def _reverse(eqn: Any, values: list[Value]) -> Followed:
    turned = eqn.params["dimensions"]
    axes = (tuple(move(step, None) for step in axis) if i in turned else axis for i, axis in enumerate(values[0].axes))
    return values[0].size, tuple(axes)


def _slice(eqn: Any, values: list[Value]) -> Followed:
    shape = eqn.outvars[0].aval.shape
    strides = eqn.params.get("strides") or (1,) * len(shape)
    ones = (1,) * len(shape)
    firsts = eqn.params["start_indices"]
    size, axes = _windows(values[0], list(range(len(shape))), ones, strides, ones, shape, firsts)
    return size, tuple(resize(axis, n) for axis, n in zip(axes, shape, strict=True))


def _pad(eqn: Any, values: list[Value]) -> Followed:
    if any(inside for *_, inside in eqn.params["padding_config"]):
        raise NotTraceable
    axes = []
    for axis, n, (low, *_) in zip(values[0].axes, eqn.outvars[0].aval.shape, eqn.params["padding_config"], strict=True):
        axes.append(resize(_shifted(axis, -int(low)), n))
    return values[0].size, tuple(axes)


def _reshape(eqn: Any, values: list[Value]) -> Followed:
    source, target = list(eqn.invars[0].aval.shape), list(eqn.outvars[0].aval.shape)
    axes, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        # The smallest groups of axes on both sides that have the same number of elements.
        k, m = min(i + 1, len(source)), min(j + 1, len(target))
        while (a := math.prod(source[i:k])) != (b := math.prod(target[j:m])):
            k, m = (k + 1, m) if a < b else (k, m + 1)
        same = source[i:k] == target[j:m]
        axes += values[0].axes[i:k] if same else split(merge(values[0].axes[i:k], source[i:k]), target[j:m])
        i, j = k, m
    return values[0].size, tuple(axes)


FOLLOW = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "squeeze": _reshape,
    "transpose": _transpose,
    **dict.fromkeys((f"reduce_{kind}" for kind in ("max", "min", "sum", "prod", "and", "or", "xor")), _reduce),
    **dict.fromkeys(("argmax", "argmin"), _reduce),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"), _reduce_window),
}
