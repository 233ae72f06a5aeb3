"""tf.data from JPEG files to uint8 batches."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf


def prepare(work: dict) -> Callable[[], None]:
    """A call that takes work["images"] images, in batches."""
    files = sorted(Path(work["folder"]).glob("*/*.jpg"))
    classes = sorted({file.parent.name for file in files})
    labels = [classes.index(file.parent.name) for file in files]
    image_size, steps = work["image_size"], work["images"] // work["batch_size"]

    def read(file: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
        return tf.cast(tf.image.resize(pixels, (image_size, image_size), antialias=True) + 0.5, tf.uint8), label

    batches = (
        tf.data.Dataset.from_tensor_slices(([str(file) for file in files], labels))
        .shuffle(len(files))
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(work["batch_size"], drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .take(steps)
    )

    def call() -> None:
        for images, _ in batches:
            images.numpy()

    return call
