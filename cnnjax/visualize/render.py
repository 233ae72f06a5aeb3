"""Images that an objective likes most, by gradient ascent on the input (article, sections 6.2 and 6.3)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.network import Json, Network
from cnnjax.train import strategy as strategies
from cnnjax.train.strategy import Strategy
from cnnjax.visualize import checks, objectives, provenance
from cnnjax.visualize import transforms as transforms_
from cnnjax.visualize.before_relu import choose_layers
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes
from cnnjax.visualize.objectives import ClassLogit, Objective, ObjectiveFunction, Target
from cnnjax.visualize.octaves import Start, to_start
from cnnjax.visualize.optimizers import Optimizer
from cnnjax.visualize.parameterizations import ImageParams, P, Parameterization, Pixels, from_image, wrap_optimizer
from cnnjax.visualize.recipes import Recipe, classes_of, with_steps
from cnnjax.visualize.recipes import recipe as recipe_of
from cnnjax.visualize.stages import Frames, Plan, Progress, draw
from cnnjax.visualize.transforms import TransformLike


def render(
    network: Network,
    objective: Objective | ObjectiveFunction,
    *,
    recipe: str | Recipe = "default",
    steps: int | None = None,
    parameterization: Parameterization[P] | None = None,
    transforms: TransformLike | Sequence[TransformLike] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Objective | ObjectiveFunction | None = None,
    before_relu: bool | None = None,
    start: Start | None = None,
    patience: int | None = None,
    compute_dtype: DTypeLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    on_progress: Progress | None = None,
    frames: Frames | None = None,
) -> list[Image]:
    """An image for each objective that makes it as large as possible.

    network: any Network. objective: `channel`, `neuron`, `class_logit`, a combination of them, or a function
    (logits, activations, image) -> scalar of one example, with the image in 0 to 255.
    recipe: a Recipe, or the name of one (`recipes.RECIPES`; "default" and "article" choose by the objective). Each of
    the following arguments replaces that part of the recipe: steps (altogether, divided among its stages),
    parameterization, transforms (they change what the network is shown in a step), optimizer (any of optax; one state
    for each image), penalty (an objective that is subtracted: one for all images, or one for each).
    before_relu: whether objectives read what their layers compute before relu; None leaves it to the recipe. There a
    filter that noise leaves silent has a gradient, too. None takes layers whose activation is not the result of a relu
    as they are, True refuses them. A function is always given the activations after relu.
    start: an image to start from instead of noise, (height, width, channels), uint8 or in [0, 1], for parameterizations
    that have `from_image`, such as pixels and fourier. It is resized to `image_size`.
    patience: after how many steps without a higher score an image stops, in each stage; None never. One that has
    stopped stays as it is, and a batch ends when all have. `steps` in the provenance are those that were taken.
    compute_dtype: what the network computes in, such as jnp.bfloat16; the image stays float32.
    image_size: in pixels, an int or (height, width); by default the network's, see `layers.at_image_size`.
    seed: of the noise and the transforms. An objective gives the same image whatever others are drawn with it, except
    for `diversity` and `alignment`, which compare images: then all of them are one batch.
    batch_size: how many images are optimized together, on all of this host's devices: each draws an equal part of them.
    It is rounded up to a multiple of their number, unless there are fewer images than devices. One program is compiled
    for each structure of the objective, image size and number of images; channels, classes, weights and steps may
    change without compiling it again.
    on_progress: called with the number of images × steps done since its last call. frames: keeps the images on the
    way, such as a `films.Recorder`.

    The provenance of each image says what it is of, how it was drawn, and the objective's value for the noise at the
    start and for the image as it is saved, both uint8, after relu, and without transforms or penalty. Of a channel or
    neuron it says, too, whether it was `silent_on_noise`, which is no fault, whether the ascent `failed`, so that the
    image activates it no more than the noise did, and whether it stayed `inactive`: no image activated it, from the
    noise to the saved one, which then means nothing. Such a filter may still be active on data.

    Raises UserError for a layer, channel, class or image size that the network does not have, for a function that does
    not return a scalar, and for values or gradients of an objective that are not finite.
    """
    _check(batch_size, patience, compute_dtype)
    digest = network.digest  # of the caller's object, which keeps it for the next call
    network = at_image_size(network, image_size)
    target = Target(layer_shapes(network), network.class_names)
    objective = objectives.as_objective(objective).bind(target)
    chosen = choose_recipe(recipe, objective, steps, transforms)
    used = cast(Parameterization[ImageParams], parameterization or chosen.parameterization)
    penalizing = None if penalty is None else objectives.as_objective(penalty).bind(target)
    checks.check_functions(network, objective, "the objective")
    if penalizing is not None:
        checks.check_functions(network, penalizing, "the penalty")
    rows, strategy = _share(batch_size, objective, penalizing)
    plan = Plan(
        network=strategies.place_fixed(strategy, apply_recipe_input(network, chosen)),
        recipe=chosen,
        parameterization=used,
        optimizer=Optimizer(wrap_optimizer(used, optimizer or chosen.optimizer)),
        penalty=penalizing,
        seed=seed,
        strategy=strategy,
        before_relu=choose_layers(
            network,
            objective.layers(),
            wanted=chosen.before_relu if before_relu is None else before_relu,
            demanded=before_relu is True,
        ),
        patience=patience,
        dtype=None if compute_dtype is None else jnp.dtype(compute_dtype).name,
        start=None if start is None else to_start(start, network.image_size, network.channels),
    )
    _check_restarts(plan)
    _check_shown(plan)
    replaced = {
        "parameterization": parameterization,
        "transforms": transforms,
        "optimizer": optimizer,
        "penalty": penalty,
        "before_relu": before_relu,
        "start": start,
    }
    shared = provenance.shared_facts(plan, digest, replaced)
    return _draw_all(plan, network, objective, rows, shared, on_progress, frames)


def render_filters(
    network: Network,
    layer: str,
    channels: int | Sequence[int] = 8,
    *,
    recipe: str | Recipe = "filters",
    steps: int | None = None,
    before_relu: bool | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    on_progress: Progress | None = None,
    frames: Frames | None = None,
) -> list[Image]:
    """An image for each of a layer's channels (a number: the first so many) that drives its mean most. See `render`.

    Raises UserError for a layer or channel that does not exist.
    """
    chosen = check_channels(layer_shapes(network, image_size), layer, channels)
    return render(
        network,
        objectives.channel(layer, chosen),
        recipe=recipe_of(recipe, "filters") if isinstance(recipe, str) else recipe,
        steps=steps,
        before_relu=before_relu,
        image_size=image_size,
        seed=seed,
        batch_size=batch_size,
        on_progress=on_progress,
        frames=frames,
    )


def render_classes(
    network: Network,
    names: str | Sequence[str] = (),
    *,
    recipe: str | Recipe = "classes",
    steps: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    on_progress: Progress | None = None,
) -> list[Image]:
    """An image for each class (by default all) that drives its logit most. See `render`.

    names: of several classes, or of one.

    For ImageNet's classes the article's words are understood, too (`recipes.classes_of`).
    Raises UserError for an unknown class, and for a network without classes.
    """
    known = network.class_names
    if not known:
        raise UserError("the network has no classes to draw: give one with its dense layers, at its own image size")
    return render(
        network,
        objectives.class_logit(classes_of(known, names or known)),
        recipe=recipe_of(recipe, "classes") if isinstance(recipe, str) else recipe,
        steps=steps,
        image_size=image_size,
        seed=seed,
        batch_size=batch_size,
        on_progress=on_progress,
    )


def _draw_all(
    plan: Plan,
    network: Network,
    objective: Objective,
    rows: int,
    shared: dict[str, Json],
    on_progress: Progress | None,
    frames: Frames | None,
) -> list[Image]:
    """The images of all objectives, so many `rows` at a time."""
    images = []
    for first in range(0, len(objective), rows):
        count = min(rows, len(objective) - first)
        # The last batch is filled up, so that there is one program.
        chosen = np.minimum(np.arange(first, first + rows), first + count - 1)
        several, penalty = objective[chosen], plan.penalty
        if penalty is not None and len(penalty) > 1:
            penalty = penalty[chosen]
        drawn = jax.device_get(draw(plan._replace(penalty=penalty), several, count, on_progress, frames))
        images += [provenance.to_image(network, several, drawn, index, shared) for index in range(count)]
    return provenance.told_apart(images)


def _check(batch_size: int, patience: int | None, dtype: DTypeLike | None) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    if patience is not None and patience < 1:
        raise UserError(f"patience={patience} must be at least 1, or None to take all steps")
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"compute_dtype={jnp.dtype(dtype).name} must be a floating type, such as bfloat16")


def _share(batch_size: int, objective: Objective, penalty: Objective | None) -> tuple[int, Strategy]:
    """How many images are drawn at a time, and on which devices. Raises UserError for a penalty of other images."""
    if penalty is not None and len(penalty) not in (1, len(objective)):
        raise UserError(
            f"penalty is for {len(penalty)} images, and the objective for {len(objective)}: give one for all of them, "
            "or one for each"
        )
    if objective.is_joint or (penalty is not None and penalty.is_joint):
        return len(objective), strategies.rows_strategy(1)
    rows = min(batch_size, len(objective))
    strategy = strategies.rows_strategy(rows)
    return -(-rows // strategy.devices) * strategy.devices, strategy


def apply_recipe_input(network: Network, recipe: Recipe) -> Network:
    """The network as a recipe gives it images: itself, or with the article's preprocessing, which is none at all."""
    if recipe.raw and network.normalizer.kind == "caffe":
        return network.replace(normalizer=normalize.raw())
    return network


