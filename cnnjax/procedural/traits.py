"""What distinguishes the furry animals: ranges of traits, probabilities of coats and of eye colours.

Cats and dogs overlap in most single traits: some dogs prick their ears, some cats fold theirs, coats and patterns are
shared. Colour says little: a linear classifier of the mean colours reaches 55%, one of 8×8 thumbnails 59% (version 4,
64 pixels, 1,000 images a class; without a mild prior of this kind the small network stays at chance for long). Shape
says nearly everything, but small, anywhere in the image, rotated and mirrored, which augmentation shows and a thousand
images per class do not.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ANIMALS = ("cat", "dog", "rabbit", "husky", "fox", "bear")

# Ranges (low, high) for each of ANIMALS. Lengths in head radii, angles in radians, `p_…` are probabilities.
_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "head_width": ((0.92, 1.12), (0.80, 1.08), (0.72, 0.90), (0.92, 1.06), (0.84, 1.04), (0.94, 1.14)),
    "head_height": ((0.80, 0.98), (0.86, 1.06), (0.90, 1.10), (0.88, 1.00), (0.82, 1.00), (0.84, 1.02)),
    "cheek": ((0.80, 1.00), (0.62, 0.92), (0.70, 0.90), (0.85, 1.00), (0.74, 0.96), (0.76, 1.00)),
    "muzzle_length": ((0.05, 0.30), (0.22, 0.85), (0.05, 0.20), (0.35, 0.65), (0.30, 0.75), (0.24, 0.62)),
    "muzzle_radius": ((0.26, 0.38), (0.30, 0.48), (0.24, 0.34), (0.32, 0.42), (0.24, 0.36), (0.32, 0.46)),
    "nose": ((0.08, 0.15), (0.13, 0.25), (0.07, 0.11), (0.14, 0.20), (0.09, 0.17), (0.14, 0.24)),
    "eye": ((0.15, 0.23), (0.10, 0.17), (0.14, 0.20), (0.10, 0.15), (0.10, 0.16), (0.08, 0.13)),
    "eye_apart": ((0.42, 0.54), (0.38, 0.54), (0.62, 0.80), (0.40, 0.50), (0.40, 0.54), (0.36, 0.50)),
    "slit": ((0.25, 0.95), (0.80, 1.00), (0.90, 1.00), (0.60, 0.90), (0.35, 0.90), (0.85, 1.00)),
    "ear_length": ((0.55, 0.90), (0.50, 0.95), (1.40, 2.30), (0.55, 0.85), (0.45, 1.05), (0.12, 0.50)),
    "ear_width": ((0.34, 0.50), (0.28, 0.46), (0.22, 0.32), (0.30, 0.42), (0.30, 0.48), (0.26, 0.40)),
    "ear_angle": ((0.45, 0.75), (0.38, 0.80), (0.15, 0.45), (0.42, 0.62), (0.40, 0.70), (0.52, 0.92)),
    "ear_tip": ((0.04, 0.16), (0.04, 0.30), (0.45, 0.75), (0.04, 0.16), (0.04, 0.50), (0.55, 1.05)),
    "flop_length": ((0.25, 0.50), (0.60, 1.40), (1.20, 2.00), (0.50, 1.00), (0.30, 0.60), (0.30, 0.50)),
    "flop_width": ((0.22, 0.34), (0.24, 0.42), (0.24, 0.34), (0.24, 0.36), (0.22, 0.34), (0.24, 0.34)),
    "body": ((0.62, 0.88), (0.66, 1.02), (0.70, 0.95), (0.80, 1.02), (0.58, 0.86), (0.84, 1.20)),
    "leg": ((0.18, 0.28), (0.20, 0.34), (0.20, 0.30), (0.24, 0.34), (0.16, 0.27), (0.25, 0.40)),
    "tail_length": ((1.4, 2.8), (0.7, 2.2), (0.15, 0.35), (1.2, 2.0), (1.3, 2.6), (0.15, 0.50)),
    "tail_radius": ((0.13, 0.24), (0.12, 0.32), (0.28, 0.40), (0.28, 0.40), (0.24, 0.44), (0.14, 0.26)),
    "tail_taper": ((0.75, 1.05), (0.40, 0.90), (1.0, 1.2), (0.7, 1.0), (0.5, 0.9), (0.8, 1.1)),
    "whiskers": ((0.50, 1.00), (0.20, 0.60), (0.3, 0.8), (0.1, 0.4), (0.3, 0.8), (0.1, 0.3)),
    "p_pointed": ((0.92, 0.92), (0.35, 0.35), (0.80, 0.80), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
    "p_whiskers": ((0.80, 0.80), (0.12, 0.12), (0.6, 0.6), (0.1, 0.1), (0.35, 0.35), (0.05, 0.05)),
    "p_tongue": ((0.04, 0.04), (0.35, 0.35), (0.0, 0.0), (0.35, 0.35), (0.15, 0.15), (0.15, 0.15)),
    "p_pink_nose": ((0.55, 0.55), (0.10, 0.10), (0.7, 0.7), (0.03, 0.03), (0.05, 0.05), (0.05, 0.05)),
    "p_stripes": ((0.45, 0.45), (0.12, 0.12), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
    "p_patches": ((0.20, 0.20), (0.28, 0.28), (0.25, 0.25), (0.0, 0.0), (0.10, 0.10), (0.10, 0.10)),
    "p_mask": ((0.30, 0.30), (0.30, 0.30), (0.15, 0.15), (1.0, 1.0), (0.60, 0.60), (0.25, 0.25)),
    "p_husky": ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
}
NAMES = tuple(_RANGES)
# What version 4 changed: clearer features of cats and dogs, since they are smaller and more turned.
_RANGES_4: dict[str, tuple[tuple[float, float], ...]] = {
    "muzzle_length": ((0.05, 0.28), (0.35, 0.95)),
    "nose": ((0.07, 0.14), (0.15, 0.27)),
    "eye": ((0.18, 0.26), (0.10, 0.16)),
    "p_pointed": ((0.95, 0.95), (0.20, 0.20)),
}


def _table(changes: dict[str, tuple[tuple[float, float], ...]]) -> np.ndarray:
    """Ranges (animals, traits, 2); changes: other ranges for the first animals."""
    rows = [[*changes.get(name, ()), *_RANGES[name][len(changes.get(name, ())) :]] for name in NAMES]
    return np.asarray(rows, np.float32).transpose(1, 0, 2)


TRAITS = {3: _table({}), 4: _table(_RANGES_4), 5: _table(_RANGES_4)}

# Coats: black, grey, ginger, brown, cream, white, tan, charcoal, silver, chocolate.
COAT = np.asarray(
    [
        [0.09, 0.09, 0.10], [0.43, 0.43, 0.45], [0.80, 0.46, 0.18], [0.42, 0.27, 0.16], [0.87, 0.74, 0.54],
        [0.93, 0.92, 0.89], [0.64, 0.44, 0.26], [0.26, 0.24, 0.23], [0.67, 0.66, 0.63], [0.28, 0.17, 0.11],
    ],
    np.float32,
)  # fmt: skip
_COATS = np.asarray(
    [
        [3, 4, 4, 1, 1, 2, 1, 2, 4, 1], [2, 1, 1, 3, 4, 2, 4, 2, 1, 3],
        [1, 3, 0, 3, 2, 3, 3, 1, 2, 1], [3, 3, 0, 0, 0, 0, 0, 3, 1, 0],
        [1, 1, 4, 2, 2, 2, 3, 2, 2, 1], [2, 1, 1, 4, 2, 2, 3, 2, 1, 3],
    ],
    np.float32,
)  # fmt: skip
_COATS_4 = np.asarray([[3, 5, 4, 0.6, 1, 2, 0.6, 3, 5, 0.6], [2, 0.7, 1, 4, 4, 2, 5, 2, 0.7, 4]], np.float32)
COATS = {3: _COATS} | dict.fromkeys((4, 5), np.concatenate([_COATS_4, _COATS[2:]]))
# Eyes: green, amber, blue, hazel, brown, dark brown.
EYE = np.asarray(
    [
        [0.48, 0.66, 0.26], [0.88, 0.70, 0.18], [0.45, 0.68, 0.90],
        [0.62, 0.45, 0.18], [0.26, 0.15, 0.07], [0.12, 0.08, 0.06],
    ],
    np.float32,
)  # fmt: skip
EYES = np.asarray(
    [
        [4, 4, 2, 2, 1, 1], [0.2, 0.6, 0.4, 2, 5, 4], [0, 0, 0.3, 1, 4, 5],
        [0, 0.3, 8, 0.5, 1, 0.5], [0, 2, 0, 3, 3, 2], [0, 0.5, 0, 1, 4, 5],
    ],
    np.float32,
)  # fmt: skip


class Placement(NamedTuple):
    """How much animals differ in place, size and pose, and how much hides them."""

    log_scale: Float[Array, "2"]
    """Range of the logarithm of the head's radius, half-widths."""
    rotation: Float[Array, ""]
    """± radians, in the image's plane."""
    offset: Float[Array, ""]
    """Of the head's place, ± half-widths, before `lift`."""
    lift: Float[Array, ""]
    """How far the head is above the centre, head radii: room for the body."""
    occlusion: Float[Array, ""]
    """Probability of each of the two bars in front."""


