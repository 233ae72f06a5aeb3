"""Hand tools, in any orientation: dumbbell, hammer, axe and shovel."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import Canvas, Layer, Stream, blend, box, capsule, cov, ellipse, place, shaded
from cnnjax.procedural.surface import INK, gleaming, lit, mixed, ramp, sun, zigzag

Noise = Float[Array, "4 side side"]


def dumbbell(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """Cylinders along one axis in space: weights, a thin grip, weights; round, six-sided, or two globes."""
    here = place(stream, canvas, scale=(0.55, 0.95), rotation=90.0, offset=0.25)
    x, y, pixel = here
    tilt = stream.uniform(0.1, 1.0)
    lean, face = jnp.cos(tilt), jnp.sin(tilt)
    kind = stream.uniform()
    six, globe = kind < 0.45, kind > 0.8
    big, small = stream.uniform(0.36, 0.5), stream.uniform(0.6, 1.0)
    inner, outer = stream.uniform(0.1, 0.2), stream.uniform(0.05, 0.2)
    grip = stream.uniform(0.32, 0.45)
    # Back to front along the axis: outer and inner weight, grip, inner and outer weight.
    at = jnp.stack([-grip - 2 * inner - outer, -grip - inner, 0.0 * grip, grip + inner, grip + 2 * inner + outer])
    half = jnp.stack([outer, inner, grip, inner, outer])
    thin = stream.uniform(0.075, 0.11)
    size = jnp.stack([big * small, big, thin, big, big * small])
    at, half, size = (v[:, None, None] for v in (at, half, size))
    middle, reach = at * lean, half * lean
    u, v = x[None] - middle, jnp.broadcast_to(y[None], (5, *y.shape))
    # Distance to the end face, a circle or a hexagon seen at an angle, swept along the axis.
    hexagonal = six & (jnp.arange(5) != 2)[:, None, None]

    def disc(u):
        a, b = jnp.abs(u) / face, jnp.abs(v)
        circle = jnp.sqrt(a * a + b * b + 1e-9)
        return (jnp.where(hexagonal, jnp.maximum(b, 0.866 * a + 0.5 * b), circle) / size - 1.0) * size

    cap = disc(u - reach)
    swept = disc(u - jnp.clip(u, -reach, reach))
    ball = jnp.sqrt(u * u + v * v + 1e-9) - size
    globes = globe & (jnp.array([0, 1, 0, 1, 0]) > 0)[:, None, None]
    gone = globe & (jnp.array([1, 0, 0, 0, 1]) > 0)[:, None, None]
    solid = jnp.where(gone, 9.0, jnp.where(globes, ball, swept))
    cap = jnp.where(globe, 9.0, cap)

    light = sun(stream)
    q = jnp.clip(v / size, -0.99, 0.99)
    # A hexagon shows three flat sides: brightness in steps.
    flat = jnp.where(hexagonal, jnp.round(q * 1.5) / 1.6, q)
    side = lit(light, jnp.where(globes, jnp.clip(u / size, -1.0, 1.0), 0.0) * jnp.ones_like(q), flat, 0.3)
    gloss = stream.uniform(0.0, 0.5)
    gleam = gloss * jnp.exp(
        -(((q - light[1] * 0.6) / 0.12) ** 2) - jnp.where(globes, ((u / size - light[0] * 0.6) / 0.12) ** 2, 0.0)
    )
    iron = jnp.where(stream.chance(0.6), stream.uniform(0.12, 0.4) * jnp.ones(3), stream.colour((0.3, 0.9), (0.3, 0.8)))
    steel = stream.uniform(0.55, 0.85) * jnp.array([0.97, 1.0, 1.03])
    rough = 1.0 + 0.1 * noise[0]
    knurl = 1.0 + 0.35 * jnp.sin(x * 48.0 / lean + y * 48.0) * jnp.sin(x * 48.0 / lean - y * 48.0)
    front = 0.55 + 0.6 * jnp.clip(light[2] + 0.3 * light[0], 0.0, 1.0)
    # The face: a bright rim, then a sunk middle.
    depth = cap / size
    plate = front * (1.0 + 0.35 * ramp(0.12 - jnp.abs(depth + 0.22), 0.08) - 0.25 * ramp(-0.3 - depth, 0.05))
    layers = []
    for i in range(5):
        metal, textured = (steel, knurl) if i == 2 else (iron, rough)
        layers.append(Layer(cov(solid[i] - 0.02, pixel) * 0.5, INK))
        layers.append(Layer(cov(solid[i], pixel), gleaming(metal, side[i] * textured, gleam[i])))
        if i != 2:
            layers.append(Layer(cov(cap[i], pixel), shaded(iron, plate[i] * rough)))
    return layers


def hammer(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A handle with a grip and a head across its end: claw, ball, sledge or mallet."""
    here = place(stream, canvas, scale=(0.6, 1.0), rotation=180.0, offset=0.2)
    here = here._replace(y=here.y + 0.45)
    x, y, pixel = here
    kind = stream.uniform()
    # Between: a ball-peen hammer up to 0.7, then a sledge, and at last a mallet.
    claw, sledge, mallet = kind < 0.55, kind >= 0.7, kind > 0.86
    long, thick = stream.uniform(1.15, 1.5), stream.uniform(0.055, 0.085)

    swell = thick * (1.0 + 0.35 * ramp(y - 0.75 * long, 0.5) - 0.15 * ramp(y - 0.3, 0.3))
    handle = jnp.maximum(jnp.abs(x) - swell, jnp.maximum(-0.1 - y, y - long))
    grain = 1.0 + 0.18 * jnp.sin(x * 70.0 + 5.0 * noise[2] + 3.0 * y) + 0.08 * noise[0]
    wood = stream.choice(np.array([[0.72, 0.52, 0.3], [0.6, 0.4, 0.22], [0.82, 0.66, 0.42], [0.5, 0.3, 0.16]]))
    shaft = jnp.where(stream.chance(0.7), wood, stream.colour((0.0, 0.9), (0.2, 0.8)))
    rubber = stream.colour((0.2, 0.9), (0.1, 0.7))
    gripped = ramp(y - stream.uniform(0.45, 0.65) * long, 0.02) * stream.switch(0.5)
    ribs = 1.0 - 0.35 * ramp(zigzag(y * 11.0) - 0.6, 0.2)
    light = sun(stream)
    rod = lit(light, jnp.clip(x / swell, -0.99, 0.99), 0.0 * y, 0.35)
    stick = mixed(shaft, rubber, gripped) * (rod * jnp.where(gripped > 0.5, ribs, grain))[None]

    deep, face = stream.uniform(0.12, 0.17), stream.uniform(0.38, 0.5)
    blunt = jnp.where(mallet, 0.22, jnp.where(sledge, 0.17, deep))
    neck = capsule(here, 0.0, 0.0, -face, 0.0, deep * 0.85, deep * 0.6)
    poll = box(here, -face, 0.0, 0.08, deep * 1.05, 0.0, 0.03)
    eye = box(here, 0.0, 0.0, 0.13, deep * 1.1, 0.0, 0.03)
    # The claw: a blade that bends down and thins out to its tip.
    out, bend = stream.uniform(0.55, 0.72), stream.uniform(0.35, 0.75)
    blade = jnp.abs(y + 0.03 - bend * x * jnp.abs(x)) * 0.85 - deep * 0.8 * (1.0 - jnp.clip(x / out, 0.0, 1.0) * 0.88)
    blade = jnp.maximum(blade, jnp.maximum(-x, x - out))
    pin = jnp.minimum(capsule(here, 0.0, 0.0, 0.3, 0.0, deep * 0.8, deep * 0.6), ellipse(here, 0.36, 0.0, 0.15, 0.15))
    block = box(here, 0.0, 0.0, face, blunt, 0.0, stream.uniform(0.02, 0.08))
    right = jnp.where(claw, blade, pin)
    head = jnp.where(sledge, block, blend(jnp.minimum(eye, poll), jnp.minimum(neck, right), 0.05))

    steel = jnp.where(stream.chance(0.7), stream.uniform(0.3, 0.7) * jnp.ones(3), stream.colour((0.2, 0.8), (0.2, 0.6)))
    steel = jnp.where(mallet, jnp.where(stream.chance(0.5), wood * 0.9, stream.colour((0.0, 0.8), (0.15, 0.7))), steel)
    centre = jnp.where(claw & (x > 0.0), bend * x * x, 0.0)
    q = jnp.clip((y - centre) / (blunt * 1.05), -0.99, 0.99)
    shade = lit(light, 0.25 * jnp.clip(x / face, -1.0, 1.0), q * 0.9, 0.3) * (1.0 + 0.1 * noise[0])
    gleam = stream.uniform(0.1, 0.55) * jnp.exp(-(((q + 0.35) / 0.14) ** 2)) * jnp.where(mallet, 0.2, 1.0)
    # Polished striking face, and the wedge of wood at the top of the eye.
    shade = shade * (1.0 + 0.4 * ramp(-face + 0.05 - x, 0.03) - 0.35 * ramp(0.015 - jnp.abs(x + face - 0.09), 0.02))
    return [
        Layer(cov(handle - 0.02, pixel) * 0.4, INK),
        Layer(cov(handle, pixel), stick),
        Layer(cov(head - 0.02, pixel) * 0.5, INK),
        Layer(cov(head, pixel), gleaming(steel, shade, gleam)),
    ]


