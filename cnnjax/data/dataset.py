"""What every source of pictures gives: splits of uint8 pictures with integer labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from cnnjax.data.lazy_images import Pictures


class Split(NamedTuple):
    """Square RGB pictures in [0, 255] and, for each, its index into the data set's `class_names`.

    In a split that is streamed the pictures are not an array but an index that decodes what it is asked for.
    """

    images: UInt8[np.ndarray, "pictures side side 3"] | Pictures
    labels: Int32[np.ndarray, " pictures"]


@dataclass(frozen=True)
class Dataset:
    """Disjoint splits of one source. The test split is behind a call, so that it is touched once, at the end."""

    train: Split
    valid: Split
    load_test: Callable[[], Split]
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Names of broken files that were found among the training and validation pictures and left out."""
