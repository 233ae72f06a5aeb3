"""tf-keras-vis with its defaults (its own recipe): a layer's filters as one batch, before relu.

Source: tf_keras_vis/activation_maximization/__init__.py. Its optimizer, modifiers, regularizers and range of values
(0 to 255) are left as they are; the seed images are uniform noise, as it draws them for one image.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras_lucid import build
from tf_keras_vis.activation_maximization import ActivationMaximization
from tf_keras_vis.activation_maximization.callbacks import Callback
from tf_keras_vis.utils.scores import CategoricalScore


class Clock(Callback):
    """Keeps the images every few steps, and the times."""

    def __init__(self, every: int, seeds: np.ndarray) -> None:
        self.every, self.times, self.images = every, [time.perf_counter()], [seeds.astype(np.uint8)]

    def __call__(self, i: int, values: list[Any], *more: Any, **others: Any) -> None:
        if (i + 1) % self.every == 0:
            self.images.append(np.asarray(values[0]).astype(np.uint8))
            self.times.append(time.perf_counter())


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that draws all filters; the first one draws a few steps only."""
    size, channels = work["image_size"], work["channels"]
    inputs = keras.Input((size, size, 3))
    model = keras.Model(inputs, build(work["arrays"])(inputs / 255))
    maximization = ActivationMaximization(model, clone=False)
    steps, seeds = iter((work["every"],)), iter(range(work["seed"], 10**9))

    def call() -> None:
        begun = time.perf_counter()
        noise = np.random.default_rng(next(seeds)).uniform(0, 255, (len(channels), size, size, 3)).astype(np.float32)
        clock = Clock(work["every"], noise)
        score = CategoricalScore(list(channels))
        maximization(score, seed_input=noise, steps=next(steps, work["steps"]), callbacks=[clock])
        np.savez(work["answer"], times=np.array(clock.times) - begun, images=np.stack(clock.images))

    return call
