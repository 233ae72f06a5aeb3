"""The article's section 2 in numbers: small worked examples, each computed by the library's own operations.

Every function is pure and returns arrays; `figures.lessons` draws them and `numbers` states them for the captions.
The inputs are the article's (its 5×5 picture and 3×3 filter) or follow from a key; no result is typed in.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cnnjax import ops
from cnnjax.models.layers import dropout as drop

# Article, section 2.1.
PICTURE = ((1, 1, 1, 0, 0), (0, 1, 1, 1, 0), (0, 0, 1, 1, 1), (0, 0, 1, 1, 0), (0, 1, 1, 0, 0))
FILTER = ((1, 0, 1), (0, 1, 0), (1, 0, 1))
# Section 2.4 draws a 4×4 map with four windows.
UNPOOLED = ((1, 1, 2, 4), (5, 6, 7, 8), (3, 2, 1, 0), (1, 2, 3, 4))


class Convolution(NamedTuple):
    """Section 2.1: a filter slid over a picture. `products` holds window × filter at every position."""

    picture: np.ndarray  # (height, width)
    kernel: np.ndarray  # (side, side)
    products: np.ndarray  # (rows, columns, side, side)
    map: np.ndarray  # (rows, columns)


class Volume(NamedTuple):
    """Section 2.1 in three dimensions: ten filters make ten maps; section 2.4 halves them."""

    picture: np.ndarray  # (32, 32, 3) in [0, 1]
    kernels: np.ndarray  # (5, 5, 3, 10)
    names: tuple[str, ...]
    maps: np.ndarray  # (32, 32, 10)
    rectified: np.ndarray  # (32, 32, 10), section 2.2
    pooled: np.ndarray  # (16, 16, 10)


class Strides(NamedTuple):
    """Section 2.3: the same picture and filter at stride 1 and at stride 2."""

    picture: np.ndarray  # (7, 7)
    kernel: np.ndarray  # (3, 3)
    maps: dict[int, np.ndarray]  # stride -> map


class Padding(NamedTuple):
    """Section 2.3: with a ring of zeros the map keeps the picture's size."""

    picture: np.ndarray  # (5, 5)
    padded: np.ndarray  # (7, 7)
    kernel: np.ndarray  # (3, 3)
    same: np.ndarray  # (5, 5)
    valid: np.ndarray  # (3, 3)


class Pooling(NamedTuple):
    """Section 2.4: the greatest value of every 2×2 window."""

    picture: np.ndarray  # (4, 4)
    map: np.ndarray  # (2, 2)


class Choice(NamedTuple):
    """Section 2.5: what one choice of hyperparameters does to a 32×32×3 input."""

    size: int
    count: int
    stride: int
    padding: str
    shape: tuple[int, int, int]
    parameters: int


class Descent(NamedTuple):
    """Section 2.7: a filter learned by gradient descent from a picture and the map that it should give."""

    losses: np.ndarray  # (steps + 1,)
    kernels: np.ndarray  # (steps + 1, 3, 3)
    target: np.ndarray  # (3, 3)


class Dropout(NamedTuple):
    """Section 4.1: which nodes of a small network take part, at training steps and at test time."""

    rate: float
    masks: tuple[tuple[np.ndarray, ...], ...]  # panel -> layer -> (nodes,): 0 where dropped, else the factor applied
    titles: tuple[str, ...]


class Field(NamedTuple):
    """Section 5: the pixels that one output of stacked 3×3 convolutions sees, and by how many paths."""

    depth: int
    paths: tuple[np.ndarray, ...]  # input first, output last: (side, side), the number of paths to the output
    size: int  # side of the receptive field


class Lessons(NamedTuple):
    """All of them, as `figures.lessons` draws them."""

    convolution: Convolution
    volume: Volume
    strides: Strides
    padding: Padding
    pooling: Pooling
    choices: tuple[Choice, ...]
    descent: Descent
    dropout: Dropout
    fields: tuple[Field, ...]


def _convolve(picture: Any, kernel: Any, stride: int = 1, padding: str = "VALID") -> np.ndarray:
    picture, kernel = jnp.asarray(picture, jnp.float32), jnp.asarray(kernel, jnp.float32)
    return np.asarray(ops.conv(picture[None, :, :, None], kernel[:, :, None, None], stride, padding))[0, :, :, 0]


