"""Single images to look at through a network: the CC0 cat in this package (see CREDITS.md), or a user's own."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cnnjax.data.decode import LUMA, decode
from cnnjax.errors import UserError, missing
from cnnjax.image_size import to_size

CHELSEA = Path(__file__).with_name("chelsea.png")
CREDIT = "Chelsea the cat, photograph by Stefan van der Walt, CC0; from scikit-image."
FACE = (85, 0, 385, 300)  # left, top, right, bottom: the square around the cat's face


def chelsea() -> UInt8[np.ndarray, "300 451 3"]:
    """The full photograph of Chelsea the cat. CC0, by Stefan van der Walt."""
    with Image.open(CHELSEA) as image:
        return np.array(image.convert("RGB"))


def chelsea_face(image_size: int | tuple[int, int] = 150) -> Float[np.ndarray, "height width 3"]:
    """The square around Chelsea's face, RGB in [0, 1]; 150 is the article's size (section 6.1)."""
    with Image.open(CHELSEA) as image:
        face = image.convert("RGB").resize(to_size(image_size)[::-1], Image.Resampling.LANCZOS, box=FACE)
    return np.asarray(face, np.float32) / 255


def in_channels(images: Float[np.ndarray, "*shape 3"], channels: int) -> Float[np.ndarray, "*shape {channels}"]:
    """RGB images as a network of so many channels takes them: as they are, or grey.

    Raises UserError for other numbers of channels.
    """
    if channels not in (1, 3):
        raise UserError(f"the network's images have {channels} channels: files are read as RGB or grey only")
    return images if channels == 3 else images @ LUMA.astype(np.float32)[:, None]


def load_image(path: Path, image_size: int | tuple[int, int], crop: float = 0.0) -> Float[np.ndarray, "height width 3"]:
    """An image file as RGB in [0, 1], resized as the training images are, or cropped (`decode`).

    Raises UserError when the file is missing, is not an image or is broken.
    """
    if not path.is_file():
        raise missing("there is no image", path, "give the path of a JPEG, PNG or WebP file")
    try:
        image = decode(path, image_size, crop)
    except Exception as error:  # Pillow's decoders raise many kinds
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({reason}): replace this file") from error
    return image.astype(np.float32) / 255
