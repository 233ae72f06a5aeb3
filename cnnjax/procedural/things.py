"""Balloon, tennis ball and lamp; and `THINGS`, the register of all classes that are not furry."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import (
    Canvas,
    Layer,
    Stream,
    blend,
    box,
    capsule,
    cov,
    ellipse,
    moved,
    place,
    polygon,
    shaded,
)
from cnnjax.procedural.creatures import crocodile, goldfish, starfish
from cnnjax.procedural.scenes import bridge, gondola
from cnnjax.procedural.surface import INK, fraction, gleaming, lit, mixed, ramp, sun, zigzag
from cnnjax.procedural.tools import axe, dumbbell, hammer, shovel

Noise = Float[Array, "4 side side"]


def balloon(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A hot-air balloon (gores, seams, a band, ropes and a basket), sometimes a toy one (a knot and a string)."""
    here = place(stream, canvas, scale=(0.5, 0.95), rotation=14.0, offset=0.3)
    x, y, pixel = here
    toy = stream.chance(0.25)
    sewn = jnp.where(toy, 0.0, 1.0)
    # A ball that runs out into a cone: the straight side begins where the outline's slope is the cone's.
    top, mouth = -0.35, jnp.where(toy, 0.38, stream.uniform(0.5, 0.62))
    wide, neck = stream.uniform(0.58, 0.68), jnp.where(toy, 0.03, 0.13)
    envelope = blend(
        ellipse(here, 0.0, top, wide, wide * stream.uniform(0.92, 1.1)),
        capsule(here, 0.0, top, 0.0, mouth, wide * 0.98, neck),
        0.1,
    )
    along = jnp.clip((y - top) / (mouth - top), 0.0, 1.0)
    round_ = jnp.sqrt(jnp.maximum(wide * wide - (y - top) ** 2, 0.0025))
    half = jnp.where(y < top, round_, jnp.maximum(wide + (neck - wide) * along**1.2, 0.03))
    across = jnp.clip(x / half, -0.999, 0.999)

    # Longitude: gores of equal angle crowd together towards the outline.
    gores = jnp.round(stream.uniform(4.0, 9.0)) * 2.0
    longitude = jnp.arcsin(across) / np.pi * gores + stream.uniform(0.0, 2.0)
    seam = 1.0 - 0.45 * ramp(0.09 - jnp.minimum(fraction(longitude), 1.0 - fraction(longitude)), 0.1)
    one, two, three = (
        stream.colour((0.6, 1.0), (0.6, 1.0)),
        stream.colour((0.0, 1.0), (0.5, 1.0)),
        stream.colour((0.5, 1.0), (0.3, 1.0)),
    )
    turns, waves = stream.uniform(-1.2, 1.2), stream.uniform(0.0, 0.09)
    striped = ramp(zigzag(0.5 * jnp.floor(longitude + turns * y * 2.0) + 0.5) - 0.5, 0.1)
    cloth = mixed(one, two, striped * sewn)
    height = y - stream.uniform(-0.6, 0.1) + waves * zigzag(longitude)
    band = ramp(stream.uniform(0.06, 0.22) - jnp.abs(height), 0.03) * stream.switch(0.6) * sewn
    cloth = mixed(cloth, three, band)
    light = sun(stream)
    shade = lit(light, across * 0.95, jnp.clip((y - top) / wide, -1.0, 0.75) * jnp.sqrt(1.0 - across * across), 0.4)
    puff = 1.0 + 0.12 * (zigzag(longitude) - 0.5)
    shade = shade * jnp.where(toy, 1.0, seam * puff) * (1.0 + 0.04 * noise[0])
    spot = ((x - light[0] * wide * 0.6) ** 2 + (y - top - light[1] * wide * 0.6) ** 2) / (0.03 * wide)
    cloth = gleaming(cloth, shade, jnp.exp(-spot) * jnp.where(toy, 0.7, 0.08))

    # Basket and ropes; for the toy, the string and the knot.
    low = mouth + stream.uniform(0.22, 0.4)
    wicker = stream.choice(np.array([[0.5, 0.33, 0.18], [0.4, 0.25, 0.14], [0.62, 0.45, 0.27]]))
    weave = 1.0 + 0.3 * jnp.sin(x * 55.0) * jnp.sin(y * 55.0) + 0.25 * ramp(low - 0.06 - y, 0.03)
    basket = jnp.where(toy, 9.0, box(here, 0.0, low, 0.115, 0.095, 0.0, 0.03))
    ends = jnp.array([-1.0, 1.0])
    ropes = jnp.min(capsule(here, ends * neck, mouth, ends * 0.1, low - 0.08, 0.008, 0.008), axis=0)
    sway, bent = stream.uniform(0.02, 0.07), stream.uniform(3.0, 9.0)
    string = jnp.maximum(
        jnp.abs(x - sway * jnp.sin(bent * (y - mouth))) - 0.01, jnp.maximum(mouth - y, y - mouth - 0.9)
    )
    knot = polygon(
        here,
        jnp.stack([jnp.zeros(3), mouth + jnp.array([-0.02, 0.08, 0.08])], 1)
        + jnp.array([[0.0, 0.0], [-0.06, 0.0], [0.06, 0.0]]),
    )
    skirt = jnp.where(
        toy,
        knot,
        polygon(
            here,
            jnp.array([[-1.0, 0.0], [1.0, 0.0], [0.75, 1.0], [-0.75, 1.0]]) * jnp.stack([neck, 0.09])[None]
            + jnp.stack([0.0 * mouth, mouth])[None],
        ),
    )
    return [
        Layer(cov(jnp.where(toy, string, ropes) - 0.3 * pixel, pixel), jnp.where(toy, 0.85, 0.2) * jnp.ones(3)),
        Layer(cov(basket, pixel), shaded(wicker, weave)),
        Layer(cov(skirt, pixel), shaded(one, 0.6 + 0.1 * noise[0])),
        Layer(cov(envelope, pixel), cloth),
    ]


