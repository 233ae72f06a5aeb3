"""A batch of images through the stages of a recipe."""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from cnnjax import limits
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.train import strategy as strategies
from cnnjax.train.strategy import Strategy
from cnnjax.visualize import ascent, checks, objectives, octaves
from cnnjax.visualize.ascent import Problem, State
from cnnjax.visualize.layers import at_image_size, layer_shapes
from cnnjax.visualize.objectives import Objective, Target
from cnnjax.visualize.optimizers import Optimizer
from cnnjax.visualize.parameterizations import (
    ImageParams,
    Parameterization,
    Pixels,
    as_argument,
    from_image,
    quantize,
    to_alpha,
    to_uint8,
)
from cnnjax.visualize.recipes import Recipe, Stage

EPSILON = 1e-7
NEVER = np.iinfo(np.int32).max
T = TypeVar("T")
Progress = Callable[[int], object]
"""Called with the number of images × steps done since the last call: a tqdm bar's `update`."""


@runtime_checkable
class Frames(Protocol):
    """What is told of the images on the way, such as `films.Recorder`."""

    every: int
    """Steps between two frames."""

    def begin(self) -> None:
        """A new batch of images begins."""

    def add(self, step: int, images: UInt8[Array, "batch height width channels"]) -> None:
        """The images of the running batch as they would be saved after so many steps of all stages."""


class Plan(NamedTuple):
    """What all batches of one call have in common."""

    network: Network
    recipe: Recipe
    parameterization: Parameterization[ImageParams]
    optimizer: Optimizer
    penalty: Objective | None
    seed: int
    strategy: Strategy
    """On which devices."""
    before_relu: tuple[str, ...] = ()
    """Layers that the objectives read before their relu."""
    patience: int | None = None
    """After how many steps without a higher score an image stops in each stage."""
    dtype: str | None = None
    """What the network computes in."""
    start: Float[Array, "1 height width channels"] | None = None
    """The image to start from instead of noise, in 0 to 255."""

    def at(self, stage: Stage, objective: Objective) -> "Plan":
        """The plan for a stage's size. Raises UserError if the network there does not have what the objective reads."""
        size = stage.image_size(self.network.image_size)
        try:
            network = at_image_size(self.network, size)
        except UserError as error:
            raise UserError(
                f"recipe {self.recipe.name!r} has a stage of {size[0]}×{size[1]} pixels, which this network does not "
                "take: give a larger image_size, or a network whose layers take images of any size"
            ) from error
        if network is not self.network:
            objective.bind(Target(layer_shapes(network), network.class_names))
        return self._replace(network=network)

    def is_joint(self, objective: Objective) -> bool:
        """Whether the images of a batch depend on each other."""
        return objective.is_joint or (self.penalty is not None and self.penalty.is_joint)

    def problem(
        self, objective: Objective, stage: Stage, tv: Float[Array | np.ndarray, " batch"] | None = None
    ) -> Problem:
        """A stage's problem for a batch of objectives, which lie on the device.

        tv: the weights of the total variation, one for each image.
        """
        count = len(objective)
        if self.penalty is not None:
            penalty = self.penalty
        elif not self.recipe.is_penalized:
            penalty = objectives.as_objective(0.0)
        else:
            tv_weights = np.full(count, stage.tv, np.float32) if tv is None else tv
            penalty = objectives.weighted(objectives.total_variation(), tv_weights)
            penalty += objectives.weighted(objectives.lp_norm(), np.full(count, stage.lp, np.float32))
        in_place = self.recipe.in_place and isinstance(self.parameterization, Pixels)
        return Problem(
            network=self.network,
            objective=objective,
            penalty=_on_device(penalty.broadcast(count)),
            transforms=_on_device(tuple(one.bind(self.network.image_size) for one in stage.transforms)),
            parameterization=as_argument(self.parameterization),
            optimizer=self.optimizer,
            in_place=in_place,
            before_relu=self.before_relu,
            views=self.recipe.views,
            steps=jnp.float32(stage.steps),
            dtype=self.dtype,
        )

    def noise(
        self, numbers: Array | np.ndarray, members: Array | np.ndarray | None = None
    ) -> tuple[Key[Array, " batch"], ImageParams, UInt8[Array, "batch height width channels"]]:
        """Each objective's key, start and image. Raises UserError for a seed that is not one of its own."""
        limits.check_seed(self.seed)
        network, argument = self.network, as_argument(self.parameterization)
        numbers = jnp.asarray(numbers, jnp.int32)
        members = None if members is None else jnp.asarray(members, jnp.int32)
        seed = jnp.uint32(self.seed % 2**32)  # as jax.random.key takes negative ones
        return ascent.init_noise(argument, seed, numbers, network.image_size, network.channels, members)


