"""Interprets a traced program, to find receptive fields, and the parameters and FLOPs that each value depends on.

Each axis of a value has Steps, which say how far along the image (axis 0 is its height, 1 its width) one step along
that axis goes. Kernels and reductions extend the receptive field by the steps that they cover; reshapes merge and split
axes. A value also has a set of sources: the numbers of the parameters and operations that it was computed from.
"""

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from cnnjax.analysis.receptive_axes import Axis, NotTraceable, Step, merge, move, regular_step, resize, split
from cnnjax.ops import trilinear


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


class Walk:
    """Interprets a jaxpr on Values. `flops`: FLOPs by source number.

    Functions with custom derivatives, `jax.linear_call`, `jax.checkpoint` and nested `jax.jit` are followed; of
    branches for several platforms or conditions, the last one.
    """

    def __init__(self) -> None:
        self.numbers = count()
        self.flops: dict[int, int] = {}
        self.seen: dict[Any, int] = {}

    def parameter(self) -> Value:
        """A new parameter. They are numbered from 0 in the order of the calls."""
        return Value(frozenset({next(self.numbers)}))

    def image(self, shape: tuple[int, ...]) -> Value:
        """The images, of shape (batch, height, width, channels)."""
        height, width = ((Step(i, 1, shape[i + 1] - 1),) for i in (0, 1))
        return Value(size=(1, 1), axes=((), height, width, ()))

    def receptive_field(
        self, value: Value, image_size: tuple[int, int]
    ) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Receptive field and stride of a value, by (height, width).

        The field is at most as large as the image along an image axis that the value no longer has. Both are None if
        they are unknown or the value does not depend on the image.
        """
        if not value.depends or value.size is None:
            return None, None
        jumps = {step.axis: step.jump for axis in value.axes for step in axis}
        field = tuple(n if i in jumps else min(n, image_size[i]) for i, n in enumerate(value.size))
        regular = all(jumps.get(i) is not None for i in (0, 1))
        return field, (jumps[0], jumps[1]) if regular else None

    def start(self, value: Value) -> tuple[int, int] | None:
        """The first pixel, by (row, column), of the receptive field of a value's first element.

        It is None if it is unknown, or if the value does not have both image axes.
        """
        starts = {step.axis: step.start for axis in value.axes for step in axis}
        if value.size is None or starts.get(0) is None or starts.get(1) is None:
            return None
        return starts[0], starts[1]

    def run(self, jaxpr: Any, inputs: list[Value]) -> list[Value]:
        """The outputs of a jaxpr for these inputs."""
        env: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            return Value() if hasattr(atom, "val") else env.get(atom, Value())

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            for var, value in zip(eqn.outvars, self.apply(eqn, values), strict=True):
                env[var] = value
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, eqn: Any, values: list[Value]) -> list[Value]:
        """The outputs of one equation."""
        name, params = eqn.primitive.name, eqn.params
        if name == "cond":  # jax.lax.platform_dependent as well, whose last branch is the default
            return self.run(params["branches"][-1].jaxpr, values[1:])
        if name == trilinear.NAME:
            return self.run(trilinear.plain_jaxpr(*(atom.aval for atom in eqn.invars), **params).jaxpr, values)
        inner = next((params[key] for key in _INNER if key in params), None)
        if inner is not None and name not in ("scan", "while"):
            return self.run(getattr(inner, "jaxpr", inner), values)
        sources = frozenset().union(*(value.sources for value in values))
        if flops := self.count_flops(eqn):
            # Equal products of equal values are counted once, because the compiler computes them once.
            number = self.seen.setdefault((name, tuple(values), eqn.outvars[0].aval.shape), next(self.numbers))
            self.flops[number] = flops
            sources |= {number}
        if not any(value.depends for value in values):
            return [Value(sources) for _ in eqn.outvars]
        try:
            if any(value.size is None for value in values):
                raise NotTraceable
            size, axes = FOLLOW.get(name, _elementwise)(eqn, values)
            return [Value(sources, size, axes) for _ in eqn.outvars]
        except NotTraceable:
            return [Value(sources, None) for _ in eqn.outvars]

    def count_flops(self, eqn: Any) -> int:
        """2 for each multiply-add of a convolution or a dot product, also of those inside a scan."""
        params = eqn.params
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            taps = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
            return 2 * eqn.outvars[0].aval.size * taps
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            return 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        if eqn.primitive.name == "scan":
            body = Walk()
            body.run(params["jaxpr"].jaxpr, [Value() for _ in eqn.invars])
            return params["length"] * sum(body.flops.values())
        return 0


_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "callee")
"""The parameters of primitives that hold the program to run: those of jit and checkpoint, of functions with custom
derivatives, and of linear_call."""

Followed = tuple[tuple[int, int], tuple[Axis, ...]]
"""`size` and `axes` of an operation's result."""


def _elementwise(eqn: Any, values: list[Value]) -> Followed:
    """Any operation that is not in FOLLOW: followed if the shapes allow that it works element by element."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name.startswith(("cum", "sort", "fft")) or any(v.aval.shape != shape for v in eqn.outvars):
        raise NotTraceable
    for atom in eqn.invars:
        if atom.aval.shape and any(n not in (1, size) for n, size in zip(atom.aval.shape, shape, strict=True)):
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
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_sum", "reduce_prod", "argmax", "argmin"), _reduce),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"), _reduce_window),
}
