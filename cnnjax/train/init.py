"""What a run begins with: a new network, or one from a weights file, and the layers of it that stay as they are."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnnjax import distributed, formats, models, version
from cnnjax.cli.config import Config, as_dict
from cnnjax.data import normalize, prefetch
from cnnjax.data.dataset import Dataset
from cnnjax.errors import UserError, unknown


def begin(config: Config, dataset: Dataset) -> tuple[nnx.GraphDef, dict[str, Any], normalize.Cleaning, dict[str, Any]]:
    """The network's graph and parameters, the cleaning of its pictures, and notes on where they come from.

    Without `config.train.start` all are new: parameters drawn by the run's seed, cleaning fitted to the training
    pictures. A network from a file keeps its own cleaning. Raises UserError for one that does not fit the config or the
    data set's classes, and as `formats.load` does.
    """
    sizes = {"side": config.data.side, "num_classes": len(dataset.class_names), "seed": config.train.seed}
    if not (place := config.train.start):
        graph, params = models.split(models.create(config.model, **sizes))
        return graph, params, normalize.fit(config.data.cleaning, dataset.train.images), {}
    network = formats.load(Path(place))
    for flag, own, wanted in (
        ("--data.side", network.side, config.data.side),
        ("--data.classes", network.class_names, tuple(dataset.class_names)),
        *((f"--model.{name}", getattr(network.model, name), getattr(config.model, name)) for name in ("name", "width")),
        ("--model.dense", network.model.dense, config.model.dense),
    ):
        if own != wanted:
            own, wanted = (" ".join(map(str, value)) if isinstance(value, tuple) else value for value in (own, wanted))
            raise UserError(
                f"{place} has {flag} {own}, and the run {wanted}: give the file's, or new dense layers by "
                "experiments/transfer.py"
            )
    # From the config, whose dropout may be another.
    graph, _ = models.split(nnx.eval_shape(lambda: models.create(config.model, **sizes)))
    return graph, network.params, network.cleaning, {"start": {"weights": place, "digest": network.digest}}


def frozen(names: Sequence[str], params: dict[str, Any]) -> frozenset[str]:
    """The layers among `params` that `names` means: each a layer's name, or a block's for all its layers.

    Raises UserError for a name that no layer has, or when nothing is left to learn.
    """
    found: set[str] = set()
    for name in names:
        layers = {layer for layer in params if layer == name or layer.startswith(f"{name}_conv")}
        if not layers:
            raise unknown(
                "layer to freeze", name, sorted({layer.partition("_conv")[0] for layer in params} | set(params))
            )
        found |= layers
    if len(found) == len(params):
        raise UserError(f"--train.frozen {' '.join(names)} leaves no layer to learn: freeze fewer")
    return frozenset(found)


def agree(config: Config, dataset: Dataset) -> None:
    """Raises UserError where several hosts would train different things together."""
    if not distributed.is_multi_process():
        return
    distributed.assert_equal("their versions", f"{version.__version__} {jax.__version__}")
    distributed.assert_equal("their settings", json.dumps(as_dict(config)))
    distributed.assert_equal("their classes", json.dumps(dataset.class_names))
    distributed.assert_equal("what fits into their memory (--data.feed)", str(prefetch.is_streamed(dataset.train)))
    for name, split in (("training", dataset.train), ("validation", dataset.valid)):
        pictures = (split.images.names, split.images.colours) if prefetch.is_streamed(split) else (split.images,)
        sums = [zlib.crc32(np.ascontiguousarray(array)) for array in (*pictures, split.labels)]
        distributed.assert_equal(f"their {name} pictures", json.dumps([len(split.labels), *sums]))
