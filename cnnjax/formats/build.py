"""From a file's arrays to a network: which model it is, what of it is wanted, and whether every array fits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnnjax import models
from cnnjax.data.normalize import Normalizer, describe, identity, per_channel
from cnnjax.errors import UserError
from cnnjax.formats import description
from cnnjax.formats.architectures import ARCHITECTURES, Architecture
from cnnjax.formats.class_names import default_names
from cnnjax.formats.description import Description
from cnnjax.formats.infer import infer
from cnnjax.formats.lazy_tensors import Contents, Tensor, listed
from cnnjax.formats.native import nested
from cnnjax.formats.options import Options
from cnnjax.formats.read_arrays import becomes_float32, read_arrays
from cnnjax.network import Network, checked_logits_shape

NEEDS_TOP = "which needs its dense layers: only a VGG does without them"
"""How the sentence ends where a network is asked for without its dense layers that cannot do without them."""
INFLATION = 4
"""How many times larger than a file its arrays may be: trained parameters hardly compress."""


@dataclass
class _Plan:
    """A network in the making: what is described, the arrays that are used, and those that are made anew."""

    path: Path
    config: dict[str, Any]
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]
    unknown: list[str]
    new_arrays: dict[str, jax.Array] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture | None:
        return ARCHITECTURES.get(self.config.get("name", ""))

    @property
    def top(self) -> list[str]:
        """The dense layers' names, as far as they are known."""
        return self.architecture.top if self.architecture else []

    def create(self, seed: int = 0) -> nnx.Module:
        try:
            return models.create(**self.config, seed=seed)
        except UserError:
            raise
        except Exception as error:  # what a description holds may be anything
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.path} describes a model that cannot be made ({reason}): fetch it again") from error

    def leave_out(self, layers: list[str], others: Sequence[str] = ()) -> None:
        """Do not read these layers, nor others of the file by its own names."""
        there = [layer for layer in layers if any(_layer(name) == layer for name in self.tensors)]
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if _layer(name) not in there}
        self.unknown = [name for name in self.unknown if name not in others]
        if there or others:
            self.provenance["left out"] = [*there, *others]


def build(path: Path, contents: Contents, options: Options) -> Network:
    """The network in a file. Raises UserError if anything does not fit."""
    found = _description(path, contents, options)
    plan = _Plan(
        path,
        found.config or {},
        found.class_names,
        found.image_size,
        dict(contents.tensors),
        dict(found.provenance) | dict(contents.notes),
        list(contents.unknown),
    )
    if options.model is None:
        # A Keras file may have the size of its images; this package's description is more precise.
        size = options.image_size or (None if contents.description else contents.image_size)
        _change(plan, contents, options, size)
        model = nnx.eval_shape(plan.create)
    else:
        _check_options_for_model(options)
        plan.image_size, model = options.image_size or plan.image_size, options.model
        plan.class_names = options.class_names or plan.class_names
    normalizer = _normalizer(path, contents, options, found)
    if options.model is None and contents.description is None:
        assumed = _assumed(plan, contents, options, normalizer)
        plan.provenance |= {"assumed": assumed} if assumed else {}
    graphdef, params, model_state = models.split(model)
    expected = models.flatten(params) | models.flatten(model_state)
    wanted = {name: leaf for name, leaf in expected.items() if name not in plan.new_arrays}
    others = {
        str(plan.tensors[name].dtype) for name, leaf in wanted.items() if becomes_float32(plan.tensors.get(name), leaf)
    }
    if others:
        plan.provenance["stored as"] = sorted(others)
    guessed = _guessed(plan, contents, options)
    arrays = plan.new_arrays | read_arrays(path, plan.tensors, wanted, plan.unknown, _cells(plan), guessed)
    network = Network(
        graphdef,
        nested(params, arrays),
        nested(model_state, arrays),
        normalizer,
        plan.class_names,
        plan.image_size,
        found.channels,
        plan.provenance,
    )
    if options.model is not None and options.class_names:
        _check_class_names(path, network)
    return network


def _guessed(plan: _Plan, contents: Contents, options: Options) -> str:
    """The array from whose shape alone the size of the images follows; "" where something else says it."""
    said = options.model is not None or contents.description is not None or options.image_size or contents.image_size
    layers = plan.architecture.layers if plan.architecture and not said else ()
    return next((f"{layer.path}/kernel" for layer in layers if layer.kind == "flat"), "")


def _check_class_names(path: Path, network: Network) -> None:
    """Raises UserError unless there is a name for each class that a caller's own model has."""
    logits = checked_logits_shape(network)
    if logits is not None and len(logits) == 1 and len(network.class_names) != max(2, logits[0]):
        raise UserError(
            f"{path} has {max(2, logits[0])} classes, not the {len(network.class_names)} of class_names: give a name "
            "for each"
        )


