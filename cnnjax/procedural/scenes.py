"""Things that stand in water: bridge and gondola, with their reflections.

Above its water line a thing is drawn as it is; below, from coordinates folded over at that line and shaken by waves.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import Canvas, Layer, Stream, box, capsule, cov, ellipse, moved, shaded
from cnnjax.procedural.surface import fraction, gleaming, mixed, ramp, zigzag

Noise = Float[Array, "4 side side"]


def water(stream: Stream, canvas: Canvas, noise: Noise, horizon) -> tuple[list[Layer], Array, Array]:
    """Sky, far shore with houses or hills, and water below `horizon`; also the waves, and the water's colour."""
    x, y, pixel = canvas
    deep = stream.choice(
        np.array([[0.2, 0.35, 0.42], [0.22, 0.42, 0.4], [0.3, 0.38, 0.35], [0.15, 0.25, 0.38], [0.4, 0.45, 0.42]])
    )
    deep = deep * stream.uniform(0.8, 1.4) + stream.uniform(-0.04, 0.04, (3,))
    below = jnp.maximum(y - horizon, 0.0)
    # Waves are near at the bottom and far at the horizon: frequency falls with the distance below it.
    depth = jnp.log(below + 0.08)
    waves = jnp.sin(depth * stream.uniform(24.0, 40.0) + 2.2 * noise[2] + 3.0 * x) * 0.6 + 0.5 * noise[1]
    mirrored = jnp.abs(y - horizon)
    zenith, haze = stream.colour((0.1, 0.6), (0.4, 0.9)), stream.colour((0.0, 0.35), (0.7, 1.0))
    sky = (
        mixed(haze, zenith, jnp.clip(mirrored * 0.9, 0.0, 1.0))
        + 0.3 * (ramp(noise[3] - 0.2, 1.5) * stream.uniform(0.0, 0.8))[None]
    )
    # The far shore: a skyline of blocks or of hills.
    blocks = stream.uniform(5.0, 12.0)
    column = jnp.floor(x * blocks)
    houses = 0.16 + 0.1 * jnp.sin(column * 2.7 + stream.uniform(0.0, 6.0))
    hills = 0.1 + 0.08 * jnp.sin(x * stream.uniform(1.5, 4.0) + stream.uniform(0.0, 6.0)) + 0.03 * noise[2]
    town = stream.switch(0.5)
    skyline = jnp.where(town > 0.5, houses, hills) * stream.uniform(0.4, 2.2)
    pane = (
        ramp(zigzag(x * blocks * 3.0) - 0.55, 0.3)
        * ramp(zigzag(mirrored * 14.0) - 0.5, 0.3)
        * ramp(0.85 * skyline - mirrored, 0.02)
    )
    wall = 0.55 * stream.colour((0.1, 0.6), (0.3, 0.8)) + 0.35 * haze
    shore = (
        wall[:, None, None] * (1.0 + 0.25 * jnp.sin(column * 5.0) * town + 0.12 * noise[0] - 0.35 * pane * town)[None]
    )
    far = sky + (shore - sky) * cov(mirrored - skyline, pixel + 0.02)[None]
    mirror = stream.uniform(0.25, 0.6)
    sea = deep[:, None, None] * (1.0 - mirror) + far * mirror + 0.1 * waves[None]
    scene = far + (sea - far) * cov(horizon - y, pixel)[None]
    return [Layer(None, scene)], waves, deep


def folded(frame: Canvas, line, waves: Array, strength) -> tuple[Canvas, Array]:
    """The frame with what is below `line` mirrored from above it and shaken by the waves; and 1 where that is so."""
    under = frame.y - line
    wet = cov(-under, frame.pixel)
    shaken = jnp.where(under > 0.0, frame.x + strength * waves * (0.3 + jnp.minimum(under, 1.0)), frame.x)
    return Canvas(shaken, line - jnp.abs(under) * jnp.where(under > 0.0, 1.15, 1.0), frame.pixel), wet


def reflecting(layers: list[Layer], wet: Array, deep: Array, clear, waves: Array) -> list[Layer]:
    """Layers whose wet part is dimmed towards the water's colour, so that the mirror image reads as one."""
    tint = deep[:, None, None] + 0.08 * waves[None]
    out = []
    for coverage, colour in layers:
        colour = colour[:, None, None] if colour.ndim == 1 else colour
        out.append(Layer(coverage * (1.0 - (1.0 - clear) * wet), colour + 0.45 * wet[None] * (tint - colour)))
    return out


