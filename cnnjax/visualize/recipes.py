"""Named ways to draw, and what the article drew with them: data."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import optax

from cnnjax.data import imagenet
from cnnjax.errors import UserError, unknown
from cnnjax.visualize.optimizers import deepdream_ascent, keras_vis_rmsprop
from cnnjax.visualize.parameterizations import AnyParameterization, fourier, maco, pixels
from cnnjax.visualize.transforms import Transform, crop, jitter, noise, pad, rotate, scale, window


@dataclass(frozen=True)
class Stage:
    """One run of the optimizer. The first starts from noise or a given image, each next one from the saved image of the
    one before."""

    steps: int
    transforms: tuple[Transform, ...] = ()
    """Applied before each step, see `Recipe.in_place`."""
    tv: float = 0.0
    """Weight of the total variation (β = 2)."""
    lp: float = 10.0
    """Weight of the L6 norm."""
    relative: bool = False
    """`tv` is not a weight but a ratio: the total variation of the image that the stage starts from counts as so many
    times the activation that it reaches. So one recipe serves networks whose activations are of any size."""
    scale: float = 1.0
    """Height and width of its images, relative to those that are drawn."""

    def image_size(self, drawn: tuple[int, int]) -> tuple[int, int]:
        """The size of its images (height, width) for images of the size `drawn`."""
        height, width = (max(1, round(self.scale * size)) for size in drawn)
        return height, width


@dataclass(frozen=True)
class Recipe:
    """A named way to draw an image."""

    name: str
    stages: tuple[Stage, ...]
    raw: bool = False
    """Weights that came from Caffe are given red, green, blue in 0 to 255 as they are, as the article did, instead of
    what they were trained on. Other weights never are."""
    in_place: bool = True
    """Transforms change the image itself, and are never undone (keras-vis); otherwise they change what the network is
    shown (lucid). Only `parameterizations.Pixels` can be changed in place."""
    parameterization: AnyParameterization = field(default_factory=pixels)
    optimizer: optax.GradientTransformation = field(default_factory=keras_vis_rmsprop)
    views: int = 1
    """How many differently transformed copies of an image the network is shown in a step."""
    before_relu: bool = True
    """Objectives read what a layer computes before its relu. There a filter that noise leaves silent has a gradient."""
    keep_last: bool = False
    """The image after the last step is kept instead of the one that scored highest. Where a step sees a small part of
    an image, chosen at random, the highest score is that of a lucky choice."""

    @property
    def is_penalized(self) -> bool:
        """Whether any stage has a penalty."""
        return any(stage.tv or stage.lp for stage in self.stages)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)


_SHARE, _PIXELS = (jitter(0.05),), (jitter(16, reference_size=224),)
_DREAM = (jitter(32, reference_size=224),)
_ROBUST = (pad(12), jitter(8), scale(0.9, 1.1), rotate(10), jitter(4), crop(random=False))
"""lucid's `standard_transforms`. The crop gives the image its size back, as networks with dense layers need it."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # The article's notebook on keras-vis 0.4.1: sharp but noisy first, then smoothed by total variation.
        Recipe("article-filters", (Stage(300, _SHARE), Stage(200, _SHARE, tv=10.0)), raw=True, before_relu=False),
        Recipe("article-classes", (Stage(300, _PIXELS), Stage(300, _PIXELS, tv=10.0)), raw=True, before_relu=False),
        # The article's two stages for any network. Its own weights suit activations in the hundreds, as VGG16 has on
        # raw pixels; where activations are near 1 they leave nothing but smooth colour.
        Recipe("filters", (Stage(300, _SHARE, lp=0.01), Stage(200, _SHARE, tv=6.0, lp=0.01, relative=True))),
        Recipe("classes", (Stage(300, _PIXELS, lp=0.01), Stage(300, _PIXELS, tv=4.0, lp=0.01, relative=True))),
        # lucid's `render_vis` (Olah et al. 2017): smooth by its parameters and by its transforms, without a penalty.
        Recipe(
            "lucid",
            (Stage(512, _ROBUST, lp=0.0),),
            in_place=False,
            parameterization=fourier(),
            optimizer=optax.adam(0.05),
        ),
        # The same by steps four times as large, for a look within a minute: with VGG16's block5_conv3, 32 steps reach
        # the activation of 64 of lucid's. Colors are more saturated.
        Recipe(
            "lucid-fast",
            (Stage(64, _ROBUST, lp=0.0),),
            in_place=False,
            parameterization=fourier(),
            optimizer=optax.adam(0.2),
        ),
        # MaCo (Fel et al. 2023): many small parts of an image that has the spectrum of photographs.
        Recipe(
            "maco",
            (Stage(256, (window(0.5, 0.05), noise(10.2, 5.1)), lp=0.0),),
            in_place=False,
            parameterization=maco(),
            optimizer=optax.nadam(1.0),
            views=8,
            keep_last=True,
        ),
        # DeepDream (Mordvintsev et al. 2015): for `layer` objectives, and an image to start from.
        Recipe(
            "deepdream",
            tuple(Stage(10, _DREAM, lp=0.0, scale=1.4**-octave) for octave in (3, 2, 1, 0)),
            in_place=False,
            parameterization=pixels(standardize=False),
            optimizer=deepdream_ascent(),
            before_relu=False,
        ),
        # A look within seconds.
        Recipe("quick", (Stage(60, _SHARE, lp=0.01), Stage(20, _SHARE, tv=6.0, lp=0.01, relative=True))),
    )
}
"""Every recipe by its name."""

