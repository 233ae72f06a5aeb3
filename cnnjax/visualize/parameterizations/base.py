"""What a parameterization is, and how the optimization and the saved image use it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

ImageParams = optax.Params
"""The parameters of an image: a pytree of arrays."""
P = TypeVar("P")

if TYPE_CHECKING:
    Leaf = float | Array
    ArrayLeaf = Array
else:  # JAX also puts other things in the leaves' places.
    Leaf = ArrayLeaf = object


@runtime_checkable
class Parameterization(Protocol[P]):
    """How an image follows from the parameters that are optimized. Of one image each; `render` maps over the batch.

    Frozen dataclasses of numbers serve best: equal ones share compiled programs. Arrays in it belong into a registered
    pytree dataclass. More methods may be there:

    to_uint8(image): the image as it is saved; by default its values are rounded down and clipped.
    from_image(image): parameters of an image in 0 to 255, from which a recipe's next stage starts; by default it
    continues with the parameters that the stage before found.
    to_alpha(params): the saved image's alpha channel, uint8 (height, width); by default it has none.
    wrap_optimizer(optimizer): the optax optimizer that is used instead of the recipe's.
    """

    def init(self, key: jax.Array, image_size: tuple[int, int], channels: int) -> P:
        """The parameters of one image to start from: (height, width) in pixels."""
        ...

    def to_image(self, params: P) -> jax.Array:
        """The image (height, width, channels) in display units."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Static(Generic[P]):
    """A parameterization without arrays, which jit takes as it is: equal ones share compiled programs."""

    parameterization: Parameterization[P] = field(metadata={"static": True})

    def init(self, key: jax.Array, image_size: tuple[int, int], channels: int) -> P:
        return self.parameterization.init(key, image_size, channels)

    def to_image(self, params: P) -> jax.Array:
        return self.parameterization.to_image(params)


def as_argument(parameterization: Parameterization[P]) -> Parameterization[P]:
    """A parameterization as an argument of jit: a registered pytree as it is, any other object as a static one."""
    return Static(parameterization) if jax.tree_util.all_leaves([parameterization]) else parameterization


def quantize(image: Float[Array, "height width channels"]) -> UInt8[Array, "height width channels"]:
    """An image in display units as uint8: clipped, and rounded down."""
    return jnp.clip(image, 0, 255).astype(jnp.uint8)


def to_uint8(
    parameterization: Parameterization[P], image: Float[Array, "height width channels"]
) -> UInt8[Array, "height width channels"]:
    """An image as it is saved, by the parameterization's own `to_uint8` or by `quantize`."""
    own: Callable[[jax.Array], jax.Array] = getattr(_inner(parameterization), "to_uint8", quantize)
    return own(image)


def from_image(parameterization: Parameterization[P]) -> Callable[[jax.Array], P] | None:
    """The parameterization's own `from_image`, if it has one."""
    return getattr(_inner(parameterization), "from_image", None)


def to_alpha(parameterization: Parameterization[P], params: P) -> UInt8[Array, "height width"] | None:
    """The alpha channel of an image as it is saved, if the parameterization has one."""
    own: Callable[[P], jax.Array] | None = getattr(_inner(parameterization), "to_alpha", None)
    return own(params) if own else None


def wrap_optimizer(
    parameterization: Parameterization[P], optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The optimizer as the parameterization needs it."""
    own: Callable[[optax.GradientTransformation], optax.GradientTransformation] | None
    own = getattr(_inner(parameterization), "wrap_optimizer", None)
    return own(optimizer) if own else optimizer


def _inner(parameterization: Parameterization[P]) -> Parameterization[P]:
    return parameterization.parameterization if isinstance(parameterization, Static) else parameterization
