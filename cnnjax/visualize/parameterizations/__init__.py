"""What is optimized: parameters, and how an image in display units (0 to 255) is made from them."""

from cnnjax.visualize.parameterizations.base import (
    ImageParams,
    P,
    Parameterization,
    Static,
    as_argument,
    from_image,
    quantize,
    to_alpha,
    to_uint8,
    wrap_optimizer,
)
from cnnjax.visualize.parameterizations.colors import color_statistics, imagenet_colors
from cnnjax.visualize.parameterizations.fourier import Fourier, Spectrum, fourier
from cnnjax.visualize.parameterizations.maco import Maco, Phases, maco, magnitude_spectrum
from cnnjax.visualize.parameterizations.pixels import Pixels, pixels

AnyParameterization = Pixels | Fourier | Maco | Parameterization[ImageParams]
"""Those of this package, and any other one."""

__all__ = [
    "AnyParameterization",
    "Fourier",
    "ImageParams",
    "Maco",
    "P",
    "Parameterization",
    "Phases",
    "Pixels",
    "Spectrum",
    "Static",
    "as_argument",
    "color_statistics",
    "fourier",
    "from_image",
    "imagenet_colors",
    "maco",
    "magnitude_spectrum",
    "pixels",
    "quantize",
    "to_alpha",
    "to_uint8",
    "wrap_optimizer",
]
