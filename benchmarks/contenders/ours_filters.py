"""This package's ascent, a layer's filters as one batch, until each picture's activation has reached its target."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import formats
from cnnjax.visualize import layers, objectives, parameterizations, render, transforms
from cnnjax.visualize.recipes import RECIPES

CHUNK = 10
"""Steps between two looks at the pictures."""
CLIMB = RECIPES["article-filters"].passes[0]
"""The pass in which activations rise; the other one smooths the picture, at their cost."""


@partial(jax.jit, static_argnames=("rest", "layer"))
def advance(arrays, rest, layer, channels, keys, state, lp, limit, first, last):
    """Steps `first` to `last`: the state, the best images as uint8 pictures, and these' activations without jitter."""
    network, objective = layers.unpack(arrays, rest), partial(objectives.filter_, layer)
    score = render.scorer(network, objective, channels, CLIMB.tv, lp)

    def body(i, state):
        drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        image = jax.vmap(transforms.jitter, (0, 0, None))(drawn, state.image, limit)
        return render.step(score, state._replace(image=image))

    state = lax.fori_loop(first, last, body, state)
    shown = parameterizations.deprocess(state.best_image)
    goals = render.scorer(network, objective, channels, 0.0, 0.0)(shown.astype(jnp.float32))[1]
    return state, shown, goals


def climb(
    network: Any, layer: str, channels: Sequence[int], targets: Sequence[float], most: int, seed: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(steps, activations (filters,), pictures) after each chunk, up to the one after which every filter has reached
    its target once, or to `most` steps. A reached filter stays in the batch.
    """
    arrays, rest = layers.pack(network)
    channels = jnp.asarray(channels, jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), channels)
    state = render.start(parameterizations.seeds(keys, network.image_size))
    settings = jnp.float32(CLIMB.lp), jnp.int32(transforms.pixels(CLIMB.jitter, network.image_size))
    highest, taken = np.full(len(channels), -np.inf), 0
    while taken < most and not (highest >= targets).all():
        last = min(taken + CHUNK, most)
        state, shown, goals = advance(arrays, rest, layer, channels, keys, state, *settings, taken, last)
        highest, taken = np.maximum(highest, goals), last
        yield taken, np.asarray(goals), np.asarray(shown)


def turns(work: dict[str, Any]) -> Iterator[None]:
    """For each `next`, one chunk; the first one only compiles. Tells work["answer"] about it, see `race.py`."""
    network = layers.at_side(formats.load(work["weights"]), work["image_size"])
    layer, channels, most = work["layer"], work["channels"], 2 * sum(work["steps"])
    picture = np.load(work["picture"]).astype(np.float32)[None] / 255
    maps = jax.jit(lambda params, images: network.forward(params, images)[1][layer])(network.params, picture)
    np.save(work["maps"], np.asarray(maps[0]))
    next(climb(network, layer, channels, [np.inf] * len(channels), 1))
    yield
    while True:
        targets, before, highest = np.asarray(json.loads(Path(work["targets"]).read_text())), 0, -np.inf
        for taken, goals, _ in climb(network, layer, channels, targets, most, work["seed"]):
            highest = np.maximum(highest, goals)
            answer = {
                "steps": taken - before,
                "activations": list(enumerate(goals.tolist())),
                "done": taken == most or bool((highest >= targets).all()),
            }
            Path(work["answer"]).write_text(json.dumps(answer))
            before = taken
            yield


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that takes the next chunk of steps, of all filters."""
    pieces = turns(work)
    return lambda: next(pieces)
