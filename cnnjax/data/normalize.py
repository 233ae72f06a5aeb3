"""Data cleaning: mean normalisation and whitening, estimated on the training pictures (article, section 4.3).

Whitening here is of whole pictures, as in Krizhevsky (2009), appendix A. There are mostly fewer pictures (n) than
numbers in one (d = h·w·c), so the d×d covariance is never formed: its eigenvectors come from the n×n Gram matrix (the
thin SVD), and only the strongest RANK of them are whitened. What is left of a picture outside them is kept,
multiplied by the scale of the weakest whitened direction: every direction left has less variance than that one, so
nothing faint is blown up beyond it, and the cleaned picture still has all its detail.

Published weights come with their own cleaning, which nothing here learnt: `caffe`, `imagenet` and `raw`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cnnjax.data.lazy_images import Pictures, count_colours
from cnnjax.errors import UserError, unknown

KINDS = ("none", "mean", "standard", "zca")
"""What `fit` can learn."""
RANK = 256
PICTURES = 4096  # more than these are thinned out evenly: the Gram matrix grows with their square
EPSILON = 1e-6  # added to each variance, as Keras' zca_epsilon
FLAT = 1e-5  # directions with less than this share of the largest variance are rounding noise of float32


Colours = Sequence[float] | np.ndarray
"""A number for each colour, or none."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cleaning:
    """What `fit` learnt, or published weights want; a pytree with a static `kind`. Arrays not needed are empty.

    mean: "mean" and "standard" (3,), "zca" (h, w, c), "caffe" (3,), of blue, green, red in [0, 255]. components: "zca"
    (k, h·w·c), orthonormal rows. scales: "standard" (3,), 1/standard deviation of each colour; "zca" (k + 1,), that
    along each component, then the factor of the rest of the picture.
    """

    kind: str = field(metadata={"static": True})
    mean: Any
    components: Any
    scales: Any


def fit(kind: str, images: UInt8[np.ndarray, "n height width channels"] | Pictures) -> Cleaning:
    """Estimate a cleaning on the training pictures.

    "none"; "mean" subtracts the mean colour; "standard" also divides by each colour's deviation; "zca" whitens.

    Raises UserError for another kind, no pictures, or whitening of pictures that are all alike.
    """
    if kind not in KINDS:
        raise unknown("cleaning", kind, KINDS)
    if not len(images):
        raise UserError(f"cleaning {kind!r} has no pictures to learn from: give at least one training picture")
    if kind == "none":
        return of_colours("none")
    if kind in ("mean", "standard"):
        mean, deviation = _colours(images)
        return of_colours(kind, mean, () if kind == "mean" else 1 / np.sqrt(deviation**2 + EPSILON))
    return _fit_zca(images)


def of_colours(kind: str, mean: Colours = (), scales: Colours = ()) -> Cleaning:
    """A cleaning that takes each colour by itself: any but "zca"."""
    mean, scales = (jnp.asarray(np.asarray(values, np.float32)) for values in (mean, scales))
    return Cleaning(kind, mean, jnp.zeros((0, 0), jnp.float32), scales)


def caffe() -> Cleaning:
    """How Keras' VGG weights, which came from Caffe, see pictures: blue, green, red in 0 to 255 without their means.

    Source: keras.applications.imagenet_utils.preprocess_input, mode "caffe".
    """
    return of_colours("caffe", (103.939, 116.779, 123.68))


def imagenet() -> Cleaning:
    """How torchvision's and timm's weights see pictures: without ImageNet's mean colour, divided by its deviations.

    Source: torchvision.models.VGG16_Weights, timm.data.IMAGENET_DEFAULT_MEAN and _STD.
    """
    return of_colours("standard", (0.485, 0.456, 0.406), 1 / np.array((0.229, 0.224, 0.225)))


def raw() -> Cleaning:
    """What the article fed to Keras' weights: red, green, blue in 0 to 255, as they are (keras-vis' input range)."""
    return of_colours("raw")


def is_whole(cleaning: Cleaning) -> bool:
    """Whether a cleaning from a file is of a known kind and its arrays are as `Cleaning` says, and finite."""
    mean, components, scales = (np.asarray(part) for part in (cleaning.mean, cleaning.components, cleaning.scales))
    if cleaning.kind == "zca":
        fits = mean.ndim == 3 and components.shape == (len(components), mean.size) and len(components) > 0
        fits &= scales.shape == (len(components) + 1,)
    else:
        colours = {"none": (0, 0), "raw": (0, 0), "mean": (3, 0), "caffe": (3, 0), "standard": (3, 3)}
        fits = (*mean.shape, *scales.shape) == colours.get(cleaning.kind) and components.size == 0
    return bool(fits) and all(
        part.dtype == np.float32 and np.isfinite(part).all() for part in (mean, components, scales)
    )


