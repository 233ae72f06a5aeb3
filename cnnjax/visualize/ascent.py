"""The optimization of a batch of images: pure functions, and the two programs that run them.

Each image of a batch has its own objective, key, optimizer state, score and best; the network runs on all of them at
once. A result is the image after the step before which the score was highest (keras-vis 0.4.1).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from cnnjax.network import Network
from cnnjax.train import strategy as strategies
from cnnjax.train.strategy import Strategy
from cnnjax.visualize import before_relu
from cnnjax.visualize import transforms as transforms_
from cnnjax.visualize.objectives import Objective, with_before_relu
from cnnjax.visualize.optimizers import Optimizer
from cnnjax.visualize.parameterizations import ImageParams, Parameterization, quantize
from cnnjax.visualize.parameterizations.base import Leaf
from cnnjax.visualize.transforms import Transform

T = TypeVar("T")
Score = Callable[[ImageParams], tuple[jax.Array, jax.Array]]
"""Parameters of a batch of images -> each one's (score with penalties, value of the objective after relu)."""


class State(NamedTuple):
    """A batch of images on their way. Every array has a leading axis: one entry for each image."""

    params: ImageParams
    opt_state: optax.OptState
    best: Float[Array, " batch"]
    """Highest score met."""
    best_params: ImageParams
    """Parameters after the step before which the score was highest."""
    peak: Float[Array, " batch"]
    """Highest value of the objective met, after relu."""
    stale: Int[Array, " batch"]
    """Steps since the score rose above its best."""
    steps: Int[Array, " batch"]
    """Steps taken."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """Everything that a step needs besides the state: a pytree, of which `jax.jit` compiles one program a structure.

    objective and penalty: bound, with one entry for each image. parameterization: a registered pytree, or `Static`.
    """

    network: Network
    objective: Objective
    penalty: Objective
    transforms: tuple[Transform, ...]
    parameterization: Parameterization[ImageParams]
    optimizer: Optimizer = field(metadata={"static": True})
    in_place: bool = field(metadata={"static": True})
    before_relu: tuple[str, ...] = field(default=(), metadata={"static": True})
    """Layers that the objective reads before their relu; the penalty never does."""
    views: int = field(default=1, metadata={"static": True})
    """How many differently transformed copies of an image the network is shown; the objective is their mean."""
    steps: Leaf = 1.0
    """Of the stage, over which transforms may change."""
    dtype: str | None = field(default=None, metadata={"static": True})
    """What the network computes in; None for what its parameters are in."""

    def at(self, step: jax.Array) -> "Problem":
        """The problem with the transforms of this step."""
        progress = step.astype(jnp.float32) / self.steps
        return replace(self, transforms=tuple(one.at(progress) for one in self.transforms))

    def images(self, params: ImageParams) -> Float[Array, "batch height width channels"]:
        """The images of a batch, in display units."""
        return jax.vmap(self.parameterization.to_image)(params)


def init_state(problem: Problem, params: ImageParams) -> State:
    """The state before the first step."""
    lead = jax.tree.leaves(params)[0]
    worst = jnp.full(len(lead), -jnp.inf, lead.dtype)
    none = jnp.zeros(len(lead), jnp.int32)
    return State(params, jax.vmap(problem.optimizer.init)(params), worst, params, worst, none, none)


def make_score(problem: Problem, keys: Key[Array, " batch"]) -> Score:
    """The score of a step: the objective minus the penalty, of what the network is shown."""

    def score(params: ImageParams) -> tuple[jax.Array, jax.Array]:
        images = problem.images(params)
        shown = _shown(problem, keys, images) / 255
        seen = before_relu.run(problem.network, shown, problem.before_relu, problem.dtype)
        logits, activations, before = jax.tree.map(lambda x: x.reshape(len(images), -1, *x.shape[1:]), seen)

        def mean(objective: Objective, activations: dict[str, jax.Array]) -> jax.Array:
            """Over the views of each image."""
            return jax.vmap(lambda x, a: objective.values(x, a, images), 1)(logits, activations).mean(axis=0)

        goals = driven = mean(problem.objective, activations)
        if before:
            driven = mean(problem.objective, with_before_relu(activations, before))
        return driven - mean(problem.penalty, activations), goals

    return score


def _shown(
    problem: Problem, keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"]
) -> Float[Array, "batch_views new_height new_width channels"]:
    """What the network is shown: each image's views, one after the other."""
    if problem.in_place or not problem.transforms:
        return images
    if problem.views > 1:
        keys = jax.vmap(lambda key: jax.random.split(key, problem.views))(keys).reshape(-1)
        images = jnp.repeat(images, problem.views, axis=0)
    return jax.vmap(functools.partial(transforms_.apply, problem.transforms))(keys, images)


