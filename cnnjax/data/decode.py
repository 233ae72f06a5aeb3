"""Decoding of an image file of any common kind to uint8 RGB of a given size."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from cnnjax.image_size import to_size

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
_TURNED = (5, 6, 7, 8)  # of these, height and width are exchanged


def decode(
    source: str | Path | bytes, image_size: int | tuple[int, int], crop: float = 0.0
) -> UInt8[np.ndarray, "height width 3"]:
    """The first frame of an image, from its file or the file's content, upright, as RGB.

    The entire image is resized to `image_size`, one number for a square or (height, width), without keeping its aspect
    (as the article's Keras generators do), by antialiased bilinear interpolation. With `crop` it is instead the largest
    central box of the new aspect, times `crop`: for squares, 224/256 is "resize the short side to 256 and take the
    central 224", as networks trained on ImageNet are evaluated.
    Grey and palette images become RGB, transparency is composited on white, 16 bits become 8.
    Raises what Pillow raises (exceptions of many kinds) when the file is broken.
    """
    if not isinstance(source, bytes):
        with open(source, "rb", buffering=0) as file:  # at once: Pillow's many small reads are slow
            source = file.read()
    try:
        opened = Image.open(io.BytesIO(source))
    except UnidentifiedImageError:
        raise UnidentifiedImageError("it is not an image") from None  # Pillow would name the buffer
    height, width = to_size(image_size)
    with opened as image:
        orientation = _orientation(image)
        size = (height, width) if orientation in _TURNED else (width, height)  # before it is turned upright
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 for much less work; never smaller than the result. Published
        # networks are evaluated without such shortcuts.
        if not crop:
            image.draft(None, size)
        rgb = _to_rgb(image)
    box, gap = (_central(rgb.size, size, crop), None) if crop else (None, 3.0)
    small = rgb.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=gap)
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    return np.frombuffer(small.tobytes(), np.uint8).reshape(height, width, 3)


def _central(size: tuple[int, int], aspect: tuple[int, int], crop: float) -> tuple[float, float, float, float]:
    width, height = size
    scale = min(width / aspect[0], height / aspect[1]) * crop
    across, down = aspect[0] * scale, aspect[1] * scale
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a mangled EXIF block raises almost anything, and the image is good without it
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255.
        grey = np.clip(np.asarray(image, np.int64), 0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image
