"""What an objective is, and how several are combined."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.errors import UserError

ObjectiveFunction = Callable[[jax.Array, dict[str, jax.Array], jax.Array], jax.Array]
"""(logits, activations, image) -> scalar, of one example."""
Facts = dict[str, str | int | float | None]
"""JSON-able entries for an image's provenance."""
Index = int | Sequence[int] | np.ndarray | jax.Array

Term = Union["Objective", ObjectiveFunction, float]
"""What an objective can be combined with."""

if TYPE_CHECKING:
    Leaf = Array | np.ndarray
else:  # JAX also puts other things in the leaves' places.
    Leaf = object

STATIC = {"static": True}
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class Target(NamedTuple):
    """What an objective is bound to: the network's layers with their activations' shapes, and its classes."""

    layers: Mapping[str, tuple[int, ...]]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Objective:
    """Base class of objectives. Subclasses are pytrees whose leaves have a leading axis: one entry for each objective.

    A leaf with a leading axis of 1 serves all objectives alike. `value` is called with leaves without that axis.
    """

    joint: ClassVar[bool] = False
    """Whether an image's value depends on the other images of its batch, so that `values` is to be called."""
    signed: ClassVar[bool] = False
    """Whether it reads `layer` by `activation_of`, and so what the layer computes before its relu."""

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        """The value for one example, of one objective: the leaves have lost their leading axis."""
        raise NotImplementedError

    def values(self, logits: jax.Array, activations: dict[str, jax.Array], images: jax.Array) -> Float[Array, " batch"]:
        """The value of each example of a batch; the leaves have one entry for each of them."""
        return jax.vmap(lambda one, *example: one.value(*example))(self, logits, activations, images)

    def bind(self, target: Target) -> "Objective":
        """This objective with its names resolved and checked. Raises UserError for what the network does not have."""
        return self

    def describe(self, index: int) -> str:
        """Objective number `index`, in a few words."""
        raise NotImplementedError

    def facts(self, index: int) -> Facts:
        """What goes into the provenance of image number `index`."""
        return {"kind": "objective", "objective": self.describe(index)}

    def numbers(self) -> np.ndarray:
        """A number for each objective, from which its noise follows: its channel or class, or 0 if it has none."""
        found = (part.own_numbers() for part in self.parts())
        own = next((numbers for numbers in found if numbers is not None), np.zeros(1, np.int32))
        return np.broadcast_to(np.asarray(own), len(self))

    def own_numbers(self) -> "Leaf | None":
        """The leaf of channels or classes, if there is one."""
        return None

    def layers(self) -> tuple[str, ...]:
        """The layers that may be read before their relu: see `before_relu`."""
        return tuple(dict.fromkeys(str(vars(part)["layer"]) for part in self.parts() if part.signed))

    @property
    def is_joint(self) -> bool:
        """Whether the images of a batch depend on each other."""
        return any(part.joint for part in self.parts())

    def broadcast(self, count: int) -> "Objective":
        """These objectives with an entry for each of `count` images in every leaf."""
        return jax.tree.map(lambda leaf: leaf if len(leaf) == count else jnp.repeat(leaf, count, axis=0), self)

    def parts(self) -> Iterator["Objective"]:
        """This objective and those that it is composed of."""
        yield self

    def __call__(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if len(self) != 1:
            raise UserError(f"these are {len(self)} objectives: call one of them, such as objective[0]")
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], self).value(logits, activations, image)

    def __len__(self) -> int:
        """How many objectives there are, and so how many images are drawn."""
        sizes = {len(leaf) for leaf in jax.tree.leaves(self)} - {1}
        if len(sizes) > 1:
            raise UserError(
                f"objectives for {' and '.join(map(str, sorted(sizes)))} images cannot be combined: use as many "
                "channels or classes in each, or one"
            )
        return sizes.pop() if sizes else 1

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Objective":
        """Some of the objectives."""
        chosen = np.arange(len(self))[index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))]
        return jax.tree.map(lambda leaf: leaf[np.zeros_like(chosen) if len(leaf) == 1 else chosen], self)

    def __add__(self, other: Term) -> "Objective":
        return Combination(self, as_objective(other), "+")

    def __radd__(self, other: Term) -> "Objective":
        return Combination(as_objective(other), self, "+")

    def __sub__(self, other: Term) -> "Objective":
        return Combination(self, as_objective(other), "-")

    def __rsub__(self, other: Term) -> "Objective":
        return Combination(as_objective(other), self, "-")

    def __mul__(self, other: Term) -> "Objective":
        return Combination(self, as_objective(other), "*")

    def __rmul__(self, other: Term) -> "Objective":
        return Combination(as_objective(other), self, "*")

    def __neg__(self) -> "Objective":
        return Combination(as_objective(-1.0), self, "*")


