"""Normalization of images by per-channel statistics or whitening, estimated on training images (article, section 4.3).

Whitening here is of whole images, as in Krizhevsky (2009), appendix A. There are mostly fewer images (n) than numbers
in one (d = h·w·c), so the d×d covariance is never formed: its eigenvectors come from the n×n Gram matrix (the thin
SVD), and only the strongest MAX_RANK of them are whitened. The part of an image outside them is kept, multiplied by the
scale of the weakest whitened direction. Every direction left has less variance than that one, so nothing faint is
amplified beyond it, and the normalized image still has all its detail.

Published weights come with the normalization that they were trained with: `caffe`, `imagenet` and `raw`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from cnnjax.data.convert import to_images
from cnnjax.data.dataset import ArraySplit, LazySplit, Split, as_split
from cnnjax.data.lazy_images import LazyImages, channel_histogram
from cnnjax.data.split_images import SplitImages
from cnnjax.errors import UserError, unknown

KINDS = ("none", "mean", "standard", "zca")
"""What `fit_normalizer` can estimate."""
MAX_RANK = 256
MAX_IMAGES = 4096  # whitening takes an evenly spaced subset of more: the Gram matrix grows with their square
EPSILON = 1e-6  # added to each variance, as Keras' zca_epsilon
FLAT = 1e-5  # directions with less than this share of the largest variance are rounding noise of float32
_BLOCK = 2**24  # numbers of floating-point images that are summed at a time

PerChannel = Sequence[float] | np.ndarray
"""One number for each channel, or none."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normalizer:
    """How images in [0, 1] are normalized: what was estimated on training images, or what published weights need.

    A pytree with a static `kind`. Arrays that the kind does not need are empty.

    Attributes:
        kind: "none", "mean", "standard", "zca", "caffe" or "raw".
        mean: "mean" and "standard" (c,); "zca" (h, w, c); "caffe" (3,), of blue, green and red in [0, 255].
        components: "zca" (k, h·w·c), orthonormal rows.
        scales: "standard" (c,), 1 / standard deviation of each channel; "zca" (k + 1,), the scale along each component,
            then that of the rest of the image.
    """

    kind: str = field(metadata={"static": True})
    mean: Any
    components: Any
    scales: Any

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """The same as `normalize(self, images)`."""
        return normalize(self, images)

    def __repr__(self) -> str:
        shape = "" if self.kind in ("none", "raw") else f", mean {tuple(np.shape(self.mean))}"
        return f"Normalizer({self.kind!r}{shape})"


def fit_normalizer(kind: str, images: Split | np.ndarray | Array | LazyImages | SplitImages) -> Normalizer:
    """Estimate a normalizer on training images.

    Args:
        kind: "none"; "mean" subtracts each channel's mean; "standard" also divides by each channel's standard
            deviation; "zca" whitens.
        images: a split, or its images (n, height, width, channels): uint8 in [0, 255] or floating point in [0, 1].

    Raises UserError for another kind, for no images, and for whitening of images that are all alike.
    """
    if kind not in KINDS:
        raise unknown("normalization", kind, KINDS)
    images = _images(images)
    if not len(images):
        raise UserError(f"normalization {kind!r} has no images to learn from: give at least one training image")
    if kind == "none":
        return identity()
    if kind in ("mean", "standard"):
        mean, deviation = channel_statistics(images)
        return per_channel(kind, mean, () if kind == "mean" else 1 / np.sqrt(deviation**2 + EPSILON))
    return _fit_zca(images)


def _images(images: Any) -> np.ndarray | LazyImages | SplitImages:
    if isinstance(images, LazyImages | SplitImages):
        return images
    if isinstance(images, ArraySplit | LazySplit) or not (hasattr(images, "shape") and hasattr(images, "dtype")):
        return _images(as_split(images).images)
    return to_images(images)


def per_channel(kind: str, mean: PerChannel = (), scales: PerChannel = ()) -> Normalizer:
    """A normalizer that treats each channel by itself: any kind but "zca"."""
    mean, scales = (jnp.asarray(np.asarray(values, np.float32)) for values in (mean, scales))
    return Normalizer(kind, mean, jnp.zeros((0, 0), jnp.float32), scales)


