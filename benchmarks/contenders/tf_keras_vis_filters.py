"""tf-keras-vis with its defaults: its own recipe of 200 steps, one filter after the other."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras_vis import build, take_turns  # first: it sets the backend
from tf_keras_vis.activation_maximization import ActivationMaximization
from tf_keras_vis.utils.scores import CategoricalScore


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that draws the next filter's image."""
    model = build(work["weights"], work["layer"], work["image_size"])
    maximization = ActivationMaximization(model, clone=False)

    def draw(channel: int, steps: tuple[int, ...]) -> Iterator[np.ndarray]:
        image = maximization(CategoricalScore(channel), steps=steps[0])
        yield np.clip(np.asarray(image[0]), 0, 255).astype(np.uint8)

    turns = take_turns(work | {"steps": [min(200, sum(work["steps"]))]}, model, draw)
    return lambda: next(turns)
