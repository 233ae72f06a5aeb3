"""Cats, dogs, rabbits, huskies, foxes and bears: one animal made of about seventy rounded parts.

Classes differ only in the tables of `traits`, which are traced: all share one compiled function. The same key gives two
classes the same background, place, light and pose.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import Canvas, Stream, moved
from cnnjax.procedural.parts import Parts, paint_parts, visible_shares
from cnnjax.procedural.traits import COAT, EYE, NAMES, Kind

PARTS = ("body", "tail", "legs", "head", "ears", "eyes", "muzzle", "nose", "mouth", "whiskers")
"""What an animal's masks show, and what can be left out of an image. The bib belongs to the body, cheeks, blaze and
white face to the head, white brows to the eyes, the tongue to the mouth."""

_SIDES = np.asarray([-1.0, 1.0], np.float32)
_WHITE = np.asarray([0.93, 0.92, 0.89], np.float32)
_BLACK = np.asarray([0.05, 0.04, 0.04], np.float32)
_INNER_EAR = np.asarray([0.80, 0.56, 0.52], np.float32)
_TONGUE = np.asarray([0.85, 0.42, 0.45], np.float32)
_PINK_NOSE = np.asarray([0.78, 0.47, 0.46], np.float32)
_DOWN = 0.5 * np.pi


def animal(
    stream: Stream,
    canvas: Canvas,
    noise: Float[Array, "4 side side"],
    kind: Kind,
    image: Float[Array, "3 side side"],
    shown: Float[Array, " parts"],
) -> Float[Array, "3 side side"]:
    """An animal over `image`. shown: 1 for each of `PARTS` that is painted, 0 for one that is left out."""
    here, parts, pattern, second, lamp = _build(stream, canvas, noise, kind)
    return paint_parts(image, here, parts.table(shown), noise, pattern, second, lamp)


def visible_parts(
    stream: Stream, canvas: Canvas, noise: Float[Array, "4 side side"], kind: Kind, shown: Float[Array, " parts"]
) -> Float[Array, "parts side side"]:
    """The share of each pixel that shows each of `PARTS` of the animal that `animal` paints from the same arguments."""
    here, parts, *_ = _build(stream, canvas, noise, kind)
    return visible_shares(here, parts.table(shown), parts.groups, len(PARTS), noise)


def _build(stream: Stream, canvas: Canvas, noise, kind: Kind):
    """The animal's own coordinates, its parts, its coat's pattern with the second colour, and the light's direction."""
    where = kind.placement
    size = jnp.exp(stream.uniform(where.log_scale[0], where.log_scale[1]))
    angle = stream.uniform(-1.0, 1.0) * where.rotation
    x, y = stream.uniform(-1.0, 1.0) * where.offset, stream.uniform(-1.0, 1.0) * where.offset
    here = moved(canvas, x, y, angle, size, stream.sign())
    here = here._replace(y=here.y + where.lift)
    count = (len(NAMES),)
    trait = dict(zip(NAMES, stream.uniform(kind.traits[:, 0], kind.traits[:, 1], count), strict=True))
    # A trait whose name begins with p_ is a probability: whether it is there is decided here.
    for name, threshold in zip(NAMES, stream.uniform(shape=count), strict=True):
        if name.startswith("p_"):
            trait[name] = (threshold < trait[name]).astype(jnp.float32)
    base, dark, second, pattern = _coat(stream, here, noise, kind, trait)
    light = stream.uniform(-np.pi, 0.0)
    look = {
        "fur": stream.uniform(0.05, 0.14),
        "fuzz": stream.uniform(0.01, 0.05),
        "form": stream.uniform(0.18, 0.45),
    }
    parts = Parts()
    coat = {"colour": base, "pattern": 1.0, **look}
    white = {"colour": _WHITE, "fur": look["fur"], "fuzz": 3.0 * look["fuzz"], "clip": True}
    _body(parts, stream, trait, coat, white)
    _head(parts, stream, trait, coat, white, dark, _weighted(stream, kind.eyes, EYE))
    return here, parts, pattern, second, (jnp.cos(light), jnp.sin(light))