def identity() -> Normalizer:
    """Leaves images in [0, 1] as they are."""
    return per_channel("none")


def caffe() -> Normalizer:
    """The input of Keras' VGG weights, which came from Caffe: blue, green, red in [0, 255] minus their means.

    Source: keras.applications.imagenet_utils.preprocess_input, mode "caffe".
    """
    return per_channel("caffe", (103.939, 116.779, 123.68))


def imagenet() -> Normalizer:
    """The input of torchvision's and timm's weights: minus ImageNet's channel means, divided by its deviations.

    Source: torchvision.models.VGG16_Weights, timm.data.IMAGENET_DEFAULT_MEAN and _STD.
    """
    return per_channel("standard", (0.485, 0.456, 0.406), 1 / np.array((0.229, 0.224, 0.225)))


def raw() -> Normalizer:
    """Values in [0, 255] with nothing subtracted, which the article gave to Keras' weights (keras-vis' input range)."""
    return per_channel("raw")


def is_valid(normalizer: Normalizer) -> bool:
    """Whether a normalizer from a file is of a known kind, and its arrays are as `Normalizer` says, and finite."""
    parts = (normalizer.mean, normalizer.components, normalizer.scales)
    mean, components, scales = (np.asarray(part) for part in parts)
    if normalizer.kind == "zca":
        fits = mean.ndim == 3 and components.shape == (len(components), mean.size) and len(components) > 0
        fits &= scales.shape == (len(components) + 1,)
    elif normalizer.kind in ("mean", "standard"):
        fits = mean.ndim == 1 and mean.size > 0 and components.size == 0
        fits &= scales.shape == ((0,) if normalizer.kind == "mean" else mean.shape)
    else:
        sizes = {"none": (0, 0), "raw": (0, 0), "caffe": (3, 0)}
        fits = (*mean.shape, *scales.shape) == sizes.get(normalizer.kind) and components.size == 0
    return bool(fits) and all(
        part.dtype == np.float32 and np.isfinite(part).all() for part in (mean, components, scales)
    )


def describe(normalizer: Normalizer, channels: int = 3) -> str:
    """The network's input in words, such as "RGB in 0 to 1 minus (0.5, 0.5, 0.5)".

    `channels` is needed only where the normalizer has no number for each channel.
    """
    mean, scales = np.asarray(normalizer.mean), np.asarray(normalizer.scales)
    channels = mean.shape[-1] if mean.size else channels
    names = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    values = "(" + ", ".join(f"{value:.6g}" for value in mean) + ")" if mean.ndim == 1 else ""
    match normalizer.kind:
        case "none":
            return f"{names} in 0 to 1"
        case "raw":
            return f"{names} in 0 to 255, nothing subtracted"
        case "caffe":
            return f"BGR in 0 to 255 minus {values}"
        case "mean":
            return f"{names} in 0 to 1 minus {values}"
        case "standard":
            divisors = ", ".join(f"{1 / value:.6g}" for value in scales)
            return f"{names} in 0 to 1 minus {values}, divided by ({divisors})"
        case "zca":
            return f"whitened {names}"
    raise unknown("normalization", normalizer.kind, (*KINDS, "caffe", "raw"))


