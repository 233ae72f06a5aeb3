"""Interprets a traced program, to find receptive fields, and the parameters and FLOPs that each value depends on.

Each axis of a value has Steps, which say how far along the image (axis 0 is its height, 1 its width) one step along
that axis goes. Kernels and reductions extend the receptive field by the steps that they cover; reshapes merge and split
axes. A value also has a set of sources: the numbers of the parameters and operations that it was computed from.
"""

import math
from itertools import count
from typing import Any

from cnnjax.analysis.jaxpr_rules import FOLLOW, Value, elementwise
from cnnjax.analysis.receptive_axes import NotTraceable, Step
from cnnjax.ops import trilinear

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "callee")
"""The parameters of primitives that hold the program to run: those of jit and checkpoint, of functions with custom
derivatives, and of linear_call."""


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
        """A new parameter or constant. They are numbered from 0 in the order of the calls."""
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
        env: dict[Any, Value] = {var: self.parameter() for var in jaxpr.constvars}
        env |= zip(jaxpr.invars, inputs, strict=True)

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
            # The same product of the same parameters and pixels is counted once: the compiler computes it once.
            shapes = tuple(atom.aval.shape for atom in (*eqn.invars, *eqn.outvars))
            number = self.seen.setdefault((name, str(params), tuple(values), shapes), next(self.numbers))
            self.flops[number] = flops
            sources |= {number}
        if not any(value.depends for value in values):
            return [Value(sources) for _ in eqn.outvars]
        try:
            if any(value.size is None for value in values):
                raise NotTraceable
            size, axes = FOLLOW.get(name, elementwise)(eqn, values)
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
            body.run(params["jaxpr"].jaxpr, [body.parameter() for _ in eqn.invars])
            return params["length"] * sum(body.flops.values())
        return 0
