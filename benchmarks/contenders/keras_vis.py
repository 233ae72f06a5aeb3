"""keras-vis 0.4.1's `visualize_activation` on today's Keras and TensorFlow: one filter after the other, two stages.

Source: keras-vis at tag 0.4.1, vis/optimizer.py, vis/losses.py, vis/regularizers.py, vis/utils/utils.py. Every step is
one call of one compiled function. A roll replaces scipy's shift with mode "wrap", whose period is n - 1.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from safetensors.numpy import load_file

EPSILON, DECAY, LP_WEIGHT, JITTER = 1e-7, 0.95, 10.0, 0.05


def build(path: str, layer: str, image_size: int) -> keras.Model:
    """A VGG from a weights file of cnnjax, up to a layer: images in 0 to 255 → that layer's maps after relu."""
    tensors = load_file(path)
    mean, scales = tensors["normalizer/mean"], tensors["normalizer/scales"]
    x = inputs = keras.Input((image_size, image_size, 3))
    if mean.size:
        x = x - 255 * mean
    names = sorted(name.split("/")[1] for name in tensors if "_conv" in name and name.endswith("kernel"))
    names = names[: names.index(layer) + 1]
    block = "block1"
    for name in names:
        if not name.startswith(block):
            x, block = layers.MaxPooling2D()(x), name.split("_")[0]
        kernel = tensors[f"params/{name}/kernel"]
        if name == names[0]:
            # The network in the file takes images in [0, 1]; keras-vis feeds 0 to 255.
            kernel = kernel * ((scales if scales.size else np.ones(3, np.float32)) / 255)[:, None]
        convolution = layers.Conv2D(kernel.shape[-1], 3, padding="same", activation="relu", name=name)
        x = convolution(x)
        convolution.set_weights([kernel, tensors[f"params/{name}/bias"]])
    return keras.Model(inputs, x)


def stepper(maps: Callable[[tf.Tensor], tf.Tensor], jit_compile: bool) -> Callable[..., tuple[tf.Tensor, ...]]:
    """One step: (image (1, h, w, 3), cache, best loss, best image, channel, TV weight, offset (2,)) → the first four.

    maps: images (1, h, w, 3) in 0 to 255 → a layer's output (1, h', w', channels).
    """

    @tf.function(jit_compile=jit_compile, reduce_retracing=True)
    def step(image, cache, best, best_image, channel, tv, offset):
        image = tf.roll(image, offset, axis=(1, 2))
        size = tf.cast(tf.size(image), image.dtype)
        with tf.GradientTape() as tape:
            tape.watch(image)
            down = image[:, 1:, :-1] - image[:, :-1, :-1]
            right = image[:, :-1, 1:] - image[:, :-1, :-1]
            loss = -tf.reduce_mean(maps(image)[..., channel])
            loss += LP_WEIGHT * tf.reduce_sum(tf.abs(image) ** 6) ** (1 / 6) / size
            loss += tv * tf.reduce_sum(down**2 + right**2) / size
        gradient = tape.gradient(loss, image)
        gradient /= tf.sqrt(tf.reduce_mean(gradient**2)) + EPSILON
        cache = DECAY * cache + (1 - DECAY) * gradient**2
        image -= gradient / tf.sqrt(cache + EPSILON)
        better = loss < best
        return image, cache, tf.where(better, loss, best), tf.where(better, image, best_image)

    return step


def minimize(
    step: Callable[..., tuple[tf.Tensor, ...]],
    image: np.ndarray,
    channel: int,
    steps: int,
    tv: float,
    jitter: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """The image (h, w, 3) after the step before which the loss was lowest. jitter: in pixels."""
    dtype = image.dtype
    image = best_image = tf.constant(image[None])
    channel, tv, best = tf.constant(channel), tf.constant(tv, dtype), tf.constant(np.inf, dtype)
    cache = tf.zeros_like(image)
    for offset in generator.integers(-jitter, jitter + 1, (steps, 2), np.int32):
        image, cache, best, best_image = step(image, cache, best, best_image, channel, tv, tf.constant(offset))
    return best_image.numpy()[0]


def seed_image(generator: np.random.Generator, image_size: int) -> np.ndarray:
    """Uniform noise of mean 127.5 and standard deviation 12.75, (image_size, image_size, 3)."""
    noise = generator.random((image_size, image_size, 3))
    return ((noise - noise.mean()) / (noise.std() + EPSILON) * 12.75 + 127.5).astype(np.float32)


def deprocess(image: np.ndarray) -> np.ndarray:
    """The image as uint8, its standard deviation a tenth of the range."""
    image = (image - image.mean()) / (image.std() + EPSILON)
    return (np.clip(image * 0.1 + 0.5, 0, 1) * 255).astype(np.uint8)


def visualize_activation(
    step: Callable[..., tuple[tf.Tensor, ...]], channel: int, image_size: int, steps: tuple[int, int], seed: int
) -> Iterator[np.ndarray]:
    """The article's images of a filter: of a stage without total variation, then of one with it that continues it."""
    generator = np.random.default_rng((seed, channel))
    image = seed_image(generator, image_size)
    for count, tv in zip(steps, (0.0, 10.0), strict=True):
        shown = deprocess(minimize(step, image, channel, count, tv, int(JITTER * image_size), generator))
        yield shown
        image = shown.astype(np.float32)


def take_turns(
    work: dict[str, Any], model: keras.Model, draw: Callable[[int, tuple[int, ...]], Iterator[np.ndarray]]
) -> Iterator[None]:
    """For each `next`, one stage of one filter, which is reported in the file work["answer"], see `race.py`.

    The first one only compiles. draw: channel and the steps of its stages → uint8 images (h, w, 3), one for each stage.
    """
    forward = tf.function(lambda x: model(x, training=False))
    np.save(work["maps"], forward(np.load(work["image"]).astype(np.float32)[None]).numpy()[0])
    list(draw(work["channels"][0], (1,) * len(work["steps"])))
    yield
    while True:
        for place, channel in enumerate(work["channels"]):
            for number, image in enumerate(draw(channel, work["steps"]), 1):
                maps = forward(image.astype(np.float32)[None])[0, ..., channel].numpy()
                answer = {
                    "steps": work["steps"][number - 1],
                    "activations": [[place, float(maps.mean())]],
                    "done": place + 1 == len(work["channels"]) and number == len(work["steps"]),
                }
                Path(work["answer"]).write_text(json.dumps(answer))
                yield


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that draws the next stage."""
    model = build(work["weights"], work["layer"], work["image_size"])
    step = stepper(lambda x: model(x, training=False), work["jit_compile"])
    turns = take_turns(
        work, model, lambda channel, steps: visualize_activation(step, channel, work["image_size"], steps, work["seed"])
    )
    return lambda: next(turns)
