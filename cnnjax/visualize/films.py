"""Films: how an image is drawn, and how a filter comes about while its network is trained.

recorder = films.Recorder(every=4)
images = visualize.render(network, visualize.channel("block3_conv2", range(4)), recipe="lucid", frames=recorder)
recorder.films()[0].save("ascent.gif")

born = films.of_training(networks, visualize.channel("conv_2", range(4)), recipe="lucid", steps=96)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image as PIL
from PIL import ImageDraw, ImageFont

from cnnjax.errors import UserError
from cnnjax.files import atomic_write
from cnnjax.network import Json, Network
from cnnjax.train.strategy import rows_strategy
from cnnjax.visualize import ascent, checks, objectives, octaves
from cnnjax.visualize.before_relu import choose_layers
from cnnjax.visualize.layers import at_image_size, layer_shapes
from cnnjax.visualize.objectives import Objective, ObjectiveFunction, Target
from cnnjax.visualize.optimizers import Optimizer
from cnnjax.visualize.parameterizations import ImageParams, Parameterization, as_argument, from_image, wrap_optimizer
from cnnjax.visualize.recipes import Recipe
from cnnjax.visualize.render import apply_recipe_input, choose_recipe
from cnnjax.visualize.stages import NEVER, Plan, params_of, show

FORMATS = (".gif", ".webp", ".png")
"""What Pillow writes as a film; GIF has 256 colours, animated WebP and PNG have all."""

LONGEST = 2**16 - 1
"""Milliseconds that a frame can be shown: PNG has 16 bits for them."""

TITLE = 13
"""Height of a title's letters in a film, in pixels."""