class Watch(NamedTuple):
    """Who is told of the steps of a batch, of which the first `wanted` images are asked for."""

    wanted: int
    on_progress: Progress | None
    """Told about once a second."""
    frames: Frames | None
    size: tuple[int, int]
    """Of the frames (height, width)."""
    steps: int
    """Of all stages, after the last of which there is a frame as well."""

    def begin(self, noise: UInt8[Array, "batch height width channels"]) -> None:
        """Before the first step."""
        if self.frames is not None:
            self.frames.begin()
            self.frames.add(0, noise[: self.wanted])

    def steps_left(self, done: int) -> int:
        """Steps until the next frame."""
        return sys.maxsize if self.frames is None else self.frames.every - done % self.frames.every

    def look(self, done: int, problem: Problem, state: State) -> None:
        """After so many steps of all stages: add a frame where one is due."""
        if self.frames is not None and (done % self.frames.every == 0 or done == self.steps):
            shown = show(problem.parameterization, state.params)[: self.wanted]
            self.frames.add(done, quantize_all(octaves.resize(shown.astype(jnp.float32), self.size)))


class Drawn(NamedTuple):
    """A batch of results, as they are saved."""

    pixels: UInt8[Array | np.ndarray, "batch height width channels"]
    before: tuple[Array | np.ndarray, Array | np.ndarray | None]
    """The objective's values and the classes' probabilities, of the noise and of the result."""
    after: tuple[Array | np.ndarray, Array | np.ndarray | None]
    peak: Array | np.ndarray
    """The objective's highest value from the noise to the result, after relu."""
    alpha: UInt8[Array | np.ndarray, "batch height width"] | None
    """The images' alpha channels, if the parameterization has any."""
    steps: Array | np.ndarray
    """How many steps each image has taken."""


def _on_device(tree: T) -> T:
    """A pytree whose leaves are all jax.Arrays, since jit tells them from NumPy's."""
    return jax.tree.map(jnp.asarray, tree)


def draw(
    plan: Plan, objective: Objective, count: int, on_progress: Progress | None = None, frames: Frames | None = None
) -> Drawn:
    """All stages for one batch of objectives, of which `count` are to be told to `on_progress` and `frames`."""
    members = np.arange(len(objective)) if plan.is_joint(objective) else None
    keys, params, shown = plan.noise(objective.numbers(), members)
    objective = objective.broadcast(len(objective))
    argument, restarts = as_argument(plan.parameterization), from_image(plan.parameterization) is not None
    if plan.start is not None:
        shown = quantize_all(jnp.repeat(plan.start + 0.5, len(objective), axis=0))
        params = params_of(argument, shown.astype(jnp.float32))
    objective, keys, params = strategies.place_rows(plan.strategy, (_on_device(objective), keys, params))
    noise = shown
    before = ascent.measure(plan.network, objective, shown, plan.strategy)
    checks.check_start(objective, before[0], count)
    peak, steps, alpha = np.full(len(objective), -np.inf), np.zeros(len(objective), np.int32), None
    watch, begun = Watch(count, on_progress, frames, plan.network.image_size, plan.recipe.steps), 0
    watch.begin(shown)
    for number, stage in enumerate(plan.recipe.stages, 1):
        now = plan.at(stage, objective)
        size = now.network.image_size
        if restarts and (number > 1 or size != shown.shape[1:3]):
            params = params_of(argument, octaves.restart(shown, size, plan.start))
        relative = stage.relative and plan.penalty is None
        tv = None
        if relative:
            # What a quiet filter has gained before its relu counts as well: else its noise would never be smoothed.
            driven = now.before_relu if noise.shape[1:3] == size else ()
            tv = _relative_weights(now.network, objective, argument, params, stage.tv, plan.strategy, driven, noise)
        problem = now.problem(objective, stage, tv)
        state = _run(now, problem, ascent.fold(keys, number), params, stage.steps, watch, begun)
        begun += stage.steps
        params = state.params if plan.recipe.keep_last else state.best_params
        checks.check_stage(objective, state.best, params, count)
        shown, alpha = show(argument, params), _alpha(argument, params)
        peak, steps = np.maximum(peak, state.peak), steps + np.asarray(state.steps)
    after = ascent.measure(plan.network, objective, shown, plan.strategy)
    checks.check_end(objective, after[0], count)
    peak = np.maximum(peak, np.maximum(before[0], after[0]))
    return Drawn(shown, before, after, peak, alpha, steps)


