"""An encoded picture of any common kind to a square of uint8 RGB."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

# How to undo each EXIF orientation; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: str | Path | bytes, side: int, crop: float = 0.0) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The first frame of a picture, from its file or the file's content, upright, as side × side RGB.

    The whole picture is resized, without keeping its aspect (as the article's Keras generators do), by antialiased
    bilinear interpolation; or, with `crop`, the square in its middle that is this share of its short side: 224/256 is
    "resize the short side to 256 and take the middle 224", as networks trained on ImageNet are evaluated.
    Grey and palette pictures become RGB, transparency is composited on white, 16 bits become 8.
    Raises what Pillow raises (exceptions of many kinds) when the file is broken.
    """
    if not isinstance(source, bytes):
        with open(source, "rb", buffering=0) as file:  # at once: Pillow reads piece by piece, a small file for long
            source = file.read()
    try:
        opened = Image.open(io.BytesIO(source))
    except UnidentifiedImageError:
        raise UnidentifiedImageError("it is not a picture") from None  # Pillow would name the buffer
    with opened as picture:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 for much less work; never smaller than what is asked. What published
        # networks are evaluated with has no such shortcuts.
        if not crop:
            picture.draft(None, (side, side))
        orientation = _orientation(picture)
        rgb = _to_rgb(picture)
    box, gap = (_middle(rgb.size, crop), None) if crop else (None, 3.0)
    small = rgb.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=gap)
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    return np.frombuffer(small.tobytes(), np.uint8).reshape(side, side, 3)


def _middle(size: tuple[int, int], crop: float) -> tuple[float, float, float, float]:
    width, height = size
    square = min(size) * crop
    left, top = (width - square) / 2, (height - square) / 2
    return left, top, left + square, top + square


def _orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a mangled EXIF block raises almost anything, and the picture is good without it
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255.
        grey = np.clip(np.asarray(picture, np.int64), 0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode != "RGB":
        return picture.convert("RGB")
    picture.load()
    return picture
