"""The image's Fourier coefficients as parameters, with decorrelated colours, as in lucid."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from cnnjax.errors import UserError
from cnnjax.visualize.parameterizations import colors as colors_
from cnnjax.visualize.parameterizations.base import ArrayLeaf, Leaf, quantize

GAIN = 4.0
"""lucid divides its images by it."""
MARGIN = 0.25
"""How near to 0 and 255 `from_image` takes values, whose inverse sigmoid is infinite there."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Spectrum:
    """The coefficients of one image's real Fourier transform: a pytree, whose gradient is another one."""

    real: ArrayLeaf
    """(height, frequencies, channels), and so is `imag`."""
    imag: ArrayLeaf
    width: int = field(metadata={"static": True})
    """Of the image, in pixels: an even and an odd one have as many frequencies."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Fourier:
    """See `fourier`."""

    decay: Leaf
    std: Leaf
    colors: ArrayLeaf | None
    decorrelate: bool = field(metadata={"static": True})

    def init(self, key: Key[Array, ""], image_size: tuple[int, int], channels: int) -> Spectrum:
        """Normal coefficients of mean 0."""
        height, width = image_size
        real, imag = self.std * jax.random.normal(key, (2, height, width // 2 + 1, channels))
        return Spectrum(real, imag, width)

    def to_image(self, params: Spectrum) -> Float[Array, "height width channels"]:
        """Any coefficients give values strictly between 0 and 255."""
        size = len(params.real), params.width
        scale = self._scale(size, params.real.dtype)
        values = jnp.fft.irfft2(jax.lax.complex(params.real * scale, params.imag * scale), size, axes=(0, 1)) / GAIN
        return 255 * jax.nn.sigmoid(colors_.recorrelate(values, self._matrix(values.shape[-1])))

    def to_uint8(self, image: Float[Array, "height width channels"]) -> UInt8[Array, "height width channels"]:
        """Rounded to the nearest value."""
        return quantize(image + 0.5)

    def from_image(self, image: Float[Array, "height width channels"]) -> Spectrum:
        height, width, channels = image.shape
        share = jnp.clip(image, MARGIN, 255 - MARGIN) / 255
        values = colors_.decorrelate(jnp.log(share) - jnp.log1p(-share), self._matrix(channels))
        found, scale = jnp.fft.rfft2(values, axes=(0, 1)), GAIN / self._scale((height, width), image.dtype)
        return Spectrum(jnp.real(found) * scale, jnp.imag(found) * scale, width)

    def _matrix(self, channels: int) -> Float[Array, "channels channels"] | None:
        return colors_.matrix_for(self.colors, self.decorrelate, channels)

    def _scale(self, size: tuple[int, int], dtype: jnp.dtype) -> Float[Array, "height frequencies 1"]:
        """√(wh) / max(f, 1 / max(w, h)) ** decay, of each frequency f in cycles per pixel.

        With a decay of 1, equal coefficients have the spectrum that photographs have.
        """
        height, width = size
        frequencies = np.maximum(radial_frequencies(size), 1 / max(size))[..., None]
        return (height * width) ** 0.5 / jnp.asarray(frequencies, dtype) ** jnp.asarray(self.decay, dtype)


def radial_frequencies(size: tuple[int, int]) -> Float[np.ndarray, "height frequencies"]:
    """The frequencies of a real Fourier transform of an image (height, width), in cycles per pixel."""
    height, width = size
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])


def fourier(
    decay: float = 1.0,
    *,
    decorrelate: bool = True,
    std: float = 0.01,
    colors: Float[Array | np.ndarray, "channels channels"] | None = None,
) -> Fourier:
    """Optimize Fourier coefficients of decorrelated colours, as lucid does (Olah et al. 2017).

    Low frequencies move the image as fast as the high ones do in pixels, so that images are smooth from the start and
    need no penalty.

    decay: the exponent of the frequency by which coefficients are divided. std: of the coefficients to start from.
    decorrelate: whether the coefficients are those of brightness and of two opponent colours instead of red, green and
    blue. colors: the matrix that maps them to the image's channels, by default lucid's of ImageNet for images of three
    channels, and none for others; see `color_statistics`.
    Raises UserError for a std that is not positive.
    """
    if not std > 0:
        raise UserError(f"std={std:g} must be positive: it is that of the coefficients to start from")
    return Fourier(float(decay), float(std), None if colors is None else jnp.asarray(colors), decorrelate)
