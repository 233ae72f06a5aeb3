"""Single pictures to look at through a network: the CC0 cat in this package (see CREDITS.md), or a user's own."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cnnjax.data.decode import decode
from cnnjax.errors import UserError

CHELSEA = Path(__file__).with_name("chelsea.png")
CREDIT = "Chelsea the cat, photograph by Stefan van der Walt, CC0; from scikit-image."
FACE = (85, 0, 385, 300)  # left, top, right, bottom: the square around the cat's face


def chelsea() -> UInt8[np.ndarray, "300 451 3"]:
    """The whole photograph of Chelsea the cat. CC0, by Stefan van der Walt."""
    with Image.open(CHELSEA) as picture:
        return np.array(picture.convert("RGB"))


def chelsea_face(side: int = 150) -> Float[np.ndarray, "{side} {side} 3"]:
    """The square around Chelsea's face, RGB in [0, 1]; 150 is the article's side (section 6.1)."""
    with Image.open(CHELSEA) as picture:
        face = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=FACE)
    return np.asarray(face, np.float32) / 255


def load_picture(path: Path, side: int, crop: float = 0.0) -> Float[np.ndarray, "{side} {side} 3"]:
    """A picture file as RGB in [0, 1], resized whole to a square as the training pictures are, or cropped (`decode`).

    Raises UserError when the file is missing, is not a picture or is broken.
    """
    if not path.is_file():
        raise UserError(f"there is no picture {path}: give the path of a JPEG, PNG or WebP file")
    try:
        picture = decode(path, side, crop)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UserError(f"{path} cannot be read as a picture ({type(error).__name__}): is it broken?") from error
    return picture.astype(np.float32) / 255
