"""How much of its activation an image keeps when it is moved, turned or compressed."""

from collections.abc import Sequence

import numpy as np

from cnnjax.network import Json, Network
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.quality.features import Pixels, stack, values_of
from cnnjax.visualize.quality.moves import as_jpeg, moved_by, turned_by


def robustness(
    images: Sequence[Image],
    network: Network,
    *,
    shift: int = 8,
    degrees: float = 5.0,
    jpeg_quality: int = 75,
    batch_size: int = 32,
) -> list[dict[str, Json]]:
    """The share of its activation (of a class: of its logit) that each image keeps, 1 for all of it.

    shift: when it is moved by so many pixels up, down, left and right: the smallest of four. degrees: turned by so many
    to either side: the smaller of two. The border is repeated outside of the image. jpeg_quality: compressed; None for
    images that are neither grey nor RGB. None for images whose activation is not above 0.
    """
    shown = stack(images)
    before = values_of(images, network, batch_size=batch_size)

    def kept(versions: Sequence[Pixels]) -> list[float | None]:
        values = np.min([values_of(images, network, one, batch_size=batch_size) for one in versions], axis=0)
        return [float(after / value) if value > 0 else None for after, value in zip(values, before, strict=True)]

    moved = kept(
        [moved_by(shown, rows, columns) for rows, columns in ((shift, 0), (-shift, 0), (0, shift), (0, -shift))]
    )
    turned = kept([turned_by(shown, angle) for angle in (degrees, -degrees)])
    has_jpeg = shown.shape[-1] in (1, 3)
    compressed = kept([as_jpeg(shown, jpeg_quality)]) if has_jpeg else [None] * len(images)
    return [
        {"shift": one, "rotation": another, "jpeg": third}
        for one, another, third in zip(moved, turned, compressed, strict=True)
    ]
