"""Drawing with signed distances: the pixel grid, shapes, noise, backgrounds, and what a camera does to a picture.

Everything is a pure function of a key and of the picture's side, in units of half the picture's width: x to the right
and y down, both in [-1, 1]. Noise lives on small random grids whose sizes do not depend on the side, and blur is
measured in the same units, so one key gives one scene at any side. Pictures are (3, side, side), float32, nominally in
[0, 1], until `finish` makes them uint8.

How a class is added: write in `things.py`

    def lamp(stream: Stream, canvas: Canvas, noise: Float[Array, "4 side side"]) -> list[Layer]:
        here = place(stream, canvas, scale=(0.4, 0.8), rotation=20.0, offset=0.3)   # the lamp's own coordinates
        shade = cov(polygon(here, points), here.pixel)
        return [Layer(shade, colour), ...]                                          # back to front

and register it: `THINGS = {"lamp": lamp, ...}`. `render` puts the layers over `background` and hands the result to
`finish`; the three draw from keys of their own, so a background never depends on the class. `noise` holds four fields
in picture coordinates with standard deviation near 1: fine, fine, coarse, coarse. A layer's colour is (3,) or
(3, side, side), see `shaded`. All randomness comes from `stream`, always the same number of draws whatever was drawn
(`jnp.where`, not `if`). Shapes take scalars or equally shaped arrays: ten ellipses in one call make (10, side, side)
and compile like one. Every class is one compiled function a side, so few operations matter more than cheap ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

GRIDS = (3, 5, 9, 17, 33, 65)
GRAIN = 128


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
    """Uniform numbers for one picture: one vector drawn at once, handed out in order."""

    def __init__(self, key: Key[Array, ""], size: int = 256) -> None:
        self._numbers = jax.random.uniform(key, (size,))
        self._next = 0

    def uniform(self, low=0.0, high=1.0, shape: tuple[int, ...] = ()) -> Array:
        """Uniform in [low, high); the bounds may be traced (scalars, or of the given shape)."""
        count = int(np.prod(shape))
        if self._next + count > self._numbers.shape[0]:
            raise ValueError("this picture needs more random numbers than its Stream holds: raise its size")
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
    """The whole picture: x and y (side, side) in [-1, 1]."""
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


def _fit(canvas: Canvas, *values):
    """x and y with as many leading axes as the values have, the values with two axes for the pixels."""
    values = jnp.broadcast_arrays(*(jnp.asarray(v, jnp.float32) for v in values))
    rank = values[0].ndim
    grid = (1,) * rank + canvas.x.shape
    return canvas.x.reshape(grid), canvas.y.reshape(grid), *(v.reshape(v.shape + (1, 1)) if rank else v for v in values)


def ellipse(canvas: Canvas, x, y, rx, ry, angle=0.0) -> Array:
    """Distance (near the edge) to ellipses with centres (x, y), radii (rx, ry), turned by `angle`."""
    px, py, x, y, rx, ry, angle = _fit(canvas, x, y, rx, ry, angle)
    u = jnp.cos(angle) * (px - x) + jnp.sin(angle) * (py - y)
    v = jnp.cos(angle) * (py - y) - jnp.sin(angle) * (px - x)
    return (jnp.sqrt((u / rx) ** 2 + (v / ry) ** 2 + 1e-9) - 1.0) * jnp.minimum(rx, ry)


def capsule(canvas: Canvas, ax, ay, bx, by, r1, r2) -> Array:
    """Distance to thick lines from a to b, radius r1 at a and r2 at b."""
    px, py, ax, ay, bx, by, r1, r2 = _fit(canvas, ax, ay, bx, by, r1, r2)
    vx, vy = bx - ax, by - ay
    along = jnp.clip(((px - ax) * vx + (py - ay) * vy) / (vx * vx + vy * vy + 1e-6), 0.0, 1.0)
    return jnp.sqrt((px - ax - along * vx) ** 2 + (py - ay - along * vy) ** 2 + 1e-9) - (r1 + (r2 - r1) * along)


def box(canvas: Canvas, x, y, hx, hy, angle=0.0, corner=0.0) -> Array:
    """Distance to boxes with half-sides (hx, hy), turned by `angle`, corners rounded with radius `corner`."""
    px, py, x, y, hx, hy, angle, corner = _fit(canvas, x, y, hx, hy, angle, corner)
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
    px, py, ax, ay, nx, ny = _fit(canvas, points[..., 0], points[..., 1], ey * turn, -ex * turn)
    return jnp.max((px - ax) * nx + (py - ay) * ny, axis=-3)


def ring(canvas: Canvas, x, y, radius, width) -> Array:
    """Distance to circles drawn with a pen of the given half-width."""
    px, py, x, y, radius, width = _fit(canvas, x, y, radius, width)
    return jnp.abs(jnp.sqrt((px - x) ** 2 + (py - y) ** 2 + 1e-9) - radius) - width


def arc(canvas: Canvas, x, y, radius, middle, half, width) -> Array:
    """Distance to circle arcs around direction `middle` (radians, 0 = right, clockwise), ± `half`, round ends."""
    px, py, x, y, radius, middle, half, width = _fit(canvas, x, y, radius, middle, half, width)
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


def _enlarge(side: int, grid: int) -> np.ndarray:
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
        enlarge = jnp.asarray(_enlarge(side, k))
        field = field + jnp.einsum("ik,ckl,jl->cij", enlarge, grid, enlarge)
    return field


# Sky, mist, grass, foliage, straw, earth, wood, wall, carpet, cloth, water, stone, night.
_TONES = np.asarray(
    [
        [0.55, 0.72, 0.90], [0.82, 0.84, 0.86], [0.42, 0.58, 0.24], [0.20, 0.33, 0.16], [0.76, 0.66, 0.40],
        [0.40, 0.30, 0.21], [0.62, 0.43, 0.26], [0.88, 0.82, 0.70], [0.58, 0.22, 0.20], [0.34, 0.38, 0.58],
        [0.24, 0.46, 0.52], [0.52, 0.51, 0.50], [0.14, 0.14, 0.19],
    ],
    np.float32,
)  # fmt: skip


def _tone(stream: Stream) -> Float[Array, "3"]:
    """A colour that backgrounds are made of."""
    return jnp.clip(stream.choice(_TONES) * stream.uniform(0.75, 1.2) + stream.uniform(-0.09, 0.09, (3,)), 0.03, 0.97)


def background(key: Key[Array, ""], canvas: Canvas, clutter: int = 5) -> Float[Array, "3 side side"]:
    """A blurred room or meadow: two tones meeting at a tilted horizon, noise, and `clutter` blobs and boxes."""
    side = canvas.x.shape[0]
    draw, rough = jax.random.split(key)
    stream = Stream(draw, 160)
    above, below = _tone(stream), _tone(stream)
    horizon, tilt, soft = stream.uniform(-0.7, 0.9), stream.uniform(-0.3, 0.3), stream.uniform(0.02, 0.5)
    texture = fractal(rough, side, 4, stream.uniform(0.35, 0.95, (4,)))
    grain, warp = texture[:3] * 0.2 + texture[3:] * 0.8, texture[3]
    ground = cov((horizon + tilt * canvas.x + 0.05 * warp - canvas.y), soft)
    image = above[:, None, None] * (1.0 - ground)[None] + below[:, None, None] * ground[None]
    image = image * (1.0 + stream.uniform(0.05, 0.35) * grain)
    # Planks, fences, curtains: stripes in a random direction.
    angle, period = stream.uniform(0.0, np.pi), stream.uniform(8.0, 40.0)
    phase = period * (jnp.cos(angle) * canvas.x + jnp.sin(angle) * canvas.y + 0.04 * warp)
    image = image * (1.0 + stream.uniform(0.0, 0.3) * stream.switch(0.4) * jnp.sin(phase))[None]
    x, y, angle = (
        stream.uniform(-1.1, 1.1, (clutter,)),
        stream.uniform(-1.1, 1.1, (clutter,)),
        stream.uniform(0.0, np.pi, (clutter,)),
    )
    rx, ry = jnp.exp(stream.uniform(-3.0, -0.6, (clutter,))), jnp.exp(stream.uniform(-3.0, -0.6, (clutter,)))
    square, shown = stream.uniform(shape=(clutter, 1, 1)) < 0.4, stream.uniform(shape=(clutter, 1, 1)) < 0.75
    shape = jnp.where(square, box(canvas, x, y, rx, ry, angle), ellipse(canvas, x, y, rx, ry, angle))
    edge = canvas.pixel + stream.uniform(0.0, 0.12, (clutter, 1, 1))
    blobs = cov(shape + 0.03 * warp[None], edge) * shown.astype(jnp.float32)
    layers = [Layer(blobs[i], shaded(_tone(stream), 1.0 + 0.2 * grain[1])) for i in range(clutter)]
    return paint(image, layers)


def occluders(key: Key[Array, ""], canvas: Canvas, noise: Float[Array, "4 side side"], chance) -> list[Layer]:
    """Two twigs, wires or bars in front of everything, each there with probability `chance`."""
    stream = Stream(key, 32)
    angle, off, width = (
        stream.uniform(0.0, np.pi, (2,)),
        stream.uniform(-0.95, 0.95, (2,)),
        stream.uniform(-4.0, -2.1, (2,)),
    )
    px, py, angle, off, width = _fit(canvas, angle, off, jnp.exp(width))
    wavy = stream.uniform(0.0, 0.06, (2, 1, 1)) * noise[2:3]
    distance = jnp.abs(jnp.cos(angle) * px + jnp.sin(angle) * py - off + wavy) - width
    shown = stream.uniform(shape=(2, 1, 1)) < chance
    bars = cov(distance, canvas.pixel) * shown.astype(jnp.float32)
    return [Layer(bar, shaded(stream.colour((0.0, 0.6), (0.1, 0.7)), 1.0 + 0.15 * noise[0])) for bar in bars]


def finish(
    key: Key[Array, ""],
    canvas: Canvas,
    image: Float[Array, "3 side side"],
    *,
    light=0.5,
    cast=0.04,
    blur=(0.004, 0.02),
    grain=0.035,
) -> UInt8[Array, "side side 3"]:
    """What light and camera do: uneven light, exposure, colour cast, blur, tone curve, sensor noise, 8 bits.

    light: strength of the fall-off across the picture. cast: spread of the white balance. blur: range of the Gaussian's
    standard deviation, half-widths. grain: largest amplitude of the sensor's noise.
    """
    side = canvas.x.shape[0]
    draw, noisy = jax.random.split(key)
    stream = Stream(draw, 16)
    angle, fall = stream.uniform(0.0, 2.0 * np.pi), light * stream.uniform()
    lamp = 1.0 + fall * (jnp.cos(angle) * canvas.x + jnp.sin(angle) * canvas.y)
    balance = stream.uniform(0.7, 1.2) * (1.0 + 1.7 * cast * stream.uniform(-1.0, 1.0, (3,)))
    image = image * (lamp[None] * balance[:, None, None])
    sigma = stream.uniform(*blur)
    apart = canvas.x[0][:, None] - canvas.x[0][None, :]
    kernel = jnp.exp(-0.5 * (apart / sigma) ** 2)
    kernel = kernel / jnp.sum(kernel, axis=1, keepdims=True)
    image = jnp.clip(jnp.einsum("ij,cjk,lk->cil", kernel, image, kernel), 0.0, 1.0)
    image = image + stream.uniform(-0.35, 0.35) * image * (1.0 - image)
    # One word a grid point: ten bits for each channel's noise.
    bits = jax.random.bits(noisy, (GRAIN, GRAIN), jnp.uint32)
    parts = jnp.stack([bits & 1023, (bits >> 10) & 1023, (bits >> 20) & 1023]).astype(jnp.float32)
    resample = jnp.asarray(_enlarge(side, GRAIN))
    speckle = jnp.einsum("ik,ckl,jl->cij", resample, parts * (3.4 / 1023.0) - 1.7, resample)
    image = image + stream.uniform(0.0, grain) * speckle
    return (jnp.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8).transpose(1, 2, 0)
