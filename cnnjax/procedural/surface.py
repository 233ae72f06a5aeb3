"""What a surface looks like: light on it, gloss, and the patterns that scales, pleats and seams are made of."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import Stream

INK = np.array([0.05, 0.045, 0.04], np.float32)
"""Pupils, mouths, the dark between things."""


def sun(stream: Stream) -> Float[Array, "3"]:
    """A unit vector (right, down, towards the eye) to the light, which comes from above and from the front."""
    angle, height = stream.uniform(-np.pi, 0.0), stream.uniform(0.45, 0.8)
    flat = jnp.sqrt(1.0 - height * height)
    return jnp.stack([flat * jnp.cos(angle), flat * jnp.sin(angle), height])


def lit(light: Float[Array, "3"], nx: Array, ny: Array, ambient=0.35) -> Array:
    """Brightness of a surface that faces (nx, ny, √(1 - nx² - ny²)): near 1 where it faces the light (Lambert)."""
    nz = jnp.sqrt(jnp.maximum(1.0 - nx * nx - ny * ny, 0.0))
    return ambient + (1.15 - ambient) * jnp.maximum(nx * light[0] + ny * light[1] + nz * light[2], 0.0)


def ramp(x: Array, width) -> Array:
    """From 0 to 1 around x = 0, straight, over the given width."""
    return jnp.clip(0.5 + x / width, 0.0, 1.0)


def fraction(t: Array) -> Array:
    """What is left of t above a whole number: a saw-tooth of period 1."""
    return t - jnp.floor(t)


def zigzag(t: Array) -> Array:
    """Triangle wave of period 1, from 0 at whole numbers to 1 between them."""
    return 1.0 - jnp.abs(2.0 * fraction(t) - 1.0)


def mixed(a: Array, b: Array, share: Float[Array, "side side"]) -> Float[Array, "3 side side"]:
    """Colour a where `share` is 0, b where it is 1; colours are (3,) or (3, side, side)."""
    a, b = (c[:, None, None] if c.ndim == 1 else c for c in (a, b))
    return a + (b - a) * share[None]


def gleaming(colour: Array, shade: Array, gleam: Array) -> Float[Array, "3 side side"]:
    """A colour (3,) or (3, side, side) times `shade`, with a white reflection on top."""
    colour = colour[:, None, None] if colour.ndim == 1 else colour
    return colour * shade[None] + gleam[None]
