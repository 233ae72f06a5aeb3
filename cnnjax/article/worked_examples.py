"""The article's worked examples (sections 2, 4.1 and 5), each computed with this package's operations.

Every function is pure and returns NumPy arrays. `figures.worked_examples` draws them, and `numbers` returns what the
captions state. The inputs are the article's, such as its 5×5 input and its 3×3 filter, or are drawn from a key.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cnnjax import ops
from cnnjax.models.dropout import dropout as drop

# Article, section 2.1.
IMAGE = ((1, 1, 1, 0, 0), (0, 1, 1, 1, 0), (0, 0, 1, 1, 1), (0, 0, 1, 1, 0), (0, 1, 1, 0, 0))
FILTER = ((1, 0, 1), (0, 1, 0), (1, 0, 1))
# The 4×4 map of section 2.4.
UNPOOLED = ((1, 1, 2, 4), (5, 6, 7, 8), (3, 2, 1, 0), (1, 2, 3, 4))


class Convolution(NamedTuple):
    """Section 2.1: a filter is moved over the input. `products` holds window × filter for every position."""

    image: np.ndarray  # (height, width)
    kernel: np.ndarray  # (side, side)
    products: np.ndarray  # (rows, columns, side, side)
    map: np.ndarray  # (rows, columns)


class Volume(NamedTuple):
    """Section 2.1 in three dimensions: ten filters compute ten maps, which pooling halves in section 2.4."""

    image: np.ndarray  # (32, 32, 3) in [0, 1]
    kernels: np.ndarray  # (5, 5, 3, 10)
    names: tuple[str, ...]
    maps: np.ndarray  # (32, 32, 10)
    rectified: np.ndarray  # (32, 32, 10), section 2.2
    pooled: np.ndarray  # (16, 16, 10)


class Strides(NamedTuple):
    """Section 2.3: the same input and filter with stride 1 and with stride 2."""

    image: np.ndarray  # (7, 7)
    kernel: np.ndarray  # (3, 3)
    maps: dict[int, np.ndarray]  # stride -> map


class Padding(NamedTuple):
    """Section 2.3: with a border of zeros the map has the size of the input."""

    image: np.ndarray  # (5, 5)
    padded: np.ndarray  # (7, 7)
    kernel: np.ndarray  # (3, 3)
    same: np.ndarray  # (5, 5)
    valid: np.ndarray  # (3, 3)


class Pooling(NamedTuple):
    """Section 2.4: the largest value of every 2×2 window."""

    image: np.ndarray  # (4, 4)
    map: np.ndarray  # (2, 2)


class Hyperparameters(NamedTuple):
    """Section 2.5: a choice of hyperparameters, and the output and parameter count it gives for a 32×32×3 input."""

    size: int
    count: int
    stride: int
    padding: str
    shape: tuple[int, int, int]
    parameters: int


class Descent(NamedTuple):
    """Section 2.7: a filter that is learned from an input and the desired map, by gradient descent."""

    losses: np.ndarray  # (steps + 1,)
    kernels: np.ndarray  # (steps + 1, 3, 3)
    target: np.ndarray  # (3, 3)


class Dropout(NamedTuple):
    """Section 4.1: which nodes of a small network are dropped, at some training steps and at test time."""

    rate: float
    masks: tuple[tuple[np.ndarray, ...], ...]  # step -> layer -> (nodes,): 0 if dropped, else the scale factor
    titles: tuple[str, ...]


class ReceptiveField(NamedTuple):
    """Section 5: the pixels that one output of stacked 3×3 convolutions depends on, and by how many paths."""

    depth: int
    paths: tuple[np.ndarray, ...]  # from input to output: (side, side), the number of paths to the output
    size: int  # height and width of the receptive field in pixels


class WorkedExamples(NamedTuple):
    """All of them."""

    convolution: Convolution
    volume: Volume
    strides: Strides
    padding: Padding
    pooling: Pooling
    hyperparameters: tuple[Hyperparameters, ...]
    descent: Descent
    dropout: Dropout
    dropout_steps: Dropout
    receptive_fields: tuple[ReceptiveField, ...]


def _convolve(
    image: Float[np.ndarray, "height width"],
    kernel: Float[np.ndarray, "rows columns"],
    stride: int = 1,
    padding: str = "VALID",
) -> Float[np.ndarray, "new_height new_width"]:
    """`ops.conv` of one image with one channel by one filter."""
    image, kernel = jnp.asarray(image, jnp.float32), jnp.asarray(kernel, jnp.float32)
    return np.asarray(ops.conv(image[None, :, :, None], kernel[:, :, None, None], stride, padding))[0, :, :, 0]


def convolution() -> Convolution:
    """The article's 5×5 input and 3×3 filter, window by window."""
    image, kernel = np.asarray(IMAGE, np.float32), np.asarray(FILTER, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape)
    return Convolution(image, kernel, windows * kernel, _convolve(image, kernel))