def _weighted(stream: Stream, weights, table):
    """A row of `table`, chosen with the given weights."""
    below = jnp.cumsum(weights) / jnp.sum(weights) <= stream.uniform()
    return jnp.asarray(table)[jnp.minimum(jnp.sum(below), len(table) - 1)]


def _coat(stream: Stream, here: Canvas, noise, kind: Kind, trait: dict[str, Array]):
    """The fur's colour, its dark shade, the pattern's colour, and where the pattern is: (side, side) in [0, 1]."""
    base = _weighted(stream, kind.coats, COAT) * stream.uniform(0.85, 1.12) + stream.uniform(-0.03, 0.03, (3,))
    base = jnp.clip(base, 0.03, 0.97)
    dark = base * stream.uniform(0.3, 0.6)
    stripes, patches = trait["p_stripes"], trait["p_patches"]
    angle, period = stream.uniform(-0.9, 0.9), stream.uniform(5.0, 9.5)
    phase = period * (jnp.cos(angle) * here.x + jnp.sin(angle) * here.y + 0.22 * noise[2])
    banded = jax.nn.sigmoid(4.0 * jnp.sin(phase) - 1.2) * 0.8
    patched = jnp.clip(3.0 * (noise[3] - stream.uniform(0.0, 0.9)), 0.0, 1.0)
    pattern = stripes * banded + (1.0 - stripes) * patches * patched
    # Stripes are mostly dark, patches as often white.
    is_dark = stream.uniform() < 0.5 + 0.25 * stripes
    return base, dark, jnp.where(is_dark, dark, jnp.asarray(_WHITE)), pattern


def _body(p: Parts, stream: Stream, trait: dict[str, Array], coat: dict[str, Any], white: dict[str, Any]) -> None:
    """Tail, legs, trunk and paws of an animal that sits, lies or stands; the head's centre is the origin."""
    pose, t = stream.uniform(), stream.uniform(shape=(3,))
    sit, lie = pose < 0.45, pose > 0.78
    chest_x, chest_y, girth, leg = stream.uniform(-0.15, 0.15), stream.uniform(1.05, 1.3), trait["body"], trait["leg"]
    rump_x = jnp.where(sit, 0.1 + 0.6 * t[0], jnp.where(lie, 1.3 + t[0], 1.7 + 1.1 * t[0]))
    rump_y = jnp.where(sit, 2.1 + 0.5 * t[1], jnp.where(lie, 1.5 + 0.4 * t[1], 1.1 + 0.4 * t[1]))
    ground = jnp.where(sit, 2.9, jnp.where(lie, 2.2, 2.3 + 0.8 * t[2]))

    bend, curl = stream.uniform(-2.2, 0.6), stream.uniform(-1.5, 1.5)
    half, thick = trait["tail_length"] * 0.5, trait["tail_radius"]
    x0, y0 = rump_x + 0.5 * girth, rump_y + 0.2
    x1, y1 = x0 + half * jnp.cos(bend), y0 + half * jnp.sin(bend)
    x2, y2 = x1 + half * jnp.cos(bend + curl), y1 + half * jnp.sin(bend + curl)
    p.group = PARTS.index("tail")
    p.limb(x0, y0, x1, y1, thick, thick, **coat)
    p.limb(x1, y1, x2, y2, thick, thick * trait["tail_taper"], **coat)

    # Far fore and hind leg, then near ones.
    hip_x = jnp.stack([chest_x - 0.32, rump_x - 0.3, chest_x + 0.32, rump_x + 0.25])
    hip_y = jnp.stack([chest_y + 0.2, rump_y, chest_y + 0.2, rump_y])
    foot_x, foot_y = hip_x + stream.uniform(-0.25, 0.25, (4,)), ground + stream.uniform(-0.12, 0.12, (4,))
    foot_x = foot_x + jnp.where(sit, jnp.asarray([0.0, -0.3, 0.0, 0.5]), jnp.zeros(4))
    p.group = PARTS.index("legs")
    p.limb(hip_x[:2], hip_y[:2], foot_x[:2], foot_y[:2], leg * 1.3, leg, shade=0.75, **coat)
    p.group = PARTS.index("body")
    p.limb(chest_x, chest_y, rump_x, rump_y, girth * 0.95, girth, **coat)
    p.limb(0.0, 0.3, chest_x, chest_y, 0.62, girth * 0.9, extend=True, **coat)
    bib = jnp.maximum(stream.switch(0.4), trait["p_husky"])
    p.add(chest_x, chest_y + 0.25, girth * 0.5, girth * 0.8, soft=0.15, alpha=0.9 * bib, **white)
    p.group = PARTS.index("legs")
    p.limb(hip_x[2:], hip_y[2:], foot_x[2:], foot_y[2:], leg * 1.3, leg, **coat)
    sock = jnp.where(stream.chance(0.4), jnp.asarray(_WHITE), coat["colour"])
    paw = {**coat, "colour": sock, "pattern": 0.0, "shade": jnp.asarray([0.8, 0.8, 1.0, 1.0])}
    p.add(foot_x + 0.08, foot_y + 0.05, leg * 1.35, leg * 0.95, **paw)


