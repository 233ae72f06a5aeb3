"""Decoding of an image file of any common kind to uint8 RGB of a given size."""

import io
import os
import stat
from collections.abc import Callable
from functools import cache
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
_FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "JPEG2000", "PPM", "TGA", "PCX", "SGI", "QOI",
    "ICO",
)  # fmt: skip
"""Those that Pillow decodes itself. It would give PostScript to another program, whatever the file is called."""
MAX_BYTES = 512 * 2**20
"""The largest file that is read. A device or a link to one may never end."""
MAX_PIXELS = 89_478_485
"""The most pixels of an image: Pillow's own limit, above which it warns. A few bytes can claim any number."""
_NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # neither is on every system
_BAND = 256  # rows converted at a time, where a conversion takes several bytes a pixel
_TURNED = (5, 6, 7, 8)  # of these, height and width are exchanged
LUMA = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue: ITU-R 601-2, as Pillow converts to "L"."""


def decode(
    source: str | Path | bytes, image_size: int | tuple[int, int], crop: float = 0.0
) -> UInt8[np.ndarray, "height width 3"]:
    """The first frame of an image, from its file or the file's content, upright, as RGB.

    The entire image is resized to `image_size`, one number for a square or (height, width), without keeping its aspect
    (as the article's Keras generators do), by antialiased bilinear interpolation. With `crop` it is instead the largest
    central box of the new aspect, times `crop`: for squares, 224/256 is "resize the short side to 256 and take the
    central 224", as networks trained on ImageNet are evaluated.
    Grey and palette images become RGB, transparency is composited on white, 16 bits become 8. Floats and 32-bit
    integers do not say what white is: they are read as 0 to 1, 0 to 255 or 0 to 65535, whichever holds all of them.
    Raises what Pillow raises (exceptions of many kinds) when the file is broken, and ValueError for a file that is not
    a regular one, that has more than `MAX_BYTES` bytes, whose image has more than `MAX_PIXELS` pixels, or values beyond
    these ranges.
    """
    content = source if isinstance(source, bytes) else _read(source)
    try:
        opened = Image.open(io.BytesIO(content), formats=_available())
    except UnidentifiedImageError:
        raise UnidentifiedImageError("it is not an image") from None  # Pillow would name the buffer
    height, width = to_size(image_size)
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width:,} × {image.height:,} pixels, more than {MAX_PIXELS:,} in all")
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


def to_grey(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 1"]:
    """An RGB image in 0 to 255 as grey, by its luma (`LUMA`)."""
    return np.rint(image @ LUMA)[..., None].astype(np.uint8)


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


def _read(path: str | Path) -> bytes:
    """The content of a regular file, at once: Pillow's many small reads are slow."""
    # Opening a pipe would wait for its other end.
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
        return file.read()


@cache
def _available() -> list[str]:
    """Those of `_FORMATS` that this build of Pillow knows."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        white = _white(image)
        return _in_bands(image, lambda band: _from_wide(band, white))
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _in_bands(image, _from_16_bits)
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` of the image, some rows at a time, so that what it needs beside the result is small."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND):
        box = (0, top, image.width, min(top + _BAND, image.height))
        band = image.crop(box)
        band.info = image.info  # a palette's or a colour's transparency
        result.paste(convert(band), box)
    return result


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips 16 bits at 255."""
    grey = np.clip(np.asarray(image, np.int64), 0, 65535)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def _white(image: Image.Image) -> float:
    """What white is in an image of floats or of 32-bit integers, by the range of its values."""
    low, high = (float(value) for value in image.getextrema())
    # Interpolation overshoots a little.
    for white in (1.0, 255.0, 65535.0):
        if (white > 1 or image.mode == "F") and -0.01 * min(white, 255.0) <= low and high <= 1.01 * white:
            return white
    raise ValueError(f"its values are from {low:.4g} to {high:.4g}, which says nothing about brightness")


def _from_wide(image: Image.Image, white: float) -> Image.Image:
    values = np.asarray(image) * (255 / white)
    if not np.isfinite(values).all():
        raise ValueError("some of its values are not finite numbers")
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
