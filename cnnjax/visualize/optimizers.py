"""How an image takes a step: any optax optimizer, with one state for each image. Here is the one of keras-vis."""

import functools
from collections.abc import Hashable
from types import FunctionType

import jax
import jax.numpy as jnp
import optax

EPSILON = 1e-7
DECAY = 0.95


def _init(params: optax.Params) -> optax.Updates:
    return jax.tree.map(jnp.zeros_like, params)


def _update(
    updates: optax.Updates, state: optax.Updates, params: optax.Params | None = None
) -> tuple[optax.Updates, optax.Updates]:
    del params
    leaves = jax.tree.leaves(updates)
    mean_square = sum(jnp.mean(leaf**2) * (leaf.size / sum(each.size for each in leaves)) for leaf in leaves)
    scale = jnp.sqrt(mean_square) + EPSILON
    gradient = jax.tree.map(lambda g: g / scale, updates)
    state = jax.tree.map(lambda v, g: DECAY * v + (1 - DECAY) * g**2, state, gradient)
    return jax.tree.map(lambda g, v: -g / jnp.sqrt(v + EPSILON), gradient, state), state


_KERAS_VIS = optax.GradientTransformation(_init, _update)


def keras_vis_rmsprop() -> optax.GradientTransformation:
    """keras-vis 0.4.1's step, which this package's recipes take.

    The gradient is divided by its root mean square over the image; then RMSprop with learning rate 1, decay 0.95 and no
    bias correction. The first step is about 4.47 · sign(gradient).
    """
    return _KERAS_VIS


def _divide_by_mean(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
    del params
    return jax.tree.map(lambda g: g / (jnp.mean(jnp.abs(g)) + EPSILON), updates)


def deepdream_ascent(rate: float = 1.5) -> optax.GradientTransformation:
    """DeepDream's step: the gradient divided by the mean of its absolute values, times `rate` (0 to 255)."""
    return optax.chain(optax.stateless(_divide_by_mean), optax.scale(-rate))


class Optimizer:
    """An optax optimizer as a static argument of jit: equal ones, such as `optax.adam(0.05)` twice, share a program.

    jax.jit compares functions by identity, and optax makes new ones in each call. Here functions of optax and of this
    package are compared by their code and by what they close over, all others by identity.
    """

    def __init__(self, optimizer: optax.GradientTransformation) -> None:
        self.init, self.update = optimizer.init, optimizer.update
        self._structure = _structure((optimizer.init, optimizer.update), ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Optimizer) and self._structure == other._structure

    def __hash__(self) -> int:
        return hash(self._structure)


class _Same:
    """Anything, compared by identity; keeps it alive, so that its identity stays its own."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _structure(value: object, parents: tuple[int, ...]) -> Hashable:
    """A hashable value that two functions share only if they compute the same."""
    if value is None or isinstance(value, bool | int | float | str):
        return type(value).__name__, value
    if id(value) in parents:  # a function that closes over itself
        return "parent", parents.index(id(value))
    parents = (*parents, id(value))
    if isinstance(value, tuple | list):
        return type(value), tuple(_structure(item, parents) for item in value)
    if isinstance(value, functools.partial):
        return "partial", *(_structure(v, parents) for v in (value.func, value.args, sorted(value.keywords.items())))
    module = getattr(value, "__module__", None) or ""
    if isinstance(value, FunctionType) and module.partition(".")[0] in ("optax", "cnnjax"):
        cells = tuple(_structure(cell.cell_contents, parents) for cell in value.__closure__ or ())
        defaults = _structure((value.__defaults__ or (), sorted((value.__kwdefaults__ or {}).items())), parents)
        return value.__code__, cells, defaults
    return _Same(value)