def describe_input(network: Network, recipe: Recipe) -> str:
    """What is optimized and what the network is given, in a sentence."""
    used = apply_recipe_input(network, recipe)
    sentence = f"the images are display RGB; the network is given {normalize.describe(used.normalizer)}"
    if recipe.raw and used is network:
        sentence += f", as it was trained: only Caffe's weights are fed raw by recipe {recipe.name}"
    return sentence


def choose_recipe(
    recipe: str | Recipe,
    objective: Objective,
    steps: int | None,
    transforms: TransformLike | Sequence[TransformLike] | None,
) -> Recipe:
    """The recipe, with those of its parts replaced that were given."""
    if isinstance(recipe, str):
        draws_class = any(isinstance(part, ClassLogit) for part in objective.parts())
        recipe = recipe_of(recipe, "classes" if draws_class else "filters")
    if steps is not None:
        recipe = with_steps(recipe, steps)
    if transforms is not None:
        composed = transforms_.compose(transforms)
        stages = tuple(replace(stage, transforms=composed) for stage in recipe.stages)
        recipe = replace(recipe, stages=stages, in_place=False)
    return recipe


def _check_restarts(plan: Plan) -> None:
    """Raises UserError if the parameterization would have to start from an image, and cannot."""
    has_sizes = len({stage.scale for stage in plan.recipe.stages} | {1.0}) > 1
    if (plan.start is not None or has_sizes) and from_image(plan.parameterization) is None:
        what = f"recipe {plan.recipe.name!r} has stages of several sizes" if plan.start is None else "start was given"
        raise UserError(
            f"{what}, but this parameterization has no from_image: use pixels(standardize=False) or fourier()"
        )


def _check_shown(plan: Plan) -> None:
    """Raises UserError if transforms give images a size that the network does not take."""
    network = plan.network
    if plan.recipe.in_place and isinstance(plan.parameterization, Pixels):
        return
    for stage in plan.recipe.stages:
        size = stage.image_size(network.image_size)
        several = tuple(one.bind(size) for one in stage.transforms)
        image = jax.ShapeDtypeStruct((*size, network.channels), jnp.float32)
        shown = jax.eval_shape(partial(transforms_.apply, several), jax.random.key(0), image).shape[:2]
        if shown == size:
            continue
        try:
            network.replace(image_size=shown).logits_shape()
        except Exception as error:  # what a model raises for a shape that its layers do not take can be anything
            raise UserError(
                f"the transforms show the network images of {shown[0]}×{shown[1]}, which it does not take: end them "
                "with crop(), which gives an image its size back, and pad it before"
            ) from error