def _head(p: Parts, stream: Stream, trait, coat: dict[str, Any], white: dict[str, Any], dark, iris) -> None:
    """The head: a ball of radius 1, turned by up to 0.6 radians; what is on it moves as on a ball."""
    turn, nod = stream.uniform(-1.0, 1.0) * 0.6, stream.uniform(-0.15, 0.2)
    s, pointed, mask = jnp.sin(turn), trait["p_pointed"], trait["p_mask"]
    width, height = trait["head_width"], trait["head_height"]
    tone = jnp.where(stream.chance(0.35), stream.uniform(0.45, 0.85), 1.0)

    # Ears that stand, behind the head.
    lean = _SIDES * trait["ear_angle"] + turn * 0.3
    ear_x, ear_y = width * 0.82 * jnp.sin(lean) + 0.1 * s, -height * 0.72 * jnp.cos(lean)
    up = lean * 0.8 + stream.uniform(-0.12, 0.12, (2,)) - 0.5 * np.pi
    wide, long, tip = trait["ear_width"], trait["ear_length"], trait["ear_tip"]
    p.group = PARTS.index("ears")
    inner = {"colour": _INNER_EAR, "fur": coat["fur"], "soft": 0.05, "clip": True, "alpha": 0.75 * pointed}
    for x, y, angle in zip(ear_x, ear_y, up, strict=True):
        p.add(x, y, wide, None, angle, length=long, taper=tip, alpha=pointed, shade=tone, **coat)
        p.add(x + 0.05 * s, y, wide * 0.55, None, angle, length=long * 0.8, taper=tip, **inner)

    p.group = PARTS.index("head")
    p.add(0.0, 0.0, width, height, **coat)
    cheek = {**coat, "form": coat["form"] * 0.5, "extend": True}
    p.add(0.15 * s + _SIDES * width * 0.42, 0.36, width * trait["cheek"] * 0.6, height * 0.52, **cheek)
    p.add(0.55 * s, 0.45, 0.62, 0.6, soft=0.12, alpha=0.92 * mask, **white)
    p.add(0.5 * s, -0.35, 0.1, 0.5, soft=0.1, alpha=mask * stream.switch(0.5), **white)
    _eyes(p, stream, trait, width, turn, stream.uniform(-0.2, -0.05) + nod, white, dark, iris)

    # Muzzle, tongue, nose and mouth.
    fat, reach = trait["muzzle_radius"], trait["muzzle_length"]
    tip_x, tip_y = s * (0.87 + reach), 0.36 + nod + reach * stream.uniform(0.15, 0.35)
    pale = jnp.maximum(stream.switch(0.45), mask)
    snout = {**coat, "colour": coat["colour"] + 0.7 * pale * (_WHITE - coat["colour"]), "pattern": 0.6 * (1.0 - pale)}
    snout["fuzz"] = coat["fuzz"] * 0.6
    lobes = {**snout, "form": coat["form"] * 0.8}
    p.group = PARTS.index("muzzle")
    p.limb(0.5 * s, nod, tip_x, tip_y - 0.1, fat * 0.55, fat * 0.8, **lobes)
    p.group = PARTS.index("mouth")
    p.add(tip_x, tip_y + fat * 1.05, fat * 0.38, fat * 0.7, alpha=trait["p_tongue"], colour=_TONGUE, form=0.3)
    p.group = PARTS.index("muzzle")
    p.add(tip_x - 0.05 * s, tip_y + fat * 0.55, fat * 0.7, fat * 0.5, shade=0.85, **snout)
    p.add(tip_x + _SIDES * fat * 0.5, tip_y + 0.12 * fat, fat * 0.72, fat * 0.66, **lobes)
    nose, x, y = trait["nose"], tip_x + 0.08 * s, tip_y - fat * 0.45
    leather = jnp.where(trait["p_pink_nose"] > 0.0, jnp.asarray(_PINK_NOSE), jnp.asarray(_BLACK))
    p.group = PARTS.index("nose")
    p.add(x, y, nose * 0.75, nose * 1.15, _DOWN, length=nose * 0.5, taper=0.5, colour=leather, form=0.3)
    p.add(x - nose * 0.3, y - nose * 0.3, nose * 0.3, nose * 0.16, alpha=0.5, soft=0.03, colour=_WHITE)
    line, lips = {"colour": dark * 0.4, "alpha": 0.75}, tip_y + fat * 0.42
    p.group = PARTS.index("mouth")
    p.limb(x, y + nose, x, lips, 0.025, 0.025, **line)
    p.limb(x, lips, x + _SIDES * fat * 0.6, tip_y + fat * stream.uniform(0.5, 0.75), 0.028, 0.018, **line)

    # Ears that hang, over the head's sides; whiskers in front of all.
    hang = {**coat, "alpha": 1.0 - pointed, "shade": tone * 0.92, "taper": stream.uniform(0.9, 1.35)}
    x, drop = _SIDES * width * 0.86 + 0.12 * s, _DOWN - _SIDES * stream.uniform(0.0, 0.5)
    p.group = PARTS.index("ears")
    p.add(x, -height * 0.42, trait["flop_width"] * 0.9, None, drop, length=trait["flop_length"] * 0.75, **hang)
    hairs = {"colour": jnp.where(stream.chance(0.7), jnp.full(3, 0.95), jnp.full(3, 0.12))}
    hairs["alpha"] = 0.85 * trait["p_whiskers"] * trait["whiskers"]
    six = np.tile(_SIDES, 3)
    droop = np.repeat(np.asarray([-0.22, 0.05, 0.32], np.float32), 2) + stream.uniform(-0.06, 0.06)
    x, y = tip_x + six * fat * 0.6, tip_y + 0.1 * fat + 0.25 * droop
    p.group = PARTS.index("whiskers")
    p.limb(x, y, x + six * stream.uniform(0.75, 1.25), y + 0.75 * droop, 0.022, 0.008, **hairs)


