"""How an array's axes lie over an image: one axis may step along its height or width, or, flattened, along both."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """One step along an array's axis goes `jump` pixels (None: not always as many); the whole axis spans `span`."""

    axis: int
    jump: int | None
    span: int


Axis = tuple[Step, ...]


class Lost(Exception):
    """The receptive field cannot be followed through this operation."""


def only(axis: Axis) -> Step | None:
    """The one regular step along an axis; None for an axis off the image."""
    if not axis:
        return None
    if len(axis) > 1 or axis[0].jump is None:
        raise Lost
    return axis[0]


def resized(axis: Axis, n: int) -> Axis:
    return tuple(step if step.jump is None else step._replace(span=(n - 1) * step.jump) for step in axis)


def merged(axes: Sequence[Axis], shape: list[int]) -> Axis:
    """Several axes as one, row-major."""
    long = [i for i, n in enumerate(shape) if n > 1]
    axes, shape = [axes[i] for i in long], [shape[i] for i in long]
    if len(axes) < 2:
        return axes[0] if axes else ()
    spans: dict[int, int] = {}
    for step in (step for axis in axes for step in axis):
        spans[step.axis] = spans.get(step.axis, 0) + step.span
    steps = [axis[0] if len(axis) == 1 else None for axis in axes]
    regular = len(spans) == 1 and all(step and step.jump for step in steps)
    regular = regular and all(
        major.jump == minor.jump * n for major, minor, n in zip(steps[:-1], steps[1:], shape[1:], strict=True)
    )
    return tuple(Step(axis, steps[-1].jump if regular else None, span) for axis, span in spans.items())


def divided(axis: Axis, shape: list[int]) -> list[Axis]:
    """One axis as several, row-major."""
    if sum(n > 1 for n in shape) <= 1:
        return [axis if n > 1 else () for n in shape]
    step, out = only(axis), []
    for i, n in enumerate(shape):
        jump = step and step.jump * math.prod(shape[i + 1 :])
        out.append((Step(step.axis, jump, (n - 1) * jump),) if step and n > 1 else ())
    return out