def channel_statistics(
    images: np.ndarray | LazyImages | SplitImages,
) -> tuple[Float64[np.ndarray, " channels"], Float64[np.ndarray, " channels"]]:
    """Mean and standard deviation of each channel, in [0, 1].

    Of uint8 images they come from histograms: exact, without a floating-point copy of the data.
    """
    if not isinstance(images, np.ndarray) and images.histogram is None:
        mean, variance = images.moments
        return mean, np.sqrt(variance)
    if images.dtype == np.uint8:
        counts = channel_histogram(images) if isinstance(images, np.ndarray) else images.histogram
        shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
        mean = shares @ values
        return mean, np.sqrt((shares * (values[None] - mean[:, None]) ** 2).sum(axis=1))
    step = max(1, _BLOCK // images[0].size)
    blocks = [images[start : start + step] for start in range(0, len(images), step)]
    pixels = images.size // images.shape[-1]
    mean = sum(block.sum(axis=(0, 1, 2), dtype=np.float64) for block in blocks) / pixels
    variance = sum(np.square(block - mean).sum(axis=(0, 1, 2)) for block in blocks) / pixels
    return mean, np.sqrt(variance)


def _fit_zca(images: np.ndarray | LazyImages | SplitImages) -> Normalizer:
    images = images[np.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).astype(int)]
    unit = np.float32(255 if images.dtype == np.uint8 else 1)
    n, d = len(images), images[0].size
    pixels = images.reshape(n, d)
    mean = (pixels.mean(axis=0, dtype=np.float64) / unit).astype(np.float32)
    # Blocks of columns, so that a float32 copy of all the data never exists.
    blocks = [slice(start, start + 8192) for start in range(0, d, 8192)]

    def centred(block: slice) -> np.ndarray:
        return pixels[:, block].astype(np.float32) / unit - mean[block]

    gram = np.zeros((n, n), np.float32)
    for block in blocks:
        part = centred(block)
        gram += part @ part.T
    variance, vectors = np.linalg.eigh(gram / max(n - 1, 1))
    variance, vectors = variance[::-1][:MAX_RANK], vectors[:, ::-1][:, :MAX_RANK]
    kept = variance > max(variance[0], 0) * FLAT
    if not kept.any():
        raise UserError("the training images are all alike, so they cannot be whitened: use normalizer='mean'")
    variance, vectors = variance[kept], vectors[:, kept]
    components = np.concatenate([centred(block).T @ vectors for block in blocks]).T
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    scales = 1 / np.sqrt(variance + EPSILON)
    scales = np.append(scales, scales[-1])
    return Normalizer(
        "zca",
        jnp.asarray(mean.reshape(images.shape[1:])),
        jnp.asarray(components, jnp.float32),
        jnp.asarray(scales, jnp.float32),
    )


def normalize(
    normalizer: Normalizer, images: Float[Array, "batch height width channels"]
) -> Float[Array, "batch height width channels"]:
    """Images in [0, 1] as the network takes them; of kind "none" they are returned as they are.

    Raises UserError for images with another number of channels or, if whitened, of another size than those that the
    normalizer was fitted on.
    """
    if normalizer.kind == "none":
        return images
    if normalizer.kind == "raw":
        return images * 255
    if normalizer.kind == "zca":
        centred, coordinates = _project(normalizer, images)
        # The whitened part plus the scaled rest, written as one correction of the scaled image.
        rest = normalizer.scales[-1]
        correction = (coordinates * (normalizer.scales[:-1] - rest)[None, :]) @ normalizer.components
        return (centred * rest + correction).reshape(images.shape)
    channels = normalizer.mean.shape[0]
    if images.shape[-1] != channels:
        raise UserError(
            f"the normalizer is for images of {channels} channels, not {images.shape[-1]}: convert the images, or "
            "use another normalizer"
        )
    if normalizer.kind == "caffe":
        return images[..., ::-1] * 255 - normalizer.mean[None, None, None, :]
    centred = images - normalizer.mean[None, None, None, :]
    return centred if normalizer.kind == "mean" else centred * normalizer.scales[None, None, None, :]


def pca_whiten(normalizer: Normalizer, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch k"]:
    """The images' principal coordinates, each of unit variance on the training images.

    Coordinates are not an image, so a convolutional network cannot be trained on them. Raises UserError for a
    normalizer of another kind than "zca".
    """
    if normalizer.kind != "zca":
        raise UserError(
            f"PCA whitening needs a normalizer of kind 'zca', not {normalizer.kind!r}: fit one by "
            "fit_normalizer('zca', images)"
        )
    return _project(normalizer, images)[1] * normalizer.scales[None, :-1]


def _project(normalizer: Normalizer, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    if images.shape[1:] != normalizer.mean.shape:
        raise UserError(
            f"whitening was fitted on images of shape {tuple(normalizer.mean.shape)}, not {tuple(images.shape[1:])}: "
            "resize them, or train with normalizer='mean'"
        )
    centred = (images - normalizer.mean[None]).reshape(images.shape[0], -1)
    return centred, centred @ normalizer.components.T
