"""A labelled contact sheet of the procedural classes.

    python experiments/contact_sheet.py
    python experiments/contact_sheet.py --classes cat dog --count 24 --side 75 --out runs/cats-and-dogs.png

Column k of every class is rendered from the same key: background, light and camera are alike, the subject differs.
The suffix of `out` chooses the format. The README's docs/contact-sheet.jpg was made by

    python experiments/contact_sheet.py --count 8 --columns 8 --side 96 --seed 3 --out docs/contact-sheet.jpg
"""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from cnnjax import procedural
from cnnjax.cli import command_line
from cnnjax.errors import UserError, unknown

MARGIN = 4


def contact_sheet(
    classes: tuple[str, ...] = procedural.CLASSES,
    count: int = 16,
    columns: int = 8,
    side: int = 150,
    seed: int = 0,
    out: Path = Path("runs/contact-sheet.png"),
) -> None:
    """Render `count` pictures of each class into one labelled sheet."""
    for name in classes:
        if name not in procedural.KNOWN:
            raise unknown("procedural class", name, procedural.KNOWN)
    if not classes or min(count, columns) < 1 or side < 8:
        raise UserError("a contact sheet needs a class, --count and --columns of 1 or more, and --side of 8 or more")
    suffixes = (".png", ".jpg", ".webp")
    if out.suffix not in suffixes:
        raise unknown("picture format", out.suffix or str(out), suffixes)

    rows, step = -(-count // columns), side + MARGIN
    font = ImageFont.load_default(size=max(10, side // 8))
    label = 8 * font.size
    height = len(classes) * (rows * step + MARGIN) + MARGIN
    sheet = Image.new("RGB", (label + columns * step, height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(tqdm(classes, unit="class")):
        top = MARGIN + i * (rows * step + MARGIN)
        pen.text((2 * MARGIN, top + side // 2), name, "black", font, anchor="lm")
        keys = jax.random.split(jax.random.key(seed), count)
        for k, picture in enumerate(np.asarray(procedural.render(name, keys, side))):
            sheet.paste(Image.fromarray(picture), (label + k % columns * step, top + k // columns * step))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, quality=80, optimize=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): choose another --out") from None
    print(out)


if __name__ == "__main__":
    command_line.main(contact_sheet)
