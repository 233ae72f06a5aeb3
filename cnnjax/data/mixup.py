"""Mixing each training example with another one of the batch: mixup and CutMix.

Partners are drawn from the global batch by its key, and an example's mixing ratio (and box) by the key and the
example's position in the global batch. So the result does not depend on how the batch is divided among devices.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from cnnjax.errors import UserError


@dataclass(frozen=True)
class Mix:
    """Mixes examples and their labels; `Mixup` and `CutMix` say how. `alpha`: the ratio is drawn from Beta(alpha,
    alpha), separately for each example.

    Subclasses give `combine`. Raises UserError unless `alpha` is positive.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1e4:
            raise UserError(
                f"alpha={self.alpha} must be positive, and at most 10000: use about 0.2 for mixup and 1.0 for cutmix"
            )

    def __call__(
        self,
        key: Key[Array, ""],
        images: Float[Array, "n height width channels"],
        labels: Float[Array, "n classes"],
    ) -> tuple[Float[Array, "n height width channels"], Float[Array, "n classes"]]:
        """Mix a global batch. `labels` are distributions (one-hot, for example), and so are the returned ones."""
        partners = self.partners(key, len(images))
        positions = jnp.arange(len(images), dtype=jnp.int32)
        return self.combine(key, images, images[partners], labels, labels[partners], positions)

    def partners(self, key: Key[Array, ""], batch_size: int) -> Int32[Array, " {batch_size}"]:
        """The position of each example's partner in the global batch: a random permutation."""
        return jax.random.permutation(jax.random.fold_in(key, 0), batch_size).astype(jnp.int32)

    def combine(
        self,
        key: Key[Array, ""],
        images: Float[Array, "n height width channels"],
        partner_images: Float[Array, "n height width channels"],
        labels: Float[Array, "n classes"],
        partner_labels: Float[Array, "n classes"],
        positions: Int32[Array, " n"],
    ) -> tuple[Float[Array, "n height width channels"], Float[Array, "n classes"]]:
        """Mix some examples of a batch with their partners. `positions` are theirs in the global batch; `key` is the
        global batch's.
        """
        raise NotImplementedError

    def keys(self, key: Key[Array, ""], positions: Int32[Array, " n"]) -> Key[Array, " n"]:
        """One key for each example, by its position in the global batch."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, 1), positions)

    def ratios(self, keys: Key[Array, " n"]) -> Float[Array, " n"]:
        """Each example's own share, drawn from Beta(alpha, alpha)."""
        if self.alpha == 1:  # the uniform distribution, which compiles and runs much faster
            return jax.vmap(jax.random.uniform)(keys)
        return jax.vmap(lambda key: jax.random.beta(key, self.alpha, self.alpha))(keys)


@dataclass(frozen=True)
class Mixup(Mix):
    """Weighted means of two examples: ratio · own + (1 - ratio) · partner, images and labels alike.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412.
    """

    alpha: float = 0.2

    def combine(self, key, images, partner_images, labels, partner_labels, positions):
        ratio = self.ratios(self.keys(key, positions))
        return _blend(ratio, images, partner_images), _blend(ratio, labels, partner_labels)


@dataclass(frozen=True)
class CutMix(Mix):
    """Replaces a box of the image by the same box of the partner; labels are weighted by the areas.

    The box has the image's aspect and about the share 1 - ratio of its area. Its centre is uniform over the image, so
    it may be cut off at the border: the labels' weights are those of the area really left.
    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019, arXiv:1905.04899.
    """

    alpha: float = 1.0

    def combine(self, key, images, partner_images, labels, partner_labels, positions):
        height, width = images.shape[1:3]
        masks = jax.vmap(lambda one: self.box(one, height, width))(self.keys(key, positions))
        area = jnp.sum(masks, axis=(1, 2), dtype=jnp.float32)
        images = jnp.where(masks[..., None], partner_images, images)
        return images, _blend(1 - area / (height * width), labels, partner_labels)

    def box(self, key: Key[Array, ""], height: int, width: int) -> Array:
        """A mask (height, width) that is True inside of a random box."""
        ratio_key, centre_key = jax.random.split(key)
        side = jnp.sqrt(1 - self.ratios(ratio_key[None])[0])
        centre = jax.random.uniform(centre_key, (2,))
        inside = []
        for axis, size in enumerate((height, width)):
            middle, half = jnp.floor(centre[axis] * size), jnp.floor(side * size) / 2
            place = jnp.arange(size, dtype=jnp.float32)
            inside.append((place >= jnp.floor(middle - half)) & (place < jnp.floor(middle + half)))
        return inside[0][:, None] & inside[1][None, :]


def mixup(alpha: float = 0.2) -> Mix:
    """Mix images and labels as weighted means (Zhang et al., 2018); see `Mixup`."""
    return Mixup(alpha)


def cutmix(alpha: float = 1.0) -> Mix:
    """Paste a box of one image into another (Yun et al., 2019); see `CutMix`."""
    return CutMix(alpha)


def _blend(ratio: Float[Array, " n"], own: Array, partner: Array) -> Array:
    ratio = ratio.astype(own.dtype).reshape(-1, *[1] * (own.ndim - 1))
    return ratio * own + (1 - ratio) * partner
