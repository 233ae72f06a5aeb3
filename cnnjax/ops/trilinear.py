"""Bilinear operations that choose their algorithm for each platform and are differentiable in both modes.

Three operations belong to a convolution y = conv(x, kernel): the convolution itself, the gradient for its input and the
gradient for its kernel. With a cotangent g of y, all three are partial derivatives of one scalar function that is
linear in each of its three arguments, t(x, kernel, g) = ⟨conv(x, kernel), g⟩. Each operation is bilinear, and
differentiating or transposing one of them gives another one. The same holds for a matrix product. This module states
these rules once, as one JAX primitive: forward mode, reverse mode and vmap follow in any order and any depth.

`jax.custom_vjp` excludes forward mode, and the transpose of a function under `jax.custom_jvp` cannot be chosen, so that
neither can replace the primitive.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

NAME = "trilinear_derivative"

Role = Literal[0, 1, 2]
"""Of an argument of a trilinear form: 0 the input x, 1 the kernel, 2 the cotangent g of the output."""


@dataclass(frozen=True)
class Form(ABC):
    """A trilinear form. Of each method the result has the role `role`; the operands follow in the order of roles."""

    precision: str | None
    """`jax.default_matmul_precision` where the operation was called. Its derivatives, which may be traced elsewhere,
    have the same, as with JAX's own operations."""

    axes: ClassVar[tuple[dict[str, int], dict[str, int], dict[str, int]]]
    """For each role, the axes along which the form is a product of matrices, by name. Two roles share each name."""

    @abstractmethod
    def plain(self, role: Role, first: Array, second: Array) -> Array:
        """The derivative of the form for the argument `role`, as one operation of XLA's."""

    @abstractmethod
    def on_cpu(self, role: Role, first: Array, second: Array, in_loop: bool = False) -> Array:
        """The same by the algorithm that is the fastest on a CPU; within a loop that may be another one."""


def derivative(
    form: Form, role: Role, first: Float[Array, "..."], second: Float[Array, "..."], pairs: bool = False
) -> Float[Array, "..."]:
    """The derivative of a trilinear form for its argument `role` at the two other arguments, in the order of roles.

    With `pairs`, both operands have a leading axis, and so has the result: one derivative for each pair of entries.
    """
    first, second = _varying_alike(first, second)
    return _derivative.bind(first, second, form=form, role=role, pairs=pairs)


def _others(role: Role) -> list[Role]:
    return [other for other in (0, 1, 2) if other != role]


def _apply(first: Array, second: Array, *, form: Form, role: Role, pairs: bool) -> Array:
    """XLA's own operation: what platforms other than the CPU run."""
    function = partial(form.plain, role)
    return jax.vmap(function)(first, second) if pairs else function(first, second)


def _apply_on_cpu(first: Array, second: Array, *, form: Form, role: Role, pairs: bool) -> Array:
    if not pairs:
        return form.on_cpu(role, first, second)
    # XLA's CPU compiler has no fast kernel for the grouped convolutions that vmap makes of pairs.
    return lax.map(lambda pair: form.on_cpu(role, *pair, in_loop=True), (first, second))


@lru_cache(4096)
def plain_jaxpr(first: jax.core.ShapedArray, second: jax.core.ShapedArray, **params: Any) -> ClosedJaxpr:
    """What an equation of the primitive `NAME` computes, in XLA's own operations; for programs that read jaxprs.

    Arguments: the types of the equation's operands, and its parameters.
    """
    return jax.make_jaxpr(partial(_apply, **params))(first, second)


def _result_type(first: jax.core.ShapedArray, second: jax.core.ShapedArray, **params: Any) -> jax.core.ShapedArray:
    return plain_jaxpr(first, second, **params).out_avals[0]


@partial(jax.jit, static_argnames=("form", "role", "pairs"))
def _compiled(first: Array, second: Array, *, form: Form, role: Role, pairs: bool) -> Array:
    """What a call outside jit runs."""
    return _derivative.bind(first, second, form=form, role=role, pairs=pairs)


def _transpose(place: int, cotangent: Array, first: Any, second: Any, *, form: Form, role: Role, pairs: bool):
    """The cotangent of operand `place`, which is the unknown one of the two."""
    others = _others(role)
    known = {role: cotangent, others[1 - place]: (first, second)[1 - place]}
    return derivative(form, others[place], *(known[key] for key in sorted(known)), pairs=pairs)


def _batch(
    operands: tuple[Array, Array], places: tuple[int | None, int | None], *, form: Form, role: Role, pairs: bool
):
    """One batched operand: its axis joins the one that it shares with the result. Two: they make pairs."""
    if None not in places:
        first, second = (jnp.moveaxis(a, place, 0) for a, place in zip(operands, places, strict=True))
        if not pairs:
            return derivative(form, role, first, second, pairs=True), 0
        count, length = first.shape[:2]
        joined = (a.reshape(count * length, *a.shape[2:]) for a in (first, second))
        result = derivative(form, role, *joined, pairs=True)
        return result.reshape(count, length, *result.shape[1:]), 0
    batched = 0 if places[1] is None else 1
    axes = form.axes[_others(role)[batched]]
    name = next(name for name in axes if name in form.axes[role])
    operands = list(operands)
    count = operands[batched].shape[places[batched]]
    operands[batched] = _join(operands[batched], places[batched], axes[name] + pairs)
    return _split(derivative(form, role, *operands, pairs=pairs), count, form.axes[role][name] + pairs)


def _join(a: Array, source: int, target: int) -> Array:
    """Merges axis `source` into the axis that is number `target` among the others."""
    a = jnp.moveaxis(a, source, target)
    return a.reshape(*a.shape[:target], a.shape[target] * a.shape[target + 1], *a.shape[target + 2 :])


def _split(a: Array, count: int, axis: int) -> tuple[Array, int]:
    """Takes an axis of `count` entries out of `axis` again. Returns the array and the axis's number."""
    return a.reshape(*a.shape[:axis], count, a.shape[axis] // count, *a.shape[axis + 1 :]), axis


def _varying_alike(*operands: Array) -> list[Array]:
    """Within `jax.shard_map`, marks all operands as varying over the same mesh axes, as JAX's own operations do."""
    each = [varying_axes(a) for a in operands]
    union = frozenset().union(*each)
    return [
        lax.pcast(a, tuple(union - own), to="varying") if own != union else a
        for a, own in zip(operands, each, strict=True)
    ]


def varying_axes(value: Array) -> frozenset[str]:
    """The axes over which shard_map knows a value to differ; JAX's versions keep them in different places."""
    kind = jax.typeof(value)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


_derivative = Primitive(NAME)
_derivative.def_impl(_compiled)
_derivative.def_abstract_eval(_result_type)
ad.defbilinear(_derivative, partial(_transpose, 0), partial(_transpose, 1))
batching.primitive_batchers[_derivative] = _batch
mlir.register_lowering(_derivative, mlir.lower_fun(_apply, multiple_results=False))
mlir.register_lowering(_derivative, mlir.lower_fun(_apply_on_cpu, multiple_results=False), platform="cpu")