def convolution() -> Convolution:
    """The article's 5×5 picture and 3×3 filter, window by window."""
    picture, kernel = np.asarray(PICTURE, np.float32), np.asarray(FILTER, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(picture, kernel.shape)
    return Convolution(picture, kernel, windows * kernel, _convolve(picture, kernel))


def filters() -> tuple[Float[np.ndarray, "5 5 3 10"], tuple[str, ...]]:
    """Ten 5×5×3 filters of the kinds that first layers learn, and their names; absolute weights sum to one."""
    y, x = np.mgrid[-2:3, -2:3].astype(np.float32)
    blob = np.exp(-(x**2 + y**2) / 2)
    grey, red, blue = (1, 1, 1), (1, -1, 0), (-0.5, -0.5, 1)
    bank = {
        "blur": (blob, grey),
        "upright edge": (x * blob, grey),
        "level edge": (y * blob, grey),
        "falling edge": ((x + y) * blob, grey),
        "rising edge": ((x - y) * blob, grey),
        "upright line": ((1 - x**2) * blob, grey),
        "level line": ((1 - y**2) * blob, grey),
        "spot": ((2 - x**2 - y**2) * blob, grey),
        "red, not green": (blob, red),
        "blue, not yellow": (blob, blue),
    }
    kernels = np.stack([shape[:, :, None] * np.asarray(colour, np.float32) for shape, colour in bank.values()], axis=-1)
    # Derivative filters must not answer to flat areas.
    detectors = np.arange(1, 8)
    kernels[..., detectors] -= kernels[..., detectors].mean(axis=(0, 1), keepdims=True)
    return kernels / np.abs(kernels).sum(axis=(0, 1, 2), keepdims=True), tuple(bank)


def volume(picture: Float[np.ndarray, "32 32 3"]) -> Volume:
    """A 32×32×3 picture in [0, 1] through ten 5×5×3 filters (padded), relu and 2×2 pooling."""
    kernels, names = filters()
    maps = ops.conv(jnp.asarray(picture)[None], jnp.asarray(kernels), 1, "SAME")
    rectified = jax.nn.relu(maps)
    pooled = ops.max_pool(rectified, 2)
    return Volume(picture, kernels, names, *(np.asarray(a)[0] for a in (maps, rectified, pooled)))


def strides(seed: int = 0) -> Strides:
    """A 7×7 picture of zeros and ones under the article's filter, at strides 1 and 2."""
    picture = np.asarray(jax.random.bernoulli(jax.random.key(seed), 0.5, (7, 7)), np.float32)
    kernel = np.asarray(FILTER, np.float32)
    return Strides(picture, kernel, {stride: _convolve(picture, kernel, stride) for stride in (1, 2)})


def padding() -> Padding:
    """The article's picture with and without a ring of zeros."""
    picture, kernel = np.asarray(PICTURE, np.float32), np.asarray(FILTER, np.float32)
    same, valid = (_convolve(picture, kernel, 1, kind) for kind in ("SAME", "VALID"))
    return Padding(picture, np.pad(picture, 1), kernel, same, valid)


def pooling() -> Pooling:
    """Max pooling of a 4×4 map, window 2×2, stride 2."""
    picture = np.asarray(UNPOOLED, np.float32)
    return Pooling(picture, np.asarray(ops.max_pool(jnp.asarray(picture)[None, :, :, None], 2))[0, :, :, 0])


def choices() -> tuple[Choice, ...]:
    """Filter size, count, stride and padding, one changed at a time, on a 32×32×3 input (section 2.5)."""
    rows, usual = [], (3, 32, 1, "SAME")
    changed = ((5, 32, 1, "SAME"), (7, 32, 1, "SAME"), (3, 128, 1, "SAME"), (3, 32, 2, "SAME"), (3, 32, 1, "VALID"))
    for size, count, stride, kind in (usual, *changed):
        kernel = jax.ShapeDtypeStruct((size, size, 3, count), jnp.float32)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        # stride and padding are bound by defaults: they are static, and the loop goes on.
        shape = jax.eval_shape(lambda x, w, s=stride, p=kind: ops.conv(x, w, s, p), image, kernel).shape[1:]
        rows.append(Choice(size, count, stride, kind.lower(), shape, kernel.size + count))
    return tuple(rows)


def descent(seed: int = 0, steps: int = 60, rate: float = 0.1) -> Descent:
    """Find the article's filter from a random 12×12 picture and its map, by gradient descent from zeros."""
    picture = jax.random.normal(jax.random.key(seed), (1, 12, 12, 1))
    target = jnp.asarray(FILTER, jnp.float32)[:, :, None, None]
    wanted = ops.conv(picture, target, 1, "VALID")

    def loss(kernel):
        return jnp.mean((ops.conv(picture, kernel, 1, "VALID") - wanted) ** 2)

    def step(kernel, _):
        value, gradient = jax.value_and_grad(loss)(kernel)
        return kernel - rate * gradient, (value, kernel)

    _, (losses, kernels) = jax.lax.scan(step, jnp.zeros_like(target), length=steps + 1)
    return Descent(np.asarray(losses), np.asarray(kernels)[:, :, :, 0, 0], np.asarray(target)[:, :, 0, 0])


def dropout(seed: int = 0, rate: float = 0.5, layers: tuple[int, ...] = (5, 6, 6, 1)) -> Dropout:
    """Masks of a small fully connected network at two training steps and at test time; the output is never dropped.

    The mask is what the library's dropout makes of ones: 0 where a node is dropped, 1 / (1 - rate) where it stays.
    """

    def masks(key: Any) -> tuple[np.ndarray, ...]:
        hidden = []
        for layer, nodes in enumerate(layers[:-1]):
            hidden.append(np.asarray(drop(jnp.ones((1, nodes)), rate, key, layer))[0])
        return (*hidden, np.ones(layers[-1], np.float32))

    keys = jax.random.split(jax.random.key(seed), 2)
    panels = (keys[:1], keys[1:], None)
    return Dropout(rate, tuple(map(masks, panels)), ("training step 1", "training step 2", "test time"))


def field(depth: int, side: int = 9) -> Field:
    """How many paths lead from each value to the centre of the last of `depth` stacked 3×3 convolutions.

    With filters of ones the gradient of an output with respect to a value is that number of paths.
    """
    ones = jnp.ones((3, 3, 1, 1))

    def centre(value, layers):
        for _ in range(layers):
            value = ops.conv(value, ones, 1, "SAME")
        return value[0, side // 2, side // 2, 0]

    gradient = jax.grad(centre)
    start = jnp.ones((1, side, side, 1))
    paths = tuple(np.asarray(gradient(start, layers))[0, :, :, 0] for layers in range(depth, -1, -1))
    return Field(depth, paths, int((paths[0] != 0).any(axis=0).sum()))


def every(picture: Float[np.ndarray, "32 32 3"]) -> Lessons:
    """All lessons; `picture` in [0, 1] is the one that the ten filters look at."""
    return Lessons(
        convolution(),
        volume(picture),
        strides(),
        padding(),
        pooling(),
        choices(),
        descent(),
        dropout(),
        tuple(field(depth) for depth in (2, 3)),
    )


def numbers(lessons: Lessons) -> dict[str, Any]:
    """What the captions say, as JSON-able data."""
    maps = lessons.volume.maps
    return {
        "map": lessons.convolution.map.astype(int).tolist(),
        "first_products": lessons.convolution.products[0, 0].astype(int).tolist(),
        "picture_shape": list(lessons.volume.picture.shape),
        "kernel_shape": list(lessons.volume.kernels.shape),
        "maps_shape": list(maps.shape),
        "pooled_shape": list(lessons.volume.pooled.shape),
        "volume_parameters": int(lessons.volume.kernels.size + lessons.volume.kernels.shape[-1]),
        "flattened": int(lessons.volume.pooled.size),
        "filter_names": list(lessons.volume.names),
        "negative_share": float((maps < 0).mean()),
        "stride_sides": {str(stride): int(map.shape[0]) for stride, map in lessons.strides.maps.items()},
        "stride_picture": int(lessons.strides.picture.shape[0]),
        "padding_sides": {"same": int(lessons.padding.same.shape[0]), "valid": int(lessons.padding.valid.shape[0])},
        "pooled": lessons.pooling.map.astype(int).tolist(),
        "choices": [choice._asdict() | {"shape": list(choice.shape)} for choice in lessons.choices],
        "descent": {
            "steps": len(lessons.descent.losses) - 1,
            "first_loss": float(lessons.descent.losses[0]),
            "last_loss": float(lessons.descent.losses[-1]),
            "largest_error": float(np.abs(lessons.descent.kernels[-1] - lessons.descent.target).max()),
        },
        "dropout": {
            "rate": lessons.dropout.rate,
            "dropped": [
                {"panel": title, "nodes": sum(map(len, masks)), "dropped": int(sum((m == 0).sum() for m in masks))}
                for title, masks in zip(lessons.dropout.titles, lessons.dropout.masks, strict=True)
            ],
        },
        "fields": [
            {"depth": f.depth, "size": f.size, "weights": 9 * f.depth, "single": f.size**2} for f in lessons.fields
        ],
    }
