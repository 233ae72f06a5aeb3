"""Image files without labels, decoded when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnjax.data.decode import decode, to_grey
from cnnjax.errors import UserError
from cnnjax.image_size import to_size


@dataclass(frozen=True)
class PlainImages:
    """A split of image files, RGB or grey by `channels`, each resized to `image_size`; every label is 0."""

    files: Sequence[Path]
    image_size: int | tuple[int, int]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises UserError for a file that is not an image, or a broken one."""
        file = self.files[index]
        try:
            image = decode(file, to_size(self.image_size))
        except Exception as error:  # Pillow's decoders raise many kinds
            raise UserError(f"{file} cannot be read as an image ({error}): repair it, or take it away") from error
        return {"image": to_grey(image) if self.channels == 1 else image, "label": 0}