def _eyes(p: Parts, stream: Stream, trait, width, turn, y, white: dict[str, Any], dark, iris) -> None:
    """Two eyes at height y: dark rims, irises, pupils cut off by the lids, highlights; a husky's white brows behind."""
    size, lids, gaze = trait["eye"], stream.uniform(0.7, 1.0), stream.uniform(-0.2, 0.2, (2,))
    longitude = _SIDES * trait["eye_apart"] + turn
    seen = (jnp.cos(longitude) > 0.12).astype(jnp.float32)
    x, narrow = 0.95 * width * jnp.sin(longitude), jnp.clip(jnp.cos(longitude) + 0.1, 0.2, 1.0)
    slant = -_SIDES * 0.25
    p.group = PARTS.index("eyes")
    p.add(x, y - 0.02, 0.5, 0.36, soft=0.1, alpha=0.9 * trait["p_husky"] * seen, **white)
    p.add(x, y, size * 1.22 * narrow, size * 1.12 * lids, slant, alpha=seen, colour=dark * 0.3)
    for i in (0, 1):
        rx = size * narrow[i]
        p.add(x[i], y, rx, size * 0.92 * lids, slant[i], alpha=seen[i], colour=iris, form=0.25)
        pupil = {"alpha": seen[i], "colour": _BLACK, "clip": True}
        p.add(x[i] + gaze[0] * size, y + 0.3 * gaze[1] * size, 0.58 * trait["slit"] * rx, size * 0.78, **pupil)
    p.add(x - size * 0.28, y - size * 0.3, size * 0.2, alpha=seen, colour=np.ones(3, np.float32))
