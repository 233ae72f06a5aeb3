"""Images that stay encoded in their files: an index in memory, decoded where and when they are asked for."""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from cnnjax.data.decode import decode
from cnnjax.errors import UserError
from cnnjax.image_size import to_size


def channel_histogram(images: UInt8[np.ndarray, "*images channels"]) -> Int64[np.ndarray, "channels 256"]:
    """How often each value of each channel occurs."""
    return np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[-1])])


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images in encoded files, RGB uint8 when decoded. Behaves as an array (images, height, width, 3) that is indexed
    by a number or by an array of numbers.

    All of them have been decoded once (`load_images.scan`): there is none that is broken.
    """

    place: str
    """The data set's name for messages, such as the folder or tfds:NAME."""
    read: Callable[[str], str | Path | bytes]
    """The file of a name, or the file's content. It can be sent to another process."""
    names: np.ndarray
    """Bytes (images,), as the file system encodes names."""
    histogram: Int64[np.ndarray, "3 256"]
    """How often each value of red, green and blue occurs in all the decoded images."""
    image_size: int | tuple[int, int]
    """One number for squares, or (height, width)."""

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array of all decoded images."""
        return len(self.names), *to_size(self.image_size), 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: int | np.integer | Integer[np.ndarray, " n"]) -> UInt8[np.ndarray, "*n h w 3"]:
        """One image, or an array of several. Raises UserError, with the name, when a file cannot be read any more."""
        if np.ndim(indices) == 0:
            return self._decoded(indices)
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for slot, index in enumerate(indices):
            images[slot] = self._decoded(index)
        return images

    def mean_file_size(self) -> float:
        """Bytes of an encoded image: the mean of a hundred files that are spread evenly."""
        chosen = self.names[np.unique(np.linspace(0, len(self.names) - 1, 100).astype(int))]
        files = [self.read(os.fsdecode(bytes(name))) for name in chosen]
        return float(np.mean([len(file) if isinstance(file, bytes) else Path(file).stat().st_size for file in files]))

    def fingerprint(self) -> int:
        """A checksum of which images these are and of what they hold."""
        return zlib.crc32(np.ascontiguousarray(self.histogram), zlib.crc32(np.ascontiguousarray(self.names)))

    def _decoded(self, index: int | np.integer) -> np.ndarray:
        name = os.fsdecode(bytes(self.names[index]))
        try:
            return decode(self.read(name), to_size(self.image_size))
        except Exception as error:  # damaged files make Pillow raise exceptions of many kinds
            raise UserError(
                f"{self.place}: {name} could be read before and now cannot be ({error}): restore the file, then "
                "continue with resume=True"
            ) from error
