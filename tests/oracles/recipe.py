"""Pseudo-random numbers from integer arithmetic: the same in every library, so that fixtures need not store them."""

import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1), float32, that follow from the name and the shape."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):  # Wellons' "lowbias32" hash
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return ((x >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - 1).reshape(shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter of torchvision's ResNet by its name and shape there: kernels keep the variance, all others matter.

    The last scale of a residual branch is small, as with torchvision's `zero_init_residual`. With 1 in its place a
    change of 1e-6 in the weights changes torchvision's own logits, in float64, by 2 to 5% within five steps; with
    the small scale by 2e-5 at most.
    """
    if len(shape) > 1:
        gain = 6 if len(shape) == 4 else 3
        return uniform(name, shape) * np.float32((gain / np.prod(shape[1:])) ** 0.5)
    if name.endswith("weight"):
        scale = 1 + uniform(name, shape) / 4
        return scale / 10 if name.endswith("bn2.weight") else scale
    return uniform(name, shape) / 10


def images(step: int, batch: int = 8, side: int = 64) -> np.ndarray:
    """Normalized images (batch, side, side, 3)."""
    return 2 * uniform(f"images {step}", (batch, side, side, 3))


def labels(step: int, classes: int, batch: int = 8) -> np.ndarray:
    return ((uniform(f"labels {step}", (batch,)) + 1) / 2 * classes).astype(np.int32)


def sample(array: np.ndarray, count: int = 8) -> np.ndarray:
    """Sum, sum of magnitudes, and some elements spread over the array, as it lies in memory in PyTorch's layout."""
    flat = np.asarray(array, np.float64).reshape(-1)
    spread = flat[np.linspace(0, flat.size - 1, count).astype(int)]
    return np.array([flat.sum(), np.abs(flat).sum(), *spread]).astype(np.float32)


def small_cnn(
    channels: tuple[int, ...], dense: tuple[int, ...], logits: int, side: int
) -> dict[str, dict[str, np.ndarray]]:
    """Parameters of the article's network by this package's names, in this package's layout."""
    shapes, before = {}, 3
    for i, units in enumerate(channels, 1):
        shapes[f"conv_{i}"], before = (3, 3, before, units), units
    before *= (side >> len(channels)) ** 2
    for name, units in zip(("dense_1", "dense_2", "output"), (*dense, logits), strict=True):
        shapes[name], before = (before, units), units
    gains = {name: np.float32((6 / np.prod(shape[:-1])) ** 0.5) for name, shape in shapes.items()}
    return {
        name: {
            "kernel": uniform(f"{name} kernel", shape) * gains[name],
            "bias": uniform(f"{name} bias", shape[-1:]) / 10,
        }
        for name, shape in shapes.items()
    }
