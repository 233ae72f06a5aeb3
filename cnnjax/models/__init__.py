"""Models, the one table of their names, and pure functions of a model's graph definition and arrays.

A model is any `nnx.Module` that is called as `model(images, *, train=False, keys=None)` and returns logits, or
(logits, activations by name). To add one: its file here, and a line in `MODELS`.
"""

import inspect
from collections.abc import Callable
from functools import partial

from flax import nnx

from cnnjax import limits
from cnnjax.errors import UserError, unknown
from cnnjax.models.batch_norm import BatchNorm
from cnnjax.models.functional import ModelState, Output, Params, apply, flatten, layer_shapes, split, with_remat
from cnnjax.models.resnet import ResNet, ResNet18, ResNet34, ResNet50
from cnnjax.models.small_cnn import SmallCNN
from cnnjax.models.vgg import VGG, VGG11, VGG13, VGG16, VGG19

__all__ = [
    "MODELS",
    "VGG",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "BatchNorm",
    "ModelState",
    "Output",
    "Params",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SmallCNN",
    "apply",
    "create",
    "flatten",
    "layer_shapes",
    "split",
    "with_remat",
]

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "small-cnn": SmallCNN,
    "vgg11": VGG11,
    "vgg13": VGG13,
    "vgg16": VGG16,
    "vgg19": VGG19,
    "vgg11-bn": partial(VGG11, batch_norm=True),
    "vgg13-bn": partial(VGG13, batch_norm=True),
    "vgg16-bn": partial(VGG16, batch_norm=True),
    "vgg19-bn": partial(VGG19, batch_norm=True),
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
}
"""Every model by its name in configurations and on the command line."""


def create(
    name: str, seed: int = 0, **arguments: str | int | float | bool | tuple[int, int] | list[int] | None
) -> nnx.Module:
    """A freshly initialized model from `MODELS`; the arguments are those of its constructor.

    `models.create(**model.config())` makes a model like another one, also from a config that was JSON.
    Raises UserError for an unknown name or argument, and for sizes that the model cannot have.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    # JSON has lists for tuples.
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    known = _arguments(MODELS[name])
    for argument in arguments.keys() - known:
        raise UserError(f"{name} has no argument {argument!r}: it takes {', '.join(known)}")
    limits.check_seed(seed)
    return MODELS[name](**arguments, rngs=nnx.Rngs(seed))


def _arguments(make: Callable[..., nnx.Module]) -> list[str]:
    """The names of the arguments of a model's constructor that are still to be given, without `rngs`."""
    given = 0
    while isinstance(make, partial):
        given, make = given + len(make.args), make.func
    # The signature of the class itself is that of Flax's metaclass.
    parameters = inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters
    names = [name for name in parameters if name not in ("self", "rngs")]
    return names[given:]
