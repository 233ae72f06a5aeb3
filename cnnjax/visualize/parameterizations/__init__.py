"""What is optimized: parameters, and how an image in display units (0 to 255) is made from them."""

from cnnjax.visualize.parameterizations.base import (
    ImageParams,
    P,
    Parameterization,
    Static,
    as_argument,
    from_image,
    quantize,
    to_uint8,
)
from cnnjax.visualize.parameterizations.colors import color_statistics, imagenet_colors
from cnnjax.visualize.parameterizations.fourier import Fourier, Spectrum, fourier
from cnnjax.visualize.parameterizations.pixels import Pixels, pixels

AnyParameterization = Pixels | Fourier | Parameterization[ImageParams]
"""Those of this package, and any other one."""

__all__ = [
    "AnyParameterization",
    "Fourier",
    "ImageParams",
    "P",
    "Parameterization",
    "Pixels",
    "Spectrum",
    "Static",
    "as_argument",
    "color_statistics",
    "fourier",
    "from_image",
    "imagenet_colors",
    "pixels",
    "quantize",
    "to_uint8",
]
