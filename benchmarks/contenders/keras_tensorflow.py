"""The same networks in Keras on TensorFlow, as functions, with or without XLA."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

VGG16 = (2, 2, 3, 3, 3)


def build(name: str, image_size: int, top: bool = True) -> keras.Model:
    """The article's small network, or VGG16."""
    small = name == "small-cnn"
    blocks = list(
        zip((32, 64, 128, 128) if small else (64, 128, 256, 512, 512), (1,) * 4 if small else VGG16, strict=True)
    )
    x = inputs = keras.Input((image_size, image_size, 3))
    for b, (channels, count) in enumerate(blocks, 1):
        for i in range(1, count + 1):
            x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"block{b}_conv{i}")(x)
        x = layers.MaxPooling2D()(x)
    if top:
        x = layers.Flatten()(x)
        x = layers.Dropout(0.5)(x) if small else x
        for units in (512, 256) if small else (4096, 4096):
            x = layers.Dense(units, activation="relu")(x)
            x = x if small else layers.Dropout(0.5)(x)
        x = layers.Dense(1, activation="sigmoid")(x) if small else layers.Dense(1000, activation="softmax")(x)
    return keras.Model(inputs, x)


def prepare(work: dict) -> Callable[[], None]:
    """A call that does the work once; see `step_time.py` for what `work` holds."""
    small, batch, image_size, xla = (
        work["model"] == "small-cnn",
        work["batch_size"],
        work["image_size"],
        work["jit_compile"],
    )
    images = tf.constant(np.random.default_rng(0).random((batch, image_size, image_size, 3), np.float32))
    if work["task"] == "input-gradient":
        network = build(work["model"], image_size, top=False)
        network = keras.Model(network.input, network.get_layer(work["layer"]).output)

        @tf.function(jit_compile=xla)
        def ascend(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = tf.reduce_mean(network(x, training=False))
            return x + tape.gradient(value, x)

        def climb() -> None:
            nonlocal images
            images = ascend(images)
            images.numpy()

        return climb
    network = build(work["model"], image_size)
    if work["task"] == "forward":
        forward = tf.function(lambda x: network(x, training=False), jit_compile=xla)
        return lambda: forward(images).numpy()
    labels = tf.constant(np.arange(batch) % (2 if small else 1000))
    rule = keras.optimizers.Adam(1e-3) if small else keras.optimizers.SGD(1e-3, momentum=0.9)
    loss = "binary_crossentropy" if small else "sparse_categorical_crossentropy"
    network.compile(optimizer=rule, loss=loss, jit_compile=xla)
    return lambda: network.train_on_batch(images, labels)