def _shaft(stream: Stream, here: Canvas, noise: Noise, light: Array, long: Array) -> tuple[Array, Array]:
    """Distance and colours of a handle of wood, bare or painted, from the origin down to y = `long`."""
    thick, bow = stream.uniform(0.05, 0.08), stream.uniform(-0.1, 0.1)
    x, y = here.x - bow * jnp.sin(np.pi * jnp.clip(here.y / long, 0.0, 1.0)), here.y
    swell = thick * (1.0 + 0.3 * ramp(y - 0.85 * long, 0.3))
    wood = stream.choice(np.array([[0.72, 0.52, 0.3], [0.6, 0.4, 0.22], [0.82, 0.66, 0.42], [0.5, 0.3, 0.16]]))
    colour = jnp.where(stream.chance(0.6), wood, stream.colour((0.0, 0.9), (0.2, 0.8)))
    grain = 1.0 + 0.18 * jnp.sin(x * 70.0 + 5.0 * noise[2] + 3.0 * y) + 0.08 * noise[0]
    band = ramp(y - stream.uniform(0.4, 0.8) * long, 0.02) * stream.switch(0.4)
    painted = mixed(colour, stream.colour((0.2, 0.9), (0.1, 0.7)), band)
    rod = lit(light, jnp.clip(x / swell, -0.99, 0.99), 0.0 * y, 0.35)
    return jnp.maximum(jnp.abs(x) - swell, jnp.maximum(-0.1 - y, y - long)), painted * (rod * grain)[None]


