"""What the hosts of one run must agree on before they train together."""

import json
import zlib
from collections.abc import Sequence

import jax
import numpy as np

from cnnjax import distributed, version
from cnnjax.data.dataset import ArraySplit, LazySplit
from cnnjax.train.run_dir import Settings


def check_hosts_agree(
    settings: Settings, class_names: Sequence[str], train: ArraySplit | LazySplit, valid: ArraySplit | LazySplit
) -> None:
    """Raises UserError where several hosts would train different things together."""
    if not distributed.is_multi_process():
        return
    distributed.assert_equal("their versions", f"{version.__version__} {jax.__version__}")
    distributed.assert_equal("their settings", json.dumps(settings, default=str))
    distributed.assert_equal("their classes", json.dumps(list(class_names)))
    distributed.assert_equal("what fits into their memory (loading)", str(isinstance(train, LazySplit)))
    for name, split in (("training", train), ("validation", valid)):
        sums = _fingerprint(split), zlib.crc32(np.asarray(split.labels).tobytes())
        distributed.assert_equal(f"their {name} images", json.dumps([len(split), *sums]))


def _fingerprint(split: ArraySplit | LazySplit) -> int:
    """A checksum of the images or, of streamed ones, of what tells them apart."""
    if isinstance(split, LazySplit):
        return split.images.fingerprint()
    return zlib.crc32(np.ascontiguousarray(split.images).data)
