"""Whether a run overfitted, judged on smoothed curves, since single epochs at a constant learning rate are noisy.

Overfitting is what the article calls so (section 4.2): the validation loss rises while the training loss goes on
falling.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# A rise of the validation loss is clear when it is this share of the minimum, and so many standard errors of a
# difference of two smoothed values.
_RISE, _ERRORS = 0.05, 3.0


@dataclass(frozen=True)
class Verdict:
    """Smoothed losses where the validation loss is lowest, and at the end. A smoothed value is a mean over `window`
    consecutive epochs.
    """

    overfitted: bool
    window: int
    epoch: int
    """The middle epoch of the lowest mean of the validation loss."""
    lowest: float
    """That mean."""
    end: float
    """The mean of the validation loss over the last epochs."""
    train_lowest: float
    """The mean of the training loss over the epochs of `lowest`."""
    train_end: float
    """The mean of the training loss over the last epochs."""


def judge(history: Sequence[Mapping[str, float]]) -> Verdict:
    """Judge a run by its epochs' train_loss and valid_loss.

    It is overfitted if the smoothed validation loss at the end is clearly above its minimum (by 5%, and by three
    standard errors, which are estimated from the differences between successive epochs), and the smoothed training loss
    has fallen since that minimum and is below the validation loss.
    """
    valid = np.asarray([row["valid_loss"] for row in history], np.float64)
    train = np.asarray([row["train_loss"] for row in history], np.float64)
    window = _window(len(valid))
    smooth_valid, smooth_train = _smooth(valid, window), _smooth(train, window)
    place = int(np.argmin(smooth_valid))
    lowest, end = float(smooth_valid[place]), float(smooth_valid[-1])
    train_lowest, train_end = float(smooth_train[place]), float(smooth_train[-1])
    clear = end > (1 + _RISE) * lowest and end - lowest > _ERRORS * _noise(valid) * math.sqrt(2 / window)
    # The middle of the lowest mean is not among the last epochs. Epochs that both share make the means less different.
    apart = place + window // 2 < len(valid) - window
    return Verdict(
        overfitted=clear and apart and train_end < train_lowest and train_end < end,
        window=window,
        epoch=int(history[place + window // 2]["epoch"]),
        lowest=lowest,
        end=end,
        train_lowest=train_lowest,
        train_end=train_end,
    )


def _window(epochs: int) -> int:
    """An odd number: a third of a short run's epochs, 5 of 15 or more, a sixth of a long run's, at most 9."""
    share = max(1, min(epochs // 3, max(5, epochs // 6), 9))
    return share - 1 + share % 2


def _smooth(values: Float[np.ndarray, " epochs"], window: int) -> Float[np.ndarray, " means"]:
    """The means over `window` consecutive values."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def _noise(values: Float[np.ndarray, " epochs"]) -> float:
    """The standard deviation of single values about a smooth curve, from second differences, which a trend hardly
    changes. The median keeps the steep first epochs from counting as noise.
    """
    if len(values) < 3:
        return 0.0
    # For independent noise a second difference has 6 times its variance; 0.6745 is the median of |N(0, 1)|.
    return float(np.median(np.abs(np.diff(values, 2))) / (0.6745 * math.sqrt(6)))
