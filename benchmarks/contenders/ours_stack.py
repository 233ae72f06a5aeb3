"""This package's step for several small networks: a sweep's stack ("stacked"), or each network's step in turn.

The networks have different initial weights and learning rates, and share the images.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import numpy as np
import optax
import workloads

from cnnjax import runtime
from cnnjax.data import normalize
from cnnjax.train import metrics, strategy
from cnnjax.train.step import StepConfig

runtime.configure()


def prepare(work: dict[str, Any]) -> Callable[[], list[float]]:
    """A call that makes one training step of each of `work["networks"]` networks; it returns their losses."""
    return (_stacked if work["stacked"] else _in_turn)(work)


def _runs(work: dict[str, Any]) -> tuple[StepConfig, list[Any], list[dict[str, np.ndarray]]]:
    """What the networks share, their states, and their learning rates."""
    states, rates, config = [], [], None
    for seed in range(work["networks"]):
        network = workloads.create(work["model"], work["image_size"], seed=seed)
        config = config or workloads.step_config(network, work["model"], optimizer=optax.adam)
        states.append(workloads.begin(network, config))
        rates.append({"learning_rate": np.float32(1e-3 / (seed + 1))})
    assert config is not None
    return config, states, rates


def _stacked(work: dict[str, Any]) -> Callable[[], list[float]]:
    config, begun, rates = _runs(work)
    batch, networks = work["batch_size"], work["networks"]
    where = strategy.stack_strategy(networks)
    size = strategy.stacked_size(where, networks)
    program = strategy.compile_stack_steps(where, config, batch)
    split = workloads.random_split(work["model"], batch, work["image_size"])
    common = strategy.replicate(where, (normalize.identity(), split))
    states = strategy.stack(where, begun)
    each = strategy.stack(where, [(jax.random.key(0), rate) for rate in rates])
    indices = np.tile(np.arange(batch, dtype=np.int32), (1, size, 1))
    active = np.ones(size, bool)

    def call() -> list[float]:
        nonlocal states
        zeros = strategy.stack(where, [metrics.zeros(("loss", *config.metrics))] * networks)
        states, sums = jax.block_until_ready(program(states, zeros, each, common, active, indices))
        return [metrics.compute(jax.tree.map(itemgetter(i), sums))["loss"] for i in range(networks)]

    return call


def _in_turn(work: dict[str, Any]) -> Callable[[], list[float]]:
    config, states, rates = _runs(work)
    batch = work["batch_size"]
    where = strategy.make_strategy("jit", batch)
    split = workloads.random_split(work["model"], batch, work["image_size"])
    fixed = strategy.replicate(where, (jax.random.key(0), normalize.identity(), split))
    shared: dict[Any, Any] = {}
    programs = [
        strategy.compile_train_steps(where, config, states[0], *fixed, 1, batch, hyperparams=rate, shared=shared)
        for rate in rates
    ]
    states = [strategy.replicate(where, state) for state in states]
    indices = np.arange(batch, dtype=np.int32)[None]

    def call() -> list[float]:
        found = []
        for i, program in enumerate(programs):
            zeros = strategy.replicate(where, metrics.zeros(("loss", *config.metrics)))
            states[i], sums = program(states[i], zeros, indices)
            found.append(sums)
        jax.block_until_ready(states)
        return [metrics.compute(sums)["loss"] for sums in found]

    return call
