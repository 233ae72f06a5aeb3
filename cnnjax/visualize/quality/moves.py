"""Images moved, turned and compressed, as they are saved."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image as PIL

from cnnjax.data.augment import resample
from cnnjax.visualize.parameterizations import quantize
from cnnjax.visualize.quality.features import Pixels


def moved_by(images: Pixels, rows: int, columns: int) -> Pixels:
    """Images moved down and to the right, with their border repeated."""
    _, height, width, _ = images.shape
    down, right = (np.clip(np.arange(n) - by, 0, n - 1) for n, by in ((height, rows), (width, columns)))
    return images[:, down][:, :, right]


def turned_by(images: Pixels, degrees: float) -> Pixels:
    """Images turned about their centre, with their border repeated."""
    return np.asarray(_turned(images.astype(np.float32), np.float32(np.deg2rad(degrees))))


def as_jpeg(images: Pixels, quality: int) -> Pixels:
    """Grey or RGB images compressed as JPEG and decoded again."""

    def compress(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        PIL.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "jpeg", quality=quality)
        return np.asarray(PIL.open(buffer)).reshape(image.shape)

    return np.stack([compress(image) for image in images])


@jax.jit
def _turned(images: Float[Array, "images height width channels"], angle: Float[Array, ""]) -> Array:
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    matrix = jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])
    turn = jax.vmap(lambda image: quantize(resample(image, matrix, jnp.zeros(2), "nearest") + 0.5))
    return turn(images)
