"""Pictures that stay encoded in their files: an index in memory, decoded where and when they are asked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from cnnjax.data.decode import decode
from cnnjax.errors import UserError


def count_colours(images: UInt8[np.ndarray, "*pictures channels"]) -> Int64[np.ndarray, "channels 256"]:
    """How often each value of each colour occurs."""
    return np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[-1])])


@dataclass(frozen=True, eq=False)
class Pictures:
    """What `Split.images` is in a split that is streamed: it has a shape, and gives the pictures that it is indexed by.

    All of them have been decoded once (`gather.survey`): the index holds none that is broken.
    """

    place: str
    """For messages: the folder, or tfds:NAME."""
    read: Callable[[str], str | Path | bytes]
    """The encoded picture of a name: its file, or the file's content. Can be sent to another process."""
    names: np.ndarray
    """Bytes (pictures,), as the file system encodes names."""
    colours: Int64[np.ndarray, "3 256"]
    """How often each value of red, green and blue occurs in all the decoded pictures."""
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the array of the decoded pictures."""
        return len(self.names), self.side, self.side, 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(
        self, indices: int | np.integer | Integer[np.ndarray, " n"]
    ) -> UInt8[np.ndarray, "*n {self.side} {self.side} 3"]:
        """One picture, or an array of several. Raises UserError, with the name, when a file cannot be read any more."""
        if np.ndim(indices) == 0:
            return self._decoded(indices)
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for slot, index in enumerate(indices):
            images[slot] = self._decoded(index)
        return images

    def _decoded(self, index: int | np.integer) -> np.ndarray:
        name = os.fsdecode(bytes(self.names[index]))
        try:
            return decode(self.read(name), self.side)
        except Exception as error:  # damaged files make Pillow raise exceptions of a dozen kinds
            raise UserError(
                f"{self.place}: {name} was read before and now cannot be ({error}): restore it and go on with --resume"
            ) from error
