"""The compiled functions behind `render` and `render_masks`: one for all animals and one for each other class, by size.

What differs between animals, between versions and between whole and partial subjects is traced, so that it costs no
compilation.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from cnnjax import runtime
from cnnjax.procedural import animals
from cnnjax.procedural.canvas import Canvas, Layer, Stream, canvas, fractal, paint
from cnnjax.procedural.surroundings import background, finish, occluders
from cnnjax.procedural.things import THINGS
from cnnjax.procedural.traits import ANIMALS, VERSION, Kind, kind

CHUNK = 20
SUBJECT = "subject"
"""The name of a whole animal or thing among its parts."""

_OCCLUSION = 0.3  # the probability of each of the two bars in front of a thing


class Drawn(NamedTuple):
    """What a program draws, besides keys. All of it is traced."""

    kind: Kind | None
    """Of an animal; None for a thing."""
    shown: Float[Array, " parts"]
    """1 for each part that is painted, 0 for one that is left out. A thing has one part, itself."""


class _Scene(NamedTuple):
    """One image before the subject is painted."""

    view: Canvas
    noise: Float[Array, "4 side side"]
    subject: Stream
    background: Key[Array, ""]
    bars: list[Layer]
    camera: Key[Array, ""]


def parts(name: str) -> tuple[str, ...]:
    """The parts that a class's images can be rendered without, and that have masks."""
    return animals.PARTS if name in ANIMALS else ()


def drawn(name: str, version: int, without: Collection[str] = ()) -> Drawn:
    """The arguments for one class. without: parts that are left out, or SUBJECT for all of them."""
    shown = [float(SUBJECT not in without and part not in without) for part in parts(name) or (SUBJECT,)]
    return Drawn(kind(ANIMALS.index(name), version) if name in ANIMALS else None, jnp.asarray(shown))


def _scene(data, side: int, what: Drawn) -> _Scene:
    """Background, subject, occluders and camera each have a key of their own."""
    back, subject, texture, front, camera = jax.random.split(jax.random.wrap_key_data(data), 5)
    view = canvas(side)
    noise = fractal(texture, side, 4, jnp.asarray([0.9, 0.9, 0.45, 0.45]))
    occlusion = _OCCLUSION if what.kind is None else what.kind.placement.occlusion
    return _Scene(view, noise, Stream(subject), back, occluders(front, view, noise, occlusion), camera)


def _layers(name: str, scene: _Scene, shown: Float[Array, "1"]) -> list[Layer]:
    """A thing's layers. What hides everything else, such as the water around a bridge, is shown in any case."""
    layers = THINGS[name](scene.subject, scene.view, scene.noise)
    return [layer if layer.coverage is None else Layer(layer.coverage * shown[0], layer.colour) for layer in layers]


def image(data, what: Drawn, name: str, side: int) -> UInt8[Array, "side side 3"]:
    """One image from its key data."""
    scene = _scene(data, side, what)
    behind = background(scene.background, scene.view)
    if what.kind is not None:
        painted = animals.animal(scene.subject, scene.view, scene.noise, what.kind, behind, what.shown)
    else:
        painted = paint(behind, _layers(name, scene, what.shown))
    return finish(scene.camera, scene.view, paint(painted, scene.bars))


def masks(data, what: Drawn, name: str, side: int) -> Float[Array, "masks side side"]:
    """The share of each pixel of one image that shows the subject and then each part, behind the bars in front."""
    scene = _scene(data, side, what)
    if what.kind is not None:
        shares = animals.visible_parts(scene.subject, scene.view, scene.noise, what.kind, what.shown)
        shares = jnp.concatenate([jnp.sum(shares, axis=0, keepdims=True), shares])
    else:
        hidden = jnp.ones((side, side))
        for coverage, _ in _layers(name, scene, what.shown):
            hidden = hidden * (1.0 - coverage) if coverage is not None else jnp.ones((side, side))
        shares = 1.0 - hidden[None]
    for coverage, _ in scene.bars:
        assert coverage is not None
        shares = shares * (1.0 - coverage)[None]
    return jnp.clip(shares, 0.0, 1.0)


def program(draw, name: str, side: int):
    """A compilable function of the key data of CHUNK images and a `Drawn`; `draw` is `image` or `masks`."""
    return jax.jit(lambda data, what: jax.lax.map(lambda one: draw(one, what, name, side), data))


@cache
def compiled(draw, name: str, side: int):
    """The program, compiled once, here, since many threads call it. Give one of the animals for all of them."""
    data = jax.random.key_data(jax.random.split(jax.random.key(0), CHUNK))
    return program(draw, name, side).lower(data, drawn(name, VERSION)).compile()


def run(draw, name: str, keys: Key[Array, " batch"], side: int, what: Drawn) -> np.ndarray:
    """`draw` for every key, on every core."""
    call = compiled(draw, ANIMALS[0] if name in ANIMALS else name, side)
    # Always CHUNK images per call: one compilation for any batch, and no difference of a single bit between batches.
    data, count = np.asarray(jax.random.key_data(keys)), keys.shape[0]
    data = np.concatenate([data, np.repeat(data[:1], -count % CHUNK, axis=0)])
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    with ThreadPoolExecutor(_threads()) as pool:
        done = list(pool.map(lambda chunk: np.asarray(call(chunk, what)), chunks))
    return np.concatenate(done)[:count]


def _threads() -> int:
    """On a CPU, one per core: one image's operations are too small for XLA to run on several cores."""
    return runtime.cores() if jax.default_backend() == "cpu" else 1
