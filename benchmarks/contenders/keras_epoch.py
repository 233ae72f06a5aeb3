"""Keras on TensorFlow from JPEG files to a trained epoch: ImageDataGenerator, or tf.data with random layers."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers
from keras_tensorflow import build


def generator(work: dict):
    """The article's own pipeline (section 4.3)."""
    ranges = {"rotation_range": 40, "width_shift_range": 0.2, "height_shift_range": 0.2, "shear_range": 0.2}
    source = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest", **ranges
    )
    image_size = (work["image_size"], work["image_size"])
    return source.flow_from_directory(work["folder"], image_size, class_mode="binary", batch_size=work["batch_size"])


def dataset(work: dict):
    """Today's pipeline: decoding in parallel, random layers as part of the data, prefetching."""
    image_size = (work["image_size"], work["image_size"])
    images = keras.utils.image_dataset_from_directory(
        work["folder"], label_mode="binary", image_size=image_size, batch_size=work["batch_size"], verbose=False
    )
    change = keras.Sequential(
        [
            layers.Rescaling(1 / 255),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(40 / 360, fill_mode="nearest"),
            layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
            layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
            layers.RandomShear(0.0035, 0.0, fill_mode="nearest"),
        ]
    )
    mapped = images.map(lambda x, y: (change(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return mapped.prefetch(tf.data.AUTOTUNE)


def prepare(work: dict) -> Callable[[], None]:
    """A call that goes from the files in work["folder"] to an epoch trained with the article's augmentation."""
    network = build("small-cnn", work["image_size"])
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy", jit_compile=False)
    source = (generator if work["pipeline"] == "generator" else dataset)(work)
    steps = work["images"] // work["batch_size"]
    return lambda: network.fit(source, steps_per_epoch=steps, epochs=1, verbose=0)
