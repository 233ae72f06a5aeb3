"""How alike two heat maps are: Spearman's rank correlation, and structural similarity (Wang et al. 2004)."""

import numpy as np
from jaxtyping import Float, Num

from cnnjax.errors import UserError


def rank_correlation(
    first: Num[np.ndarray, "rows values"], second: Num[np.ndarray, "rows values"]
) -> Float[np.ndarray, " rows"]:
    """Spearman's rank correlation of each row; equal values share their mean rank. NaN for a row of one value only."""
    ranked = [np.stack([ranks(row) for row in np.asarray(values)]) for values in (first, second)]
    centred = [values - values.mean(axis=1, keepdims=True) for values in ranked]
    lengths = np.sqrt(np.prod([(values**2).sum(axis=1) for values in centred], axis=0))
    return np.where(lengths > 0, (centred[0] * centred[1]).sum(axis=1) / np.where(lengths > 0, lengths, 1), np.nan)


def structural_similarity(
    first: Float[np.ndarray, "images height width"], second: Float[np.ndarray, "images height width"], window: int = 7
) -> Float[np.ndarray, " images"]:
    """Structural similarity (Wang et al. 2004) of heat maps in [0, 1]: the mean over all square windows in the image.

    With uniform windows and unbiased variances, as `skimage.metrics.structural_similarity` has by default.
    Raises UserError for a window that is larger than the images, or of one pixel, in which nothing varies.
    """
    if not 2 <= window <= min(first.shape[1:]):
        raise UserError(f"window={window} of maps of {first.shape[1]}×{first.shape[2]} must be from 2 to their size")
    x, y = (np.asarray(values, np.float64) for values in (first, second))
    mean_x, mean_y = _window_means(x, window), _window_means(y, window)
    unbiased = window**2 / (window**2 - 1)
    var_x = unbiased * (_window_means(x * x, window) - mean_x**2)
    var_y = unbiased * (_window_means(y * y, window) - mean_y**2)
    both = unbiased * (_window_means(x * y, window) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return (above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean(axis=(1, 2))


def ranks(values: Num[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """The rank of each value, from 1; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def _window_means(values: Float[np.ndarray, "images height width"], window: int) -> Float[np.ndarray, "images _ _"]:
    views = np.lib.stride_tricks.sliding_window_view(values, (window, window), axis=(1, 2))
    return views.mean(axis=(-2, -1))