def _normalizer(path: Path, contents: Contents, options: Options, found: Description) -> Normalizer:
    """The caller's or the file's normalizer, with a number for each channel of the network's images.

    One that treats all its channels alike fits any number of them. Where what is usual for a format is for RGB images
    alone, others are taken as they are. Raises UserError for a caller's normalizer of other channels.
    """
    chosen, channels = options.normalizer or found.normalizer, found.channels
    mean, scales = np.asarray(chosen.mean), np.asarray(chosen.scales)
    own = options.normalizer is None and contents.description is not None
    if own or not mean.size or mean.shape[-1] == channels:
        return chosen
    if chosen.kind in ("mean", "standard") and len({*mean.tolist()}) == 1 and len({*scales.tolist()}) <= 1:
        return per_channel(chosen.kind, np.resize(mean, channels), np.resize(scales, channels if scales.size else 0))
    if options.normalizer is None and not contents.tells_normalizer:
        return identity()
    known = "its preprocessing" if options.normalizer is None else "normalizer="
    raise UserError(
        f"{path} holds a network of images with {channels} channel{'s' * (channels != 1)}, but {known} is for "
        f"{mean.shape[-1]}: give a normalizer that treats all channels alike, such as identity() "
        "(--weights-preprocessing unit)"
    )


def _assumed(plan: _Plan, contents: Contents, options: Options, normalizer: Normalizer) -> dict[str, str]:
    """What neither the file nor the caller has said, in words."""
    assumed, known, size = {}, plan.architecture, plan.image_size
    if options.image_size is None and contents.image_size is None:
        assumed["image size"] = f"{size[0]}×{size[1]}"
        if known and known.fixed_size and plan.config.get("include_top", True):
            assumed["image size"] += f" of {size[0]} to {size[0] + 2**known.halvings - 1}"
    if options.normalizer is None and not contents.tells_normalizer:
        assumed["preprocessing"] = describe(normalizer, plan.config["channels"])
    if plan.class_names and not options.class_names and not options.new_head:
        names = plan.class_names
        assumed["class names"] = f"{', '.join(names[:2])}, …" if len(names) > 2 else ", ".join(names)
    return assumed


def check_inflation(path: Path, contents: Contents) -> None:
    """Raises UserError for a file whose arrays are far larger than the file is."""
    size = sum(tensor.nbytes for tensor in contents.tensors.values())
    if path.is_file() and size > INFLATION * path.stat().st_size:
        raise UserError(
            f"{path} would become {size / 1e6:,.0f} MB of numbers, though it has {path.stat().st_size / 1e6:,.0f} MB: "
            "no file of weights is like that"
        )


def _description(path: Path, contents: Contents, options: Options) -> Description:
    """The file's own description, or what its arrays say about it. Raises UserError if that is not enough."""
    provenance = {"from": contents.format, "file": path.name}
    if contents.description is not None:
        found = description.read(path, contents.description)
        if found.config is None and options.model is None:
            raise UserError(
                f"{path} holds a {found.model_class}, which is not one of this package's models: pass model=, an "
                "instance of that class or what nnx.eval_shape makes of its constructor"
            )
        if found.config is not None and options.model is None and found.config.get("name") not in models.MODELS:
            raise UserError(f"{path} describes no model known here, {found.config.get('name')!r}: fetch it again")
        return found
    shapes = {name: tensor.shape_here for name, tensor in contents.tensors.items()}
    inferred = infer(shapes, options.image_size or contents.image_size or None)
    if inferred is None:
        there = [tensor.name for tensor in contents.tensors.values()] + contents.unknown
        raise UserError(
            f"{path} ({contents.format}) holds no network known here, but {listed(there) or 'no arrays'}: give the "
            f"weights of one of {', '.join(models.MODELS)}"
        )
    config = inferred.config
    names = default_names(config["num_classes"]) if config.get("include_top", True) else ()
    return Description(config, "", names, inferred.image_size, config["channels"], contents.normalizer, provenance)


def _check_options_for_model(options: Options) -> None:
    if not isinstance(options.model, nnx.Module):
        name = getattr(options.model, "__name__", type(options.model).__name__)
        raise UserError(
            f"model={name} must be an instance of the model's class, an nnx.Module: give {name}(...), or "
            f"nnx.eval_shape(lambda: {name}(...))"
        )
    if options.new_head or options.include_top is False:
        raise UserError("model= must be the file's own model: leave out new_head and include_top")