class Kind(NamedTuple):
    """What makes a class: ranges of traits, weights of coats and of eye colours (a row of each table)."""

    traits: Float[Array, "traits 2"]
    coats: Float[Array, " coats"]
    eyes: Float[Array, " eyes"]
    placement: Placement


_PLACEMENTS = {
    3: {"scale": (0.32, 0.56), "rotation": 60.0, "offset": 0.26, "lift": 0.35, "occlusion": 0.3},
    4: {"scale": (0.18, 0.46), "rotation": 120.0, "offset": 0.5, "lift": 0.3, "occlusion": 0.3},
    5: {"scale": (0.12, 0.60), "rotation": 120.0, "offset": 0.5, "lift": 0.3, "occlusion": 0.3},
}
VERSIONS = tuple(TRAITS)
"""Of the renderer. 4 shows animals smaller, in more places and more turned than 3, and cats and dogs with clearer
features and colours; 5 shows them at more sizes than 4. All other classes are the same in every version."""
VERSION = 4


def kind(index: int, version: int) -> Kind:
    """The animal with this place in `ANIMALS`, as that version of the renderer draws it."""
    return Kind(
        jnp.asarray(TRAITS[version][index]),
        jnp.asarray(COATS[version][index]),
        jnp.asarray(EYES[index]),
        _placement(**_PLACEMENTS[version]),
    )


def _placement(scale: tuple[float, float], rotation: float, offset: float, lift: float, occlusion: float) -> Placement:
    """rotation in degrees. Computed in NumPy, so that version 3's images stay what constants made them, to the bit."""
    log_scale = np.log(np.asarray(scale, np.float32))
    values = (log_scale, rotation * np.pi / 180.0, offset, lift, occlusion)
    return Placement(*(jnp.asarray(value, jnp.float32) for value in values))
