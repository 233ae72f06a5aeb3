"""The embedded data set, rendered by `cnnjax.procedural`: no files and no network are needed.

Cats and dogs are hard on purpose: a thousand images of each are few enough to be memorized, and what distinguishes the
two is small, rotated, shifted and mirrored, which is what augmentation teaches (article, section 4).
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from cnnjax import limits
from cnnjax.data.cache import cached
from cnnjax.data.dataset import ArraySplit, Dataset, Examples
from cnnjax.errors import UserError, unknown
from cnnjax.image_size import to_size

if TYPE_CHECKING:
    from jaxtyping import Array, Key

VERSION = 4
"""Of the renderer, for small images: `cnnjax.procedural.VERSION`, which is not imported for it."""
LARGE_IMAGES_VERSION = 5
"""Of the renderer, for images of 100 pixels and more."""

_ROUND = 100  # images rendered between two updates of the progress bar


def version_for(image_size: int | tuple[int, int]) -> int:
    """The renderer's version of images of this size, unless another one is chosen: 5 from 100 pixels on, else 4.

    With more pixels a network without augmentation recognizes more of version 4's cats and dogs, so that less is left
    for augmentation to gain. Version 5 shows animals both farther away and nearer.
    """
    return LARGE_IMAGES_VERSION if max(to_size(image_size)) >= 100 else VERSION


def load(
    classes: Sequence[str] = ("cat", "dog"),
    *,
    image_size: int | tuple[int, int] = 150,
    per_class: int = 1000,
    valid: int = 500,
    test: int = 500,
    seed: int = 0,
    version: int | None = None,
    cache: bool = True,
) -> Dataset:
    """Images of `classes`, rendered under a progress bar or read from the cache.

    Image i of class c in split s (train 0, valid 1, test 2) has the key fold_in(fold_in(key(seed), s), i · 14 + c), one
    of the classes in `procedural.NEW` fold_in(fold_in(key(seed), s + 3), i · 4 + c). So splits share no image, and a
    class's first images do not depend on how many there are.

    Args:
        classes: two or more of `cnnjax.procedural.KNOWN`.
        image_size: images are square, with this number of pixels on each side.
        per_class: training images per class.
        valid: validation images per class.
        test: test images per class.
        seed: chooses the images.
        version: of the renderer, one of `cnnjax.procedural.VERSIONS`. Version 3 gives the images of older releases,
            whose animals are larger and less turned. None takes that of the image size (`version_for`).
        cache: keep rendered images in the user's cache folder.

    Raises UserError for an unknown class or version, a class named twice, fewer than two classes, and counts below 1.
    """
    from cnnjax import procedural  # importing it builds programs, so it waits until images are asked for

    names, size = tuple(classes), to_size(image_size)
    _check(names, procedural.KNOWN, size, {"per_class": per_class, "valid": valid, "test": test})
    limits.check_seed(seed)
    limits.check_image(size, len(names) * max(per_class, valid, test))
    version = version_for(size) if version is None else version
    if version not in procedural.VERSIONS:
        raise UserError(f"version={version}: the renderer's versions are {', '.join(map(str, procedural.VERSIONS))}")

    def split(number: int, label: str, count: int) -> ArraySplit:
        key = {"version": version, "classes": names, "side": size[0], "count": count, "seed": seed}
        key["split"] = number

        def compute() -> tuple[Examples, tuple[str, ...]]:
            return _render(names, size[0], number, label, count, seed, version), ()

        kept, _ = cached(f"procedural-{label}-{size[0]}", key, Examples, compute) if cache else compute()
        return ArraySplit(kept.images, kept.labels)

    return Dataset(
        train=split(0, "train", per_class),
        valid=split(1, "valid", valid),
        test=partial(split, 2, "test", test),
        class_names=names,
        provenance={
            "source": "procedural",
            "version": version,
            "per_class": per_class,
            "valid": valid,
            "test": test,
            "seed": seed,
        },  # fmt: skip
    )


def _check(names: tuple[str, ...], known: tuple[str, ...], size: tuple[int, int], counts: dict[str, int]) -> None:
    for name in names:
        if name not in known:
            raise unknown("procedural class", name, known)
    if len(set(names)) < max(len(names), 2):
        raise UserError(f"classes={names}: name two or more different classes")
    if size[0] != size[1]:
        raise UserError(f"image_size={size}: procedural images are square, so give one number")
    for argument, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise UserError(
                f"{argument}={count}: procedural images are rendered in any number, so give the number wanted of each "
                "class (at least 1)"
            )


def keys(name: str, split: int, indices: np.ndarray, seed: int) -> "Key[Array, ' n']":
    """The keys of images `indices` of class `name` in a split (train 0, valid 1, test 2); see `load`."""
    import jax
    import jax.numpy as jnp

    from cnnjax import procedural

    old = name in procedural.CLASSES
    family, part = (procedural.CLASSES, split) if old else (procedural.NEW, split + 3)
    base = jax.random.fold_in(jax.random.key(seed), part)
    numbers = jnp.asarray(indices * len(family) + family.index(name), jnp.uint32)
    return jax.vmap(partial(jax.random.fold_in, base))(numbers)


def _render(
    names: tuple[str, ...], size: int, split: int, label: str, per_class: int, seed: int, version: int
) -> Examples:
    from cnnjax import procedural

    images = np.empty((len(names) * per_class, size, size, 3), np.uint8)
    with tqdm(total=len(images), desc=f"rendering {label} images", unit="image", leave=False) as progress:
        for place, name in enumerate(names):
            for start in range(0, per_class, _ROUND):
                indices = np.arange(start, min(start + _ROUND, per_class))
                some = procedural.render(name, keys(name, split, indices, seed), size, version=version)
                images[place * per_class + indices] = some
                progress.update(len(indices))
    return Examples(images, np.repeat(np.arange(len(names), dtype=np.int32), per_class))