def _change(plan: _Plan, contents: Contents, options: Options, image_size: tuple[int, int] | None) -> None:
    """Make the plan's model and class names those that are asked for."""
    name, there = plan.config["name"], plan.config.get("include_top", True)
    include_top = there if options.include_top is None else options.include_top
    if options.new_head:
        if options.include_top is False:
            raise UserError("a new head needs dense layers: leave out include_top=False, or new_head")
        _renew_head(plan, contents, options, image_size)
        return
    if include_top and not there and not contents.head_problem:
        raise UserError(
            f"{plan.path} holds a {name} without its dense layers, so it has no logits: pass include_top=False to use "
            f"it so, or give a file with {', '.join(plan.top)}"
        )
    if not include_top and not (plan.architecture and plan.architecture.optional_top):
        raise UserError(f"{plan.path} holds a {name}, {NEEDS_TOP}")
    if include_top and contents.description is None and (contents.head or contents.head_problem) and plan.architecture:
        raise UserError(_own_head(plan, contents))
    if options.class_names and len(options.class_names) != len(plan.class_names):
        raise UserError(
            f"{plan.path} has {len(plan.class_names)} classes, not the {len(options.class_names)} of class_names: pass "
            "new_head for a new last layer with other classes"
        )
    plan.class_names = options.class_names or plan.class_names
    if not include_top:
        plan.leave_out(plan.top, contents.head)
        plan.config["include_top"], plan.class_names = False, ()
    if image_size:
        _resize(plan, image_size)


def _own_head(plan: _Plan, contents: Contents) -> str:
    """What to say about a known network with other layers at its end."""
    start = f"{plan.path} has {listed(list(contents.head))}, which its network does not have"
    if contents.head_problem:
        start = f"{plan.path} is not read: {contents.head_problem}"
    name = plan.config["name"]
    if plan.architecture and plan.architecture.optional_top:
        return f"{start}: a {name} under another head is read without it, with include_top=False, or with a new_head"
    return f"{start}: a {name} under another head is read with a new_head, or as init_from of a training"


def _resize(plan: _Plan, image_size: tuple[int, int]) -> None:
    """Let the network take images of this size. Raises UserError if its dense layers do not allow it."""
    if plan.config.get("include_top", True) and plan.architecture and plan.architecture.fixed_size:
        halvings = plan.architecture.halvings
        for size, own, axis in zip(image_size, plan.image_size, ("height", "width"), strict=True):
            least = own >> halvings << halvings
            if not _same_cells(size, own, halvings):
                raise UserError(
                    f"{plan.path} holds dense layers for images of {axis} {least} to {least + 2**halvings - 1}, not "
                    f"{size}: its convolutions alone (include_top=False) take any"
                )
    plan.image_size = image_size
    if "image_size" in plan.config:
        plan.config["image_size"] = image_size


def _same_cells(size: int, own: int, halvings: int) -> bool:
    """Whether images of two sizes give the dense layers as many inputs."""
    return size >> halvings == own >> halvings


def _renew_head(plan: _Plan, contents: Contents, options: Options, image_size: tuple[int, int] | None) -> None:
    """Replace the last layer by a new one for other classes; all dense layers where the file's do not fit."""
    known = plan.architecture
    if known is None or not plan.top:
        raise UserError(f"{plan.path} holds a {plan.config['name']}, whose last layer is not known: leave out new_head")
    names, size = options.new_head, image_size or plan.image_size
    lacks = any(f"{layer}/{kind}" not in plan.tensors for layer in plan.top[:-1] for kind in ("kernel", "bias"))
    moved = known.fixed_size and not all(map(_same_cells, size, plan.image_size, (known.halvings,) * 2))
    whole = bool(lacks or moved or contents.head or contents.head_problem)
    renewed = plan.top if whole else plan.top[-1:]
    if options.keep_head and names == plan.class_names and not whole:
        renewed = []
    plan.leave_out(renewed, contents.head)
    plan.class_names = names
    if renewed:
        plan.config["num_classes"] = 1 if len(names) == 2 else len(names)
    if known.optional_top:
        plan.config["include_top"] = True
    if whole and "dense_units" in known.arguments:
        plan.config["dense_units"] = options.dense_units
    plan.image_size = size
    if "image_size" in plan.config:
        plan.config["image_size"] = size

    if not renewed:
        return

    def create_head() -> dict[str, jax.Array]:
        params = models.split(plan.create(options.seed))[1]
        return {name: array for name, array in models.flatten(params).items() if _layer(name) in renewed}

    plan.new_arrays = jax.jit(create_head)()  # of all that `create` draws, only this is compiled
    plan.provenance["new head"] = {"classes": list(names), "layers": list(renewed), "seed": options.seed}


def _cells(plan: _Plan) -> tuple[int, int] | None:
    """Height and width of the feature maps that a model's dense layers take."""
    size = plan.config.get("image_size")
    if size is None or plan.architecture is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height >> plan.architecture.halvings, width >> plan.architecture.halvings


def _layer(name: str) -> str:
    return name.rpartition("/")[0]
