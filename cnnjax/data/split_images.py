"""The images of a user's own split, which are read again whenever they are needed."""

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, Integer, UInt8

from cnnjax import runtime
from cnnjax.data.convert import to_images, to_labels
from cnnjax.data.lazy_images import channel_histogram
from cnnjax.errors import UserError

_WINDOW = 64  # examples that are read ahead


@dataclass(frozen=True, eq=False)
class SplitImages:
    """The images of a user's own split, read by its `__getitem__` when they are indexed.

    Behaves as an array (images, height, width, channels) of uint8 or float32.
    """

    split: Any
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    histogram: Int64[np.ndarray, "channels 256"] | None
    """How often each value of each channel occurs; None if the images are floating point."""
    moments: Float64[np.ndarray, "2 channels"] | None
    """Mean and variance of each channel if the images are floating point."""
    checksum: int
    """CRC32 of all images."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(
        self, indices: int | np.integer | Integer[np.ndarray, " n"]
    ) -> UInt8[np.ndarray, "*n h w c"] | Float32[np.ndarray, "*n h w c"]:
        """One image, or an array of several. Raises UserError where an example is not as it was at first."""
        if np.ndim(indices) == 0:
            return self._read(indices)
        images = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for slot, index in enumerate(indices):
            images[slot] = self._read(index)
        return images

    def fingerprint(self) -> int:
        """A checksum of all images."""
        return self.checksum

    def _read(self, index: int | np.integer) -> np.ndarray:
        image, _ = self.example(self.split, int(index))
        _check_alike(image, self.shape[1:], self.dtype, int(index))
        return image

    @staticmethod
    def example(split: Any, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An example's image, (h, w, c) of uint8 or float32, and its label, int32 () or float32 (classes,).

        Raises UserError where they are something else.
        """
        found = split[index]
        try:
            image, label = np.asarray(found["image"]), np.asarray(found["label"])
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(
                f'example {index} of the split is no mapping with "image" and "label" ({type(found).__name__}): '
                "return {'image': array, 'label': number}"
            ) from error
        where = f"example {index}"
        images = to_images(image[None] if image.ndim > 1 else image, where)
        return images[0], np.asarray(to_labels(label[None], where)[0])


def read_split(
    split: Any, fits: Callable[[int], bool]
) -> tuple[np.ndarray | SplitImages, Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]]:
    """Reads every example of a user's split once, by threads.

    Returns all images as an array if `fits(their bytes)`, else as `SplitImages`; and the labels. Raises UserError for
    an example that is not as `dataset.Split` says, or unlike the first one.
    """
    first, first_label = SplitImages.example(split, 0)
    shape = (len(split), *first.shape)
    images = np.empty(shape, first.dtype) if fits(len(split) * first.nbytes) else None
    labels = np.empty((len(split), *first_label.shape), first_label.dtype)
    statistics = _Statistics(first)
    for index, (image, label) in enumerate(chain([(first, first_label)], _examples(split, 1))):
        _check_alike(image, first.shape, first.dtype, index)
        if label.shape != labels.shape[1:] or label.dtype != labels.dtype:
            raise UserError(f"example {index} has a label unlike the first example's: use one kind of labels")
        labels[index] = label
        if images is None:
            statistics.add(image)
        else:
            images[index] = image
    if images is None:
        images = SplitImages(split, shape, first.dtype, *statistics.result(), statistics.checksum)
    return images, labels


class _Statistics:
    """What `SplitImages` keeps of all images."""

    def __init__(self, image: np.ndarray) -> None:
        channels = image.shape[-1]
        self.histogram = np.zeros((channels, 256), np.int64) if image.dtype == np.uint8 else None
        self.sums = np.zeros((2, channels))
        self.pixels = 0
        self.checksum = 0

    def add(self, image: np.ndarray) -> None:
        self.checksum = zlib.crc32(np.ascontiguousarray(image), self.checksum)
        if self.histogram is not None:
            self.histogram += channel_histogram(image)
            return
        exact = image.astype(np.float64)
        self.sums += np.stack([exact.sum(axis=(0, 1)), np.square(exact).sum(axis=(0, 1))])
        self.pixels += image.shape[0] * image.shape[1]

    def result(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.histogram is not None:
            return self.histogram, None
        mean, square = self.sums / self.pixels
        return None, np.stack([mean, np.maximum(square - mean**2, 0)])


def _examples(split: Any, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with ThreadPoolExecutor(runtime.cores()) as pool:
        for start in range(first, len(split), _WINDOW):
            window = range(start, min(start + _WINDOW, len(split)))
            yield from pool.map(lambda index: SplitImages.example(split, index), window)


def _check_alike(image: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, index: int) -> None:
    if image.shape != tuple(shape) or image.dtype != dtype:
        raise UserError(
            f"example {index} has an image of shape {image.shape} and type {image.dtype}, where the first has "
            f"{tuple(shape)} and {dtype}: bring all images to one shape and type"
        )
