"""The mean Fourier magnitudes of photographs, which recipe `maco` gives its images.

    python experiments/photograph_spectrum.py

This writes cnnjax/data/photograph_spectrum.npz, within half a minute. The photographs are those of scikit-image that
are in color and free: astronaut, coffee, chelsea and rocket. Squares are cut from each at its full size, at 70% and at
50%, and mirrored. Since the spectra of photographs are similar at every scale, four photographs give a smooth mean.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from cnnjax.cli import command_line
from cnnjax.visualize.parameterizations.maco import SPECTRUM, magnitude_spectrum

PHOTOGRAPHS = (data.astronaut, data.coffee, data.chelsea, data.rocket)


def squares(size: int, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Random squares of each photograph at each scale, and their mirror images."""
    found = []
    for photograph in PHOTOGRAPHS:
        for scale in (1.0, 0.7, 0.5):
            image = Image.fromarray(photograph()[..., :3])
            width, height = (round(side * scale) for side in image.size)
            pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
            for _ in range(count):
                top, left = generator.integers(0, (height - size + 1, width - size + 1))
                square = pixels[top : top + size, left : left + size]
                found += [square, square[:, ::-1]]
    return found


def photograph_spectrum(*, size: int = 128, count: int = 100, seed: int = 0, out: Path = SPECTRUM) -> None:
    """Write the spectrum.

    Args:
        size: Height and width of the squares in pixels.
        count: Squares of each photograph at each scale.
        seed: Of the squares' places.
        out: The file.
    """
    images = np.stack(squares(size, count, np.random.default_rng(seed)))
    spectrum = magnitude_spectrum(images, limit=len(images))
    np.savez_compressed(out, spectrum=spectrum.astype(np.float16))
    print(f"wrote {out}: {spectrum.shape} of {len(images)} squares, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    command_line.main(photograph_spectrum)