def _steel(stream: Stream) -> Array:
    """The colour of a tool's iron: bare, or painted in any hue."""
    return jnp.where(
        stream.chance(0.7), stream.uniform(0.25, 0.75) * jnp.ones(3), stream.colour((0.2, 0.8), (0.2, 0.6))
    )


def axe(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A handle and, across its end, a blade that widens to a curved, polished edge; sometimes one on either side."""
    here = place(stream, canvas, scale=(0.55, 1.0), rotation=180.0, offset=0.2)
    here = here._replace(y=here.y + 0.5)
    light, long = sun(stream), stream.uniform(1.1, 1.5)
    handle, stick = _shaft(stream, here, noise, light, long)
    x, y, pixel = here.x, here.y - stream.uniform(-0.05, 0.1), here.pixel
    double = stream.chance(0.25)
    out = jnp.where(double, jnp.abs(x), -x)
    reach, root, tall = stream.uniform(0.34, 0.55), stream.uniform(0.1, 0.16), stream.uniform(0.24, 0.42)
    along = jnp.clip(out / reach, 0.0, 1.0)
    half = root + (tall - root) * along ** stream.uniform(1.2, 2.4)
    beard = jnp.where(double, 0.0, stream.uniform(-0.05, 0.16)) * along**2
    v = (y - beard) / half
    rim = reach + stream.uniform(0.04, 0.14) * (1.0 - jnp.clip(v, -1.0, 1.0) ** 2)
    poll = jnp.where(double, 0.1, stream.uniform(0.09, 0.2))
    head = jnp.maximum(jnp.maximum((jnp.abs(v) - 1.0) * half * 0.9, out - rim), -out - poll)
    shade = lit(light, jnp.sign(-x) * 0.3 * along, jnp.clip(v, -0.95, 0.95) * 0.8, 0.35) * (1.0 + 0.1 * noise[0])
    edge = ramp(out - rim + stream.uniform(0.05, 0.12), 0.02)
    iron = mixed(_steel(stream), jnp.array([0.8, 0.82, 0.85]), edge * stream.uniform(0.4, 1.0))
    gleam = stream.uniform(0.0, 0.4) * jnp.exp(-(((v + 0.3) / 0.2) ** 2))
    return [
        Layer(cov(handle - 0.02, pixel) * 0.4, INK),
        Layer(cov(handle, pixel), stick),
        Layer(cov(head - 0.02, pixel) * 0.5, INK),
        Layer(cov(head, pixel), gleaming(iron, shade, gleam)),
    ]


def shovel(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A handle, with a cross-grip or a loop at its far end, and a blade in line with it: pointed, round or square."""
    here = place(stream, canvas, scale=(0.55, 1.0), rotation=180.0, offset=0.2)
    here = here._replace(y=here.y + 0.3)
    light, long = sun(stream), stream.uniform(0.9, 1.3)
    handle, stick = _shaft(stream, here, noise, light, long)
    x, y, pixel = here
    kind = stream.uniform()
    cross = capsule(here, -0.15, long, 0.15, long, 0.055, 0.055)
    loop = jnp.abs(ellipse(here, 0.0, long + 0.1, 0.13, 0.12)) - 0.035
    grip = jnp.where(kind < 0.35, cross, jnp.where(kind < 0.65, loop, 9.0))
    wide, deep, square = stream.uniform(0.22, 0.36), stream.uniform(0.5, 0.75), stream.chance(0.35)
    along = jnp.clip(-y / deep, 0.0, 1.0)
    blunt = stream.uniform(1.2, 2.6)
    tip = jnp.clip((along - 0.35) / 0.65, 0.0, 1.0) ** blunt
    narrow = jnp.where(square, 1.0 - 0.25 * along, jnp.sqrt(jnp.maximum(1.0 - tip * tip, 0.0)))
    half = wide * narrow * (0.75 + 0.25 * jnp.clip(along / 0.1, 0.0, 1.0)) + 0.01
    q = x / half
    blade = jnp.maximum((jnp.abs(q) - 1.0) * half, jnp.maximum(y - 0.02, -y - deep))
    socket = capsule(here, 0.0, 0.25, 0.0, -0.3 * deep, 0.085, 0.03)
    # Hollow: the light comes back from the far side. Earth sticks to the tip.
    shade = lit(light, -0.7 * jnp.clip(q, -0.95, 0.95), 0.3 * along, 0.35) * (1.0 + 0.1 * noise[0])
    steel = _steel(stream)
    earth = ramp(along + 0.3 * noise[3] - stream.uniform(0.6, 1.6), 0.1)
    iron = mixed(steel, jnp.array([0.33, 0.24, 0.16]), earth)
    tube = lit(light, jnp.clip(x / 0.085, -0.99, 0.99), 0.0 * y, 0.35)
    gleam = stream.uniform(0.0, 0.4) * jnp.exp(-(((q - 0.4) / 0.2) ** 2)) * (1.0 - earth)
    return [
        Layer(cov(jnp.minimum(handle, grip) - 0.02, pixel) * 0.4, INK),
        Layer(cov(handle, pixel), stick),
        Layer(cov(grip, pixel), stick),
        Layer(cov(blade - 0.02, pixel) * 0.5, INK),
        Layer(cov(blade, pixel), gleaming(iron, shade, gleam)),
        Layer(cov(socket, pixel), shaded(steel, tube)),
    ]
