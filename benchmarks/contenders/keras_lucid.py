"""lucid's recipe on today's Keras and TensorFlow: a layer's filters as one batch, each step a compiled function.

Source: lucid/optvis/render.py, transform.py and param/. As there, a step draws one scale and one rotation for all.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

ROOT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)
COLORS = ROOT / np.linalg.norm(ROOT, axis=0).max()


def build(path: str) -> keras.Model:
    """A VGG from what `lucid_filters.write_arrays` wrote: images in [0, 1] → the last convolution without its relu."""
    with np.load(path) as arrays:
        names = [name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel")]
        x = inputs = keras.Input((None, None, 3))
        x, block = x + arrays["shift"], names[0][:6]
        for name in names:
            if not name.startswith(block):
                x, block = layers.MaxPooling2D()(x), name[:6]
            kernel = arrays[f"{name}/kernel"]
            activation = None if name == names[-1] else "relu"
            convolution = layers.Conv2D(kernel.shape[-1], 3, padding="same", activation=activation, name=name)
            x = convolution(x)
            convolution.set_weights([kernel, arrays[f"{name}/bias"]])
    return keras.Model(inputs, x)


def to_images(spectrum: tf.Tensor, size: int) -> tf.Tensor:
    """Coefficients (2, batch, 3, size, size // 2 + 1) → images (batch, size, size, 3) in [0, 1]."""
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    scale = (size / np.maximum(frequencies, 1 / size)).astype(np.complex64)
    image = tf.signal.irfft2d(scale * tf.complex(spectrum[0], spectrum[1]), [size, size]) / 4
    return tf.sigmoid(tf.transpose(image, (0, 2, 3, 1)) @ COLORS.T)


def transform(images: tf.Tensor) -> tf.Tensor:
    """lucid's `standard_transforms`."""
    count = tf.shape(images)[0]

    def jitter(x: tf.Tensor, pixels: int) -> tf.Tensor:
        size = tf.shape(x)
        return tf.image.random_crop(x, [count, size[1] - pixels, size[2] - pixels, 3])

    x = jitter(tf.pad(images, [[0, 0], [12, 12], [12, 12], [0, 0]], constant_values=0.5), 8)
    factor = 1 + (tf.cast(tf.random.uniform((), 0, 11, tf.int32), tf.float32) - 5) / 50
    size = tf.cast(factor * tf.cast(tf.shape(x)[1:3], tf.float32), tf.int32)
    x = tf.image.resize(x, size)
    angle = tf.random.uniform((), -10, 10) * np.pi / 180
    sine, cosine = tf.sin(angle), tf.cos(angle)
    height, width = tf.unstack(tf.cast(size - 1, tf.float32))
    across = (width - (cosine * width - sine * height)) / 2
    down = (height - (sine * width + cosine * height)) / 2
    matrix = tf.stack([cosine, -sine, across, sine, cosine, down, 0.0, 0.0])[None]
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=x, transforms=matrix, output_shape=size, interpolation="BILINEAR", fill_mode="CONSTANT", fill_value=0.0
    )
    return jitter(x, 4)


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that draws all filters; the first one draws a few steps only."""
    model, size, channels = build(work["arrays"]), work["image_size"], work["channels"]
    shape = (2, len(channels), 3, size, size // 2 + 1)
    spectrum, optimizer = tf.Variable(tf.zeros(shape)), keras.optimizers.Adam(0.05)
    optimizer.build([spectrum])
    places = np.stack([np.arange(len(channels)), channels], axis=1)
    steps, seeds = iter((work["every"],)), iter(range(work["seed"], 10**9))

    @tf.function(reduce_retracing=True)
    def step() -> None:
        with tf.GradientTape() as tape:
            maps = model(transform(to_images(spectrum, size)), training=False)
            loss = -tf.reduce_sum(tf.gather_nd(tf.reduce_mean(maps, axis=(1, 2)), places))
        optimizer.apply_gradients([(tape.gradient(loss, spectrum), spectrum)])

    @tf.function
    def show() -> tf.Tensor:
        return tf.cast(255 * to_images(spectrum, size), tf.uint8)

    def call() -> None:
        times, images, begun = [], [], time.perf_counter()
        generator = np.random.default_rng(next(seeds))
        spectrum.assign(generator.normal(0, 0.01, shape).astype(np.float32))
        for variable in optimizer.variables:
            if variable.path.endswith(("momentum", "velocity", "iteration")):
                variable.assign(tf.zeros_like(variable))
        for number in range(next(steps, work["steps"]) + 1):
            if number:
                step()
            if number % work["every"] == 0:
                images.append(show().numpy())
                times.append(time.perf_counter())
        np.savez(work["answer"], times=np.array(times) - begun, images=np.stack(images))

    return call