def filters() -> tuple[Float[np.ndarray, "5 5 3 10"], tuple[str, ...]]:
    """Ten 5×5×3 filters of the kinds that first layers learn, scaled to a sum of absolute weights of 1; their names."""
    y, x = np.mgrid[-2:3, -2:3].astype(np.float32)
    blob = np.exp(-(x**2 + y**2) / 2)
    gray, red, blue = (1, 1, 1), (1, -1, 0), (-0.5, -0.5, 1)
    bank = {
        "blur": (blob, gray),
        "vertical edge": (x * blob, gray),
        "horizontal edge": (y * blob, gray),
        "diagonal edge ↘": ((x + y) * blob, gray),
        "diagonal edge ↗": ((x - y) * blob, gray),
        "vertical line": ((1 - x**2) * blob, gray),
        "horizontal line": ((1 - y**2) * blob, gray),
        "spot": ((2 - x**2 - y**2) * blob, gray),
        "red, not green": (blob, red),
        "blue, not yellow": (blob, blue),
    }
    kernels = np.stack([shape[:, :, None] * np.asarray(color, np.float32) for shape, color in bank.values()], axis=-1)
    # Edge, line and spot filters must not respond to uniform areas.
    detectors = np.arange(1, 8)
    kernels[..., detectors] -= kernels[..., detectors].mean(axis=(0, 1), keepdims=True)
    return kernels / np.abs(kernels).sum(axis=(0, 1, 2), keepdims=True), tuple(bank)


def volume(image: Float[np.ndarray, "32 32 3"]) -> Volume:
    """Apply ten 5×5×3 filters with padding, ReLU and 2×2 max pooling to an image with values in [0, 1]."""
    kernels, names = filters()
    maps = ops.conv(jnp.asarray(image)[None], jnp.asarray(kernels), 1, "SAME")
    rectified = jax.nn.relu(maps)
    pooled = ops.max_pool(rectified, 2)
    return Volume(image, kernels, names, *(np.asarray(a)[0] for a in (maps, rectified, pooled)))


def strides(seed: int = 0) -> Strides:
    """Convolve a 7×7 input of zeros and ones with the article's filter, with strides 1 and 2."""
    image = np.asarray(jax.random.bernoulli(jax.random.key(seed), 0.5, (7, 7)), np.float32)
    kernel = np.asarray(FILTER, np.float32)
    return Strides(image, kernel, {stride: _convolve(image, kernel, stride) for stride in (1, 2)})


def padding() -> Padding:
    """Convolve the article's input with and without a border of zeros."""
    image, kernel = np.asarray(IMAGE, np.float32), np.asarray(FILTER, np.float32)
    same, valid = (_convolve(image, kernel, 1, kind) for kind in ("SAME", "VALID"))
    return Padding(image, np.pad(image, 1), kernel, same, valid)


def pooling() -> Pooling:
    """Max pooling of a 4×4 map with 2×2 windows and stride 2."""
    image = np.asarray(UNPOOLED, np.float32)
    return Pooling(image, np.asarray(ops.max_pool(jnp.asarray(image)[None, :, :, None], 2))[0, :, :, 0])


def hyperparameters() -> tuple[Hyperparameters, ...]:
    """Change filter size, number of filters, stride and padding one at a time, for a 32×32×3 input (section 2.5)."""
    rows, default = [], (3, 32, 1, "SAME")
    changed = ((5, 32, 1, "SAME"), (7, 32, 1, "SAME"), (3, 128, 1, "SAME"), (3, 32, 2, "SAME"), (3, 32, 1, "VALID"))
    for size, count, stride, kind in (default, *changed):
        kernel = jax.ShapeDtypeStruct((size, size, 3, count), jnp.float32)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        # Default arguments bind the current stride and padding, which must not be traced.
        shape = jax.eval_shape(lambda x, w, s=stride, p=kind: ops.conv(x, w, s, p), image, kernel).shape[1:]
        rows.append(Hyperparameters(size, count, stride, kind.lower(), shape, kernel.size + count))
    return tuple(rows)


def descent(seed: int = 0, steps: int = 60, rate: float = 0.1) -> Descent:
    """Learn the article's filter from a random 12×12 input and its map, by gradient descent that starts from zeros."""
    image = jax.random.normal(jax.random.key(seed), (1, 12, 12, 1))
    target = jnp.asarray(FILTER, jnp.float32)[:, :, None, None]
    desired = ops.conv(image, target, 1, "VALID")

    def loss(kernel):
        return jnp.mean((ops.conv(image, kernel, 1, "VALID") - desired) ** 2)

    def step(kernel, _):
        value, gradient = jax.value_and_grad(loss)(kernel)
        return kernel - rate * gradient, (value, kernel)

    _, (losses, kernels) = jax.lax.scan(step, jnp.zeros_like(target), length=steps + 1)
    return Descent(np.asarray(losses), np.asarray(kernels)[:, :, :, 0, 0], np.asarray(target)[:, :, 0, 0])


