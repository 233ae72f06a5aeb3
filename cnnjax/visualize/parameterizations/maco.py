"""The phases of the image's Fourier transform as parameters, with the magnitudes of photographs (MaCo)."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, UInt8

from cnnjax.data.dataset import Split
from cnnjax.errors import UserError
from cnnjax.visualize.parameterizations import colors as colors_
from cnnjax.visualize.parameterizations.base import ArrayLeaf, quantize
from cnnjax.visualize.parameterizations.fourier import radial_frequencies

SPECTRUM = Path(__file__).parents[2] / "data" / "photograph_spectrum.npz"
EPSILON = 1e-8
UNIFORM = np.pi / 3**0.5
"""Standard deviation of phases that are uniform on the circle. Phases nearer to each other would add up to a bright
spot in the image's corner."""
OPAQUE = 80
"""Percentile of the accumulated gradients from which on the image is opaque."""

Magnitudes = Float[Array | np.ndarray, "height frequencies channels"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Phases:
    """The parameters of one image: a pytree."""

    phase: ArrayLeaf
    """(height, frequencies, channels), in radians, up to their mean and deviation."""
    attention: ArrayLeaf
    """Σ|gradient of the score by the image| over the steps so far: (height, width, channels). It does not change the
    image, but its gradient is that of the image."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Maco:
    """See `maco`."""

    spectrum: ArrayLeaf | None
    """Magnitudes times frequencies, of images of any size: (height, frequencies, channels). None: of photographs."""
    colors: ArrayLeaf | None
    decorrelate: bool = field(metadata={"static": True})

    def init(self, key: Key[Array, ""], image_size: tuple[int, int], channels: int) -> Phases:
        """Uniform phases."""
        height, width = image_size
        known = self._spectrum().shape[-1]
        if known != channels:
            raise UserError(
                f"the spectrum is of {known} channels and the images have {channels}: give maco a "
                "magnitude_spectrum of such images"
            )
        phase = jax.random.uniform(key, (height, width // 2 + 1, channels), minval=-np.pi, maxval=np.pi)
        return Phases(phase, jnp.zeros((height, width, channels)))

    def to_image(self, params: Phases) -> Float[Array, "height width channels"]:
        """An image with the spectrum's magnitudes, of mean 0 and deviation 1 before its colours and the sigmoid."""
        size = params.attention.shape[0], params.attention.shape[1]
        phase, magnitude = UNIFORM * _standardize(params.phase), magnitudes(self._spectrum(), size)
        values = jax.lax.complex(jnp.cos(phase) * magnitude, jnp.sin(phase) * magnitude)
        values = _standardize(jnp.fft.irfft2(values, size, axes=(0, 1)))
        matrix = colors_.matrix_for(self.colors, self.decorrelate, values.shape[-1])
        image = 255 * jax.nn.sigmoid(colors_.recorrelate(values, matrix))
        return image + (params.attention - jax.lax.stop_gradient(params.attention))

    def to_uint8(self, image: Float[Array, "height width channels"]) -> UInt8[Array, "height width channels"]:
        """Rounded to the nearest value."""
        return quantize(image + 0.5)

    def to_alpha(self, params: Phases) -> UInt8[Array, "height width"]:
        """How opaque each pixel is: in proportion to its attention, and wholly from the 80th percentile on."""
        attention = params.attention.mean(axis=-1)
        share = attention / jnp.maximum(jnp.percentile(attention, OPAQUE), jnp.finfo(jnp.float32).tiny)
        return (255 * jnp.clip(share, 0, 1)).astype(jnp.uint8)

    def wrap_optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer for the phases; the attention is summed."""
        return summing_attention(optimizer)

    def _spectrum(self) -> Float[Array, "height frequencies channels"]:
        # Not before it is used: an array would start JAX's backend when this package is imported.
        return jnp.asarray(photograph_spectrum() if self.spectrum is None else self.spectrum)


def summing_attention(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` for the phases of `Phases`, whose attention gets the absolute value of its gradient added."""

    def init(params: Phases) -> optax.OptState:
        return optimizer.init(params.phase)

    def update(updates: Phases, state: optax.OptState, params: Phases | None = None) -> tuple[Phases, optax.OptState]:
        phase, state = optimizer.update(updates.phase, state, None if params is None else params.phase)
        return Phases(phase, jnp.abs(updates.attention)), state  # type: ignore[arg-type]

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def magnitudes(
    spectrum: Float[Array, "height frequencies channels"], size: tuple[int, int]
) -> Float[Array, "new_height new_frequencies channels"]:
    """The magnitudes of images of another size (height, width): those of the same frequencies in cycles per pixel.

    The spectrum, which has no peak, is interpolated bilinearly, and then divided by the frequency. Below its lowest
    frequency, it goes on as 1 / frequency.
    """
    height, width = size
    old_height, old_width = len(spectrum), 2 * (spectrum.shape[1] - 1)
    rows = np.fft.fftfreq(height) * old_height
    columns = np.minimum(np.fft.rfftfreq(width) * old_width, spectrum.shape[1] - 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down = jnp.asarray((rows - top)[:, None, None], spectrum.dtype)
    across = jnp.asarray((columns - left)[None, :, None], spectrum.dtype)
    right = np.minimum(left + 1, spectrum.shape[1] - 1)
    tall = spectrum[top % old_height] * (1 - down) + spectrum[(top + 1) % old_height] * down
    found = tall[:, left] * (1 - across) + tall[:, right] * across
    return found / jnp.asarray(_floored(size), spectrum.dtype)


def magnitude_spectrum(
    images: Split | Array | np.ndarray,
    *,
    colors: Float[Array | np.ndarray, "channels channels"] | None = None,
    decorrelate: bool = True,
    limit: int = 1000,
) -> Float[np.ndarray, "height frequencies channels"]:
    """The mean magnitudes of a data set's Fourier transforms, times their frequencies: to be given to `maco`.

    images: a split, such as `dataset.train`, or an array (number, height, width, channels), uint8 or in [0, 1]; of even
    width. colors, decorrelate: as of `maco`. limit: how many images are looked at, evenly spread.

    Raises UserError for images of an odd width.
    """
    count, total = 0, 0.0
    for image in colors_.some_images(images, limit):
        height, width, channels = image.shape
        if width % 2:
            raise UserError(f"these images are {width} pixels wide: crop them to an even number")
        matrix = colors_.matrix_for(colors, decorrelate, channels)
        values = image if matrix is None else image @ np.linalg.inv(np.asarray(matrix, np.float64)).T
        found = np.abs(np.fft.rfft2(values - values.mean(axis=(0, 1)), axes=(0, 1)))
        count, total = count + 1, total + found * _floored((height, width)) / (height * width) ** 0.5
    spectrum = np.asarray(total / count, np.float32)
    # Of the mean, which is not a pattern, there shall be as much as of the longest waves.
    spectrum[0, 0] = (spectrum[0, 1 % spectrum.shape[1]] + spectrum[1 % len(spectrum), 0]) / 2
    return spectrum


@functools.cache
def photograph_spectrum() -> Float[np.ndarray, "height frequencies 3"]:
    """The spectrum of photographs that is part of the package (see CREDITS.md), of lucid's decorrelated colours."""
    with np.load(SPECTRUM) as arrays:
        return arrays["spectrum"].astype(np.float32)


def maco(
    spectrum: Magnitudes | None = None,
    *,
    decorrelate: bool = True,
    colors: Float[Array | np.ndarray, "channels channels"] | None = None,
) -> Maco:
    """Optimize the phases of an image whose Fourier magnitudes are those of photographs (MaCo, Fel et al. 2023).

    The image cannot grow high frequencies, so that it stays natural for deep networks of any kind. How much each pixel
    mattered for the objective, summed over the steps, becomes the saved image's alpha channel.

    spectrum: a `magnitude_spectrum`; by default that of photographs, for images of three channels. It is interpolated
    for images of any size. decorrelate, colors: as of `fourier`; the same that the spectrum was made with.
    """
    found = None if spectrum is None else jnp.asarray(spectrum)
    return Maco(found, None if colors is None else jnp.asarray(colors), decorrelate)


def _floored(size: tuple[int, int]) -> Float[np.ndarray, "height frequencies 1"]:
    return np.maximum(radial_frequencies(size), 1 / max(size))[..., None]


def _standardize(values: Array) -> Array:
    return (values - values.mean()) / (values.std() + EPSILON)
