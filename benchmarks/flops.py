"""The floating-point operations of a benchmark's step, by arithmetic: the same count for every contender."""

from typing import Any

from flax import nnx

from cnnjax import models
from cnnjax.analysis import Summary, summary
from cnnjax.cli.config import ModelConfig
from cnnjax.errors import unknown

TASKS = ("train", "forward", "input-gradient")


def network(work: dict[str, Any]) -> Summary:
    """Layers, parameters and FLOPs of the network that `work` ("model", "side") trains."""
    classes = 2 if work["model"] == "small-cnn" else 1000
    config = ModelConfig(name=work["model"])
    # Shapes alone: no parameter is made and no device is taken from the contenders.
    made = nnx.eval_shape(lambda: models.create(config, side=work["side"], num_classes=classes, seed=0))
    return summary(made, (work["side"], work["side"], 3))


def count(work: dict[str, Any]) -> int:
    """FLOPs of one step of `work` ("model", "task", "batch", "side"; "layer" for input-gradient).

    2 per multiply-add of convolutions and dense layers, as `cnnjax.analysis` counts a forward pass; a layer's gradients
    towards its input and towards its kernel cost as much again each. Training leaves out the first layer's input
    gradient, which nobody needs; input-gradient has no kernel gradients. Everything else is not counted, and neither
    is what an algorithm saves or wastes: Winograd's convolutions count as plain ones.
    Raises UserError for another task.
    """
    if work["task"] not in TASKS:
        raise unknown("task", work["task"], TASKS)
    rows = network(work).rows
    if work["task"] == "input-gradient":
        names = [row.layer for row in rows]
        rows = rows[: names.index(work["layer"]) + 1]
    layers = [row.flops for row in rows if row.flops]
    forward = sum(layers)
    image = {"train": 3 * forward - layers[0], "forward": forward, "input-gradient": 2 * forward}[work["task"]]
    return image * work["batch"]
