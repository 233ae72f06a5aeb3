"""Which images go to which split: disjoint, per class, and the same for a seed on every machine."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import numpy as np

from cnnjax.errors import UserError, unknown

SPLIT_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
"""What sources call their splits, and what this package calls them."""


@dataclass(frozen=True)
class Selection:
    """How many images of each class a source gives. Raises UserError for numbers that make no sense."""

    per_class: int | None = None
    """Training images per class; None takes all that are left after validation and test."""
    valid: float | int = 0.2
    """Validation images: a number per class, or a fraction of each class. A fraction of a split that the source itself
    divides off means all of it."""
    test: float | int = 0.2
    """Test images, likewise."""
    seed: int = 0
    """Chooses which images are drawn."""
    adapt: bool = False
    """Lower the numbers to what the smallest class has, instead of raising; see `adapted`."""
    split_by: Literal["seed", "name"] = "seed"
    """"seed" draws exact numbers from each class. "name" assigns every image by a hash of its name, so that images that
    are added later move no other one: `valid` and `test` are shares of the hashes (a fifth, where they are numbers),
    and a number is the most images of its share that are used."""

    def __post_init__(self) -> None:
        for name in ("per_class", "valid", "test"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"per_class={self.per_class} must be at least 1, or None for all images that are left")
        for name in ("valid", "test"):
            share = getattr(self, name)
            if isinstance(share, bool) or not (0 < share < 1 if isinstance(share, float) else share >= 1):
                raise UserError(
                    f"{name}={share} must be a fraction between 0 and 1, or a number of images per class (at least 1)"
                )
        if self.split_by not in ("seed", "name"):
            raise unknown("way to split", self.split_by, ("seed", "name"))

    def count(self, split: str, size: int, own: bool) -> int:
        """How many of the `size` images of a class "valid" or "test" takes; `own`: they are that split's alone."""
        share = getattr(self, split)
        if isinstance(share, int):
            return share
        return size if own else max(1, round(share * size))


def _plain(number: Any) -> Any:
    """A number of NumPy as one of Python: what is a number of images and what a fraction is decided by the type."""
    if isinstance(number, bool) or not isinstance(number, Real):
        return number
    return int(number) if isinstance(number, Integral) else float(number)


def adapted(pools: Mapping[str, Mapping[str, Sequence[Any]]], selection: Selection) -> Selection:
    """The selection, with numbers that the smallest class of each pool has; see `split_dataset` for `pools`.

    Of a split of its own, all images are taken if a class has fewer than asked for. Splits that are drawn from too few
    training images get at most a fifth of the smallest class each, and training at most the rest.
    """
    smallest = {split: min(map(len, classes.values())) for split, classes in pools.items()}
    changes: dict[str, Any] = {}
    for split in ("valid", "test"):
        share = getattr(selection, split)
        if split in pools and isinstance(share, int) and share > smallest[split]:
            changes[split] = 0.5  # any fraction of a split of its own is all of it
    size = smallest["train"]
    drawn = [split for split in ("valid", "test") if split not in pools]
    counts = {split: selection.count(split, size, False) for split in drawn}
    if (selection.per_class or 1) + sum(counts.values()) > size:
        changes |= {split: min(count, max(1, round(0.2 * size))) for split, count in counts.items()}
        left = size - sum(changes[split] for split in drawn)
        changes["per_class"] = selection.per_class and max(1, min(selection.per_class, left))
    return replace(selection, **changes)


class ClassSample(NamedTuple):
    """One class in one split: the first `wanted` of `candidates`; those after are spare, to replace broken ones."""

    candidates: tuple[Any, ...]
    wanted: int


def choose(known: Sequence[str], classes: tuple[str, ...], place: str) -> tuple[str, ...]:
    """The classes to use: `classes` in that order, or all that are `known`, sorted.

    Raises UserError for a class that is not there, one named twice, and fewer than two.
    """
    for name in classes:
        if name not in known:
            raise unknown("class", name, sorted(known))
    if len(set(classes)) < len(classes):
        raise UserError(f"classes={tuple(classes)} names a class twice: name each once")
    names = tuple(classes) or tuple(sorted(known))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise UserError(f"{place}: at least two classes are required; found {found}")
    return names