def step(score: Score, optimizer: Optimizer, state: State) -> State:
    """One step up."""

    def loss(params: ImageParams) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        scores, goals = score(params)
        return -scores.sum(), (scores, goals)

    gradient, (scores, goals) = jax.grad(loss, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in int32
        updates, opt_state = jax.vmap(optimizer.update)(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    better = scores > state.best
    return State(
        params=params,
        opt_state=opt_state,
        best=jnp.where(better, scores, state.best),
        best_params=_choose(better, params, state.best_params),
        peak=jnp.maximum(state.peak, goals),
        stale=jnp.where(better, 0, state.stale + 1),
        steps=state.steps + 1,
    )


@functools.partial(jax.jit, static_argnames=("strategy",))
def advance(
    problem: Problem,
    keys: Key[Array, " batch"],
    state: State,
    first: Int[Array, ""],
    last: Int[Array, ""],
    patience: Int[Array, ""],
    strategy: Strategy,
) -> State:
    """Steps `first` to `last`: one program for any number of them. `keys`: of the stage, one for each image.

    An image whose score has not risen for `patience` steps stays as it is; when all have stopped, the loop ends. Each
    device has its own part of the images, and a loop of its own.
    """

    def part(fixed: tuple, rows: tuple) -> State:
        (network, transforms, parameterization, steps, first, last, patience), (objective, penalty, *own) = fixed, rows
        keys, state = own
        local = replace(
            problem,
            network=network,
            objective=objective,
            penalty=penalty,
            transforms=transforms,
            parameterization=parameterization,
            steps=steps,
        )

        def moving(carry: tuple[jax.Array, State]) -> jax.Array:
            return (carry[0] < last) & (carry[1].stale < patience).any()

        def body(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
            i, state = carry
            return i + 1, _choose(state.stale < patience, _advance_once(local.at(i), fold(keys, i), state), state)

        return lax.while_loop(moving, body, (first, state))[1]

    fixed = problem.network, problem.transforms, problem.parameterization, problem.steps, first, last, patience
    return strategies.map_rows(strategy, part)(fixed, (problem.objective, problem.penalty, keys, state))


def _advance_once(problem: Problem, keys: Key[Array, " batch"], state: State) -> State:
    """One step, before which transforms may change the images in place. `keys`: of the step, one for each image."""
    if problem.transforms and problem.in_place:
        images = problem.images(state.params)  # which are the parameters themselves
        changed = jax.vmap(functools.partial(transforms_.apply, problem.transforms))(keys, images)
        state = state._replace(params=changed)
    return step(make_score(problem, keys), problem.optimizer, state)


@functools.partial(jax.jit, static_argnames=("strategy", "layers"))
def measure(
    network: Network,
    objective: Objective,
    shown: UInt8[Array, "batch height width channels"],
    strategy: Strategy,
    layers: tuple[str, ...] = (),
) -> tuple[Float[Array, " batch"], Float[Array, "batch classes"] | None]:
    """The objective's values, and the probabilities of the classes (if there are any), for images as they are saved.

    layers: those that the objective reads before their relu.
    """

    def part(
        network: Network, rows: tuple[Objective, UInt8[Array, "part height width channels"]]
    ) -> tuple[Float[Array, " part"], Float[Array, "part classes"] | None]:
        images = rows[1].astype(jnp.float32)
        logits, activations, before = before_relu.run(network, images / 255, layers)
        goals = rows[0].values(logits, with_before_relu(activations, before), images)
        return goals, network.probabilities(images / 255) if network.class_names else None

    return strategies.map_rows(strategy, part)(network, (objective, shown))


@functools.partial(jax.jit, static_argnames=("image_size", "channels"))
def init_noise(
    parameterization: Parameterization[ImageParams],
    seed: jax.Array,
    numbers: jax.Array,
    image_size: tuple[int, int],
    channels: int,
    members: jax.Array | None = None,
) -> tuple[Key[Array, " batch"], ImageParams, UInt8[Array, "batch height width channels"]]:
    """Each objective's key, its parameters to start from, and the image of these as it would be saved.

    A key follows from the seed and the objective's number (its channel or class), never from the place in the batch;
    and from `members`, if given, which tell images apart that depend on each other.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
    if members is not None:
        keys = jax.vmap(jax.random.fold_in)(keys, members)
    params = jax.vmap(lambda key: parameterization.init(key, image_size, channels))(fold(keys, 0))
    return keys, params, jax.vmap(lambda one: quantize(parameterization.to_image(one)))(params)


def _choose(condition: Bool[Array, " batch"], new: T, old: T) -> T:
    """Each image's part of a pytree, from the new one where the condition holds."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


def fold(keys: Key[Array, " batch"], number: int | jax.Array) -> Key[Array, " batch"]:
    """Each key with a number folded in."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
