"""What an image is optimized for: objectives, which add, subtract and multiply.

An objective is a function `(logits, activations, image) -> scalar` of one example: its logits (classes,), its
activations by layer (height, width, channels) or (units,), and the image (height, width, channels) in display units,
0 to 255. `render` maximizes it; penalties are subtracted. An `Objective` may stand for several at once
(`channel("conv_2", range(8))`): each gets an image of its own, and one compiled program draws them all.

Channel numbers, class numbers and factors are leaves of the pytree that an objective is, so that they may change
without compiling anything again; names of layers, and functions, are static.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cnnjax.errors import UserError, unknown
from cnnjax.visualize.layers import check_channels

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

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        """The value for one example, of one objective: the leaves have lost their leading axis."""
        raise NotImplementedError

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
        own = next((part for part in map(_own_number, self.parts()) if part is not None), np.zeros(1, np.int32))
        return np.broadcast_to(np.asarray(own), len(self))

    def layers(self) -> tuple[str, ...]:
        """The layers that may be read before their relu (`before_relu.run`), where `activation_of` finds them."""
        named = (getattr(part, "layer", None) for part in self.parts())
        return tuple(dict.fromkeys(name for name in named if name is not None))

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
    """An Objective as it is, a number as a constant, and a function (logits, activations, image) -> scalar."""
    if isinstance(value, Objective):
        return value
    if callable(value):
        return Function(value)
    return Constant(np.asarray([value], np.float32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Constant(Objective):
    number: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return jnp.asarray(self.number).astype(image.dtype)

    def describe(self, index: int) -> str:
        return f"{_at(self.number, index):.6g}"


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Channel(Objective):
    """See `channel`."""

    layer: str = field(metadata=STATIC)
    channel: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        # All means, then one of them: the gradient stays dense, where indexing first would scatter into the maps.
        maps = activation_of(self.layer, activations)
        return maps.reshape(-1, maps.shape[-1]).mean(axis=0)[self.channel]

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, np.asarray(self.channel).tolist())
        return self

    def describe(self, index: int) -> str:
        return f"channel({self.layer}, {_at(self.channel, index)})"

    def facts(self, index: int) -> Facts:
        return {"kind": "filter", "layer": self.layer, "channel": _at(self.channel, index)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Neuron(Objective):
    """See `neuron`. row and column: -1 for the middle."""

    layer: str = field(metadata=STATIC)
    channel: Leaf
    row: Leaf
    column: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        maps = activation_of(self.layer, activations)
        y = jnp.where(self.row < 0, maps.shape[0] // 2, self.row)
        x = jnp.where(self.column < 0, maps.shape[1] // 2, self.column)
        return maps[y, x, self.channel]

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, np.asarray(self.channel).tolist(), maps=True)
        height, width, _ = target.layers[self.layer]
        if np.max(self.row) >= height or np.max(self.column) >= width:
            raise UserError(
                f"layer {self.layer!r} has maps of {height}×{width}, without row={int(np.max(self.row))}, "
                f"column={int(np.max(self.column))}"
            )
        return self

    def describe(self, index: int) -> str:
        channel, row, column = (_at(v, index) for v in (self.channel, self.row, self.column))
        place = ", ".join("middle" if p < 0 else str(p) for p in (row, column))
        return f"neuron({self.layer}, {channel}, {place})"

    def facts(self, index: int) -> Facts:
        channel, row, column = (_at(v, index) for v in (self.channel, self.row, self.column))
        place = {"row": None if row < 0 else row, "column": None if column < 0 else column}
        return {"kind": "neuron", "layer": self.layer, "channel": channel} | place


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ClassLogit(Objective):
    """See `class_logit`. names: what is still to be looked up in the network's classes, or ()."""

    index: Leaf
    names: tuple[str, ...] = field(default=(), metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if logits.shape[0] == 1:
            return jnp.where(jnp.asarray(self.index) == 1, logits[0], -logits[0])
        return logits[self.index]

    def bind(self, target: Target) -> Objective:
        known = target.class_names
        if not known:
            raise UserError("this network has no classes to draw: use one with its dense layers, at its own image size")
        for name in self.names:
            if name not in known:
                raise unknown("class", name, known)
        index = np.asarray([known.index(name) for name in self.names], np.int32) if self.names else self.index
        wrong = [int(number) for number in np.asarray(index) if not 0 <= number < len(known)]
        if wrong:
            raise UserError(
                f"there is no class {wrong[0]}: the network's {len(known)} classes are 0 to {len(known) - 1}"
            )
        return ClassLogit(index)

    def describe(self, index: int) -> str:
        return f"class_logit({self.names[index] if self.names else _at(self.index, index)})"

    def facts(self, index: int) -> Facts:
        return {"kind": "class", "class_index": _at(self.index, index)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TotalVariation(Objective):
    """See `total_variation`."""

    beta: float = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        down = image[1:, :-1] - image[:-1, :-1]
        right = image[:-1, 1:] - image[:-1, :-1]
        squares = down**2 + right**2
        return jnp.sum(squares if self.beta == 2 else _power(squares, self.beta / 2)) / image.size

    def describe(self, index: int) -> str:
        return f"total_variation({self.beta:g})"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LpNorm(Objective):
    """See `lp_norm`."""

    p: float = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return _power(jnp.sum(_power(jnp.abs(image), self.p)), 1 / self.p) / image.size

    def describe(self, index: int) -> str:
        return f"lp_norm({self.p:g})"


def channel(layer: str, channels: Index) -> Objective:
    """The mean of a channel of a layer (article, section 6.2); of a dense layer, one unit.

    channels: a number, or several, each for an image of its own.
    """
    return Channel(layer, _indices(channels, "channel"))


def neuron(layer: str, channels: Index, row: Index | None = None, column: Index | None = None) -> Objective:
    """A channel of a layer at one position of its map; in the middle by default."""
    middle = np.asarray([-1], np.int32)
    rows = middle if row is None else _indices(row, "row")
    columns = middle if column is None else _indices(column, "column")
    return Neuron(layer, _indices(channels, "channel"), rows, columns)


def class_logit(classes: str | int | Sequence[str] | Sequence[int] | np.ndarray | jax.Array) -> Objective:
    """The logit of a class, by name or number; not its probability, which saturates (article, section 6.3).

    A network with one sigmoid logit has two classes: its logit is class 1's, its negative is class 0's.
    """
    names = [classes] if isinstance(classes, str) else classes
    if isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names):
        # The leaf is a placeholder, as long as there are names.
        return ClassLogit(np.full(len(names), -1, np.int32), tuple(map(str, names)))
    return ClassLogit(_indices(classes, "class"))  # type: ignore[arg-type]


def total_variation(beta: float = 2.0) -> Objective:
    """Σ((Δh)² + (Δw)²)^(β/2) / size over neighbouring pixels, as in keras-vis 0.4.1 (Mahendran & Vedaldi 2015)."""
    return TotalVariation(float(beta))


def lp_norm(p: float = 6.0) -> Objective:
    """(Σ|x|^p)^(1/p) / size, as in keras-vis 0.4.1: as a penalty it keeps values small."""
    return LpNorm(float(p))


def weighted(objective: Objective, weights: Array | np.ndarray) -> Objective:
    """An objective times a weight for each image."""
    return Combination(objective, Constant(weights), "*")


def _before(layer: str) -> str:
    return f"{layer} before relu"


def _own_number(part: Objective) -> Array | np.ndarray | None:
    if isinstance(part, ClassLogit):
        return part.index
    return part.channel if isinstance(part, Channel | Neuron) else None


def _indices(numbers: Index, what: str) -> Array | np.ndarray:
    if isinstance(numbers, jax.Array):
        return jnp.atleast_1d(numbers)
    found = np.atleast_1d(np.asarray(numbers))
    if not found.size:
        raise UserError(f"no {what} was given: name at least one")
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise UserError(f"{what} numbers must be integers, not {numbers!r}")
    return found.astype(np.int32)


def _at(values: Array | np.ndarray, index: int) -> float:
    return np.asarray(values)[0 if len(values) == 1 else index].item()


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """x ** exponent for x ≥ 0, whose gradient at 0 is 0 and not NaN or infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, 0.0)
