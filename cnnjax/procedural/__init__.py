"""The embedded source of pictures: classes rendered by jitted functions from keys. No files, no network.

Cats and dogs are hard on purpose: a thousand a class are few enough to be learnt by heart, and what tells them apart is
small, turned, shifted and mirrored, which is what augmentation teaches (article, section 4). Fourteen classes are what
the package's VGG16 was trained on; the rest it has never seen: they are there to transfer to.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8
from tqdm import tqdm

from cnnjax import runtime
from cnnjax.cli.config import DataConfig
from cnnjax.data.cache import cached
from cnnjax.data.dataset import Dataset, Split
from cnnjax.errors import UserError, unknown
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
"""Classes that no shipped network was trained on."""
KNOWN = CLASSES + NEW

CHUNK = 20
VERSION = 3  # of the pictures: part of the cache's key


def _scene(key, draw, side: int):
    """One picture: background, subject, occluders and camera, each from a key of its own.

    draw(stream, canvas, noise, image) gives the image with the subject on it.
    """
    back, subject, texture, front, camera = jax.random.split(key, 5)
    view = canvas(side)
    noise = fractal(texture, side, 4, jnp.asarray([0.9, 0.9, 0.45, 0.45]))
    image = draw(Stream(subject), view, noise, background(back, view))
    return finish(camera, view, paint(image, occluders(front, view, noise, 0.3)))


def _program(name: str, side: int):
    """(key data of some pictures, a kind of animal or nothing) -> pictures, and an example of its second argument."""

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
    """The program for CHUNK pictures, compiled once, here, since many threads call it."""
    program, example = _program(name, side)
    return program.lower(jax.random.key_data(jax.random.split(jax.random.key(0), CHUNK)), *example).compile()


def _renderer(name: str, side: int):
    if name in ANIMALS:
        program, traits = _compiled(ANIMALS[0], side), kind(ANIMALS.index(name))
        return lambda data: program(data, traits)
    if name in THINGS:
        return _compiled(name, side)
    raise unknown("procedural class", name, KNOWN)


def render(name: str, keys: Key[Array, " batch"], side: int) -> UInt8[Array, "batch side side 3"]:
    """Pictures of class `name`, one a key: a key gives the same picture in any batch and the same scene at any side.

    Compiles once a side for the animals, once a side for each other class; on a CPU, every core draws. Raises UserError
    for an unknown name.
    """
    draw, count = _renderer(name, side), keys.shape[0]
    # Always CHUNK pictures a call: one compilation whatever the batch, and not one bit of difference between batches.
    data = np.asarray(jax.random.key_data(keys))
    data = np.concatenate([data, np.repeat(data[:1], -count % CHUNK, axis=0)])
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    with ThreadPoolExecutor(_threads()) as pool:
        calls = list(pool.map(lambda chunk: np.asarray(draw(chunk)), chunks))
    return jnp.asarray(np.concatenate(calls)[:count])


def _threads() -> int:
    """On a CPU, one a core: a picture's operations are too small for XLA to share out by itself."""
    return runtime.cores() if jax.default_backend() == "cpu" else 1


def load(config: DataConfig) -> Dataset:
    """The splits that `config` asks for, rendered under a progress bar or read from the cache.

    Picture i of class c in split s (train 0, valid 1, test 2) has the key fold_in(fold_in(key(seed), s), i · 14 + c),
    one of the classes in NEW fold_in(fold_in(key(seed), s + 3), i · 4 + c): splits share no picture, and a class's
    first pictures do not depend on how many there are. Raises UserError for an
    unknown class, a class named twice, fewer than two classes, and per_class = 0.
    """
    names = config.classes or ("cat", "dog")  # the article's
    for name in names:
        if name not in KNOWN:
            raise unknown("procedural class", name, KNOWN)
    if len(set(names)) < max(len(names), 2):
        raise UserError(f"--data.classes {' '.join(names)}: name two or more different classes")
    if config.per_class < 1:
        raise UserError("--data.per-class 0: procedural pictures have no end, so give the number wanted of each class")

    def split(number: int, label: str, per_class: int) -> Split:
        key = {"version": VERSION, "classes": names, "side": config.side, "count": per_class, "seed": config.seed}
        key["split"] = number
        compute = partial(_render_split, config, names, number, label, per_class)
        return cached(f"procedural-{label}-{config.side}", key, compute) if config.cache else compute()

    return Dataset(
        train=split(0, "train", config.per_class),
        valid=split(1, "valid", config.eval_per_class),
        load_test=lambda: split(2, "test", config.eval_per_class),
        class_names=tuple(names),
    )


def _render_split(config: DataConfig, names: tuple[str, ...], number: int, label: str, per_class: int) -> Split:
    images = np.empty((len(names) * per_class, config.side, config.side, 3), np.uint8)
    with tqdm(total=len(images), desc=f"rendering {label} pictures", unit="picture", leave=False) as progress:
        for place, name in enumerate(names):
            family, part = (CLASSES, number) if name in CLASSES else (NEW, number + 3)
            base = jax.random.fold_in(jax.random.key(config.seed), part)
            for start in range(0, per_class, 5 * CHUNK):
                count = min(5 * CHUNK, per_class - start)
                index = (start + np.arange(count)) * len(family) + family.index(name)
                keys = jax.vmap(partial(jax.random.fold_in, base))(jnp.asarray(index, jnp.uint32))
                first = place * per_class + start
                images[first : first + count] = render(name, keys, config.side)
                progress.update(count)
    return Split(images, np.repeat(np.arange(len(names), dtype=np.int32), per_class))