FILTERS: dict[str, tuple[int, ...]] = {
    "block1_conv2": (0, 3, 11, 25, 26, 33, 42, 62),
    "block2_conv2": (8, 21, 23, 38, 39, 45, 50, 79),
    "block3_conv3": (40, 48, 52, 54, 81, 107, 224, 226),
    "block4_conv3": (58, 79, 86, 216, 307, 426, 497, 509),
    "block5_conv3": (2, 7, 41, 84, 103, 306, 461, 487),
}
"""The article's layers and filters (section 6.2)."""

CLASSES: dict[str, int] = {
    "rabbit": 330, "crocodile": 49, "starfish": 327, "husky": 248, "goldfish": 1, "bridge": 839,
    "balloon": 417, "tennis ball": 852, "gondola": 576, "dumbbell": 543, "hammer": 587, "lamp": 846,
}  # fmt: skip
"""The article's classes (section 6.3) and their numbers in ImageNet-1k."""

FEATURE_MAPS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
"""The layers whose first eight maps the article shows (section 6.1)."""
FEATURE_MAP_ALONE = ("block1_conv1", 19)


def recipe(name: str, what: str = "filters") -> Recipe:
    """A recipe by name. "article" is the article's and "default" this package's for `what`, "filters" or "classes".

    Raises UserError, with the nearest names, when there is none.
    """
    name = {"article": f"article-{what}", "default": what}.get(name, name)
    if name not in RECIPES:
        raise unknown("recipe", name, ["article", *RECIPES])
    return RECIPES[name]


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """A recipe of this many steps altogether, divided among its stages as they are now, at least one for each.

    Raises UserError for fewer steps than there are stages.
    """
    if steps < len(recipe.stages):
        raise UserError(f"steps={steps} is too few for recipe {recipe.name!r}: its stages need {len(recipe.stages)}")
    stages, left, share = [], steps, recipe.steps
    for number, stage in enumerate(recipe.stages, 1):
        count = min(max(1, round(left * stage.steps / share)), left - (len(recipe.stages) - number))
        stages.append(replace(stage, steps=count))
        left, share = left - count, share - stage.steps
    return replace(recipe, stages=tuple(stages))


def filters_of(layer: str, count: int) -> tuple[int, ...]:
    """The article's filters of a layer; where it is narrower or not the article's, eight spread evenly."""
    chosen = FILTERS.get(layer, ())
    if chosen and max(chosen) < count:
        return chosen
    number = min(8, count)
    return tuple(i * count // number for i in range(number))


def classes_of(known: Sequence[str], names: str | Sequence[str] = ()) -> list[str]:
    """The classes that are asked for, by default the article's; of a network that knows none of them, the first twelve.

    `known` are the network's. If they are ImageNet's, the article's words stand for its classes: "lamp" for table lamp.
    Raises UserError, with the nearest names, for one that is not there.
    """
    is_imagenet = tuple(known) == imagenet.class_names()
    meant = {word: known[index] for word, index in CLASSES.items()} if is_imagenet else {}
    if not names:
        return [meant.get(word, word) for word in CLASSES if word in meant or word in known] or list(known[:12])
    names = [names] if isinstance(names, str) else names
    found = [name if name in known else meant.get(name, name) for name in names]
    for name in found:
        if name not in known:
            raise unknown("class", name, known)
    return found