def tennis_ball(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A fuzzy sphere with the one closed seam, turned in space; sometimes a second, smaller ball behind it.

    The seam is where z = k (x² - y²) on the unit sphere: near the curve on real balls, in one multiplication.
    """
    layers = []
    for first in (False, True):
        here = place(
            stream, canvas, scale=(0.35, 0.8) if first else (0.2, 0.45), rotation=180.0, offset=0.3 if first else 0.8
        )
        x, y, pixel = here
        shown = 1.0 if first else stream.switch(0.4)
        r2 = x * x + y * y
        z = jnp.sqrt(jnp.maximum(1.0 - r2, 0.0) + 1e-4)
        # A random turn about the x axis, then about y; `place` has rotated the image plane.
        a, b = stream.uniform(0.0, 2.0 * np.pi), stream.uniform(-1.3, 1.3)
        py, pz = jnp.cos(a) * y - jnp.sin(a) * z, jnp.sin(a) * y + jnp.cos(a) * z
        px, pz = jnp.cos(b) * x + jnp.sin(b) * pz, jnp.cos(b) * pz - jnp.sin(b) * x
        k = 3.2
        f = pz - k * (px * px - py * py)
        steep = 1.0 + 4.0 * k * k * (px * px + py * py) - (pz + 2.0 * k * (py * py - px * px)) ** 2
        seam = jnp.abs(f) / jnp.sqrt(jnp.maximum(steep, 0.3))
        felt = stream.choice(
            np.array([[0.8, 0.9, 0.2], [0.72, 0.85, 0.25], [0.85, 0.88, 0.3], [0.65, 0.75, 0.15], [0.9, 0.75, 0.3]])
        )
        felt = felt * stream.uniform(0.8, 1.05) + stream.uniform(-0.06, 0.06, (3,))
        # The light is fixed to the image and the ball's frame is rotated, so any direction will do.
        light = sun(stream)
        fuzz = stream.uniform(0.05, 0.12)
        shade = lit(light, x, y, 0.35) * (1.0 + fuzz * noise[0] + 0.5 * fuzz * noise[1]) + 0.12 * ramp(r2 - 0.85, 0.3)
        width = stream.uniform(0.05, 0.085)
        rubber = mixed(felt * 0.6, jnp.array([0.95, 0.95, 0.9]), ramp(width - seam, 0.03))
        coat = mixed(felt, rubber, ramp(width + 0.035 - seam, 0.03)) * shade[None]
        edge = jnp.sqrt(r2 + 1e-6) - 1.0 + stream.uniform(0.006, 0.02) * noise[1]
        layers += [
            Layer(0.5 * cov(edge - 0.02, 0.2) * shown, INK),
            Layer(cov(edge, pixel) * shown, coat),
        ]
    return layers


def lamp(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """A table lamp: pleated shade that glows, turned or vase-like stem, foot; or a desk lamp on a bent arm."""
    here = place(stream, canvas, scale=(0.6, 1.0), rotation=18.0, offset=0.22)
    x, y, pixel = here
    desk = stream.chance(0.25)
    table = jnp.where(desk, 0.0, 1.0)
    on = stream.chance(0.65)
    shining = jnp.where(on, 1.0, 0.0)
    # The shade has a frame of its own; the desk lamp's hangs at the arm's end, tipped over.
    hx, hy = jnp.where(desk, -0.42, 0.0), jnp.where(desk, stream.uniform(-0.6, -0.35), -0.45)
    tipped = jnp.where(desk, stream.uniform(0.2, 0.9), 0.0)
    shrink = jnp.where(desk, 0.6, 1.0)
    hat = moved(here, hx, hy, tipped, shrink)
    tall = stream.uniform(0.28, 0.4)
    upper, lower = jnp.where(desk, 0.14, stream.uniform(0.18, 0.42)), stream.uniform(0.45, 0.62)
    along = jnp.clip((hat.y + tall) / (2.0 * tall), 0.0, 1.0)
    curve = stream.uniform(0.8, 1.7)
    half = upper + (lower - upper) * along**curve
    sag = 0.07 * (1.0 - jnp.clip(hat.x / half, -1.0, 1.0) ** 2)
    cloth = jnp.maximum(jnp.abs(hat.x) - half, jnp.maximum(-tall - hat.y, hat.y - tall - sag)) * 0.9
    across = jnp.clip(hat.x / half, -0.99, 0.99)
    pleats = jnp.round(stream.uniform(6.0, 14.0))
    folds = 0.16 * jnp.sin(jnp.arcsin(across) * pleats * 2.0) * stream.switch(0.6) * table
    colour = jnp.where(stream.chance(0.5), jnp.array([0.93, 0.88, 0.75]), stream.colour((0.1, 0.8), (0.45, 1.0)))
    light = sun(stream)
    linen = 0.06 * jnp.sin(hat.x * 60.0) * jnp.sin(hat.y * 60.0) + 0.05 * noise[0]
    day = lit(light, across, 0.0 * y, 0.45) * (1.0 + folds + linen)
    bulb = jnp.exp(-((hat.x / 0.4) ** 2) - ((hat.y - 0.05) / 0.33) ** 2) * shining * table
    trim = ramp(0.035 - jnp.minimum(jnp.abs(hat.y + tall), jnp.abs(hat.y - tall - sag)), 0.02) * stream.uniform(
        0.0, 0.6
    )
    fabric = mixed(colour, colour * 0.4, trim)
    warm = jnp.array([1.0, 0.85, 0.55])[:, None, None]
    fabric = fabric * day[None] * jnp.where(on & ~desk, 0.85, 1.0) + 0.55 * bulb[None] * warm * (1.0 + folds)[None]
    # Seen a little from below or above, the lower opening shows its inside.
    inside = ellipse(hat, 0.0, tall, lower * 0.97, 0.07)
    within = jnp.where(on, jnp.array([1.0, 0.93, 0.7]), colour * 0.45)

    # Stem: from the foot by an elbow to the shade; straight up for a table lamp.
    floor = stream.uniform(0.7, 0.85)
    rod = jnp.where(desk, 0.035, stream.uniform(0.025, 0.05))
    ex, ey = jnp.where(desk, 0.4, 0.0), jnp.where(desk, stream.uniform(-0.15, 0.15), 0.2)
    foot = jnp.where(desk, 0.12, 0.0)
    stem = capsule(
        here, jnp.stack([foot, ex]), jnp.stack([floor, ey]), jnp.stack([ex, hx]), jnp.stack([ey, hy]),
        jnp.stack([rod, rod]), jnp.stack([rod, rod]),
    )  # fmt: skip
    # The vase: two bulges that may melt together.
    thick = jnp.where(desk, 0.02, stream.uniform(0.08, 0.3, (2,)))
    bulge = ellipse(
        here,
        foot * jnp.ones(2),
        jnp.stack([stream.uniform(0.2, 0.3), stream.uniform(0.42, 0.55)]),
        thick,
        jnp.where(desk, 0.02, stream.uniform(0.1, 0.24, (2,))),
    )
    plate = box(here, foot, floor, stream.uniform(0.22, 0.36), stream.uniform(0.03, 0.07), 0.0, 0.025)
    stem = blend(jnp.min(stem, axis=0), jnp.min(bulge, axis=0), 0.05)
    base = blend(stem, plate, 0.07)
    wide = jnp.maximum(jnp.max(thick), 0.1)
    q = jnp.clip((x - foot) / jnp.where(jnp.abs(y - floor) < 0.08, 0.35, wide), -0.99, 0.99)
    glaze = stream.choice(
        np.array(
            [
                [0.75, 0.6, 0.3],
                [0.25, 0.2, 0.17],
                [0.85, 0.83, 0.8],
                [0.3, 0.45, 0.6],
                [0.5, 0.3, 0.2],
                [0.35, 0.5, 0.4],
            ]
        )
    )
    glaze = glaze + stream.uniform(-0.1, 0.1, (3,))
    shiny = stream.uniform(0.15, 0.6) * jnp.exp(-(((q - 0.5 * light[0]) / 0.16) ** 2))
    rings = 1.0 - 0.2 * stream.switch(0.4) * ramp(zigzag(y * 9.0) - 0.7, 0.2)
    pottery = gleaming(glaze, lit(light, q, 0.0 * q, 0.35) * rings * (1.0 + 0.06 * noise[1]), shiny)
    glow = (
        0.45 * shining * jnp.exp(-3.0 * jnp.maximum(jnp.sqrt((x - hx) ** 2 + (y - hy) ** 2 + 1e-6) - 0.5 * shrink, 0.0))
    )
    shadow = ellipse(here, foot, floor + 0.06, 0.5, 0.08)
    return [
        Layer(glow * 0.8, jnp.array([1.0, 0.9, 0.65])),
        Layer(0.5 * cov(shadow, 0.12), INK),
        Layer(cov(base - 0.015, pixel) * 0.5, INK),
        Layer(cov(base, pixel), pottery),
        Layer(cov(inside * shrink, pixel), within),
        Layer(cov(cloth * shrink, pixel), fabric),
    ]


THINGS: dict[str, Callable[[Stream, Canvas, Noise], list[Layer]]] = {
    "crocodile": crocodile,
    "starfish": starfish,
    "goldfish": goldfish,
    "bridge": bridge,
    "balloon": balloon,
    "tennis ball": tennis_ball,
    "gondola": gondola,
    "dumbbell": dumbbell,
    "hammer": hammer,
    "lamp": lamp,
    "axe": axe,
    "shovel": shovel,
}
