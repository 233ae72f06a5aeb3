"""What layers compute before their relu: a silent filter has no gradient after it, but has one before.

The traced program of the network is interpreted, and each relu's argument kept beside its result, so no model needs to
know of it: `jax.nn.relu`, `nnx.relu` and `jnp.maximum(x, 0)`, also inside of jax.jit and jax.checkpoint.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, cast

import jax
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.visualize.relu_program import BRANCHES, bind, has_relu, programs, relu_operand

_MOVES = frozenset(
    ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "copy", "slice")
)
"""Primitives that move or convert values, so that it does not matter whether relu is taken before or after them."""


def run(
    network: Network,
    images: Float[Array, "batch height width channels"],
    layers: Collection[str],
    dtype: DTypeLike | None = None,
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """The logits, the activations, and what the `layers`, which `relu_layers` has named, compute before their relu.

    dtype: what the network computes in; the results have the dtype of the images.
    """

    def call(images: Array) -> tuple[Array, dict[str, Array]]:
        output = network.apply(images, dtype=dtype)
        return cast(Array, output.logits), output.activations

    if not layers:
        found = (*call(images), {})
    else:
        program, shapes = jax.make_jaxpr(call, return_shape=True)(images)
        values, before = _evaluate(program.jaxpr, program.consts, (images,), [None])
        tree = jax.tree.structure(shapes)
        earlier = jax.tree.unflatten(tree, before)[1]
        found = (*jax.tree.unflatten(tree, values), {layer: earlier[layer] for layer in layers})
    return found if dtype is None else jax.tree.map(lambda leaf: leaf.astype(images.dtype), found)


def relu_layers(network: Network) -> frozenset[str]:
    """The layers whose activation is the result of a relu. The network's arrays may be jax.ShapeDtypeStruct."""
    leaves, structure = jax.tree.flatten(network)
    return _relu_layers(structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves))


def choose_layers(network: Network, layers: Collection[str], wanted: bool, demanded: bool) -> tuple[str, ...]:
    """Those of the layers that are to be read before their relu.

    Raises UserError if it is demanded of a layer whose activation is not the result of a relu.
    """
    if not wanted or not layers:
        return ()
    found = relu_layers(network)
    if demanded and (missing := [layer for layer in layers if layer not in found]):
        raise UserError(
            f"before_relu=True: the activation of layer {missing[0]!r} is not the result of a relu: leave before_relu "
            "out, which takes such a layer as it is"
        )
    return tuple(sorted(found.intersection(layers)))


@lru_cache(maxsize=64)
def _relu_layers(structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> frozenset[str]:
    found = []

    def trace(leaves: tuple[Array, ...], images: Array) -> None:
        network = jax.tree.unflatten(structure, leaves)
        program, shapes = jax.make_jaxpr(lambda images: network(images), return_shape=True)(images)
        _, before = _evaluate(program.jaxpr, program.consts, (images,), [None])
        by_layer = jax.tree.unflatten(jax.tree.structure(shapes), before)[1]
        found.extend(layer for layer, value in by_layer.items() if value is not None)

    shape = jax.tree.unflatten(structure, leaves).image_shape
    jax.eval_shape(trace, leaves, jax.ShapeDtypeStruct((1, *shape), jax.numpy.float32))
    return frozenset(found)


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], before: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """The results of a program, and what each of them was before relu: None for those that are not a relu's."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    earlier: dict[Any, Any] = dict(zip(jaxpr.invars, before, strict=True))

    def read(atom: Any) -> tuple[Any, Any]:
        return (atom.val, None) if isinstance(atom, core.Literal) else (values[atom], earlier.get(atom))

    for equation in jaxpr.eqns:
        pairs = [read(atom) for atom in equation.invars]
        results, operands = _run(jaxpr, equation, [value for value, _ in pairs], [old for _, old in pairs])
        values.update(zip(equation.outvars, results, strict=True))
        earlier.update(zip(equation.outvars, operands, strict=True))
    found = [read(atom) for atom in jaxpr.outvars]
    return [value for value, _ in found], [old for _, old in found]


def _run(
    jaxpr: core.Jaxpr, equation: core.JaxprEqn, arguments: list[Any], before: list[Any]
) -> tuple[list[Any], list[Any]]:
    name, nothing = equation.primitive.name, [None] * len(equation.outvars)
    if (operand := relu_operand(equation)) is not None:
        return bind(jaxpr, equation, arguments), [arguments[operand]]
    if name in _MOVES and before[0] is not None:
        return bind(jaxpr, equation, arguments), bind(jaxpr, equation, [before[0], *arguments[1:]])
    moved = any(old is not None for old in before)
    inner = [program for program in programs(equation) if moved or has_relu(program[0])]
    if len(inner) != 1 or name in BRANCHES or len(inner[0][0].invars) != len(arguments):
        return bind(jaxpr, equation, arguments), nothing
    results, operands = _evaluate(*inner[0], arguments, before)
    # jit is written out; jax.checkpoint, and functions with derivatives of their own, stay what they are.
    return (results if name in ("jit", "pjit") else bind(jaxpr, equation, arguments)), operands
