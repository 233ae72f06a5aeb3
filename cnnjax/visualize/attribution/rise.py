"""RISE (Petsiuk et al. 2018): random masks, weighted by the probability that the class keeps under them."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.target import ClassIndex, prepare


def rise(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    key: Key[Array, ""] | None = None,
    masks: Float[Array | np.ndarray, "samples height width"] | None = None,
    samples: int = 1000,
    grid: int = 7,
    keep: float = 0.5,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """RISE (Petsiuk et al. 2018): the mean of random masks, each times the class's probability for the masked image.

    It needs no gradient. A mask keeps each cell of a coarse grid with probability `keep`; it is enlarged smoothly and
    shifted at random (`rise_masks`); a pixel is multiplied by its mask. The mean is divided by the mean mask `keep`, so
    a value is the expected probability if the pixel is kept. No pixel's value need be near 0: to show a map, subtract
    its smallest value. samples: masks; the paper uses 4,000 for VGG16. key: of the masks, by default
    `jax.random.key(0)`; all images get the same. masks: in place of those that follow from the key, in [0, 1]; then the
    sum is divided by their own mean.
    batch_size: masked images that the network is given at a time. See `gradient` for the other arguments.

    Raises UserError for an unknown class, or numbers that give no masks.
    """
    if masks is not None:
        samples, keep = len(masks), float(np.mean(masks))
        if masks.shape[1:] != images.shape[1:3]:
            raise UserError(f"masks of shape {masks.shape} do not fit images of shape {images.shape}")
    if samples < 1 or grid < 1 or not 0 < keep <= 1:
        raise UserError(f"samples={samples} and grid={grid} must be at least 1, and keep={keep} above 0 and at most 1")
    network, images, classes = prepare(network, images, class_index, batch_size)
    drawn = (jax.random.key(0) if key is None else key) if masks is None else jnp.asarray(masks, jnp.float32)
    total = accumulate(
        Masked(grid=None if masks is not None else grid),
        network,
        images,
        classes,
        shared=(drawn, np.float32(keep)),
        samples=samples,
        batch_size=batch_size,
    )
    return total / np.float32(samples * keep)


@partial(jax.jit, static_argnames=("count", "height", "width", "grid"))
def rise_masks(
    key: Key[Array, ""], count: int, height: int, width: int, grid: int = 7, keep: float | Float[Array, ""] = 0.5
) -> Float[Array, "{count} {height} {width}"]:
    """The masks of `rise`, in [0, 1]. Each follows from the key and its number alone."""
    return jax.vmap(lambda number: _mask(jax.random.fold_in(key, number), height, width, grid, keep))(jnp.arange(count))


@dataclass(frozen=True)
class Masked:
    """A mask times the class's probability under it. grid: cells of a random mask; None if masks are given."""

    grid: int | None

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image[:2]

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width"]:
        drawn, keep = rows.shared
        if self.grid is None:
            masks = drawn[rows.samples]
        else:
            _, height, width, _ = rows.images.shape
            mask = partial(_mask, height=height, width=width, grid=self.grid, keep=keep)
            masks = jax.vmap(lambda number: mask(jax.random.fold_in(drawn, number)))(rows.samples)
        odds = network.probabilities(rows.images * masks[..., None])
        return jnp.take_along_axis(odds, rows.classes[:, None], axis=1)[:, :, None] * masks


def _mask(
    key: Key[Array, ""], height: int, width: int, grid: int, keep: float | Float[Array, ""]
) -> Float[Array, "{height} {width}"]:
    """One mask: grid × grid cells, enlarged to one cell more than the image on each axis, and cut out at random."""
    cells, shift = jax.random.split(key)
    coarse = jax.random.bernoulli(cells, keep, (grid, grid)).astype(jnp.float32)
    cell = -(-height // grid), -(-width // grid)
    fine = jax.image.resize(coarse, ((grid + 1) * cell[0], (grid + 1) * cell[1]), "bilinear")
    corner = jax.random.randint(shift, (2,), 0, jnp.asarray(cell))
    return jax.lax.dynamic_slice(fine, (corner[0], corner[1]), (height, width))
