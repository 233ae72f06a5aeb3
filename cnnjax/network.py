"""A network: a model with its parameters and state, and everything that is needed to use it on images."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, Shaped

from cnnjax import checksums, models
from cnnjax.data.as_unit import as_unit
from cnnjax.data.normalize import Normalizer, fit_normalizer, normalize
from cnnjax.errors import UserError
from cnnjax.files import check_json
from cnnjax.image_size import to_size
from cnnjax.models.functional import ModelState, Output, Params

if TYPE_CHECKING:
    from cnnjax.data.dataset import Dataset

Images = Shaped[Array | np.ndarray, "..."]
"""(batch, height, width, channels): floats in [0, 1], or uint8 in [0, 255]. All else is refused; see `as_unit`."""
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Network:
    """A model, its arrays, and how images are prepared for it. Make one with `Network.create` or `formats.load`.

    A Network is a pytree whose leaves are `params`, `model_state` and `normalizer`; so `jax.jit` takes it as an
    argument, `jax.grad` differentiates by it and `jax.tree.map` changes it. All else is static. `provenance` takes no
    part in comparisons: networks that differ in it alone share compiled programs.

    graphdef: the model without its arrays. params: nested dict of the model's `nnx.Param`. model_state: nested dict of
    its other variables, for example the running statistics of BatchNorm. class_names: one for each class, or () for a
    model whose output is not logits. image_size: (height, width) in pixels. provenance: JSON-able notes on how the
    network was made.
    """

    graphdef: nnx.GraphDef
    params: Params
    model_state: ModelState
    normalizer: Normalizer
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    provenance: dict[str, Json] = field(default_factory=dict, compare=False)

    @classmethod
    def create(
        cls,
        model: nnx.Module,
        dataset: "Dataset | None" = None,
        *,
        normalizer: str | Normalizer = "standard",
        class_names: Iterable[str] | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        provenance: Mapping[str, Json] | None = None,
    ) -> "Network":
        """A network of a model, made ready for the images and the classes of a dataset.

        normalizer: one of `data.normalize.KINDS`, which is fitted to the dataset's training images, or a Normalizer.
        class_names, image_size (an int, or (height, width)), channels: by default the dataset's; without a dataset,
        those that the model itself has as attributes, and "class 0", "class 1", … for its logits.

        Raises UserError if one of these cannot be found, if the model does not fit the images or the classes, or if
        JSON cannot hold the provenance.
        """
        check_json(provenance, "the provenance")
        shape = _image_shape(model, dataset, image_size, channels)
        if isinstance(normalizer, str):
            if dataset is None:
                raise UserError(
                    f"normalizer={normalizer!r} is fitted to training images: pass a dataset, or a Normalizer such as "
                    "cnnjax.data.normalize.identity()"
                )
            normalizer = fit_normalizer(normalizer, dataset.train)
        graphdef, params, model_state = models.split(model)
        network = cls(graphdef, params, model_state, normalizer, (), shape[:2], shape[2], dict(provenance or {}))
        logits = checked_logits_shape(network)
        if class_names is None and dataset is not None and logits is not None and len(logits) == 1:
            class_names = dataset.class_names
        return network.replace(class_names=_class_names(logits, class_names))

    def __call__(self, images: Images) -> tuple[Float[Array, "batch ..."], dict[str, Array]]:
        """Logits, and the activations by layer, of images in [0, 1] or uint8 ones. Evaluation mode. See `apply`."""
        output = self.apply(images)
        return cast(Array, output.logits), output.activations

    def apply(
        self,
        images: Images,
        *,
        train: bool = False,
        keys: Key[Array, " batch"] | None = None,
        axis_name: str | None = None,
        perturbations: dict[str, Array] | None = None,
        dtype: DTypeLike | None = None,
    ) -> Output:
        """`models.apply` on images (batch, height, width, channels), which are normalized first.

        dtype: what the layers compute in, such as jnp.bfloat16; by default what the images and parameters are in.
        images: floats in [0, 1], or uint8 in [0, 255]. Raises UserError for images of other types, shapes or ranges;
        ranges are not known within a traced function.
        """
        params, prepared = self.params, normalize(self.normalizer, as_unit(images, self.channels))
        if dtype is not None:
            prepared = prepared.astype(dtype)
            if not getattr(without_arrays(self.graphdef), "casts_parameters", False):
                params = jax.tree.map(lambda leaf: _as_type(leaf, dtype), params)
        return models.apply(
            self.graphdef,
            params,
            self.model_state,
            prepared,
            train=train,
            keys=keys,
            axis_name=axis_name,
            perturbations=perturbations,
        )

    def probabilities(self, images: Images) -> Float[Array, "batch classes"]:
        """Probability of each class of images as for `apply`. One logit is the second of two classes' (sigmoid).

        Raises UserError for a network without classes, such as a VGG without its dense layers.
        """
        logits = self(images)[0]
        if getattr(logits, "ndim", 0) != 2:
            raise UserError(
                "this network has no classes, for its output is not logits of shape (batch, classes): use one with its "
                "dense layers"
            )
        if logits.shape[1] == 1:
            return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=1))  # exact for small probabilities, too
        return jax.nn.softmax(logits)

    def model(self) -> nnx.Module:
        """The model with these parameters and this state."""
        return nnx.merge(self.graphdef, self.params, self.model_state)

    @property
    def config(self) -> dict[str, Json] | None:
        """What `models.create(**config)` makes this model from; None if the model is not one of this package's.

        It is also None for a subclass of one of the package's models, which `models.create` would not make.
        """
        model = without_arrays(self.graphdef)
        config = getattr(model, "config", None)
        found = config() if callable(config) else None
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        made = models.MODELS.get(found["name"])
        while isinstance(made, partial):
            made = made.func
        return found if made is not None and (type(model) is made or not isinstance(made, type)) else None

    @property
    def model_name(self) -> str:
        """The model's name in `models.MODELS`, or the name of its class."""
        name = (self.config or {}).get("name")
        return str(name) if name else type(without_arrays(self.graphdef)).__name__

    @cached_property
    def digest(self) -> str:
        """sha256, in hex, of the parameters and, where there is any, of the model's state. Computed once."""
        state = {f"model_state/{name}": array for name, array in models.flatten(self.model_state).items()}
        return checksums.digest(models.flatten(self.params) | state)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (*self.image_size, self.channels)

    def replace(self, **changes: object) -> "Network":
        """This network with some fields changed."""
        new = dataclasses.replace(self, **changes)
        # The digest is half a second's work for VGG16.
        if "digest" in self.__dict__ and not changes.keys() & {"params", "model_state"}:
            new.__dict__["digest"] = self.digest
        return new

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        size = "×".join(map(str, self.image_shape))
        classes = f"{len(self.class_names)} classes" if self.class_names else "no classes"
        about = f"{self.model_name}, {count:,} parameters, {size} images, {classes}"
        return f"Network({about}, normalizer {self.normalizer.kind!r})"

    def logits_shape(self) -> tuple[int, ...] | None:
        """The shape of the logits of one image; None where they are not one array."""
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        logits = jax.eval_shape(lambda network, images: network.apply(images).logits, self, images)
        return logits.shape[1:] if isinstance(logits, jax.ShapeDtypeStruct) else None

    def tree_flatten_with_keys(self):
        names = ("params", "model_state", "normalizer")
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return children, (self.graphdef, self.class_names, self.image_size, self.channels, _Note(self.provenance))

    def tree_flatten(self):
        return (self.params, self.model_state, self.normalizer), self.tree_flatten_with_keys()[1]

    @classmethod
    def tree_unflatten(cls, static, children):
        # Past __init__, since JAX also puts other things than arrays in the leaves' places.
        graphdef, class_names, image_size, channels, note = static
        network = object.__new__(cls)
        values = (graphdef, *children, class_names, image_size, channels, note.value)
        for attribute, value in zip(dataclasses.fields(cls), values, strict=True):
            object.__setattr__(network, attribute.name, value)
        return network


