"""Another gradient for every relu of a function: the traced program is interpreted, with relu itself exchanged."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from cnnjax.errors import UserError
from cnnjax.visualize.relu_program import BRANCHES, bind, has_relu, programs, relu_operand


def with_guided_relu(
    function: Callable[[Array], Array], example: Float[Array, "..."]
) -> Callable[[Float[Array, "..."]], Float[Array, "..."]]:
    """The function with `guided_relu` in place of each relu. example: an argument, of the same shape and dtype.

    Raises UserError if it has no relu, or has one in a place where it cannot be exchanged.
    """
    program = jax.make_jaxpr(function)(example)
    if not has_relu(program.jaxpr):
        raise UserError(
            "guided backpropagation changes the gradient of relu, and this network has none: use another method"
        )

    def guided(x: Array) -> Array:
        (result,) = _evaluate(program.jaxpr, program.consts, (x,))
        return result

    return guided


@jax.custom_vjp
def guided_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """relu, which passes a gradient back where both it and the input are positive (Springenberg et al. 2015)."""
    return jnp.maximum(x, 0)


def _forward(x: Array) -> tuple[Array, Array]:
    return jnp.maximum(x, 0), x > 0


def _backward(positive: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(positive & (gradient > 0), gradient, 0),)


guided_relu.defvjp(_forward, _backward)


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of a program with every relu exchanged."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _run(jaxpr, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run(jaxpr: core.Jaxpr, equation: core.JaxprEqn, arguments: list[Any]) -> list[Any]:
    if (operand := relu_operand(equation)) is not None:
        return [guided_relu(arguments[operand])]
    inner = [program for program in programs(equation) if has_relu(program[0])]
    primitive = equation.primitive
    if inner and primitive.name in BRANCHES:
        equation = equation.replace(params={name: _exchanged(value) for name, value in equation.params.items()})
        inner = []
    if not inner:
        return bind(jaxpr, equation, arguments)
    if len(inner) == 1 and len(inner[0][0].invars) == len(arguments):
        # jit and jax.checkpoint, and functions with derivatives of their own, which are then those of what they compute
        return _evaluate(*inner[0], arguments)
    raise UserError(
        f"a relu inside of {primitive.name!r} cannot be exchanged for guided backpropagation: use another method"
    )


def _exchanged(parameter: Any) -> Any:
    """A parameter of an equation, with its programs' relus exchanged."""
    if isinstance(parameter, tuple):
        return tuple(_exchanged(value) for value in parameter)
    if not isinstance(parameter, core.ClosedJaxpr) or not has_relu(parameter.jaxpr):
        return parameter
    specs = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in parameter.jaxpr.invars]
    return jax.make_jaxpr(lambda *arguments: _evaluate(parameter.jaxpr, parameter.consts, arguments))(*specs)
