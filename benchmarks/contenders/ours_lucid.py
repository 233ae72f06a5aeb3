"""A recipe of this package: a layer's filters as one batch, with an image of each kept every few steps."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cnnjax import formats, runtime, visualize

runtime.configure()


class Clock:
    """Keeps the images on the way, and the times."""

    def __init__(self, every: int) -> None:
        self.every, self.times, self.images = every, [], []

    def begin(self) -> None:
        """A batch begins."""

    def add(self, step: int, images: jax.Array) -> None:
        """Keep the images after so many steps."""
        self.images.append(np.asarray(images))
        self.times.append(time.perf_counter())


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that draws all filters; the first one draws a few steps only."""
    network = formats.load(work["weights"], include_top=False)
    steps = iter((work["every"],))

    def call() -> None:
        clock, begun = Clock(work["every"]), time.perf_counter()
        visualize.render(
            network,
            visualize.channel(work["layer"], work["channels"]),
            recipe=work["recipe"],
            steps=next(steps, work["steps"]),
            image_size=work["image_size"],
            seed=work["seed"],
            frames=clock,
        )
        np.savez(work["answer"], times=np.array(clock.times) - begun, images=np.stack(clock.images))

    return call