@dataclass(frozen=True, eq=False)
class _Note:
    """A static value that is equal to any other, so that no program is compiled again because of it."""

    value: dict[str, Json]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Note)

    def __hash__(self) -> int:
        return 0


def _as_type(leaf: Array, dtype: DTypeLike) -> Array:
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def without_arrays(graphdef: nnx.GraphDef) -> nnx.Module:
    """The model of a graph definition with its static attributes, but None in place of every array."""
    return nnx.graph.unflatten(graphdef, [None] * graphdef.num_leaves)


def _image_shape(
    model: nnx.Module,
    dataset: "Dataset | None",
    image_size: int | tuple[int, int] | None,
    channels: int | None,
) -> tuple[int, int, int]:
    """(height, width, channels) from the arguments, the dataset or the model, in this order."""
    if dataset is not None:
        from cnnjax.data.dataset import image_shape

        *size, depth = image_shape(dataset.train)
        image_size, channels = image_size or (size[0], size[1]), channels or depth
    image_size, channels = (
        image_size or getattr(model, "image_size", None),
        channels or getattr(model, "channels", None),
    )
    if image_size is None or channels is None:
        missing = "image_size" if image_size is None else "channels"
        raise UserError(f"{missing} of the network's images is not known: pass {missing}=..., or a dataset")
    return (*to_size(image_size), int(channels))


def checked_logits_shape(network: Network) -> tuple[int, ...] | None:
    """`Network.logits_shape`. Raises UserError for a model that does not take images of the network's shape."""
    try:
        return network.logits_shape()
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # of lax.conv or a product of matrices, about their operands
        (height, width, channels), reason = network.image_shape, str(error).strip().partition("\n")[0]
        raise UserError(
            f"the model {network.model_name} does not take images of the shape (batch, {height}, {width}, {channels}), "
            f"which is (batch, height, width, channels): make it for images of {channels} channels and of this size, "
            f"or change the images ({reason})"
        ) from error


def to_class_names(names: Iterable[Any], argument: str = "class_names") -> tuple[str, ...]:
    """The names as texts; published lists of ImageNet's have some twice. Raises UserError for one text."""
    if isinstance(names, str):
        raise UserError(f'{argument}={names!r} is one text: give a sequence of names, such as ("cat", "dog")')
    return tuple(map(str, names))


def _class_names(shape: tuple[int, ...] | None, names: Iterable[Any] | None) -> tuple[str, ...]:
    """The names of the classes, which must be as many as the model has logits: (n,), where (1,) stands for two."""
    names = None if names is None else to_class_names(names)
    if shape is None or len(shape) != 1:
        return names or ()
    count = 2 if shape[0] == 1 else shape[0]
    if names is None:
        return tuple(f"class {i}" for i in range(count))
    if len(names) != count:
        raise UserError(
            f"the model has {shape[0]} logit{'s' * (shape[0] != 1)}, for {count} classes, but there are {len(names)} "
            f"class names: create it with num_classes={1 if len(names) == 2 else len(names)}"
        )
    return names
