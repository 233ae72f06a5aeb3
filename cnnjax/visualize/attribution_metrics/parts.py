"""Whether a heat map ranks an object's parts as the network does (FunnyBirds, Hesse et al., ICCV 2023).

A part's true importance is known where the same image exists without it: it is the fall of the class's logit.
"""

import numpy as np
from jaxtyping import Bool, Float

from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.target import ClassIndex, prepare, scores
from cnnjax.visualize.attribution_metrics.similarity import rank_correlation


def removal_importance(
    network: Network,
    images: Images,
    without: Float[np.ndarray, "_images parts _height _width _channels"],
    class_index: ClassIndex | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, "images parts"]:
    """By how much each image's class logit falls when a part is removed from the image: the part's true importance.

    without: each image in [0, 1] without one of its parts. class_index: as in `visualize.gradient`; by default the
    likeliest class of the whole image. Raises UserError for another number of images.
    """
    if len(without) != len(images) or without.shape[2:] != images.shape[1:]:
        raise UserError(f"images of shape {images.shape} cannot be compared with `without` of shape {without.shape}")
    network, images, classes = prepare(network, images, class_index, batch_size)
    parts = without.shape[1]
    whole = scores(network, images, classes, batch_size=batch_size)
    less = scores(network, without.reshape(-1, *without.shape[2:]), np.repeat(classes, parts), batch_size=batch_size)
    return whole[:, None] - less.reshape(-1, parts)


def map_importance(
    maps: Float[np.ndarray, "images height width"], part_masks: Bool[np.ndarray, "_images parts _height _width"]
) -> Float[np.ndarray, "images parts"]:
    """The importance of each part according to a heat map: its sum over the part's pixels, with its signs."""
    if maps.shape != (part_masks.shape[0], *part_masks.shape[2:]):
        raise UserError(f"heat maps of shape {maps.shape} do not fit part masks of shape {part_masks.shape}")
    return np.where(part_masks, maps[:, None], 0).sum(axis=(2, 3), dtype=np.float64)


def part_correlation(
    maps: Float[np.ndarray, "images height width"],
    part_masks: Bool[np.ndarray, "_images parts _height _width"],
    importance: Float[np.ndarray, "images parts"],
) -> Float[np.ndarray, " images"]:
    """Spearman's rank correlation of the parts' importance by the map with their true one, of each image.

    importance: of `removal_importance`. Parts without a pixel, which are hidden or lack in this image, are left out.
    NaN for an image with fewer than two parts to be seen, or whose parts are equally important by either; take
    `np.nanmean`. The paper maps its correlation c to (c + 1) / 2.
    """
    by_map = map_importance(maps, part_masks)
    seen = np.asarray(part_masks.any(axis=(2, 3)))
    found = np.full(len(maps), np.nan)
    for i in range(len(maps)):
        parts = seen[i]
        if parts.sum() > 1:
            found[i] = rank_correlation(by_map[i : i + 1, parts], importance[i : i + 1, parts])[0]
    return found
