"""The floating-point operations of a benchmark's step, by arithmetic: the same count for every contender."""

from typing import Any

import workloads

from cnnjax.analysis import Summary, summary
from cnnjax.errors import unknown

TASKS = ("train", "forward", "input-gradient")


def network(work: dict[str, Any]) -> Summary:
    """Layers, parameters and FLOPs of the network that `work` ("model", "image_size") trains."""
    size = work["image_size"]
    return summary(workloads.abstract(work["model"], size), (size, size, 3))


def count(work: dict[str, Any]) -> int:
    """FLOPs of one step of `work` ("model", "task", "batch_size", "image_size"; "layer" for input-gradient).

    2 per multiply-add of convolutions and dense layers, as `cnnjax.analysis` counts a forward pass; a layer's gradients
    with respect to its input and to its kernel cost as much again each. Training leaves out the first layer's input
    gradient, which is not needed; input-gradient has no kernel gradients. Nothing else is counted, nor is what an
    algorithm saves or wastes: Winograd's convolutions count as plain ones.
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
    return image * work["batch_size"]
