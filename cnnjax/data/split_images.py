"""The images of a user's own split, which are read again whenever they are needed."""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, Integer, UInt8

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
        return to_images(image[None] if image.ndim > 1 else image, f"example {index}")[0], to_labels(
            label[None], f"example {index}"
        )[0]

    @classmethod
    def scan(cls, split: Any, images: np.ndarray | None) -> tuple["SplitImages", np.ndarray]:
        """Reads every example once, by threads. The images are written into `images` unless it is None.

        Returns the lazy images, with their statistics, and the labels.
        """
        first, label = cls.example(split, 0)
        labels = np.empty((len(split), *label.shape), label.dtype)
        histogram = np.zeros((first.shape[-1], 256), np.int64)
        total, squares, checksum = np.zeros(first.shape[-1]), np.zeros(first.shape[-1]), 0
        for index, (image, label) in enumerate(_examples(split)):
            _check_alike(image, first.shape, first.dtype, index)
            if label.shape != labels.shape[1:] or label.dtype != labels.dtype:
                raise UserError(f"example {index} has a label unlike the first example's: use one kind of labels")
            labels[index] = label
            if images is not None:
                images[index] = image
            elif image.dtype == np.uint8:
                histogram += channel_histogram(image)
            else:
                total += image.sum(axis=(0, 1), dtype=np.float64)
                squares += np.square(image, dtype=np.float64).sum(axis=(0, 1))
            if images is None:
                checksum = zlib.crc32(np.ascontiguousarray(image), checksum)
        mean = total / (len(labels) * first.shape[0] * first.shape[1])
        variance = squares / (len(labels) * first.shape[0] * first.shape[1]) - mean**2
        floating = first.dtype != np.uint8
        statistics = (None, np.stack([mean, np.maximum(variance, 0)])) if floating else (histogram, None)
        return cls(split, (len(labels), *first.shape), first.dtype, *statistics, checksum), labels


def _examples(split: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with ThreadPoolExecutor(runtime.cores()) as pool:
        for start in range(0, len(split), _WINDOW):
            window = range(start, min(start + _WINDOW, len(split)))
            yield from pool.map(lambda index: SplitImages.example(split, index), window)


def _check_alike(image: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, index: int) -> None:
    if image.shape != tuple(shape) or image.dtype != dtype:
        raise UserError(
            f"example {index} has an image of shape {image.shape} and type {image.dtype}, where the first has "
            f"{tuple(shape)} and {dtype}: bring all images to one shape and type"
        )