@dataclass(frozen=True, eq=False)
class Film:
    """Images to be shown one after the other, and what they are of."""

    frames: UInt8[np.ndarray, "frames height width channels"]
    titles: tuple[str, ...] = ()
    """One for each frame, such as "step 12", which `save` writes below it; or none."""
    provenance: dict[str, Json] = field(default_factory=dict)

    def save(self, path: str | Path, milliseconds: int = 80, scale: int = 1, hold: int = 1500) -> Path:
        """Write the film, which repeats for ever, and return its path. Each frame's title, if any, stands below it.

        path: ends in .gif, .webp or .png. milliseconds: that each frame is shown. scale: pixels of the film for each
        pixel of the frames, along each side. hold: milliseconds for the last frame, at least those of the others.
        Raises UserError for another ending, for numbers that no film has, for more or fewer titles than frames, and for
        a file that cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise UserError(f"{path.name} is no film that can be written: end its name in {', '.join(FORMATS)}")
        if not len(self.frames):
            raise UserError("there are no frames: record at least one")
        if len(self.titles) not in (0, len(self.frames)):
            raise UserError(f"there are {len(self.titles)} titles for {len(self.frames)} frames: give one for each")
        check_numbers(milliseconds, scale, hold)
        shown = self.frames.repeat(scale, axis=1).repeat(scale, axis=2)
        pictures = [PIL.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in shown]
        if self.titles:
            pictures = _with_titles(pictures, self.titles)
        durations = [milliseconds] * (len(pictures) - 1) + [max(hold, milliseconds)]

        def write(temporary: Path) -> None:
            pictures[0].save(
                temporary,
                format=path.suffix[1:].lower(),
                save_all=True,
                append_images=pictures[1:],
                duration=durations,
                loop=0,
                **({"lossless": True} if path.suffix.lower() == ".webp" else {}),
            )

        atomic_write(path, write)
        return path


def _with_titles(pictures: Sequence[PIL.Image], titles: Sequence[str]) -> list[PIL.Image]:
    """Each picture with its title in a strip below it; narrow pictures get margins, so that all titles fit."""
    font = ImageFont.load_default(TITLE)
    width, height = pictures[0].size
    width = max(width, *(int(font.getlength(title)) + 4 for title in titles))
    boards = []
    for picture, title in zip(pictures, titles, strict=True):
        board = PIL.new(picture.mode, (width, height + TITLE + 5), "white")
        board.paste(picture, ((width - picture.width) // 2, 0))
        ImageDraw.Draw(board).text((width / 2, height + TITLE / 2 + 2), title, fill="black", font=font, anchor="mm")
        boards.append(board)
    return boards


def check_numbers(milliseconds: int, scale: int = 1, hold: int = 1) -> None:
    """Raises UserError for what `Film.save` cannot write."""
    if scale < 1:
        raise UserError(f"scale={scale} must be at least 1")
    for name, value in (("milliseconds", milliseconds), ("hold", hold)):
        if not 1 <= value <= LONGEST:
            raise UserError(f"{name}={value} must be from 1 to {LONGEST:,}")


def tile(several: Sequence[Film], columns: int = 4, gap: int = 2) -> Film:
    """Films of one length and size side by side, white between them. Their titles are those of the first.

    Raises UserError for films that differ in length or size.
    """
    if not several or columns < 1:
        raise UserError(f"there are {len(several)} films and columns={columns}: give at least one of both")
    if len({film.frames.shape for film in several}) > 1:
        raise UserError("films of different lengths or sizes cannot be shown side by side")
    count, height, width, channels = several[0].frames.shape
    columns = min(columns, len(several))
    rows = -(-len(several) // columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap
    board = np.full((count, *size, channels), 255, np.uint8)
    for index, film in enumerate(several):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        board[:, y : y + height, x : x + width] = film.frames
    return Film(board, several[0].titles, {"films": [film.provenance for film in several]})


class Recorder:
    """Keeps the images of an ascent as they are on the way: pass it to `render` as `frames`.

    every: steps between two frames. The first frame is the noise at the start, the last one that after the last step.
    """

    def __init__(self, every: int = 4) -> None:
        if every < 1:
            raise UserError(f"every={every} must be at least 1")
        self.every = every
        self._batches: list[list[tuple[int, np.ndarray]]] = []

    def begin(self) -> None:
        """A new batch of images begins."""
        self._batches.append([])

    def add(self, step: int, images: UInt8[Array | np.ndarray, "batch height width channels"]) -> None:
        """The images of the running batch after so many steps."""
        self._batches[-1].append((step, np.asarray(images)))

    def films(self) -> list[Film]:
        """A film for each image, in the order in which `render` returns the images."""
        films = []
        for batch in self._batches:
            titles = tuple(f"step {step}" for step, _ in batch)
            frames = np.stack([images for _, images in batch], axis=1)
            films += [Film(one, titles) for one in frames]
        return films


def of_training(
    networks: Sequence[Network],
    objective: Objective | ObjectiveFunction,
    *,
    recipe: str | Recipe = "lucid",
    steps: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    titles: Sequence[str] = (),
) -> list[Film]:
    """A film for each objective: what drives it most in each of several states of one network.

    All images of all states are optimized together, by one program that is mapped over the states, from the same noise
    with the same transforms: what differs between two frames is the network. Each call compiles its program again.

    networks: the same model with other parameters, such as the epochs that `fit(weights_every_epochs=...)` keeps.
    objective, recipe, steps, image_size, seed: as for `render`. titles: of the frames.
    Raises UserError for networks that are not of one model, and as `render` does.
    """
    if not networks:
        raise UserError("there are no networks: name at least one")
    sized = [at_image_size(network, image_size) for network in networks]
    first = sized[0]
    if any(_structure(other) != _structure(first) for other in sized[1:]):
        raise UserError(
            "the networks are not states of one model: all must have the same layers, image size, classes and kind of "
            "normalization"
        )
    objective = objectives.as_objective(objective).bind(Target(layer_shapes(first), first.class_names))
    checks.check_functions(first, objective, "the objective")
    chosen = choose_recipe(recipe, objective, steps, None)
    if any(stage.relative for stage in chosen.stages):
        raise UserError(
            f"recipe {chosen.name!r} weighs its penalty by what each image reaches: use lucid, whose frames are alike"
        )
    layers = choose_layers(first, objective.layers(), wanted=chosen.before_relu, demanded=False)
    parameterization = cast(Parameterization[ImageParams], chosen.parameterization)
    optimizer = Optimizer(wrap_optimizer(parameterization, chosen.optimizer))
    shown = [apply_recipe_input(one, chosen) for one in sized]
    plan = Plan(shown[0], chosen, parameterization, optimizer, None, seed, rows_strategy(1), layers)
    frames, best, params = _over_networks(plan, objective, shown)
    for number in range(len(networks)):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], params)
        checks.check_stage(objective, best[number], own, len(objective))
    drawn = np.asarray(frames)
    return [
        Film(drawn[:, index], tuple(titles), dict(objective.facts(index)) | {"recipe": chosen.name, "seed": seed})
        for index in range(len(objective))
    ]


def _structure(network: Network) -> tuple:
    return jax.tree.structure(network), [leaf.shape for leaf in jax.tree.leaves(network)]


def _over_networks(
    plan: Plan, objective: Objective, networks: Sequence[Network]
) -> tuple[UInt8[Array, "networks images height width channels"], Float[Array, "networks images"], ImageParams]:
    """The stages of `stages.draw`, mapped over the networks: what is shown, and the last stage's scores and images."""
    argument, restarts = as_argument(plan.parameterization), from_image(plan.parameterization) is not None
    members = np.arange(len(objective)) if plan.is_joint(objective) else None
    keys, params, noise = plan.noise(objective.numbers(), members)
    stages = [(plan.at(stage, objective), stage) for stage in plan.recipe.stages]
    objective = jax.tree.map(jnp.asarray, objective.broadcast(len(objective)))

    def draw(network: Network) -> tuple[jax.Array, jax.Array, ImageParams]:
        """Of one state of the network."""
        current, shown, best = params, noise, jnp.full(len(noise), -jnp.inf)
        for number, (now, stage) in enumerate(stages, 1):
            size = now.network.image_size
            if restarts and (number > 1 or size != shown.shape[1:3]):
                current = params_of(argument, octaves.restart(shown, size, None))
            arrays = {name: getattr(network, name) for name in ("params", "model_state", "normalizer")}
            problem = now._replace(network=now.network.replace(**arrays)).problem(objective, stage)
            state = ascent.init_state(problem, current)
            numbers = jnp.int32(0), jnp.int32(stage.steps), jnp.int32(NEVER)
            state = ascent.advance(problem, ascent.fold(keys, number), state, *numbers, plan.strategy)
            current, best = state.params if plan.recipe.keep_last else state.best_params, state.best
            shown = show(argument, current)
        return shown, best, current

    return jax.jit(jax.vmap(draw))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks))
