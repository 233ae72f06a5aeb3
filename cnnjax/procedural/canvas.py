"""Drawing with signed distances: the pixel grid, random numbers, shapes, paint and noise.

Everything is a pure function of a key and of the image's side, in units of half the image's width: x to the right
and y down, both in [-1, 1]. Noise lives on small random grids whose sizes do not depend on the side, and blur is
measured in the same units, so one key gives one scene at any side. Images are (3, side, side), float32, nominally in
[0, 1], until `finish` makes them uint8.

To add a class, write in `things.py`

    def lamp(stream: Stream, canvas: Canvas, noise: Float[Array, "4 side side"]) -> list[Layer]:
        here = place(stream, canvas, scale=(0.4, 0.8), rotation=20.0, offset=0.3)   # the lamp's own coordinates
        shade = cov(polygon(here, points), here.pixel)
        return [Layer(shade, colour), ...]                                          # back to front

and register it: `THINGS = {"lamp": lamp, ...}`. `render` puts the layers over `background` and hands the result to
`finish`; each of the three has a key of its own, so a background never depends on the class. `noise` holds four fields
in image coordinates with standard deviation near 1: fine, fine, coarse, coarse. A layer's colour is (3,) or
(3, side, side), see `shaded`. All randomness comes from `stream`, with the same number of draws in every case
(`jnp.where`, not `if`). Shapes take scalars or equally shaped arrays: ten ellipses in one call make (10, side, side)
and compile like one. Every class is one compiled function per side, so that few operations matter more than cheap
ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

GRIDS = (3, 5, 9, 17, 33, 65)


class Canvas(NamedTuple):
    """Pixel centres in some frame, and a pixel's size in that frame."""

    x: Array
    y: Array
    pixel: Array


class Layer(NamedTuple):
    """One coat of paint: coverage (side, side) in [0, 1], colour (3,) or (3, side, side).

    Coverage None hides all that was painted before, which is then never computed; its colour is (3, side, side).
    """

    coverage: Array | None
    colour: Array


