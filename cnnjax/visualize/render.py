"""Gradient ascent on the input image: what a filter or a class wants to see (article, sections 6.2 and 6.3).

The method is keras-vis 0.4.1's: each image's gradient is divided by its root mean square, RMSprop takes a step of
size 1, and the result is the image after the step before which the score was highest. A batch of objectives is one
program: the network runs on all images at once, and each image has its own channel or class, key, score and best.
"""

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.visualize import layers, objectives, transforms
from cnnjax.visualize import parameterizations as images_
from cnnjax.visualize.image_io import Picture
from cnnjax.visualize.objectives import Objective
from cnnjax.visualize.recipes import RECIPES, Pass, Recipe, classes_of

EPSILON = 1e-7
DECAY = 0.95
Progress = Callable[[int], Any]
"""Called with the number of images × steps done since the last call: a tqdm bar's `update`."""
Score = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class State(NamedTuple):
    """A batch of images on their way."""

    image: Float[Array, "batch height width 3"]
    cache: Float[Array, "batch height width 3"]
    """Running mean of the squared gradient."""
    best: Float[Array, " batch"]
    """Highest score met."""
    best_image: Float[Array, "batch height width 3"]
    peak: Float[Array, " batch"]
    """Highest activation or logit met."""


def start(images: Float[Array, "batch height width 3"]) -> State:
    """The state before the first step."""
    worst = jnp.full(len(images), -jnp.inf, images.dtype)
    return State(images, jnp.zeros_like(images), worst, images, worst)


def step(score: Score, state: State) -> State:
    """One step up. `score` maps images to each one's (score with penalties, activation or logit)."""

    def total(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        scores, goals = score(images)
        return scores.sum(), (scores, goals)

    gradient, (scores, goals) = jax.grad(total, has_aux=True)(state.image)
    gradient /= jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True)) + EPSILON
    cache = DECAY * state.cache + (1 - DECAY) * gradient**2
    image = state.image + gradient / jnp.sqrt(cache + EPSILON)
    better = scores > state.best
    return State(
        image=image,
        cache=cache,
        best=jnp.where(better, scores, state.best),
        best_image=jnp.where(better[:, None, None, None], image, state.best_image),
        peak=jnp.maximum(state.peak, goals),
    )


