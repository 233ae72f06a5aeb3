"""What the hosts of one run must agree on before they train together."""

import json
from collections.abc import Sequence

import jax

from cnnjax import distributed, version
from cnnjax.data.dataset import ArraySplit, LazySplit
from cnnjax.train.run_data import checksums
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
        distributed.assert_equal(f"their {name} images", json.dumps([len(split), *checksums(split)]))
