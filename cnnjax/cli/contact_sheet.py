"""The command `contact-sheet`: a labelled sheet of the procedural classes."""

from pathlib import Path
from typing import Literal

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from cnnjax import procedural
from cnnjax.cli.config import MIN_IMAGE_SIZE
from cnnjax.data.procedural import version_for
from cnnjax.errors import UserError, unknown
from cnnjax.printable import printable

MARGIN = 4
FORMATS = (".png", ".jpg", ".webp")


def contact_sheet(
    *,
    classes: tuple[str, ...] = procedural.CLASSES,
    count: int = 16,
    columns: int = 8,
    image_size: int = 150,
    seed: int = 0,
    rendering: Literal[3, 4, 5] | None = None,
    out: Path = Path("runs/contact-sheet.png"),
) -> None:
    """Render images of each procedural class into one labelled sheet.

    Args:
        classes: Names of the classes.
        count: Images of each class.
        columns: Images in a row.
        image_size: Height and width of each image in pixels.
        seed: Seed of the images. Column k of every class has the same background, light and camera.
        rendering: Version of the renderer. By default that of training images of this size.
        out: The file to write: .png, .jpg or .webp.
    """
    _check(classes, count, columns, image_size, out)
    sheet = _sheet(classes, count, columns, image_size, seed, rendering or version_for(image_size))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, quality=80, optimize=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): choose another --out") from None
    print(printable(f"wrote {out}"))


def _check(classes: tuple[str, ...], count: int, columns: int, image_size: int, out: Path) -> None:
    for name in classes:
        if name not in procedural.KNOWN:
            raise unknown("procedural class", name, procedural.KNOWN)
    if not classes:
        raise UserError("--classes names no class: give one or more")
    for flag, value, least in (
        ("count", count, 1),
        ("columns", columns, 1),
        ("image-size", image_size, MIN_IMAGE_SIZE),
    ):
        if value < least:
            raise UserError(f"--{flag} {value} must be at least {least}")
    if not out.suffix:
        raise UserError(
            f"--out {out} has no ending: give a file's name that ends in {', '.join(FORMATS)}, such as {out}.png"
        )
    if out.suffix not in FORMATS:
        raise unknown("image format", out.suffix or str(out), FORMATS)


def _sheet(
    classes: tuple[str, ...], count: int, columns: int, image_size: int, seed: int, rendering: int
) -> Image.Image:
    rows, step = -(-count // columns), image_size + MARGIN
    font = ImageFont.load_default(size=max(10, image_size // 8))
    label = 8 * font.size
    height = len(classes) * (rows * step + MARGIN) + MARGIN
    sheet = Image.new("RGB", (round(label + columns * step), height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(tqdm(classes, unit="class", disable=None)):
        top = MARGIN + i * (rows * step + MARGIN)
        pen.text((2 * MARGIN, top + image_size // 2), name, "black", font, anchor="lm")
        keys = jax.random.split(jax.random.key(seed), count)
        for k, pixels in enumerate(np.asarray(procedural.render(name, keys, image_size, version=rendering))):
            place = (round(label + k % columns * step), top + k // columns * step)
            sheet.paste(Image.fromarray(pixels), place)
    return sheet
