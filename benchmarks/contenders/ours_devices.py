"""This package's training step on several devices, which share the batch."""

from collections.abc import Callable

import jax
import workloads

from cnnjax import runtime
from cnnjax.errors import UserError
from cnnjax.train import strategy

runtime.configure()


def prepare(work: dict) -> Callable[[], object]:
    """A call that trains work["steps"] steps (1) on the first work["devices"] devices.

    Raises UserError if there are fewer devices.
    """
    devices = jax.devices()[: work["devices"]]
    if len(devices) < work["devices"]:
        found = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
        raise UserError(f"this machine has {found}, not {work['devices']}: give lower --devices")
    where = strategy.make_strategy(work["mode"], work["batch_size"], devices)
    network = workloads.create(work["model"], work["image_size"], width_multiplier=work.get("width_multiplier", 1.0))
    return workloads.training(network, work, where, work.get("steps", 1))
