"""Insertion and deletion (Petsiuk et al. 2018): the class's probability as pixels appear, or vanish, by importance."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.target import ClassIndex, prepare


class Curve(NamedTuple):
    """How the class's probability follows the share of pixels that were exchanged.

    probabilities: of each image, at `shares`. area: under each curve, by the trapezoidal rule.
    """

    shares: Float[np.ndarray, " points"]
    probabilities: Float[np.ndarray, "images points"]
    area: Float[np.ndarray, " images"]


def insertion(
    network: Network,
    images: Images,
    maps: Shaped[np.ndarray, "_images _height _width"],
    class_index: ClassIndex | None = None,
    *,
    sigma: float | None = None,
    steps: int = 20,
    batch_size: int = 16,
) -> Curve:
    """The probability of the class while a blurred image becomes sharp, the map's largest pixels first.

    The larger the area, the better the map (Petsiuk et al. 2018). Never judge by this alone: images that are half
    blurred are none of those the network was trained on. sigma: of the Gaussian blur, in pixels; by default a tenth of
    the image. steps: after each of them as many pixels are exchanged. Equal pixels follow in an order of no meaning.
    class_index, batch_size: as in `visualize.gradient`. Raises UserError as it does.
    """
    return _curve(network, images, maps, class_index, sigma, steps, batch_size, inserts=True)


def deletion(
    network: Network,
    images: Images,
    maps: Shaped[np.ndarray, "_images _height _width"],
    class_index: ClassIndex | None = None,
    *,
    sigma: float | None = None,
    steps: int = 20,
    batch_size: int = 16,
) -> Curve:
    """The probability of the class while an image is blurred, the map's largest pixels first.

    The smaller the area, the better the map (Petsiuk et al. 2018, who delete to black; blurred pixels leave fewer edges
    that mean something to a network). See `insertion` for the arguments.
    """
    return _curve(network, images, maps, class_index, sigma, steps, batch_size, inserts=False)


def blur(
    images: Float[Array | np.ndarray, "images height width channels"], sigma: float
) -> Float[np.ndarray, "images height width channels"]:
    """Images blurred by a Gaussian of this standard deviation in pixels, cut off at four; edges are reflected."""
    blurred = np.asarray(images, np.float64)
    for axis in (1, 2):
        blurred = np.moveaxis(np.tensordot(_gaussian(blurred.shape[axis], sigma), blurred, ([1], [axis])), 0, axis)
    return blurred.astype(np.float32)


@dataclass(frozen=True)
class Exchanged:
    """The probability of an image whose first pixels are taken from another one. extra: (ranks, from, to).

    It fills one entry of a curve, so that what is summed are curves.
    """

    points: int

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return (1, self.points)

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows 1 {self.points}"]:
        ranks, start, end = rows.extra
        (counts,) = rows.shared
        exchanged = ranks < counts[rows.samples][:, None, None]
        odds = network.probabilities(jnp.where(exchanged[..., None], end, start))
        odds = jnp.take_along_axis(odds, rows.classes[:, None], axis=1)
        place = jnp.arange(self.points)[None, None] == rows.samples[:, None, None]
        return jnp.where(place, odds[:, :, None], 0.0)


def _curve(
    network: Network,
    images: Images,
    maps: Shaped[np.ndarray, "_images _height _width"],
    class_index: ClassIndex | None,
    sigma: float | None,
    steps: int,
    batch_size: int,
    inserts: bool,
) -> Curve:
    if maps.shape != images.shape[:3]:
        raise UserError(f"heat maps of shape {maps.shape} do not fit images of shape {images.shape}")
    pixels = images.shape[1] * images.shape[2]
    if not 1 <= steps <= pixels:
        raise UserError(f"steps={steps} must be 1 up to the {pixels} pixels of an image")
    network, images, classes = prepare(network, images, class_index, batch_size)
    blurred = blur(images, max(images.shape[1:3]) / 10 if sigma is None else sigma)
    counts = np.round(np.linspace(0, pixels, steps + 1)).astype(np.int32)
    found = accumulate(
        Exchanged(steps + 1),
        network,
        images,
        classes,
        extra=(_ranks(maps), *((blurred, images) if inserts else (images, blurred))),
        shared=(counts,),
        samples=steps + 1,
        batch_size=batch_size,
    )[:, 0]
    shares = counts / pixels
    return Curve(shares, found, np.trapezoid(found, shares, axis=1))


def _ranks(maps: Shaped[np.ndarray, "images height width"]) -> Int[np.ndarray, "images height width"]:
    """The place of each pixel in the order of its map, the largest first."""
    # In bool or uint8, as masks are, values have no negatives.
    flat = np.asarray(maps, np.float64).reshape(len(maps), -1)
    # Equal values, as after a relu, in random order: reading order would favour objects at the upper edge.
    shuffled = np.random.default_rng(0).permutation(flat.shape[1])
    order = shuffled[np.argsort(-flat[:, shuffled], axis=1, kind="stable")]
    ranks = np.empty(flat.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1], dtype=np.int32)[None].repeat(len(flat), 0), axis=1)
    return ranks.reshape(maps.shape)


def _gaussian(length: int, sigma: float) -> Float[np.ndarray, "length length"]:
    """The blur along one axis as a matrix."""
    if not sigma > 0:
        raise UserError(f"sigma={sigma} must be positive")
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    places = (np.arange(length)[:, None] + offsets) % (2 * length)
    places = np.minimum(places, 2 * length - 1 - places)  # … c b a | a b c … c b a
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], places), weights / weights.sum())
    return matrix