def told(cleaning: Cleaning) -> str:
    """What the network is given, in words."""
    if cleaning.kind in ("caffe", "mean", "standard"):
        mean = ", ".join(f"{value:.6g}" for value in np.asarray(cleaning.mean))
    return {
        "none": lambda: "RGB in 0 to 1",
        "raw": lambda: "RGB in 0 to 255, nothing subtracted",
        "caffe": lambda: f"BGR in 0 to 255 minus ({mean})",
        "mean": lambda: f"RGB in 0 to 1 minus ({mean})",
        "standard": lambda: (
            f"RGB in 0 to 1 minus ({mean}), divided by "
            f"({', '.join(f'{1 / value:.6g}' for value in np.asarray(cleaning.scales))})"
        ),
        "zca": lambda: "whitened RGB",
    }[cleaning.kind]()


def _colours(images: np.ndarray | Pictures) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each colour, in [0, 1], from histograms: exact, no float copy of the data."""
    counts = images.colours if isinstance(images, Pictures) else count_colours(images)
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    return mean, np.sqrt((shares * (values[None] - mean[:, None]) ** 2).sum(axis=1))


def _fit_zca(images: np.ndarray | Pictures) -> Cleaning:
    images = images[np.linspace(0, len(images) - 1, min(len(images), PICTURES)).astype(int)]
    n, d = len(images), images[0].size
    pixels = images.reshape(n, d)
    mean = (pixels.mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
    # Blocks of columns, so that the float32 copy of the data never exists as a whole.
    blocks = [slice(start, start + 8192) for start in range(0, d, 8192)]

    def centred(block: slice) -> np.ndarray:
        return pixels[:, block].astype(np.float32) / np.float32(255) - mean[block]

    gram = np.zeros((n, n), np.float32)
    for block in blocks:
        part = centred(block)
        gram += part @ part.T
    variance, vectors = np.linalg.eigh(gram / max(n - 1, 1))
    variance, vectors = variance[::-1][:RANK], vectors[:, ::-1][:, :RANK]
    kept = variance > max(variance[0], 0) * FLAT
    if not kept.any():
        raise UserError("the training pictures are all alike, so they cannot be whitened: use --data.cleaning mean")
    variance, vectors = variance[kept], vectors[:, kept]
    components = np.concatenate([centred(block).T @ vectors for block in blocks]).T
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    scales = 1 / np.sqrt(variance + EPSILON)
    scales = np.append(scales, scales[-1])
    return Cleaning(
        "zca",
        jnp.asarray(mean.reshape(images.shape[1:])),
        jnp.asarray(components, jnp.float32),
        jnp.asarray(scales, jnp.float32),
    )


def clean(
    cleaning: Cleaning, images: Float[Array, "batch height width channels"]
) -> Float[Array, "batch height width channels"]:
    """Clean pictures, RGB in [0, 1], as `cleaning` says; "none" gives them back as they are.

    Raises UserError when whitening meets pictures of another size than it was fitted on.
    """
    if cleaning.kind == "none":
        return images
    if cleaning.kind == "raw":
        return images * 255
    if cleaning.kind == "caffe":
        return images[..., ::-1] * 255 - cleaning.mean[None, None, None, :]
    if cleaning.kind == "mean":
        return images - cleaning.mean[None, None, None, :]
    if cleaning.kind == "standard":
        return (images - cleaning.mean[None, None, None, :]) * cleaning.scales[None, None, None, :]
    centred, coordinates = _project(cleaning, images)
    # Whitened part plus scaled rest, written as one correction of the scaled picture.
    rest = cleaning.scales[-1]
    correction = (coordinates * (cleaning.scales[:-1] - rest)[None, :]) @ cleaning.components
    return (centred * rest + correction).reshape(images.shape)


def pca_whiten(cleaning: Cleaning, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch k"]:
    """The pictures' principal coordinates, each of unit variance on the training pictures. Needs a "zca" cleaning.

    Coordinates are not a picture, so a convolutional network cannot be trained on them. Raises UserError without "zca".
    """
    if cleaning.kind != "zca":
        raise UserError(f"PCA whitening needs a zca cleaning, not {cleaning.kind!r}: fit one with fit('zca', images)")
    return _project(cleaning, images)[1] * cleaning.scales[None, :-1]


def _project(cleaning: Cleaning, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    if images.shape[1:] != cleaning.mean.shape:
        raise UserError(
            f"whitening was fitted on pictures of shape {tuple(cleaning.mean.shape)}, not {tuple(images.shape[1:])}: "
            "resize them, or train with --data.cleaning mean"
        )
    centred = (images - cleaning.mean[None]).reshape(images.shape[0], -1)
    return centred, centred @ cleaning.components.T
