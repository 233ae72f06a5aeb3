"""A data set from arrays in memory: images and labels, divided into training, validation and test splits."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from cnnjax.data.convert import to_images, to_labels
from cnnjax.data.dataset import ArraySplit, Dataset
from cnnjax.data.splits import permutation
from cnnjax.errors import UserError

Share = float | int | Sequence[Any]
"""A fraction of the images, a number of images, or an (images, labels) pair."""


def from_arrays(
    images: Any,
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    valid: Share = 0.2,
    test: Share = 0.2,
    seed: int = 0,
) -> Dataset:
    """A data set of images in memory.

    Validation and test images are drawn from `images`, disjointly and stratified: each class's share of a split is its
    share of all images, rounded. The draw depends on `labels`, `valid`, `test` and `seed` alone. Within a split
    the images keep their order.

    Args:
        images: uint8 in [0, 255] or floating point in [0, 1], (n, height, width, channels) with any number of channels,
            or (n, height, width) if grey. Arrays of NumPy, JAX or anything that NumPy can convert.
        labels: class indices (n,), or distributions over the classes (n, classes), which are stratified by their
            largest entry.
        class_names: one name for each class; by default "0", "1", ….
        valid: the validation split, as a fraction of the images, a number of images, or a pair (images, labels).
        test: the test split, likewise.
        seed: chooses which images are drawn.

    Raises UserError where the arrays do not fit together, hold other values than these, or would leave a split empty.
    """
    images, labels = _checked(images, labels, "")
    given = {name: share for name, share in (("valid", valid), ("test", test)) if not isinstance(share, Real)}
    splits = {name: ArraySplit(*_pair(share, name, images, labels)) for name, share in given.items()}
    names = _class_names(class_names, {"": labels} | {f"{name} ": split.labels for name, split in splits.items()})

    strata = labels if labels.ndim == 1 else labels.argmax(axis=1)
    asked = {name: share for name, share in (("valid", valid), ("test", test)) if name not in given}
    counts = {name: _count(name, share, len(labels)) for name, share in asked.items()}
    taken = _draw(strata, counts, seed)
    left = np.setdiff1d(np.arange(len(labels)), np.concatenate([*taken.values(), np.zeros(0, int)]))
    if not len(left):
        raise UserError(
            f"valid={valid if 'valid' in asked else '…'} and test={test if 'test' in asked else '…'} leave none of the "
            f"{len(labels)} images for training: lower them"
        )
    for name, indices in taken.items():
        splits[name] = ArraySplit(images[indices], labels[indices])
    train = ArraySplit(images[left], labels[left]) if taken else ArraySplit(images, labels)
    return Dataset(train, splits["valid"], splits["test"], names, provenance={"source": "arrays", "seed": seed})


def _checked(images: Any, labels: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = to_images(images, f"{what}images"), to_labels(labels, f"{what}labels")
    if len(images) != len(labels):
        raise UserError(f"there are {len(images)} {what}images and {len(labels)} {what}labels: give one for each image")
    if not len(images):
        raise UserError(f"there are no {what}images: give at least one")
    return images, labels


def _pair(pair: Any, name: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a split that the caller gave, which must be like the training ones."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UserError(f"{name} must be a fraction, a number of images, or a pair (images, labels)")
    others, other_labels = _checked(*pair, f"{name} ")
    if others.shape[1:] != images.shape[1:] or others.dtype != images.dtype:
        raise UserError(
            f"the {name} images have shape {others.shape[1:]} and type {others.dtype}, and the others "
            f"{images.shape[1:]} and {images.dtype}: bring them to one shape and type"
        )
    if other_labels.ndim != labels.ndim:
        raise UserError(f"the {name} labels and the others must be of one kind: class indices or distributions")
    return others, other_labels


def _class_names(class_names: Sequence[str] | None, labels: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The names of the classes, which must fit all labels."""
    if isinstance(class_names, str | bytes):
        raise UserError(f"class_names={class_names!r} is one string: give a list with one name for each class")
    counts = {what: part.shape[1] if part.ndim == 2 else int(part.max()) + 1 for what, part in labels.items()}
    names = tuple(map(str, range(max(counts.values())) if class_names is None else class_names))
    for what, count in counts.items():
        if labels[what].ndim == 2 and count != len(names):
            raise UserError(
                f"{what}labels are distributions over {count} classes, where there are {len(names)}: give "
                "one column, and one of class_names, for each class"
            )
        if count > len(names):
            raise UserError(
                f"{what}labels contain {count - 1}, where there are {len(names)} class_names: give a name for each "
                f"class, or use labels from 0 to {len(names) - 1}"
            )
    if len(set(names)) < len(names):
        raise UserError("class_names names a class twice: give every class a name of its own")
    if len(names) < 2:
        raise UserError(f"at least two classes are required; found only {', '.join(names) or 'none'}")
    return names


def _count(name: str, share: float | int, size: int) -> int:
    """How many of `size` images `share` means."""
    fraction = isinstance(share, float | np.floating)
    if isinstance(share, bool) or (fraction and not 0 < share < 1) or share <= 0:
        raise UserError(
            f"{name}={share} is neither a fraction between 0 and 1, nor a number of images, nor a pair (images, labels)"
        )
    count = round(share * size) if fraction else int(share)
    if not 0 < count < size:
        raise UserError(f"{name}={share} would take {count} of the {size} images: choose another share")
    return count


def _draw(strata: np.ndarray, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Disjoint sorted indices for each split: classes in proportion, by largest remainders."""
    classes, sizes = np.unique(strata, return_counts=True)
    orders = {
        label: np.flatnonzero(strata == label)[permutation(f"{seed}/arrays/{label}", int(size))]
        for label, size in zip(classes, sizes, strict=True)
    }
    start = dict.fromkeys(orders, 0)
    drawn = {}
    for name, count in counts.items():
        left = np.array([len(order) - start[label] for label, order in orders.items()])
        exact = np.minimum(sizes * count / sizes.sum(), left)
        shares = np.floor(exact).astype(int)
        # A stable sort of the remainders: the earlier class wins. What is used up elsewhere, large classes take over.
        while (missing := min(count, int(left.sum())) - shares.sum()) > 0:
            candidates = np.argsort(-np.where(shares < left, exact - shares, -np.inf), kind="stable")
            candidates = [index for index in candidates if shares[index] < left[index]]
            shares[candidates[:missing]] += 1
        parts = []
        for (label, order), share in zip(orders.items(), shares, strict=True):
            parts.append(order[start[label] : start[label] + share])
            start[label] += share
        drawn[name] = np.sort(np.concatenate(parts))
    return drawn
