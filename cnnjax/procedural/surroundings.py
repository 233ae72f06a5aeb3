"""What is around a subject: the background behind it, twigs and bars in front of it, and the camera."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from cnnjax.procedural.canvas import Canvas, Layer, Stream, box, cov, ellipse, enlarge, fit, fractal, paint, shaded

GRAIN = 128  # the sensor noise's grid, points a side

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
    px, py, angle, off, width = fit(canvas, angle, off, jnp.exp(width))
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
    """The effects of light and camera: uneven light, exposure, colour cast, blur, tone curve, sensor noise, 8 bits.

    light: strength of the fall-off across the image. cast: spread of the white balance. blur: range of the Gaussian's
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
    resample = jnp.asarray(enlarge(side, GRAIN))
    speckle = jnp.einsum("ik,ckl,jl->cij", resample, parts * (3.4 / 1023.0) - 1.7, resample)
    image = image + stream.uniform(0.0, grain) * speckle
    return (jnp.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8).transpose(1, 2, 0)