def split_dataset(
    pools: Mapping[str, Mapping[str, Sequence[Any]]], selection: Selection, place: str
) -> dict[str, dict[str, ClassSample]]:
    """Draws the splits "train", "valid" and "test": split name to class name to `ClassSample`.

    `pools` holds each class's images, in an order that is the same everywhere, under "train" and, if the source has
    such splits of its own, under "valid" and "test". A split that it lacks is drawn from the training images:
    validation first, then test, so that these do not change with `per_class`.
    Raises UserError when a class has too few images for the selection.
    """
    if selection.split_by == "name":
        return split_by_name(pools, selection, place)
    if selection.adapt:
        selection = adapted(pools, selection)
    samples: dict[str, dict[str, ClassSample]] = {"train": {}, "valid": {}, "test": {}}
    for pool, classes in pools.items():
        splits = [
            split for split in ("valid", "test", "train") if split == pool or (pool == "train" and split not in pools)
        ]
        for name, images in classes.items():
            size = len(images)
            counts = {
                split: (selection.per_class or 0) if split == "train" else selection.count(split, size, split == pool)
                for split in splits
            }
            needed = sum(count or 1 for count in counts.values())
            if size < needed:
                raise _too_few(name, size, needed, counts, place)
            order = [images[index] for index in permutation(f"{selection.seed}/{pool}/{name}", size)]
            if counts.get("train") == 0:  # training takes all that is left, without spares
                counts["train"] = size - sum(counts.values())
            taken, start = sum(counts.values()), 0
            spare = order[taken:]
            for split, count in counts.items():
                # Spares are assigned beforehand, so that broken images of one split never change another.
                first, last = (len(spare) * edge // taken for edge in (start, start + count))
                samples[split][name] = ClassSample((*order[start : start + count], *spare[first:last]), count)
                start += count
    return samples


def split_by_name(
    pools: Mapping[str, Mapping[str, Sequence[Any]]], selection: Selection, place: str
) -> dict[str, dict[str, ClassSample]]:
    """`split_dataset` for `Selection.split_by` "name": the split of an image depends on its name and the seed alone.

    Raises UserError where a split would have fewer images of a class than asked for (with `adapt`: none).
    """
    shares = {split: getattr(selection, split) for split in ("valid", "test")}
    edges = {split: share if isinstance(share, float) else 0.2 for split, share in shares.items() if split not in pools}
    if sum(edges.values()) >= 1:
        raise UserError(f"valid={selection.valid} and test={selection.test} leave no images for training: lower them")
    samples: dict[str, dict[str, ClassSample]] = {"train": {}, "valid": {}, "test": {}}
    for pool, classes in pools.items():
        for name, images in classes.items():
            found: dict[str, list[tuple[float, Any]]] = {split: [] for split in (edges if pool == "train" else ())}
            found[pool] = []
            for image in images:
                number = _hash(f"{selection.seed}/{pool}/{image}")
                found[_share(number, edges) if pool == "train" else pool].append((number, image))
            for split, some in found.items():
                asked = shares.get(split, selection.per_class)
                wanted = asked if isinstance(asked, int) else len(some)
                if not some or (wanted > len(some) and not selection.adapt):
                    raise UserError(
                        f"{place}: the hashes of their names give {len(some)} of the {len(images)} images of class "
                        f"{name!r} to the split {split}, where {wanted or 1} are needed: lower the number, add images "
                        "or use split_by='seed'"
                    )
                samples[split][name] = ClassSample(tuple(image for _, image in sorted(some)), min(wanted, len(some)))
    return samples


def _share(number: float, edges: Mapping[str, float]) -> str:
    """The split in whose part of [0, 1) a number is: first those in `edges`, which are widths, then training."""
    edge = 0.0
    for split, width in edges.items():
        edge += width
        if number < edge:
            return split
    return "train"


def _hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf8", "surrogateescape")).digest()[:7]) / 2**56


def group_by_class(labels: Iterable[str | None], own: str, classes: Sequence[str]) -> dict[str, list[str]]:
    """Candidates "OWN[ROW]" by class, for the rows of a source's split `own` that have one of these labels."""
    found: dict[str, list[str]] = {name: [] for name in classes}
    for row, label in enumerate(labels):
        if label in found:
            found[label].append(f"{own}[{row}]")
    return found


def row_of(candidate: str) -> tuple[str, int]:
    """The source's split and the row that a candidate "OWN[ROW]" names."""
    own, _, row = candidate[:-1].rpartition("[")
    return own, int(row)


def permutation(text: str, count: int) -> list[int]:
    """A random order of `count` things that is a function of `text` alone."""
    digest = hashlib.sha256(text.encode("utf8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16])).permutation(count).tolist()


def _too_few(name: str, size: int, needed: int, counts: Mapping[str, int], place: str) -> UserError:
    purposes = {"train": "training", "valid": "validation", "test": "test"}
    wishes = [f"{counts[split] or 'at least 1'} for {what}" for split, what in purposes.items() if split in counts]
    start = (
        f"{place}: class {name!r} has {size} image{'s' * (size != 1)} where {needed} are needed ({', '.join(wishes)})"
    )
    if needed <= len(wishes):  # one for each: nothing can be lowered
        return UserError(f"{start}: add images of it, or name the classes that are to be used (`classes`)")
    arguments = [f"`{argument}`" for argument in ("valid", "test") if argument in counts]
    arguments = ["`per_class`", *arguments] if counts.get("train") else arguments
    return UserError(f"{start}: lower {', '.join(arguments[:-1])}{' or ' * (len(arguments) > 1)}{arguments[-1]}")