def bridge(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A bridge over water: masonry arches, a suspension bridge with cables and hangers, or a steel bow with struts."""
    horizon = stream.uniform(-0.25, 0.35)
    scene, waves, deep = water(stream, canvas, noise, horizon)
    size = stream.uniform(0.75, 1.2)
    frame = moved(
        canvas,
        stream.uniform(-0.3, 0.3),
        horizon + stream.uniform(0.05, 0.2),
        stream.uniform(-0.06, 0.06),
        size,
        stream.sign(),
    )
    here, wet = folded(frame, 0.0, waves, 0.035)
    # Perspective: one end is nearer.
    near = 1.0 / (1.0 - stream.uniform(0.0, 0.35) * jnp.clip(here.x, -1.6, 1.6))
    x, y, pixel = here.x * near, here.y * near, here.pixel * near
    kind = stream.uniform()
    stone, hung = kind < 0.4, kind > 0.7

    deck = -stream.uniform(0.25, 0.45)
    camber = deck - stream.uniform(0.0, 0.18) * jnp.maximum(1.0 - x * x, -1.0) * jnp.where(hung, 0.3, 1.0)
    slab = stream.uniform(0.03, 0.06)
    road = jnp.abs(y - camber) - slab
    rail = jnp.abs(y - camber + slab + 0.07) - 0.012
    # Masonry: everything under the road but the arches.
    period = stream.uniform(0.5, 0.9)
    cell = (fraction(x / period + stream.uniform()) - 0.5) * period
    spring, arch = stream.uniform(-0.16, -0.02), period * stream.uniform(0.38, 0.44)
    tall = jnp.where(y < spring, (y - spring) * stream.uniform(0.85, 1.6), 0.0)
    opening = jnp.sqrt(cell * cell + tall * tall + 1e-6) - arch
    crown = jnp.maximum(camber + 0.04 - y, -opening)
    # Steel: piers, a bow (or a flat truss) over the deck with struts and diagonals.
    rise, bay = stream.uniform(0.25, 0.55), stream.uniform(0.12, 0.2)
    flat = stream.chance(0.35)
    bow = camber - rise * jnp.where(flat, 0.6, jnp.maximum(1.0 - x * x, 0.0))
    inside = jnp.maximum(jnp.maximum(bow - y, y - camber), jnp.abs(x) - 1.0)
    strut = jnp.abs(fraction(x / bay) - 0.5) * bay - 0.01
    lean = jnp.clip((y - bow) / jnp.maximum(camber - bow, 0.02), 0.0, 1.0)
    diagonal = (jnp.abs(zigzag(0.5 * x / bay + 0.25) - lean)) * bay * 0.75 - 0.009
    chord = jnp.maximum(jnp.abs(y - bow) * 0.8 - 0.024, jnp.abs(x) - 1.02)
    steel = jnp.minimum(chord, jnp.maximum(inside, jnp.minimum(strut, diagonal)))
    pier = jnp.maximum(jnp.abs(jnp.abs(x) - 0.98) - 0.07, camber - y)
    # Suspension: two towers, a parabola between them, straight stays outside, hangers.
    span, height = stream.uniform(0.5, 0.7), stream.uniform(0.5, 0.75)
    t = jnp.abs(x) / span
    cable = camber - 0.05 - (height - 0.05) * jnp.where(t < 1.0, t * t, jnp.maximum(1.0 - (t - 1.0) * 1.1, 0.0))
    slope = 0.6 * jnp.where(t < 1.0, 1.0 / (1.0 + t * t), 0.8)
    rope = jnp.minimum(
        jnp.abs(y - cable) * slope - 0.014,
        jnp.maximum(jnp.abs(fraction(x / 0.09) - 0.5) * 0.09 - 0.005, jnp.maximum(cable - y, y - camber)),
    )
    stepwise = 0.045 + 0.02 * ramp(y - camber, 0.02) + 0.015 * ramp(y - camber + 0.5 * height, 0.02)
    tower = jnp.maximum(jnp.abs(jnp.abs(x) - span) - stepwise, camber - height - 0.05 - y)
    cross = 1.0 - 0.35 * ramp(0.015 - jnp.abs(jnp.abs(x) - span), 0.01) * (
        1.0 - ramp(zigzag((y - camber) * 6.0) - 0.75, 0.1)
    )

    thin = 0.25 * pixel
    lines = jnp.where(hung, rope, jnp.where(stone, rail, jnp.minimum(steel, rail))) - thin
    solid = jnp.where(stone, crown, jnp.where(hung, tower, pier))
    masonry = stream.choice(
        np.array([[0.62, 0.56, 0.46], [0.55, 0.53, 0.5], [0.6, 0.4, 0.3], [0.7, 0.66, 0.58], [0.42, 0.4, 0.38]])
    )
    paint = jnp.where(
        stream.chance(0.6), stream.colour((0.3, 0.85), (0.3, 0.75)), stream.uniform(0.2, 0.8) * jnp.ones(3)
    )
    course = y * 13.0
    brick = jnp.maximum(jnp.abs(fraction(x * 8.0 + 0.5 * jnp.floor(course)) - 0.5), jnp.abs(fraction(course) - 0.5))
    wall = (
        (1.0 - 0.35 * ramp(brick - 0.42, 0.1))
        * (1.0 + 0.16 * noise[0])
        * (1.0 + 0.3 * ramp(0.035 - jnp.abs(opening - 0.035), 0.02))
    )
    body = jnp.where(stone, masonry, jnp.where(hung & stream.chance(0.6), paint, masonry * 0.9))
    shade = jnp.where(stone, wall, jnp.where(hung, cross, wall))
    # Under the arches one looks into the shadow of the vault.
    vault = jnp.where(stone, jnp.maximum(opening, arch * 0.86 - jnp.sqrt((cell - 0.06) ** 2 + tall * tall + 1e-6)), 9.0)
    vault = jnp.maximum(vault, camber - y)
    beam = jnp.where(stone, masonry * 0.85, jnp.where(hung, paint * 0.75, paint * 0.8))
    layers = [
        Layer(cov(vault, pixel), masonry * 0.4),
        Layer(cov(solid, pixel), shaded(body, shade)),
        Layer(cov(lines, pixel), jnp.where(stone, masonry * 0.7, paint)),
        Layer(cov(road, pixel), shaded(beam, 1.0 + 0.1 * noise[0] - 0.45 * ramp(y - camber - 0.2 * slab, 0.03))),
    ]
    return scene + reflecting(layers, wet, deep, stream.uniform(0.4, 0.75), waves)


def gondola(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A Venetian boat: a long dark crescent with a toothed iron at the bow, red seats, and a gondolier with an oar."""
    horizon = stream.uniform(-0.75, -0.1)
    scene, waves, deep = water(stream, canvas, noise, horizon)
    size = stream.uniform(0.65, 1.0)
    frame = moved(
        canvas, stream.uniform(-0.25, 0.25), stream.uniform(0.15, 0.5), stream.uniform(-0.1, 0.1), size, stream.sign()
    )
    here, wet = folded(frame, 0.0, waves, 0.04)
    x, y, pixel = here
    curl = stream.uniform(0.3, 0.5)
    end = jnp.clip(jnp.abs(x), 0.0, 1.1)
    sheer = -0.1 - curl * end**2.6
    keel = 0.1 - (curl + 0.17) * end**2.2
    hull = jnp.maximum(jnp.maximum(sheer - y, y - keel) * 0.8, jnp.abs(x) - 1.02)
    trim = jnp.maximum(jnp.abs(y - sheer - 0.035) - 0.014, hull)
    black = jnp.where(
        stream.chance(0.75), stream.uniform(0.04, 0.14) * jnp.ones(3), stream.colour((0.3, 0.9), (0.15, 0.4))
    )
    gold = stream.choice(np.array([[0.85, 0.65, 0.25], [0.75, 0.2, 0.15], [0.8, 0.8, 0.78]]))
    gloss = 0.25 * jnp.exp(-(((y - sheer - 0.09) / 0.03) ** 2))
    planks = 1.0 - 0.25 * ramp(zigzag((y - sheer) * 14.0) - 0.8, 0.2) + 0.15 * noise[0]

    # The iron at the bow: a blade with an axe-shaped top and six teeth forward; the stern has a plain curl.
    bx, by = -0.99, -0.1 - curl
    top = by - stream.uniform(0.24, 0.34)
    blade = jnp.min(
        capsule(
            here,
            jnp.stack([bx + 0.03, bx - 0.05]) + 0.0 * by,
            jnp.stack([by + 0.1, top + 0.06]),
            jnp.stack([bx - 0.05, bx - 0.14]) + 0.0 * by,
            jnp.stack([top + 0.06, top]),
            jnp.array([0.035, 0.045]),
            jnp.array([0.04, 0.03]),
        ),
        axis=0,
    )
    comb = jnp.maximum(
        jnp.abs(fraction((y - top) * 14.0) - 0.5) / 14.0 - 0.017,
        jnp.maximum(jnp.abs(x - bx + 0.07) - 0.075, jnp.abs(y - 0.5 * (top + by) - 0.06) - 0.13),
    )
    iron = jnp.minimum(blade, comb)
    stern = jnp.min(
        capsule(
            here,
            jnp.array([0.96, 1.04]),
            by + jnp.array([0.06, -0.08]),
            jnp.array([1.04, 1.0]),
            by + jnp.array([-0.08, -0.2]),
            jnp.array([0.045, 0.035]),
            jnp.array([0.035, 0.02]),
        ),
        axis=0,
    )

    seat = stream.choice(np.array([[0.75, 0.1, 0.12], [0.6, 0.08, 0.2], [0.15, 0.25, 0.6], [0.85, 0.6, 0.2]]))
    sx = stream.uniform(-0.25, 0.05)
    seats = jnp.min(
        box(
            here,
            sx + jnp.array([0.0, 0.17, -0.3]),
            jnp.array([-0.15, -0.24, -0.14]),
            jnp.array([0.18, 0.04, 0.06]),
            jnp.array([0.07, 0.16, 0.09]),
            jnp.array([0.0, 0.2, 0.0]),
            0.03,
        ),
        axis=0,
    )

    # The gondolier stands astern: legs, striped shirt, arms on the oar, straw hat with a ribbon.
    gx, tall = stream.uniform(0.52, 0.68), stream.uniform(0.8, 1.0)
    foot = -0.1 - curl * gx**2.6
    bent = stream.uniform(-0.12, 0.06)
    hip, neck = foot - 0.36 * tall, foot - 0.72 * tall
    ox, oy = gx - 0.24 + bent, neck + 0.22 * tall
    man = capsule(
        here,
        jnp.stack([gx - 0.07, gx + 0.07, gx, gx + bent]),
        jnp.stack([foot, foot, hip, neck + 0.05]),
        jnp.stack([gx - 0.02, gx + 0.02, gx + bent, ox]),
        jnp.stack([hip, hip, neck + 0.05, oy]),
        jnp.array([0.04, 0.04, 0.075, 0.04]), jnp.array([0.05, 0.05, 0.085, 0.03]),
    )  # fmt: skip
    legs, shirt = jnp.minimum(man[0], man[1]), jnp.minimum(man[2], man[3])
    skin = stream.choice(np.array([[0.85, 0.62, 0.48], [0.62, 0.42, 0.3], [0.92, 0.72, 0.58]]))
    hx, hy = gx + bent * 1.2, neck - 0.1
    head = ellipse(here, hx, hy, 0.07, 0.085)
    hats = box(
        here,
        jnp.stack([hx, hx]),
        jnp.stack([hy - 0.06, hy - 0.1]),
        jnp.array([0.13, 0.075]),
        jnp.array([0.016, 0.04]),
        0.0,
        0.01,
    )
    ribbon = ramp(0.012 - jnp.abs(y - hy + 0.075), 0.02)
    stripes = ramp(zigzag(y * stream.uniform(15.0, 20.0)) - 0.5, 0.1)
    band = stream.choice(np.array([[0.8, 0.1, 0.1], [0.1, 0.15, 0.4], [0.08, 0.08, 0.1]]))
    oar = capsule(here, ox - 0.12, oy - 0.22, ox + 0.62, 0.12, 0.014, 0.02)
    oar = jnp.minimum(oar, capsule(here, ox + 0.44, -0.04, ox + 0.62, 0.12, 0.03, 0.045))
    wood = jnp.array([0.6, 0.42, 0.24])
    layers = [
        Layer(cov(seats, pixel), shaded(seat, 1.0 + 0.12 * noise[0] - 0.3 * ramp(y + 0.16, 0.2))),
        Layer(cov(legs, pixel), jnp.array([0.1, 0.1, 0.13])),
        Layer(cov(shirt, pixel), mixed(jnp.array([0.93, 0.92, 0.9]), band, stripes)),
        Layer(cov(head, pixel), skin),
        Layer(cov(jnp.min(hats, axis=0), pixel), mixed(jnp.array([0.9, 0.8, 0.5]), band, ribbon)),
        Layer(cov(jnp.minimum(hull, stern), pixel), gleaming(black, planks, gloss)),
        Layer(cov(trim, pixel), gold),
        Layer(cov(iron, pixel), shaded(jnp.array([0.75, 0.76, 0.78]), 1.0 + 0.15 * noise[0])),
        Layer(cov(oar - 0.2 * pixel, pixel), wood),
    ]
    return scene + reflecting(layers, wet, deep, stream.uniform(0.35, 0.7), waves)
