"""Keras' two ways from JPEG files to augmented batches, without training."""

from collections.abc import Callable

import tensorflow as tf
from keras_epoch import dataset, generator


def prepare(work: dict) -> Callable[[], None]:
    """A call that makes the batches of an epoch; work["pipeline"] is "generator" (the article's own) or "tf.data"."""
    steps = work["images"] // work["batch_size"]
    if work["pipeline"] == "generator":
        source = generator(work)

        def generate() -> None:
            for step in range(steps):
                tf.constant(source[step][0])
            source.on_epoch_end()  # draws the next order

        return generate
    batches = dataset(work).take(steps)

    def iterate() -> None:
        for images, _ in batches:
            images.numpy()

    return iterate