class Stream:
    """Uniform numbers for one image: one vector drawn at once, handed out in order."""

    def __init__(self, key: Key[Array, ""], size: int = 256) -> None:
        self._numbers = jax.random.uniform(key, (size,))
        self._next = 0

    def uniform(self, low=0.0, high=1.0, shape: tuple[int, ...] = ()) -> Array:
        """Uniform in [low, high); the bounds may be traced (scalars, or of the given shape)."""
        count = int(np.prod(shape))
        if self._next + count > self._numbers.shape[0]:
            raise ValueError("this image needs more random numbers than its Stream holds: raise its size")
        taken = self._numbers[self._next : self._next + count].reshape(shape)
        self._next += count
        return low + (high - low) * taken

    def chance(self, probability) -> Array:
        """True with the given probability."""
        return self.uniform() < probability

    def switch(self, probability) -> Array:
        """1.0 with the given probability, else 0.0: to multiply a coverage with."""
        return self.chance(probability).astype(jnp.float32)

    def sign(self) -> Array:
        """-1 or 1."""
        return jnp.where(self.uniform() < 0.5, -1.0, 1.0)

    def choice(self, table: Array | np.ndarray) -> Array:
        """A row of `table`, all alike likely."""
        table = jnp.asarray(table)
        row = jnp.floor(self.uniform() * table.shape[0]).astype(jnp.int32)
        return table[jnp.minimum(row, table.shape[0] - 1)]

    def colour(self, saturation=(0.0, 0.7), value=(0.1, 0.9)) -> Float[Array, "3"]:
        """Any hue; saturation and value uniform in the given ranges."""
        hue, chroma, bright = self.uniform(), self.uniform(*saturation), self.uniform(*value)
        wheel = jnp.clip(jnp.abs((hue * 6.0 + jnp.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
        return bright * (1.0 - chroma * (1.0 - wheel))


def canvas(side: int) -> Canvas:
    """The whole image plane: x and y (side, side) in [-1, 1]."""
    centres = jnp.asarray((np.arange(side) + 0.5) * 2.0 / side - 1.0, jnp.float32)
    y, x = jnp.meshgrid(centres, centres, indexing="ij")
    return Canvas(x, y, jnp.float32(2.0 / side))


def moved(canvas: Canvas, x, y, angle=0.0, scale=1.0, mirror=1.0) -> Canvas:
    """The canvas in an object's frame: origin (x, y), turned by `angle` (radians, clockwise), unit `scale`."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    dx, dy = canvas.x - x, canvas.y - y
    return Canvas(
        (cosine * dx + sine * dy) * (mirror / scale), (cosine * dy - sine * dx) * (1.0 / scale), canvas.pixel / scale
    )


def place(stream: Stream, canvas: Canvas, scale: tuple, rotation, offset) -> Canvas:
    """A random frame: log-uniform scale, rotation within ±degrees, centre within ±offset, mirrored half the time."""
    size = jnp.exp(stream.uniform(jnp.log(scale[0]), jnp.log(scale[1])))
    angle = stream.uniform(-1.0, 1.0) * (rotation * np.pi / 180.0)
    x, y = stream.uniform(-1.0, 1.0) * offset, stream.uniform(-1.0, 1.0) * offset
    return moved(canvas, x, y, angle, size, stream.sign())


def cov(distance: Array, pixel) -> Array:
    """Coverage in [0, 1] of a signed distance (negative inside): a ramp one pixel wide."""
    return jnp.clip(0.5 - distance / pixel, 0.0, 1.0)


def fit(canvas: Canvas, *values):
    """x and y with as many leading axes as the values have, the values with two axes for the pixels."""
    values = jnp.broadcast_arrays(*(jnp.asarray(v, jnp.float32) for v in values))
    rank = values[0].ndim
    grid = (1,) * rank + canvas.x.shape
    return canvas.x.reshape(grid), canvas.y.reshape(grid), *(v.reshape(v.shape + (1, 1)) if rank else v for v in values)


def ellipse(canvas: Canvas, x, y, rx, ry, angle=0.0) -> Array:
    """Distance (near the edge) to ellipses with centres (x, y), radii (rx, ry), turned by `angle`."""
    px, py, x, y, rx, ry, angle = fit(canvas, x, y, rx, ry, angle)
    u = jnp.cos(angle) * (px - x) + jnp.sin(angle) * (py - y)
    v = jnp.cos(angle) * (py - y) - jnp.sin(angle) * (px - x)
    return (jnp.sqrt((u / rx) ** 2 + (v / ry) ** 2 + 1e-9) - 1.0) * jnp.minimum(rx, ry)


def capsule(canvas: Canvas, ax, ay, bx, by, r1, r2) -> Array:
    """Distance to thick lines from a to b, radius r1 at a and r2 at b."""
    px, py, ax, ay, bx, by, r1, r2 = fit(canvas, ax, ay, bx, by, r1, r2)
    vx, vy = bx - ax, by - ay
    along = jnp.clip(((px - ax) * vx + (py - ay) * vy) / (vx * vx + vy * vy + 1e-6), 0.0, 1.0)
    return jnp.sqrt((px - ax - along * vx) ** 2 + (py - ay - along * vy) ** 2 + 1e-9) - (r1 + (r2 - r1) * along)


def box(canvas: Canvas, x, y, hx, hy, angle=0.0, corner=0.0) -> Array:
    """Distance to boxes with half-sides (hx, hy), turned by `angle`, corners rounded with radius `corner`."""
    px, py, x, y, hx, hy, angle, corner = fit(canvas, x, y, hx, hy, angle, corner)
    u = jnp.abs(jnp.cos(angle) * (px - x) + jnp.sin(angle) * (py - y)) - hx + corner
    v = jnp.abs(jnp.cos(angle) * (py - y) - jnp.sin(angle) * (px - x)) - hy + corner
    outside = jnp.sqrt(jnp.maximum(u, 0.0) ** 2 + jnp.maximum(v, 0.0) ** 2 + 1e-12)
    return outside + jnp.minimum(jnp.maximum(u, v), 0.0) - corner


def polygon(canvas: Canvas, points: Float[Array, "*shapes corners 2"] | np.ndarray) -> Array:
    """Distance (exact along the edges) to convex polygons, corners in either order."""
    points = jnp.asarray(points, jnp.float32)
    after = jnp.roll(points, -1, axis=-2)
    ex, ey = after[..., 0] - points[..., 0], after[..., 1] - points[..., 1]
    area = jnp.sum(points[..., 0] * after[..., 1] - points[..., 1] * after[..., 0], axis=-1, keepdims=True)
    turn = jnp.sign(area) / jnp.sqrt(ex * ex + ey * ey + 1e-9)
    px, py, ax, ay, nx, ny = fit(canvas, points[..., 0], points[..., 1], ey * turn, -ex * turn)
    return jnp.max((px - ax) * nx + (py - ay) * ny, axis=-3)


def ring(canvas: Canvas, x, y, radius, width) -> Array:
    """Distance to circles drawn with a pen of the given half-width."""
    px, py, x, y, radius, width = fit(canvas, x, y, radius, width)
    return jnp.abs(jnp.sqrt((px - x) ** 2 + (py - y) ** 2 + 1e-9) - radius) - width


def arc(canvas: Canvas, x, y, radius, middle, half, width) -> Array:
    """Distance to circle arcs around direction `middle` (radians, 0 = right, clockwise), ± `half`, round ends."""
    px, py, x, y, radius, middle, half, width = fit(canvas, x, y, radius, middle, half, width)
    dx, dy = px - x, py - y
    u = jnp.cos(middle) * dx + jnp.sin(middle) * dy
    v = jnp.abs(jnp.cos(middle) * dy - jnp.sin(middle) * dx)
    on = jnp.abs(jnp.sqrt(dx * dx + dy * dy + 1e-9) - radius)
    end = jnp.sqrt((u - radius * jnp.cos(half)) ** 2 + (v - radius * jnp.sin(half)) ** 2 + 1e-9)
    # Within the sector when the pixel's direction is nearer to the middle than the arc's end is.
    inside = v * jnp.cos(half) <= u * jnp.sin(half)
    return jnp.where(inside, on, end) - width


def blend(a: Array, b: Array, k) -> Array:
    """Union of two distances with a fillet of size k (polynomial smooth minimum)."""
    h = jnp.maximum(k - jnp.abs(a - b), 0.0) / k
    return jnp.minimum(a, b) - h * h * k * 0.25


def shaded(colour: Float[Array, "3"] | np.ndarray, shade: Float[Array, "side side"]) -> Float[Array, "3 side side"]:
    """A colour made lighter and darker from pixel to pixel: colour · shade."""
    return colour[:, None, None] * shade[None]


def paint(image: Float[Array, "3 side side"], layers: list[Layer]) -> Float[Array, "3 side side"]:
    """Layers over an image, back to front."""
    for coverage, colour in layers:
        colour = colour[:, None, None] if colour.ndim == 1 else colour
        image = colour if coverage is None else image + coverage[None] * (colour - image)
    return image


def enlarge(side: int, grid: int) -> np.ndarray:
    """(side, grid): smooth interpolation of a grid, averaged over each pixel."""
    fine = 8
    at = np.linspace(0.0, grid - 1.0, side * fine * 2 + 1)[1::2]
    low = np.minimum(at.astype(int), grid - 2)
    f = at - low
    f = f * f * (3.0 - 2.0 * f)
    matrix = np.zeros((side * fine, grid))
    rows = np.arange(side * fine)
    matrix[rows, low] = 1.0 - f
    matrix[rows, low + 1] += f
    return matrix.reshape(side, fine, grid).mean(1).astype(np.float32)


def fractal(key: Key[Array, ""], side: int, channels: int, roughness) -> Float[Array, "channels side side"]:
    """Noise of mean 0 and standard deviation near 1: random grids of 3…65 points, each `roughness` of the one before.

    roughness (scalar, or one a channel): 0.4 gives clouds, 0.9 gives fur. The same field at any side.
    """
    gain = jnp.broadcast_to(jnp.asarray(roughness, jnp.float32), (channels,))
    weights = gain[:, None] ** jnp.arange(len(GRIDS), dtype=jnp.float32)[None]
    weights = weights / (0.6 * jnp.sqrt(jnp.sum(weights**2, axis=1, keepdims=True)))
    cells = [channels * k * k for k in GRIDS]
    # Uniform numbers scaled to variance 1: nobody sees the difference to normal ones, which cost four times as much.
    numbers = jax.random.uniform(key, (sum(cells),), minval=-1.7, maxval=1.7)
    field = jnp.zeros((channels, side, side))
    for octave, (k, start) in enumerate(zip(GRIDS, np.cumsum([0, *cells[:-1]]), strict=True)):
        grid = numbers[start : start + channels * k * k].reshape(channels, k, k) * weights[:, octave, None, None]
        matrix = jnp.asarray(enlarge(side, k))
        field = field + jnp.einsum("ik,ckl,jl->cij", matrix, grid, matrix)
    return field
