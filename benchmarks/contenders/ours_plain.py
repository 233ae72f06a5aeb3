"""The network of plain_resnet.py, trained by the step that `train.fit` runs."""

from collections.abc import Callable

import plain_resnet
import workloads

from cnnjax import runtime

runtime.configure()


def prepare(work: dict) -> Callable[[], float]:
    """A call that makes one step on a fixed batch and returns its loss."""
    return workloads.training(plain_resnet.build(work), work)
