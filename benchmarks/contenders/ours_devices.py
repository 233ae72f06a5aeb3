"""This package's training step on several devices, the batch shared out among them."""

from collections.abc import Callable

import jax
import numpy as np

from cnnjax import models
from cnnjax.cli.config import AugmentConfig, ModelConfig, OptimizerConfig
from cnnjax.data import normalize
from cnnjax.data.dataset import Split
from cnnjax.errors import UserError
from cnnjax.train import metrics, optimizers, strategy
from cnnjax.train.step import Task, create_state


def prepare(work: dict) -> Callable[[], None]:
    """A call that trains work["steps"] steps (1) on the first work["devices"] devices.

    Raises UserError where there are fewer devices.
    """
    small, batch, side = work["model"] == "small-cnn", work["batch"], work["side"]
    devices = jax.devices()[: work["devices"]]
    if len(devices) < work["devices"]:
        found = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
        raise UserError(f"this machine has {found}, not {work['devices']}: give lower --devices")
    way = strategy.choose(work["mode"], batch, devices)
    classes = 2 if small else 1000
    config = ModelConfig(name=work["model"], width=work.get("width", 1.0))
    network = models.create(config, side=side, num_classes=classes, seed=0)
    graph, params = models.split(network)
    rule = OptimizerConfig(name="adam") if small else OptimizerConfig(name="sgd", learning_rate=1e-3)
    task = Task(graph, optimizers.create(rule, 1000), AugmentConfig(enabled=False))
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    split = Split(pictures, np.arange(batch, dtype=np.int32) % classes)
    fixed = (jax.random.key(0), normalize.fit("none", pictures), split)
    state, *fixed = strategy.replicate(way, (create_state(params, task.optimizer), *fixed))
    steps = work.get("steps", 1)
    program = strategy.trainer(way, task, state, *fixed, steps, batch)
    indices = np.tile(np.arange(batch, dtype=np.int32), (steps, 1))

    def call() -> None:
        nonlocal state
        state, sums = program(state, strategy.replicate(way, metrics.zeros()), indices)
        jax.block_until_ready((state, sums))

    return call
