"""A picture and where it came from, in one PNG with a JSON file beside it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from cnnjax.errors import UserError

KEY = "cnnjax"


class Picture(NamedTuple):
    """A picture to show, with its provenance: plain JSON-able data."""

    image: UInt8[np.ndarray, "height width 3"]
    provenance: dict[str, Any]


def file_name(picture: Picture) -> str:
    """A name from the provenance: block1_conv2-33.png, class-tennis-ball.png."""
    origin = picture.provenance
    name = f"class-{origin['class']}" if origin["kind"] == "class" else f"{origin['layer']}-{origin['channel']}"
    return re.sub(r"[^\w-]+", "-", name) + ".png"


def save(picture: Picture, path: Path) -> Path:
    """Write the PNG, its provenance in a tEXt chunk, and the same as JSON beside it. Returns the PNG's path.

    Raises UserError when the folder cannot be written.
    """
    text = json.dumps(picture.provenance)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(KEY, text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.image).save(path, pnginfo=chunks)
        path.with_suffix(".json").write_text(json.dumps(picture.provenance, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): choose another --out folder") from error
    return path


def read(path: Path) -> Picture:
    """A picture that `save` wrote, from the PNG alone. Raises UserError when it has no provenance."""
    with Image.open(path) as picture:
        text = getattr(picture, "text", {}).get(KEY)
        if text is None:
            raise UserError(f"{path} has no provenance: it was not written by cnnjax")
        return Picture(np.array(picture), json.loads(text))