def with_before_relu(activations: dict[str, jax.Array], before: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Activations in which `activation_of` finds what some layers compute before their relu."""
    return activations | {_before(layer): value for layer, value in before.items()}


def activation_of(layer: str, activations: dict[str, jax.Array]) -> jax.Array:
    """A layer's activation; before its relu, if that is among them."""
    return activations[_before(layer) if _before(layer) in activations else layer]


def as_objective(value: Term) -> Objective:
    """An Objective as it is, a number as a constant, and a function (logits, activations, image) -> scalar.

    Raises UserError for anything else, such as the name of a layer.
    """
    if isinstance(value, Objective):
        return value
    if callable(value):
        return Function(value)
    if isinstance(value, str) or np.ndim(value):
        example = repr(value) if isinstance(value, str) else "'conv'"
        raise UserError(
            f"an objective must be an Objective, a function or a number, and not {type(value).__name__} "
            f"{value!r:.60}: give one such as visualize.channel({example}, 0) or visualize.layer({example})"
        )
    return Constant(np.asarray([value], np.float32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Constant(Objective):
    number: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return jnp.asarray(self.number).astype(image.dtype)

    def describe(self, index: int) -> str:
        return f"{at(self.number, index):.6g}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Combination(Objective):
    """left + right, left - right or left * right."""

    left: Objective
    right: Objective
    sign: str = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        values = (side.value(logits, activations, image) for side in (self.left, self.right))
        return _OPERATIONS[self.sign](*values)

    def values(self, logits: jax.Array, activations: dict[str, jax.Array], images: jax.Array) -> Float[Array, " batch"]:
        if not self.is_joint:
            return super().values(logits, activations, images)
        values = (side.values(logits, activations, images) for side in (self.left, self.right))
        return _OPERATIONS[self.sign](*values)

    def bind(self, target: Target) -> Objective:
        return replace(self, left=self.left.bind(target), right=self.right.bind(target))

    def parts(self) -> Iterator[Objective]:
        yield from (self, *self.left.parts(), *self.right.parts())

    def describe(self, index: int) -> str:
        left, right = self.left.describe(index), self.right.describe(index)
        if self.sign == "*" and isinstance(self.left, Combination) and self.left.sign != "*":
            left = f"({left})"
        if self.sign != "+" and isinstance(self.right, Combination) and self.right.sign != "*":
            right = f"({right})"
        return f"{left} {self.sign} {right}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Function(Objective):
    """A plain function. jit recognizes it by its identity: pass the same function to several calls."""

    function: ObjectiveFunction = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return self.function(logits, activations, image)

    def describe(self, index: int) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def weighted(objective: Objective, weights: Array | np.ndarray) -> Objective:
    """An objective times a weight for each image."""
    return Combination(objective, Constant(weights), "*")


def _before(layer: str) -> str:
    return f"{layer} before relu"


def indices_of(numbers: Index, what: str) -> Array | np.ndarray:
    """Channels, classes or positions as a leaf. Raises UserError for what are not integers."""
    found = jnp.atleast_1d(numbers) if isinstance(numbers, jax.Array) else np.atleast_1d(np.asarray(numbers))
    if not found.size:
        raise UserError(f"no {what} was given: name at least one")
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise UserError(f"{what} numbers must be integers, one or several in a row, not {numbers!r}")
    small = found.astype(np.int32)
    if isinstance(found, np.ndarray) and (wrong := found[small != found]).size:
        raise UserError(f"there is no {what} {wrong[0]}: numbers begin at 0")
    return small


def at(values: Array | np.ndarray, index: int) -> float:
    """Entry number `index` of a leaf of numbers."""
    return np.asarray(values)[0 if len(values) == 1 else index].item()


def power(x: jax.Array, exponent: float) -> jax.Array:
    """x ** exponent for x ≥ 0, whose gradient at 0 is 0 and not NaN or infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, 0.0)
