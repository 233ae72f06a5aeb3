"""Images of eighteen classes, rendered by jitted functions from keys. No files and no network are needed.

The package's VGG16 was trained on the fourteen `CLASSES`; those in `NEW` it has never seen: they are for transfer.
The data set made of these images is `cnnjax.data.procedural`.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from cnnjax import runtime
from cnnjax.errors import unknown
from cnnjax.procedural import animals
from cnnjax.procedural.canvas import Stream, canvas, fractal, paint
from cnnjax.procedural.surroundings import background, finish, occluders
from cnnjax.procedural.things import THINGS
from cnnjax.procedural.traits import ANIMALS, kind

CLASSES = (
    "cat", "dog", "rabbit", "crocodile", "starfish", "husky", "goldfish",
    "bridge", "balloon", "tennis ball", "gondola", "dumbbell", "hammer", "lamp",
)  # fmt: skip

NEW = ("axe", "shovel", "fox", "bear")
"""Classes that no bundled network was trained on."""
KNOWN = CLASSES + NEW

CHUNK = 20
VERSION = 3  # of the images: part of the cache's key


def _scene(key, draw, side: int):
    """One image: background, subject, occluders and camera, each from a key of its own.

    draw(stream, canvas, noise, image) gives the image with the subject on it.
    """
    back, subject, texture, front, camera = jax.random.split(key, 5)
    view = canvas(side)
    noise = fractal(texture, side, 4, jnp.asarray([0.9, 0.9, 0.45, 0.45]))
    image = draw(Stream(subject), view, noise, background(back, view))
    return finish(camera, view, paint(image, occluders(front, view, noise, 0.3)))


def _program(name: str, side: int):
    """(key data of some images, a kind of animal or nothing) -> images, and an example of its second argument."""

    def scene(data, *rest):
        def draw(stream, view, noise, image):
            if rest:
                return animals.animal(stream, view, noise, *rest, image)
            return paint(image, THINGS[name](stream, view, noise))

        return _scene(jax.random.wrap_key_data(data), draw, side)

    example = (kind(0),) if name in ANIMALS else ()
    return jax.jit(lambda data, *rest: jax.lax.map(lambda one: scene(one, *rest), data)), example


@cache
def _compiled(name: str, side: int):
    """The program for CHUNK images, compiled once, here, since many threads call it."""
    program, example = _program(name, side)
    return program.lower(jax.random.key_data(jax.random.split(jax.random.key(0), CHUNK)), *example).compile()


def _renderer(name: str, side: int):
    if name in ANIMALS:
        program, traits = _compiled(ANIMALS[0], side), kind(ANIMALS.index(name))
        return lambda data: program(data, traits)
    if name in THINGS:
        return _compiled(name, side)
    raise unknown("procedural class", name, KNOWN)


def render(name: str, keys: Key[Array, " batch"], image_size: int) -> UInt8[Array, "batch {image_size} {image_size} 3"]:
    """Images of class `name`, one for each key, square RGB with `image_size` pixels on each side.

    A key gives the same image in any batch and the same scene at any size. Compiles once per size for all animals, and
    once per size for each other class; on a CPU, every core renders. Raises UserError for an unknown name.
    """
    draw, count = _renderer(name, image_size), keys.shape[0]
    # Always CHUNK images per call: one compilation for any batch, and no difference of a single bit between batches.
    data = np.asarray(jax.random.key_data(keys))
    data = np.concatenate([data, np.repeat(data[:1], -count % CHUNK, axis=0)])
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    with ThreadPoolExecutor(_threads()) as pool:
        calls = list(pool.map(lambda chunk: np.asarray(draw(chunk)), chunks))
    return jnp.asarray(np.concatenate(calls)[:count])


def _threads() -> int:
    """On a CPU, one per core: one image's operations are too small for XLA to run on several cores."""
    return runtime.cores() if jax.default_backend() == "cpu" else 1
