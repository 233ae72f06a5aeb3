"""Creatures without fur: crocodile, starfish, goldfish. Side views, the starfish from above."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import Canvas, Layer, Stream, blend, capsule, cov, ellipse, place, polygon, shaded
from cnnjax.procedural.surface import INK, fraction, mixed, ramp, sun, zigzag

Noise = Float[Array, "4 side side"]


def crocodile(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """Long jaws with teeth, a ridged back that runs into the tail, short legs, plates for a skin."""
    here = place(stream, canvas, scale=(0.55, 0.9), rotation=25.0, offset=0.2)
    # The head, not the tail's tip, belongs in the image.
    here = here._replace(x=here.x - 0.3, y=here.y + stream.uniform(-0.12, 0.2) * (here.x + 0.1) ** 2)
    x, y, pixel = here
    skin = stream.choice(
        np.array([[0.33, 0.4, 0.2], [0.4, 0.38, 0.24], [0.3, 0.34, 0.28], [0.25, 0.42, 0.22], [0.46, 0.42, 0.33]])
    )
    skin = skin * stream.uniform(0.75, 1.35) + stream.uniform(-0.05, 0.05, (3,))
    pale = 0.45 * skin + stream.uniform(0.35, 0.5) * jnp.array([1.0, 0.93, 0.72])
    rough = 0.01 * noise[1]

    tip, girth = stream.uniform(-0.45, 0.2), stream.uniform(0.95, 1.3)
    ax, ay = jnp.array([-0.62, -0.42, -0.1, 0.3, 0.72]), jnp.array([-0.02, 0.0, 0.02, 0.02, 0.06])
    radii = jnp.array([0.14, 0.17, 0.24, 0.2, 0.12]) * girth
    bx, by = jnp.append(ax[1:], 1.4), jnp.append(ay[1:], tip)
    body = jnp.min(capsule(here, ax, ay, bx, by, radii, jnp.append(radii[1:], 0.02)), axis=0)
    spine = 0.01 + 0.05 * jnp.clip(x, 0.0, 1.0) + (tip - 0.06) * jnp.clip((x - 0.72) / 0.68, 0.0, 1.0)
    ridge = zigzag(x * stream.uniform(6.5, 9.0) + 0.3) * ramp(spine - 0.05 - y, 0.1) * ramp(x + 0.55, 0.1)
    back = body - stream.uniform(0.06, 0.1) * ridge + rough

    # Plates, every second row half a plate on, with dark joints.
    size = stream.uniform(7.0, 9.5)
    row = (y - spine) * size
    u = x * size + 0.5 * jnp.floor(row)
    joint = (fraction(u) - 0.5) ** 2 + (fraction(row) - 0.5) ** 2
    belly = ramp(y - spine - stream.uniform(0.06, 0.13), 0.08)
    shade = (
        (1.3 - 0.8 * ramp(joint - 0.18, 0.2)) * (1.0 + 0.12 * noise[0]) * (1.0 - 0.45 * jnp.clip(y * 2.0, -0.5, 1.0))
    )
    shade = shade - stream.uniform(0.0, 0.5) * ramp(noise[2] - 0.3, 0.6) * (1.0 - belly)
    hide = mixed(skin, pale, belly) * shade[None]

    hips = jnp.array([-0.34, 0.3, -0.2, 0.44]) + stream.uniform(-0.05, 0.05, (4,))
    knees = hips + stream.uniform(-0.14, 0.14, (4,))
    feet = knees + stream.uniform(-0.12, 0.06, (4,))
    ones = jnp.ones(4)
    legs = capsule(
        here,
        jnp.stack([hips, knees, feet], 1),
        jnp.stack([0.1 * ones, 0.27 * ones, 0.42 * ones], 1),
        jnp.stack([knees, feet, feet - 0.13], 1),
        jnp.stack([0.27 * ones, 0.42 * ones, 0.43 * ones], 1),
        jnp.array([0.13, 0.08, 0.05])[None].repeat(4, 0),
        jnp.array([0.08, 0.055, 0.035])[None].repeat(4, 0),
    )
    legs = jnp.min(legs.reshape(2, 6, *x.shape), axis=1) + rough[None]
    near, far = cov(legs, pixel)

    # Two jaws from the hinge at the cheek; v runs from each towards the mouth.
    gape = jnp.where(stream.chance(0.75), stream.uniform(0.15, 0.65), 0.06)
    up, length = gape * stream.uniform(0.3, 0.7), stream.uniform(0.55, 0.75)
    angle = jnp.stack([-up, gape - up])
    reach = length * jnp.array([1.0, 0.93])
    hx, hy = jnp.array([-0.62, -0.6]), jnp.array([-0.03, 0.09])
    tx, ty = hx - reach * jnp.cos(angle), hy + reach * jnp.sin(angle)
    r0, r1 = jnp.array([0.12, 0.085]), jnp.array([0.055, 0.04])
    upper, lower = capsule(here, hx, hy, tx, ty, r0, r1)
    bumps = ellipse(
        here,
        jnp.stack([hx[0] + 0.02, tx[0] + 0.03]),
        jnp.stack([hy[0] - 0.12, ty[0] - 0.045]),
        jnp.array([0.11, 0.06]),
        jnp.array([0.085, 0.05]),
    )
    upper = blend(upper, jnp.min(bumps, axis=0), 0.06)
    mouth = polygon(
        here,
        jnp.stack(
            [
                jnp.stack([hx[0] + 0.05, hy[0] + 0.06]),
                jnp.stack([tx[0] + 0.08, ty[0]]),
                jnp.stack([tx[1] + 0.08, ty[1]]),
            ]
        ),
    )
    teeth = []
    for i, turn in ((0, 1.0), (1, -1.0)):
        u = (hx[i] - x) * jnp.cos(angle[i]) + (y - hy[i]) * jnp.sin(angle[i])
        v = turn * ((y - hy[i]) * jnp.cos(angle[i]) - (hx[i] - x) * jnp.sin(angle[i]))
        edge = r0[i] + (r1[i] - r0[i]) * u / reach[i]
        tooth = v - edge - 0.075 * zigzag(u * 9.5 + 0.5 * i) + 0.015
        teeth.append(jnp.maximum(jnp.maximum(tooth, edge * 0.75 - v), jnp.maximum(0.1 - u, u - reach[i] - r1[i] * 0.5)))
    teeth = jnp.minimum(teeth[0], teeth[1])

    ex, ey = hx[0] - 0.01, hy[0] - 0.13
    eyes = ellipse(here, jnp.stack([ex, ex]), jnp.stack([ey, ey]), jnp.array([0.062, 0.02]), jnp.array([0.052, 0.05]))
    nostril = ellipse(here, tx[0] + 0.02, ty[0] - 0.06, 0.025, 0.016)
    iris = stream.choice(np.array([[0.85, 0.72, 0.2], [0.7, 0.75, 0.3], [0.8, 0.5, 0.15]]))
    return [
        Layer(far, hide * 0.6),
        Layer(cov(back, pixel), hide),
        Layer(near, hide * 0.88),
        Layer(
            cov(mouth, pixel),
            shaded(
                stream.choice(np.array([[0.75, 0.4, 0.38], [0.8, 0.62, 0.5], [0.5, 0.2, 0.2]])), 1.0 + 0.1 * noise[0]
            ),
        ),
        Layer(cov(lower + rough, pixel), mixed(skin, pale, jnp.full_like(x, 0.55)) * shade[None]),
        Layer(cov(upper - 0.025, pixel) * 0.4, INK),
        Layer(cov(upper + rough, pixel), hide),
        Layer(cov(teeth, pixel), jnp.array([0.95, 0.93, 0.85])),
        Layer(cov(nostril, pixel), INK),
        Layer(cov(eyes[0], pixel), iris),
        Layer(cov(eyes[1], pixel), INK),
    ]


def starfish(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """Five tapering arms: one arm's distance, folded five times; rows of knobs along each arm."""
    lying = canvas._replace(y=canvas.y * stream.uniform(1.0, 1.6))
    here = place(stream, lying, scale=(0.55, 0.95), rotation=180.0, offset=0.3)
    x, y, pixel = here
    radius = jnp.sqrt(x * x + y * y + 1e-6)
    turn = jnp.arctan2(y, x) + stream.uniform(-0.45, 0.45) * radius + 0.06 * noise[2]
    sector = jnp.round(turn * (2.5 / np.pi))
    local = turn - sector * (0.4 * np.pi)
    u, v = radius * jnp.cos(local), radius * jnp.sin(local)
    length = 0.95 + stream.uniform(0.0, 0.2) * jnp.sin(sector * 2.4 + stream.uniform(0.0, 6.3))
    root, end = stream.uniform(0.24, 0.36), stream.uniform(0.05, 0.1)
    along = jnp.clip(u / length, 0.0, 1.0)
    width = root + (end - root) * along**0.8
    across = jnp.sqrt((u - along * length) ** 2 + v * v + 1e-6)
    d = across - width

    # Height of a rounded arm, and its slope away from the arm's middle line, rotated back into the image.
    rise = jnp.clip(across / width, 0.0, 1.0)
    lx, ly, lz = sun(stream)
    nu, nv = (u - along * length) / across, v / across
    spin = sector * (0.4 * np.pi)
    facing = (nu * jnp.cos(spin) - nv * jnp.sin(spin)) * lx + (nv * jnp.cos(spin) + nu * jnp.sin(spin)) * ly
    shade = 0.35 + 0.75 * jnp.clip(rise * facing + jnp.sqrt(1.02 - rise * rise) * lz, 0.0, 1.0) + 0.08 * noise[0]

    q, t = v / width * stream.uniform(1.8, 2.6), radius * stream.uniform(8.0, 11.0)
    knob = 0.38 - jnp.sqrt((q - jnp.round(q)) ** 2 + (t - jnp.round(t)) ** 2)
    flesh = stream.choice(
        np.array(
            [
                [0.9, 0.45, 0.15],
                [0.8, 0.22, 0.15],
                [0.6, 0.3, 0.55],
                [0.85, 0.65, 0.4],
                [0.3, 0.4, 0.65],
                [0.85, 0.5, 0.45],
            ]
        )
    ) + stream.uniform(-0.08, 0.08, (3,))
    knobs = jnp.where(stream.chance(0.7), 0.5 * flesh + 0.48, 0.45 * flesh)
    skin = mixed(flesh, knobs, ramp(knob, 0.2) * stream.uniform(0.5, 1.0))
    skin = mixed(skin, 0.7 * flesh + 0.25, 0.6 * ramp(0.16 - jnp.abs(q), 0.2))
    return [
        Layer(0.45 * cov(d - 0.03, 0.16), INK),
        Layer(cov(d + 0.012 * noise[1], pixel), skin * shade[None]),
    ]