def dropout(seed: int = 0, rate: float = 0.5, layers: tuple[int, ...] = (5, 6, 6, 1), steps: int = 2) -> Dropout:
    """Dropout masks of a small fully connected network, at some training steps and at test time.

    A mask is the result of the package's dropout for an input of ones: 0 where a node is dropped, and 1 / (1 - rate)
    elsewhere. The output layer is never dropped. layers: the number of nodes in each layer.
    """

    def masks(key: Any) -> tuple[np.ndarray, ...]:
        hidden = []
        for layer, nodes in enumerate(layers[:-1]):
            hidden.append(np.asarray(drop(jnp.ones((1, nodes)), rate, key, layer))[0])
        return (*hidden, np.ones(layers[-1], np.float32))

    keys = jax.random.split(jax.random.key(seed), steps)
    panels = (*(keys[step : step + 1] for step in range(steps)), None)
    titles = (*(f"training step {step + 1}" for step in range(steps)), "test time")
    return Dropout(rate, tuple(map(masks, panels)), titles)


def receptive_field(depth: int, side: int = 9) -> ReceptiveField:
    """Count the paths from each value to the center of the last of `depth` stacked 3×3 convolutions.

    If all weights are one, the gradient of the output with respect to a value is its number of paths. side: height and
    width of the input in pixels.
    """
    ones = jnp.ones((3, 3, 1, 1))

    def center(value, layers):
        for _ in range(layers):
            value = ops.conv(value, ones, 1, "SAME")
        return value[0, side // 2, side // 2, 0]

    gradient = jax.grad(center)
    start = jnp.ones((1, side, side, 1))
    paths = tuple(np.asarray(gradient(start, layers))[0, :, :, 0] for layers in range(depth, -1, -1))
    return ReceptiveField(depth, paths, int((paths[0] != 0).any(axis=0).sum()))


def compute_all(image: Float[np.ndarray, "32 32 3"]) -> WorkedExamples:
    """Compute all examples. The ten filters of section 2.1 are applied to `image`, with values in [0, 1]."""
    return WorkedExamples(
        convolution(),
        volume(image),
        strides(),
        padding(),
        pooling(),
        hyperparameters(),
        descent(),
        dropout(),
        dropout(steps=8),
        tuple(receptive_field(depth) for depth in (2, 3)),
    )


def numbers(examples: WorkedExamples) -> dict[str, Any]:
    """Everything that the captions state, as JSON-able data."""
    maps = examples.volume.maps
    return {
        "map": examples.convolution.map.astype(int).tolist(),
        "first_products": examples.convolution.products[0, 0].astype(int).tolist(),
        "image_shape": list(examples.volume.image.shape),
        "kernel_shape": list(examples.volume.kernels.shape),
        "maps_shape": list(maps.shape),
        "pooled_shape": list(examples.volume.pooled.shape),
        "volume_parameters": int(examples.volume.kernels.size + examples.volume.kernels.shape[-1]),
        "flattened": int(examples.volume.pooled.size),
        "filter_names": list(examples.volume.names),
        "negative_fraction": float((maps < 0).mean()),
        "stride_map_sizes": {str(stride): int(strided.shape[0]) for stride, strided in examples.strides.maps.items()},
        "stride_image_size": int(examples.strides.image.shape[0]),
        "padding_map_sizes": {
            "same": int(examples.padding.same.shape[0]),
            "valid": int(examples.padding.valid.shape[0]),
        },
        "pooled": examples.pooling.map.astype(int).tolist(),
        "hyperparameters": [row._asdict() | {"shape": list(row.shape)} for row in examples.hyperparameters],
        "descent": {
            "steps": len(examples.descent.losses) - 1,
            "first_loss": float(examples.descent.losses[0]),
            "last_loss": float(examples.descent.losses[-1]),
            "largest_error": float(np.abs(examples.descent.kernels[-1] - examples.descent.target).max()),
        },
        "dropout": {
            "rate": examples.dropout.rate,
            "dropped": [
                {"step": title, "nodes": sum(map(len, masks)), "dropped": int(sum((m == 0).sum() for m in masks))}
                for title, masks in zip(examples.dropout.titles, examples.dropout.masks, strict=True)
            ],
        },
        "receptive_fields": [
            {"depth": f.depth, "size": f.size, "weights": 9 * f.depth, "single": f.size**2}
            for f in examples.receptive_fields
        ],
    }
