"""Kernels rounded to int8 with one scale for each output channel, and back to float32.

Symmetric rounding by channel (Krishnamoorthi 2018, arXiv:1806.08342, section 2.3): a kernel takes a quarter of its
bytes, and no other array is changed.
"""

from collections.abc import Mapping

import numpy as np

from cnnjax.formats.lazy_tensors import Damaged, Tensor, read_all

LARGEST = 127
SCALES = "scales/"
"""Prefix of the scales' names; after it comes the name of the array that is stored as int8."""


def quantize(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float32 kernel (…, outputs), as int8 of the same shape, and the scales, float32 (outputs,).

    A scale is max|w| / 127 of its output channel, and each number is w / scale, rounded half to even: so it is within
    half a scale of the true one. A channel of zeros has scale 0.
    Raises ValueError for numbers that are not finite.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), initial=0)
    if not np.isfinite(largest).all():
        raise ValueError("numbers that are not finite cannot be rounded")
    scales = largest / np.float32(LARGEST)
    safe = np.where(scales > 0, scales, np.float32(1))
    # Where a scale is so small that it has itself lost digits, its largest number would not fit.
    rounded = np.clip(np.rint(kernel / safe), -LARGEST, LARGEST)
    return np.where(scales > 0, rounded, np.float32(0)).astype(np.int8), scales


def is_rounded(name: str, array: np.ndarray) -> bool:
    """Whether the int8 format rounds this array of a network: its float32 kernels. Biases, the arrays of batch
    normalization and the normalizer stay as they are."""
    return name.startswith("params/") and array.dtype == np.float32 and array.ndim >= 2


def with_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors, where every int8 array that has scales is float32. Raises Damaged for scales that do not fit.

    The numbers are multiplied when their rows are read.
    """
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(SCALES)}
    for name in tensors.keys() - found.keys():
        of, scales = name.removeprefix(SCALES), tensors[name]
        tensor = found.get(of)
        if tensor is None or tensor.dtype != np.int8 or not tensor.shape:
            raise Damaged(f"{name} belongs to no int8 array")
        if scales.dtype != np.float32 or scales.shape != tensor.shape[-1:]:
            raise Damaged(f"{name} is {scales.dtype} {scales.shape}, not float32 {tensor.shape[-1:]}")
        found[of] = _float32(tensor, read_all(scales))
    return found


def _float32(tensor: Tensor, scales: np.ndarray) -> Tensor:
    def rows(first: int, last: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # A scale may be infinite; the reader of the file says so.
            return tensor.rows(first, last).astype(np.float32) * scales

    return tensor._replace(dtype=np.dtype(np.float32), rows=rows)
