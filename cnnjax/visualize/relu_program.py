"""Where a traced program has relus, for those who interpret it with something else in their place."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend import core

BRANCHES = ("cond", "scan", "while")
"""Primitives with programs inside that cannot be written out in their place."""


def bind(jaxpr: core.Jaxpr, equation: core.JaxprEqn, arguments: list[Any]) -> list[Any]:
    """The results of one equation, run as a program of its own."""
    variables = [
        (atom, value) for atom, value in zip(equation.invars, arguments, strict=True) if isinstance(atom, core.Var)
    ]
    invars = list(dict.fromkeys(atom for atom, _ in variables))
    alone = jaxpr.replace(constvars=[], invars=invars, outvars=equation.outvars, eqns=[equation])
    values = dict(variables)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*[values[atom] for atom in invars])


def relu_operand(equation: core.JaxprEqn) -> int | None:
    """Which argument an equation takes the relu of; None if it is another operation."""
    if equation.primitive.name == "custom_jvp_call":
        function = equation.params.get("name") or equation.params["call_jaxpr"].jaxpr.debug_info.func_name
        return 0 if function == "relu" and len(equation.invars) == 1 else None
    if equation.primitive.name != "max":
        return None
    zeros = [isinstance(atom, core.Literal) and not np.any(atom.val) for atom in equation.invars]
    return zeros.index(False) if sum(zeros) == 1 else None


def programs(equation: core.JaxprEqn) -> Iterator[tuple[core.Jaxpr, Sequence[Any]]]:
    """The programs inside of an equation, with their constants."""
    for parameter in equation.params.values():
        for value in parameter if isinstance(parameter, tuple | list) else (parameter,):
            if isinstance(value, core.ClosedJaxpr):
                yield value.jaxpr, value.consts
            elif isinstance(value, core.Jaxpr):
                yield value, ()


def has_relu(jaxpr: core.Jaxpr) -> bool:
    """Whether a program takes a relu anywhere, also in the programs inside of it."""
    return any(
        relu_operand(equation) is not None or any(has_relu(inner) for inner, _ in programs(equation))
        for equation in jaxpr.eqns
    )
