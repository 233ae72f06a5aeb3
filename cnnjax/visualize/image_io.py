"""An image and where it came from, in one PNG file with a JSON file beside it."""

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PIL
from PIL import PngImagePlugin, UnidentifiedImageError

from cnnjax.errors import UserError
from cnnjax.files import atomic_write, write_json
from cnnjax.network import Json

KEY = "cnnjax"
"""Of the PNG's tEXt chunk."""

OTHER_FORMATS = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".svg", ".pdf")


@dataclass(frozen=True, eq=False, repr=False)
class Image:
    """An image to show, with its provenance: JSON-able notes on how it was made.

    pixels: RGB, or one grey channel, 0 to 255.
    """

    pixels: UInt8[np.ndarray, "height width channels"]
    provenance: dict[str, Json] = field(default_factory=dict)
    alpha: UInt8[np.ndarray, "height width"] | None = None
    """How opaque each pixel is, if a recipe says so (MaCo); it goes into the file."""

    @property
    def file_name(self) -> str:
        """A file name that follows from the provenance: block1_conv2-33.png, class-tennis-ball.png.

        Of several images of one call that would share a name, each has its number in it: block1_conv2-33-neuron-2.png.
        """
        notes = self.provenance
        kind = notes.get("kind", "image")
        if kind == "class":
            name = f"class-{notes['class']}"
        elif "channel" in notes:
            name = f"{notes['layer']}-{notes['channel']}" + ("" if kind == "filter" else f"-{kind}")
        elif "layer" in notes:
            name = f"{notes['layer']}-{kind}" + (f"-{notes['vector']}" if "vector" in notes else "")
        else:
            name = str(notes.get("objective", kind))
        name = re.sub(r"[^\w.-]+", "-", name).strip("-")
        return f"{name}-{notes['number']}.png" if "number" in notes else f"{name}.png"

    def save(self, path: str | Path) -> Path:
        """Write a PNG with the provenance in a tEXt chunk, and the same as JSON beside it. Returns the PNG's path.

        path: a file, or a folder, in which the image gets its `file_name`. Raises UserError if it cannot be written,
        and for the endings of other image formats.
        """
        path = Path(path)
        if path.suffix.lower() in OTHER_FORMATS:
            raise UserError(f"images are saved as PNG files, and {path.name} ends in {path.suffix}: let it end in .png")
        if path.suffix.lower() != ".png":
            path /= self.file_name
        content = self._repr_png_()
        atomic_write(path, lambda temporary: temporary.write_bytes(content))
        write_json(path.with_suffix(".json"), self.provenance)
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Image":
        """An image that `save` wrote, from the PNG alone. Raises UserError for a file that has no provenance."""
        try:
            with PIL.open(path) as opened:
                text = getattr(opened, "text", {}).get(KEY)
                pixels = np.array(opened)
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"cannot read {path} ({error}): give the path of a PNG file") from error
        if text is None:
            raise UserError(f"{path} has no provenance: it was not written by cnnjax")
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        alpha = None
        if pixels.shape[-1] in (2, 4):
            pixels, alpha = pixels[..., :-1], pixels[..., -1]
        return cls(pixels, json.loads(text), alpha)

    def _repr_png_(self) -> bytes:
        """The PNG file's content, which also shows the image in a notebook."""
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text(KEY, json.dumps(self.provenance))
        buffer = io.BytesIO()
        pixels = self.pixels if self.alpha is None else np.concatenate([self.pixels, self.alpha[..., None]], axis=-1)
        PIL.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png", pnginfo=chunks)
        return buffer.getvalue()

    def __repr__(self) -> str:
        notes = self.provenance
        size = "×".join(map(str, self.pixels.shape))
        parts = [f"{key}={notes[key]!r}" for key in ("kind", "layer", "channel", "class", "objective") if key in notes]
        if isinstance(after := notes.get("activation_after"), float):
            parts.append(f"activation={after:.3g}")
        return f"Image({', '.join([size, *parts])})"
