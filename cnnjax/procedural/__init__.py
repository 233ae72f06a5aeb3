"""Images of eighteen classes, rendered by jitted functions from keys. No files and no network are needed.

The package's VGG16 was trained on the fourteen `CLASSES`; those in `NEW` it has never seen: they are for transfer.
The data set made of these images is `cnnjax.data.procedural`.
"""

from collections.abc import Collection

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from cnnjax.errors import UserError, unknown
from cnnjax.procedural import programs
from cnnjax.procedural.programs import SUBJECT
from cnnjax.procedural.programs import parts as parts
from cnnjax.procedural.traits import VERSION, VERSIONS

CLASSES = (
    "cat", "dog", "rabbit", "crocodile", "starfish", "husky", "goldfish",
    "bridge", "balloon", "tennis ball", "gondola", "dumbbell", "hammer", "lamp",
)  # fmt: skip

NEW = ("axe", "shovel", "fox", "bear")
"""Classes that no bundled network was trained on."""
KNOWN = CLASSES + NEW


def render(
    name: str,
    keys: Key[Array, " batch"],
    image_size: int,
    *,
    version: int = VERSION,
    without: Collection[str] = (),
) -> UInt8[Array, "batch {image_size} {image_size} 3"]:
    """Images of class `name`, one for each key, square RGB with `image_size` pixels on each side.

    A key gives the same image in any batch and the same scene at any size. Compiles once per size for all animals, and
    once per size for each other class; on a CPU, every core renders.

    Args:
        name: one of `KNOWN`.
        keys: one for each image.
        image_size: height and width in pixels.
        version: one of `VERSIONS`. Version 3 draws what older releases drew, bit for bit.
        without: parts of the subject (see `parts`) that are not painted, or "subject" for the surroundings alone.
            Everything else stays as it is: a pixel changes only where the part was, and as far around it as the
            camera's blur reaches (a Gaussian with a standard deviation of at most 0.01 of the image's width). What
            lies on a part that is left out stays, except what is cut off by its outline.

    Raises UserError for an unknown class, version or part.
    """
    _check(name, version, without)
    return jnp.asarray(programs.run(programs.image, name, keys, image_size, programs.drawn(name, version, without)))


def render_masks(
    name: str, keys: Key[Array, " batch"], image_size: int, *, version: int = VERSION
) -> dict[str, Float[Array, "batch {image_size} {image_size}"]]:
    """Where the subject and its parts are in the images that `render` makes of the same keys.

    Each value is the share of the pixel's colour, in [0, 1], that comes from the part, behind what is painted over it:
    other parts of the subject, and bars in front. The parts of an animal add up to "subject". The masks are those of
    the sharp scene, before the camera's blur. A shadow, glow or mirror image of a thing counts as the thing; water
    around it does not.

    Returns:
        "subject", and for animals a mask of each of `parts(name)`.

    Raises UserError for an unknown class or version. Compiles as `render` does.
    """
    _check(name, version, ())
    found = programs.run(programs.masks, name, keys, image_size, programs.drawn(name, version))
    return {part: jnp.asarray(found[:, i]) for i, part in enumerate((SUBJECT, *parts(name)))}


def _check(name: str, version: int, without: Collection[str]) -> None:
    if name not in KNOWN:
        raise unknown("procedural class", name, KNOWN)
    if version not in VERSIONS:
        raise UserError(f"version={version}: the renderer's versions are {', '.join(map(str, VERSIONS))}")
    for part in without:
        if part not in (SUBJECT, *parts(name)):
            raise unknown(f"part of class {name}", part, (SUBJECT, *parts(name)))
