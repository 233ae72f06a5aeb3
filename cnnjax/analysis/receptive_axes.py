"""How the axes of an array correspond to the height and width of an image.

An array axis may run along the height, along the width, along both (if they were flattened), or along neither.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """What one step along an array axis means on the image.

    axis: 0 for the height, 1 for the width. jump: the distance in pixels, or None if it is not the same everywhere.
    span: the distance in pixels from the first element of the array axis to the last one. start: the first pixel of
    the first element's receptive field, which is negative within padding, or None if it is unknown.
    """

    axis: int
    jump: int | None
    span: int
    start: int | None = 0


Axis = tuple[Step, ...]
"""One array axis: a Step for each image axis that it runs along."""


class NotTraceable(Exception):
    """The receptive field cannot be computed through this operation."""


def regular_step(axis: Axis) -> Step | None:
    """The only step of an array axis; None if it runs along no image axis.

    Raises NotTraceable if it runs along both, or in steps of different lengths.
    """
    if not axis:
        return None
    if len(axis) > 1 or axis[0].jump is None:
        raise NotTraceable
    return axis[0]


def move(step: Step, by: int | None) -> Step:
    """The step with its first element's receptive field starting so many pixels later; None makes that unknown."""
    return step._replace(start=None if step.start is None or by is None else step.start + by)


def resize(axis: Axis, n: int) -> Axis:
    """The array axis with another number of elements."""
    return tuple(step if step.jump is None else step._replace(span=(n - 1) * step.jump) for step in axis)


def merge(axes: Sequence[Axis], shape: Sequence[int]) -> Axis:
    """Several array axes of these lengths, flattened into one in row-major order."""
    kept = [i for i, n in enumerate(shape) if n > 1]
    axes, shape = [axes[i] for i in kept], [shape[i] for i in kept]
    if len(axes) < 2:
        return axes[0] if axes else ()
    spans: dict[int, int] = {}
    starts: dict[int, int | None] = {}
    for step in (step for axis in axes for step in axis):
        spans[step.axis] = spans.get(step.axis, 0) + step.span
        # Axes that were split off one axis have that axis's start.
        starts[step.axis] = step.start if starts.get(step.axis, step.start) == step.start else None
    steps = [axis[0] if len(axis) == 1 else None for axis in axes]
    # The jumps stay regular if each outer axis continues where the inner one ends.
    regular = len(spans) == 1 and all(step and step.jump for step in steps)
    regular = regular and all(
        outer.jump == inner.jump * n for outer, inner, n in zip(steps[:-1], steps[1:], shape[1:], strict=True)
    )
    return tuple(Step(axis, steps[-1].jump if regular else None, span, starts[axis]) for axis, span in spans.items())


def split(axis: Axis, shape: Sequence[int]) -> list[Axis]:
    """One array axis, reshaped into several of these lengths in row-major order."""
    if sum(n > 1 for n in shape) <= 1:
        return [axis if n > 1 else () for n in shape]
    step, result = regular_step(axis), []
    for i, n in enumerate(shape):
        jump = step and step.jump * math.prod(shape[i + 1 :])
        result.append((Step(step.axis, jump, (n - 1) * jump, step.start),) if step and n > 1 else ())
    return result
