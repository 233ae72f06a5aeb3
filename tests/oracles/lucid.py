"""lucid's Fourier image and colours (`param/spatial.py`, `param/color.py`), written from its description in NumPy.

    (cd tests && python -m oracles.lucid)  # writes tests/oracles/lucid.npz

Everything is float64, channels first, and of even sizes: for odd ones lucid computes an image that is a column wider.
"""

from pathlib import Path

import numpy as np

SIZES = {"square": (16, 16), "wide": (10, 14), "tall": (18, 8)}
DECAYS = {"square": 1.0, "wide": 1.0, "tall": 1.5}
STD = 0.01
ROOT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])


def color_matrix():
    """The square root of ImageNet's colour covariance, divided by the largest norm of its columns."""
    return ROOT / np.sqrt((ROOT**2).sum(axis=0)).max()


def image(real, imag, decay):
    """Coefficients (3, height, width // 2 + 1) → the image (height, width, 3) in 0 to 1."""
    height, width = real.shape[1], 2 * (real.shape[2] - 1)
    vertical, horizontal = np.fft.fftfreq(height), np.abs(np.fft.fftfreq(width))[: width // 2 + 1]
    scale = np.zeros(real.shape[1:])
    for i, v in enumerate(vertical):
        for j, h in enumerate(horizontal):
            scale[i, j] = 1 / max((v * v + h * h) ** 0.5, 1 / max(width, height)) ** decay
    scale *= (width * height) ** 0.5
    planes = np.stack([np.fft.irfft2(scale * (r + 1j * i)) for r, i in zip(real, imag, strict=True)]) / 4
    correlated = np.einsum("rd,dhw->hwr", color_matrix(), planes)
    return 1 / (1 + np.exp(-correlated))


def main():
    generator, arrays = np.random.default_rng(0), {"color_matrix": color_matrix()}
    for name, (height, width) in SIZES.items():
        real, imag = generator.normal(0, STD * 10, (2, 3, height, width // 2 + 1)).astype(np.float32)
        arrays |= {f"{name}_real": real, f"{name}_imag": imag}
        arrays[f"{name}_image"] = image(real.astype(np.float64), imag.astype(np.float64), DECAYS[name])
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