def _run(
    plan: Plan,
    problem: Problem,
    keys: Key[Array, " batch"],
    params: ImageParams,
    steps: int,
    watch: Watch,
    begun: int,
) -> State:
    """One stage, after `begun` steps of those before. Watched, it takes several calls; the results are the same."""
    state, done, span = ascent.init_state(problem, params), 0, steps if watch.on_progress is None else 4
    patience = NEVER if plan.patience is None else plan.patience
    while done < steps:
        began, last = time.perf_counter(), min(done + min(span, watch.steps_left(begun + done)), steps)
        numbers = jnp.int32(done), jnp.int32(last), jnp.int32(patience)
        state = ascent.advance(problem, keys, state, *numbers, plan.strategy)
        if watch.on_progress is not None:
            if watch.frames is None and (np.asarray(state.stale) >= patience).all():
                last = steps  # the others would change nothing
            jax.block_until_ready(state.best)
            watch.on_progress(watch.wanted * (last - done))
            span = max(1, int((last - done) / (time.perf_counter() - began)))
        done = last
        watch.look(begun + done, problem, state)
    return state


@jax.jit
def show(
    parameterization: Parameterization[ImageParams], params: ImageParams
) -> UInt8[Array, "batch height width channels"]:
    """The images as they are saved."""
    return jax.vmap(lambda one: to_uint8(parameterization, parameterization.to_image(one)))(params)


@jax.jit
def quantize_all(
    images: Float[Array, "batch height width channels"],
) -> UInt8[Array, "batch height width channels"]:
    """Images in display units as uint8, rounded down."""
    return jax.vmap(quantize)(images)


@jax.jit
def _alpha(
    parameterization: Parameterization[ImageParams], params: ImageParams
) -> UInt8[Array, "batch height width"] | None:
    """The images' alpha channels, if the parameterization has any."""
    return jax.vmap(lambda one: to_alpha(parameterization, one))(params)


@jax.jit
def params_of(
    parameterization: Parameterization[ImageParams], images: Float[Array, "batch height width channels"]
) -> ImageParams:
    """The parameters of images, for a parameterization that has `from_image`."""
    restart = from_image(parameterization)
    assert restart is not None
    return jax.vmap(restart)(images)


@partial(jax.jit, static_argnames=("strategy", "layers"))
def _relative_weights(
    network: Network,
    objective: Objective,
    parameterization: Parameterization[ImageParams],
    params: ImageParams,
    ratio: float | Float[Array, ""],
    strategy: Strategy,
    layers: tuple[str, ...],
    noise: UInt8[Array, "batch height width channels"],
) -> Float[Array, " batch"]:
    """Weights for which the total variation of these images counts as `ratio` times the objective's value for them.

    layers: those that the objective reads before their relu. Then what it has gained since the noise counts, if that is
    more: the value after relu of a filter that is still quiet is hardly anything.
    """
    images = jax.vmap(parameterization.to_image)(params)
    shown = jax.vmap(quantize)(images)
    goals, _ = ascent.measure(network, objective, shown, strategy)
    if layers:
        now, then = (ascent.measure(network, objective, some, strategy, layers)[0] for some in (shown, noise))
        goals = jnp.maximum(goals, now - then)
    variation = objectives.total_variation()
    roughness = jax.vmap(lambda image: variation(jnp.zeros(0), {}, image))(images)
    return ratio * jnp.maximum(goals, 0) / (roughness + EPSILON)
