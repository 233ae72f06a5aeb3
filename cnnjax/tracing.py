"""Follows an image through a traced program: which pixels each value sees, which parameters and how much work it took.

Every axis of a value carries Steps: how far on the image's axis (0 height, 1 width) one step along it goes. Kernels and
reductions widen what is seen by the steps that they take; reshapes split and merge them. A value also has a set of
sources: the numbers of the parameters and operations that it came from.
"""

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from cnnjax.ops import trilinear
from cnnjax.steps import Axis, Lost, Step, divided, merged, only, resized


@dataclass(frozen=True)
class Value:
    """`size`: pixels seen, by image axis; None once it could not be followed. `axes` is empty off the image."""

    sources: frozenset[int] = frozenset()
    size: tuple[int, int] | None = (0, 0)
    axes: tuple[Axis, ...] = ()

    @property
    def depends(self) -> bool:
        return self.size is None or any(self.size)


def _widen(size: tuple[int, int], axis: int, by: int) -> tuple[int, int]:
    return tuple(n + by * (i == axis) for i, n in enumerate(size))


class Walk:
    """Interprets a jaxpr on Values. `flops`: work by source number."""

    def __init__(self) -> None:
        self.numbers = count()
        self.flops: dict[int, int] = {}
        self.done: dict[Any, int] = {}

    def parameter(self) -> Value:
        return Value(frozenset({next(self.numbers)}))

    def image(self, shape: tuple[int, ...]) -> Value:
        """(batch, height, width, channels)"""
        height, width = ((Step(i, 1, shape[i + 1] - 1),) for i in (0, 1))
        return Value(size=(1, 1), axes=((), height, width, ()))

    def seen(self, value: Value, sides: Any) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Receptive field and stride of a value; an image axis that it no longer has is seen whole."""
        if not value.depends or value.size is None:
            return None, None
        jumps = {step.axis: step.jump for axis in value.axes for step in axis}
        field = tuple(n if i in jumps else min(n, sides[i]) for i, n in enumerate(value.size))
        regular = all(jumps.get(i) is not None for i in (0, 1))
        return field, (jumps[0], jumps[1]) if regular else None

    def run(self, jaxpr: Any, inputs: list[Value]) -> list[Value]:
        env: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            return Value() if hasattr(atom, "val") else env.get(atom, Value())

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            for var, value in zip(eqn.outvars, self.apply(eqn, values), strict=True):
                env[var] = value
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, eqn: Any, values: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name == "cond":  # also what platform_dependent becomes; the last branch is the default one
            return self.run(params["branches"][-1].jaxpr, values[1:])
        if name == trilinear.NAME:
            return self.run(trilinear.plain_jaxpr(*(atom.aval for atom in eqn.invars), **params).jaxpr, values)
        inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
        if inner is not None and name not in ("scan", "while"):
            return self.run(getattr(inner, "jaxpr", inner), values)
        sources = frozenset().union(*(value.sources for value in values))
        if flops := self.work(eqn):
            # The same product of the same values is one, wherever the program has it: compilers see to that.
            number = self.done.setdefault((name, tuple(values), eqn.outvars[0].aval.shape), next(self.numbers))
            self.flops[number] = flops
            sources |= {number}
        if not any(value.depends for value in values):
            return [Value(sources) for _ in eqn.outvars]
        try:
            if any(value.size is None for value in values):
                raise Lost
            size, axes = FOLLOW.get(name, _elementwise)(eqn, values)
            return [Value(sources, size, axes) for _ in eqn.outvars]
        except Lost:
            return [Value(sources, None) for _ in eqn.outvars]

    def work(self, eqn: Any) -> int:
        """2 per multiply-add of convolutions and dots, also of those inside a scan."""
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


Followed = tuple[tuple[int, int], tuple[Axis, ...]]


def _elementwise(eqn: Any, values: list[Value]) -> Followed:
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name.startswith(("cum", "sort", "fft")) or any(v.aval.shape != shape for v in eqn.outvars):
        raise Lost
    for atom in eqn.invars:
        if atom.aval.shape and any(n not in (1, side) for n, side in zip(atom.aval.shape, shape, strict=True)):
            raise Lost
    return _join(values, len(shape))


def _join(values: list[Value], rank: int) -> Followed:
    size = tuple(max(value.size[i] for value in values) for i in (0, 1))
    full = [value.axes for value in values if value.axes]
    return size, tuple(next((axes[i] for axes in full if axes[i]), ()) for i in range(rank))


def _concatenate(eqn: Any, values: list[Value]) -> Followed:
    size, axes = _join(values, len(eqn.outvars[0].aval.shape))
    if axes[eqn.params["dimension"]]:
        raise Lost
    return size, axes


def _windows(value: Value, axes: list[int], windows: Any, strides: Any, dilations: Any, shape: Any) -> Followed:
    """What a window sliding along some axes sees; `shape` is that of the result, by the same axes."""
    size, out = value.size, list(value.axes)
    for axis, window, stride, dilation, n in zip(axes, windows, strides, dilations, shape, strict=True):
        if window == stride == dilation == 1 or not (step := only(value.axes[axis])):
            continue
        size = _widen(size, step.axis, (window - 1) * dilation * step.jump)
        out[axis] = (Step(step.axis, step.jump * stride, (n - 1) * step.jump * stride),)
    return size, tuple(out)


def _convolution(eqn: Any, values: list[Value]) -> Followed:
    params, dims = eqn.params, eqn.params["dimension_numbers"]
    if values[1].depends or any(n != 1 for n in params["lhs_dilation"]):
        raise Lost
    batch, features, *spatial = dims.lhs_spec
    if values[0].axes[features]:
        raise Lost
    kernel = [eqn.invars[1].aval.shape[i] for i in dims.rhs_spec[2:]]
    sides = [eqn.outvars[0].aval.shape[i] for i in dims.out_spec[2:]]
    size, axes = _windows(values[0], spatial, kernel, params["window_strides"], params["rhs_dilation"], sides)
    out: list[Axis] = [()] * len(axes)
    for target, source in zip(dims.out_spec, (batch, None, *spatial), strict=True):
        out[target] = () if source is None else axes[source]
    return size, tuple(out)


def _reduce_window(eqn: Any, values: list[Value]) -> Followed:
    params, shape = eqn.params, eqn.outvars[0].aval.shape
    window, strides = params["window_dimensions"], params["window_strides"]
    dilation = params.get("window_dilation") or (1,) * len(shape)
    if any(n != 1 for n in params.get("base_dilation") or ()):
        raise Lost
    return _windows(values[0], list(range(len(shape))), window, strides, dilation, shape)


def _without(value: Value, axes: Any) -> Value:
    """With some axes summed away."""
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
    return values[0].size, values[0].axes


def _slice(eqn: Any, values: list[Value]) -> Followed:
    shape = eqn.outvars[0].aval.shape
    strides = eqn.params.get("strides") or (1,) * len(shape)
    ones = (1,) * len(shape)
    size, axes = _windows(values[0], list(range(len(shape))), ones, strides, ones, shape)
    return size, tuple(resized(axis, n) for axis, n in zip(axes, shape, strict=True))


def _pad(eqn: Any, values: list[Value]) -> Followed:
    if any(inside for *_, inside in eqn.params["padding_config"]):
        raise Lost
    axes = zip(values[0].axes, eqn.outvars[0].aval.shape, strict=True)
    return values[0].size, tuple(resized(axis, n) for axis, n in axes)


def _reshape(eqn: Any, values: list[Value]) -> Followed:
    source, target = list(eqn.invars[0].aval.shape), list(eqn.outvars[0].aval.shape)
    axes, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        # The shortest runs of axes on either side that hold equally many elements.
        k, m = min(i + 1, len(source)), min(j + 1, len(target))
        while (a := math.prod(source[i:k])) != (b := math.prod(target[j:m])):
            k, m = (k + 1, m) if a < b else (k, m + 1)
        same = source[i:k] == target[j:m]
        axes += values[0].axes[i:k] if same else divided(merged(values[0].axes[i:k], source[i:k]), target[j:m])
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