def scorer(network: Any, objective: Callable[[Any], Objective], targets: Array, tv: Any, lp: Any) -> Score:
    """The score of images in display units: objective(target) minus the weighted total variation and L6 norm.

    The weights are numbers, or one for each image.
    """

    def one(target: jax.Array, tv: jax.Array, lp: jax.Array, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        goal = objective(target)(*inputs)
        penalty = objectives.total_variation(2.0) * tv + objectives.lp_norm(6.0) * lp
        return goal - penalty(*inputs), goal

    def score(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, activations = network.forward(network.params, images / 255)
        weights = (jnp.broadcast_to(jnp.asarray(w, images.dtype), len(images)) for w in (tv, lp))
        return jax.vmap(one)(targets, *weights, logits, activations, images)

    return score


@functools.partial(jax.jit, static_argnames=("rest", "objective"))
def _advance(
    arrays: list[jax.Array],
    rest: Hashable,
    objective: Callable[[Any], Objective],
    targets: jax.Array,
    keys: jax.Array,
    state: State,
    tv: jax.Array,
    lp: jax.Array,
    limit: jax.Array,
    first: jax.Array,
    last: jax.Array,
) -> State:
    """Steps `first` to `last`, one program for any number of them."""
    score = scorer(layers.unpack(arrays, rest), objective, targets, tv, lp)

    def body(i: jax.Array, state: State) -> State:
        image = jax.vmap(lambda key, image: transforms.jitter(key, image, limit))(_fold(keys, i), state.image)
        return step(score, state._replace(image=image))

    return lax.fori_loop(first, last, body, state)


@functools.partial(jax.jit, static_argnames=("rest", "objective"))
def _measure(
    arrays: list[jax.Array], rest: Hashable, objective: Callable[[Any], Objective], targets: jax.Array, shown: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The activation or logit, and the class's probability, of pictures as they are saved."""
    network = layers.unpack(arrays, rest)
    images = shown.astype(jnp.float32)
    goals = scorer(network, objective, targets, 0.0, 0.0)(images)[1]
    logits = network.forward(network.params, images / 255)[0].reshape(len(images), -1)
    if logits.shape[1] == 1:
        return goals, jax.nn.sigmoid(goals)
    return goals, jax.vmap(lambda row, target: jax.nn.softmax(row)[target])(logits, targets)


@functools.partial(jax.jit, static_argnames=("side",))
def _noise(seed: jax.Array, targets: jax.Array, side: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each target's key, its seed image, and that as it would be saved."""
    # The key follows from the seed and the target, never from the place in the batch.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), targets)
    seeds = images_.seeds(_fold(keys, 0), side)
    return keys, seeds, jnp.clip(seeds, 0, 255).astype(jnp.uint8)


_show = jax.jit(images_.deprocess)


def _fold(keys: jax.Array, number: Any) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


# One function object a layer, so that jit knows it again.
@functools.lru_cache(maxsize=256)
def _filter_objective(layer: str) -> Callable[[Any], Objective]:
    return functools.partial(objectives.filter_, layer)


def filters(
    network: Any,
    layer: str,
    channels: int | Sequence[int] = 8,
    recipe: Recipe = RECIPES["filters"],
    seed: int = 0,
    side: int | None = None,
    on_progress: Progress | None = None,
    batch: int = 16,
) -> list[Picture]:
    """A picture for each of a layer's channels (or the first so many) that drives it most.

    A filter that never fired, from the noise to the last step, has `dead` in its provenance: its picture means nothing.
    A channel gives the same picture whatever company it has. Raises UserError for a layer or channel that is not there.
    """
    network = layers.at_side(network, side)
    chosen = layers.require(layers.shapes(network), layer, channels)
    facts = [{"kind": "filter", "layer": layer, "channel": channel} for channel in chosen]
    drawn = _draw(network, _filter_objective(layer), chosen, recipe, seed, on_progress, batch)
    return [Picture(d.image, fact | d.facts | {"dead": d.peak == 0}) for fact, d in zip(facts, drawn, strict=True)]


def classes(
    network: Any,
    names: Sequence[str] = (),
    recipe: Recipe = RECIPES["classes"],
    seed: int = 0,
    on_progress: Progress | None = None,
    batch: int = 16,
) -> list[Picture]:
    """A picture for each class (default: all) that drives its logit most. Raises UserError for an unknown class.

    Of ImageNet's classes the article's words are understood, too (`recipes.classes_of`).
    """
    known = network.class_names
    names = classes_of(known, names or known)
    indices = [known.index(name) for name in names]
    drawn = _draw(network, objectives.class_, indices, recipe, seed, on_progress, batch)
    return [
        Picture(
            d.image,
            {"kind": "class", "class": name, "class_index": index}
            | d.facts
            | {"probability_before": d.probabilities[0], "probability_after": d.probabilities[1]},
        )
        for name, index, d in zip(names, indices, drawn, strict=True)
    ]


def lowered(network: Any, layer: str, batch: int, device: jax.Device) -> jax.stages.Lowered:
    """The program that draws `batch` of a layer's filters, lowered for a device that need not be there.

    The network's parameters may be jax.ShapeDtypeStruct. What it is for: to compile, and read what XLA makes of it.
    """
    there = jax.sharding.SingleDeviceSharding(device)

    def shape(*size: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=there)

    arrays, rest = layers.pack(network)
    arrays = [shape(*array.shape, dtype=array.dtype) for array in arrays]
    image = shape(batch, network.side, network.side, 3)
    state = State(image, image, shape(batch), image, shape(batch))
    keys = shape(batch, dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)
    targets, number = shape(batch, dtype=jnp.int32), shape(dtype=jnp.int32)
    return _advance.lower(
        arrays, rest, _filter_objective(layer), targets, keys, state, shape(batch), shape(), number, number, number
    )


def fed(network: Any, recipe: Recipe) -> Any:
    """The network as a recipe gives it pictures: itself, or with the article's preprocessing, which is none at all."""
    if recipe.raw and getattr(network.cleaning, "kind", "") == "caffe":
        return network._replace(cleaning=normalize.raw())
    return network


def told(network: Any, recipe: Recipe) -> str:
    """What is optimised and what the network is given, in a sentence."""
    sentence = f"the pictures are display RGB; the network is given {normalize.told(fed(network, recipe).cleaning)}"
    if recipe.raw and fed(network, recipe) is network:
        sentence += f", as it was trained: only Caffe's weights are fed raw by recipe {recipe.name}"
    return sentence


class _Drawn(NamedTuple):
    image: np.ndarray
    facts: dict[str, Any]
    probabilities: tuple[float, float]
    peak: float


def _draw(
    network: Any,
    objective: Callable[[Any], Objective],
    targets: Sequence[int],
    recipe: Recipe,
    seed: int,
    on_progress: Progress | None,
    batch: int,
) -> Iterator[_Drawn]:
    """All targets, `batch` at a time, the last batch filled up so that there is one program."""
    if batch < 1:
        raise UserError(f"a batch of {batch} objectives is none: use 1 or more")
    size, network = min(batch, len(targets)), fed(network, recipe)
    arrays, rest = layers.pack(network)
    shared = {
        "weights": network.digest,
        "model": network.model.name,
        "side": network.side,
        "recipe": recipe.name,
        "input": normalize.told(network.cleaning) if network.cleaning else "",
        "steps": recipe.steps,
        "seed": seed,
    }
    for first in range(0, len(targets), size):
        real = list(targets[first : first + size])
        padded = jnp.asarray(real + real[-1:] * (size - len(real)), jnp.int32)
        keys, image, shown = _noise(seed, padded, network.side)
        peak = np.full(size, -np.inf)
        before = _measure(arrays, rest, objective, padded, shown)
        for number, one in enumerate(recipe.passes, 1):
            state = _run(arrays, rest, objective, padded, _fold(keys, number), image, one, len(real), on_progress)
            shown = _show(state.best_image)
            image = shown.astype(jnp.float32)
            peak = np.maximum(peak, state.peak)
        after = _measure(arrays, rest, objective, padded, shown)
        pictures, before, after = jax.device_get((shown, before, after))
        for i in range(len(real)):
            facts = shared | {"activation_before": float(before[0][i]), "activation_after": float(after[0][i])}
            yield _Drawn(pictures[i], facts, (float(before[1][i]), float(after[1][i])), float(peak[i]))


def _run(
    arrays: list[jax.Array],
    rest: Hashable,
    objective: Callable[[Any], Objective],
    targets: jax.Array,
    keys: jax.Array,
    images: jax.Array,
    one: Pass,
    count: int,
    on_progress: Progress | None,
) -> State:
    """One pass. With someone watching, in calls of about a second; the results are the same."""
    tv = jnp.full(len(images), one.tv, jnp.float32)
    if one.relative:
        goals = _measure(arrays, rest, objective, targets, images.astype(jnp.uint8))[0]
        roughness = jax.vmap(lambda image: objectives.total_variation(2.0)(jnp.zeros(0), {}, image))(images)
        tv *= jnp.maximum(goals, 0) / (roughness + EPSILON)
    settings = tv, jnp.float32(one.lp), jnp.int32(transforms.pixels(one.jitter, images.shape[1]))
    state, done, span = start(images), 0, one.steps if on_progress is None else 4
    while done < one.steps:
        began, last = time.perf_counter(), min(done + span, one.steps)
        state = _advance(arrays, rest, objective, targets, keys, state, *settings, done, last)
        if on_progress is not None:
            jax.block_until_ready(state.best)
            on_progress(count * (last - done))
            span = max(1, int((last - done) / (time.perf_counter() - began)))
        done = last
    return state
