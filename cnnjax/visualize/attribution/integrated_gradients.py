"""Integrated gradients (Sundararajan et al. 2017): a logit's difference from a baseline, divided among the pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, Shaped

from cnnjax.data.as_unit import TOLERANCE
from cnnjax.errors import UserError, unknown
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.gradient import input_gradient
from cnnjax.visualize.attribution.reduction import reduce_channels
from cnnjax.visualize.attribution.target import ClassIndex, prepare, scores

RULES = ("gauss-legendre", "trapezoid", "midpoint")
Baseline = float | Shaped[Array | np.ndarray, "..."]
"""A number, an image, or one for each image."""


def integrated_gradients(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    baseline: Baseline = 0.0,
    steps: int = 50,
    rule: str = "gauss-legendre",
    tolerance: float | None = None,
    reduction: str = "sum",
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width ..."]:
    """Integrated gradients (Sundararajan et al. 2017) along the straight path from a baseline to the image.

    The attributions of an image add up to the logit's difference between image and baseline (completeness), but for
    the error of the numerical integration, which `completeness_gap` measures. tolerance: the largest gap that is
    accepted, in units of that difference; by default it is not checked.

    baseline: a number (0 is black), an image, or one for each image, in [0, 1] or uint8. steps: points on the path.
    rule: of the integration: "gauss-legendre", which has the smallest error, "trapezoid" or "midpoint". The class is
    the one of the image itself. batch_size: points, of one path or several, that the network is given at a time. See
    `gradient` for the other arguments; by default the channels are added.

    Raises UserError for an unknown class or rule, a baseline of another shape or range, or a gap above the tolerance.
    """
    network, images, classes = prepare(network, images, class_index, batch_size)
    start = _baselines(images, baseline)
    positions, weights = path(rule, steps)
    slopes = accumulate(
        PathGradient(),
        network,
        images,
        classes,
        extra=start,
        shared=(positions, weights),
        samples=steps,
        batch_size=batch_size,
    )
    values = slopes * (images - start)
    if tolerance is not None:
        _check(network, images, values, classes, start, tolerance, steps, batch_size)
    return reduce_channels(values, reduction)


def completeness_gap(
    network: Network,
    images: Images,
    attributions: Float[np.ndarray, "images height width ..."],
    class_index: ClassIndex | None = None,
    *,
    baseline: Baseline = 0.0,
    batch_size: int = 16,
) -> tuple[Float[np.ndarray, " images"], Float[np.ndarray, " images"]]:
    """By how much the sum of each image's attributions exceeds the logit's difference from the baseline, and this.

    attributions: signed, per channel or added. The other arguments are those of `integrated_gradients`.
    """
    network, images, classes = prepare(network, images, class_index, batch_size)
    start = _baselines(images, baseline)
    ends = [scores(network, points, classes, batch_size=batch_size) for points in (images, start)]
    difference = (ends[0] - ends[1]).astype(np.float32)
    total = attributions.reshape(len(images), -1).sum(axis=1, dtype=np.float64)
    return (total - difference).astype(np.float32), difference


def path(rule: str, steps: int) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Positions in [0, 1] and weights, which add up to 1, of a numerical integration over [0, 1].

    Raises UserError for an unknown rule or too few steps.
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    least = 2 if rule == "trapezoid" else 1
    if steps < least:
        raise UserError(f"steps={steps} must be at least {least} for rule {rule!r}")
    if rule == "gauss-legendre":
        positions, weights = np.polynomial.legendre.leggauss(steps)
        positions, weights = (positions + 1) / 2, weights / 2
    elif rule == "midpoint":
        positions, weights = (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    else:
        positions, weights = np.linspace(0, 1, steps), np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
    return positions.astype(np.float32), weights.astype(np.float32)


@dataclass(frozen=True)
class PathGradient:
    """The gradient at a point between the baseline (`extra`) and the image, times its weight."""

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width channels"]:
        position, weight = (values[rows.samples][:, None, None, None] for values in rows.shared)
        points = rows.extra + position * (rows.images - rows.extra)
        return weight * input_gradient(network, points, rows.classes)


def _baselines(images: Images, baseline: Baseline) -> Float[np.ndarray, "images height width channels"]:
    """The baseline of each image."""
    given = np.asarray(baseline)
    given = np.asarray(given / 255 if given.dtype == np.uint8 else given, np.float32)
    if given.shape not in ((), images.shape[1:], images.shape):
        raise UserError(
            f"the baseline has shape {given.shape}: give a number, an image of {images.shape[1:]}, or one for each of "
            f"the {len(images)} images"
        )
    low, high = float(given.min()), float(given.max())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise UserError(f"the baseline has values from {low:.4g} to {high:.4g}: give floats from 0 to 1, or uint8")
    return np.broadcast_to(given, images.shape)


def _check(
    network: Network,
    images: Images,
    values: np.ndarray,
    classes: np.ndarray,
    start: np.ndarray,
    tolerance: float,
    steps: int,
    batch_size: int,
) -> None:
    gap, difference = completeness_gap(network, images, values, classes, baseline=start, batch_size=batch_size)
    share = np.abs(gap) / np.maximum(np.abs(difference), np.finfo(np.float32).tiny)
    worst = int(share.argmax())
    if not share[worst] <= tolerance:  # also where it is not a number
        raise UserError(
            f"the integrated gradients of image {worst} differ from its logit's difference by {share[worst]:.2g} of "
            f"it, more than tolerance={tolerance}: use more than steps={steps}"
        )