def goldfish(stream: Stream, canvas: Canvas, noise: Noise) -> list[Layer]:
    """An egg of a body with rows of scales, a forked tail and four fins with rays, a big round eye."""
    here = place(stream, canvas, scale=(0.55, 1.0), rotation=30.0, offset=0.28)
    here = here._replace(y=here.y + stream.uniform(-0.25, 0.25) * here.x**2)
    x, y, pixel = here
    gold = stream.choice(
        np.array([[1.0, 0.5, 0.08], [1.0, 0.65, 0.15], [0.92, 0.3, 0.1], [0.98, 0.55, 0.2], [0.95, 0.8, 0.6]])
    )
    gold = gold * stream.uniform(0.85, 1.05) + stream.uniform(-0.05, 0.05, (3,))
    spot = stream.choice(np.array([[0.97, 0.95, 0.9], [0.12, 0.1, 0.1], [0.85, 0.2, 0.1], [1.0, 0.75, 0.3]]))
    long, deep = stream.uniform(0.55, 0.68), stream.uniform(0.28, 0.44)
    slim = 1.0 - 0.45 * (x + 0.15) / long
    body = (jnp.sqrt(((x + 0.15) / long) ** 2 + (y / (deep * jnp.clip(slim, 0.3, 1.2))) ** 2 + 1e-6) - 1.0) * deep

    # Fins are sectors of circles: tail twice (upper and lower lobe), back, belly, anal, and the one at the breast.
    grow = stream.uniform(0.8, 1.35, (6,))
    fx = jnp.array([0.36, 0.36, -0.12, -0.1, 0.2, -0.2])
    fy = jnp.stack([0.0 * deep, 0.0 * deep, -0.55 * deep, 0.6 * deep, 0.35 * deep, 0.25 * deep])
    facing = jnp.array([-0.5, 0.5, -1.05, 1.35, 0.95, 0.55]) + stream.uniform(-0.15, 0.15, (6,))
    spread = jnp.array([0.42, 0.42, 0.75, 0.3, 0.35, 0.4])
    reach = jnp.array([0.75, 0.75, 0.45, 0.42, 0.4, 0.26]) * grow
    fx, fy, facing, spread, reach = (a[:, None, None] for a in (fx, fy, facing, spread, reach))
    dx, dy = x[None] - fx, y[None] - fy
    radius = jnp.sqrt(dx * dx + dy * dy + 1e-6)
    turn = jnp.arctan2(dy * jnp.cos(facing) - dx * jnp.sin(facing), dx * jnp.cos(facing) + dy * jnp.sin(facing))
    turn = turn - stream.uniform(-0.5, 0.5, (6, 1, 1)) * radius
    hem = reach * (1.0 - 0.25 * (turn / spread) ** 2 + 0.04 * jnp.sin(turn * 40.0))
    fins = cov(jnp.maximum(radius - hem, (jnp.abs(turn) - spread) * radius), pixel)
    rays = (0.95 + 0.25 * jnp.sin(turn * 34.0)) * (1.1 - 0.2 * radius / reach)
    web = stream.uniform(0.65, 0.95)
    fin = gold * 0.85 + 0.15
    behind = jnp.max(fins[:5], axis=0)
    behind_rays = jnp.max(fins[:5] * rays[:5], axis=0)

    # Scales like roof tiles: a saw-tooth whose front is an arc in every row.
    size = stream.uniform(8.0, 11.0)
    row = y * size * 0.9
    v = fraction(row) - 0.5
    u = x * size + 0.5 * jnp.floor(row) + 1.6 * v * v
    tile = fraction(u)
    on_body = ramp(x + 0.42, 0.06)
    lx, ly, lz = sun(stream)
    nx, ny = jnp.clip((x + 0.15) / long, -1.0, 1.0), jnp.clip(y / deep, -1.0, 1.0)
    light = 0.55 + 0.55 * jnp.clip(nx * lx + ny * ly + lz, 0.0, 1.4)
    tiles = 1.0 + on_body * (0.35 * tile - 0.28)
    patch = ramp(noise[3] - stream.uniform(0.2, 1.4), 0.15) * stream.switch(0.6)
    coat = mixed(mixed(gold, spot, patch), 0.35 * gold + 0.62, 0.75 * ramp(y / deep - 0.45, 0.6))
    coat = coat * (light * tiles)[None] + 0.18 * ramp(tile - 0.75, 0.2)[None] * on_body[None] * light[None] * 0.6

    rim = jnp.abs(jnp.sqrt((x + 0.66) ** 2 + y * y + 1e-6) - 0.27) - 0.012
    gill = jnp.maximum(jnp.maximum(rim, -0.62 - x), jnp.maximum(jnp.abs(y) - 0.6 * deep, body))
    snout = -0.15 - long
    mouth = capsule(here, snout - 0.02, 0.06, snout + 0.09, 0.1, 0.014, 0.014)
    ex, ey, eye = snout + 0.19, -0.2 * deep, stream.uniform(0.065, 0.1)
    eyes = ellipse(
        here, jnp.stack([ex, ex, ex - 0.3 * eye]), jnp.stack([ey, ey, ey - 0.3 * eye]),
        jnp.stack([eye, 0.62 * eye, 0.2 * eye]), jnp.stack([eye, 0.62 * eye, 0.2 * eye]),
    )  # fmt: skip
    eyes = cov(eyes, pixel)
    ring = stream.choice(np.array([[0.95, 0.85, 0.4], [0.9, 0.9, 0.88], [0.98, 0.6, 0.2]]))
    return [
        Layer(web * behind, shaded(fin, behind_rays)),
        Layer(cov(body - 0.012, pixel), gold * 0.45),
        Layer(cov(body + 0.006 * noise[1], pixel), coat),
        Layer(0.6 * cov(gill, pixel), gold * 0.35),
        Layer(0.8 * cov(mouth, pixel), gold * 0.25),
        Layer(0.9 * fins[5], shaded(fin, rays[5])),
        Layer(eyes[0], ring),
        Layer(eyes[1], INK),
        Layer(eyes[2], jnp.array([0.97, 0.97, 0.97])),
    ]
