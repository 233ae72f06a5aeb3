"""This package's render, a layer's filters as one batch, until the activation of each image has reached its target."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import Network, formats, runtime
from cnnjax.train.strategy import rows_strategy
from cnnjax.visualize import ascent, objectives
from cnnjax.visualize.layers import at_image_size, layer_shapes
from cnnjax.visualize.optimizers import Optimizer, keras_vis_rmsprop
from cnnjax.visualize.parameterizations import Pixels, to_uint8
from cnnjax.visualize.recipes import RECIPES
from cnnjax.visualize.stages import NEVER, Plan

runtime.configure()

CHUNK = 10
"""Steps between two looks at the images."""
RECIPE = RECIPES["article-filters"]
CLIMB = RECIPE.stages[0]
"""The stage in which activations rise; the other one smooths the image and lowers them."""


@jax.jit
def look(problem: ascent.Problem, state: ascent.State) -> tuple[jax.Array, jax.Array]:
    """The best images so far as uint8, and their activations without jitter."""
    images = jax.vmap(functools.partial(to_uint8, Pixels()))(problem.images(state.best_params))
    return images, ascent.measure(problem.network, problem.objective, images, rows_strategy(1))[0]


def climb(
    network: Network, layer: str, channels: Sequence[int], targets: Sequence[float], most: int, seed: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(steps, activations (filters,), images) after each chunk of steps.

    The last chunk is the one after which every filter has reached its target at least once, or that ends with step
    `most`. A filter that has reached its target stays in the batch.
    """
    objective = objectives.channel(layer, channels).bind(objectives.Target(layer_shapes(network), network.class_names))
    plan = Plan(network, RECIPE, Pixels(), Optimizer(keras_vis_rmsprop()), None, seed, rows_strategy(1))
    problem = plan.problem(objective, CLIMB)
    keys, params, _ = plan.noise(objective.numbers())
    keys, state = ascent.fold(keys, 1), ascent.init_state(problem, params)
    highest, taken = np.full(len(channels), -np.inf), 0
    while taken < most and not (highest >= targets).all():
        last = min(taken + CHUNK, most)
        numbers = jnp.int32(taken), jnp.int32(last), jnp.int32(NEVER)
        state = ascent.advance(problem, keys, state, *numbers, plan.strategy)
        images, activations = jax.device_get(look(problem, state))
        highest, taken = np.maximum(highest, activations), last
        yield taken, activations, images


def turns(work: dict[str, Any]) -> Iterator[None]:
    """For each `next`, one chunk, which is reported in the file work["answer"], see `race.py`; the first one only
    compiles."""
    network = at_image_size(formats.load(work["weights"]), work["image_size"])
    layer, channels, most = work["layer"], work["channels"], 2 * sum(work["steps"])
    image = np.load(work["image"]).astype(np.float32)[None] / 255
    maps = jax.jit(lambda network, images: network(images)[1][layer])(network, image)
    np.save(work["maps"], np.asarray(maps[0]))
    next(climb(network, layer, channels, [np.inf] * len(channels), 1))
    yield
    while True:
        targets, before, highest = np.asarray(json.loads(Path(work["targets"]).read_text())), 0, -np.inf
        for taken, activations, _ in climb(network, layer, channels, targets, most, work["seed"]):
            highest = np.maximum(highest, activations)
            answer = {
                "steps": taken - before,
                "activations": list(enumerate(activations.tolist())),
                "done": taken == most or bool((highest >= targets).all()),
            }
            Path(work["answer"]).write_text(json.dumps(answer))
            before = taken
            yield


def prepare(work: dict[str, Any]) -> Callable[[], None]:
    """A call that takes the next chunk of steps, of all filters."""
    chunks = turns(work)
    return lambda: next(chunks)
