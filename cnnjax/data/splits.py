"""Which pictures go to which split: disjoint, per class, and the same for a seed on every machine."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax.cli.config import DataConfig
from cnnjax.errors import UserError, unknown


class Draw(NamedTuple):
    """One class in one split: the first `wanted` of `candidates`; those after are spare, for broken ones."""

    candidates: tuple[Any, ...]
    wanted: int


def choose(known: Sequence[str], asked: tuple[str, ...], place: str) -> tuple[str, ...]:
    """The classes to use: those `asked` for in that order, or all that are `known`, sorted.

    Raises UserError for a class that is not there, one named twice, and fewer than two.
    """
    for name in asked:
        if name not in known:
            raise unknown("class", name, sorted(known))
    if len(set(asked)) < len(asked):
        raise UserError(f"--data.classes names a class twice: {', '.join(asked)}")
    names = asked or tuple(sorted(known))
    if len(names) < 2:
        raise UserError(f"{place}: one class ({names[0]}) is nothing to tell apart: give two classes or more")
    return names


def divide(
    pools: Mapping[str, Mapping[str, Sequence[Any]]], config: DataConfig, place: str
) -> dict[str, dict[str, Draw]]:
    """Draws the splits "train", "valid" and "test": split name to class name to `Draw`.

    `pools` holds each class's pictures, in an order that is the same everywhere, under "train" and, if the source has
    such splits of its own, under "valid" and "test". A split that it lacks is cut off the training pictures:
    validation first, then test, so that these stay what they are when `per_class` changes.
    Raises UserError when a class has too few pictures for what `config` asks.
    """
    asked = {"valid": config.eval_per_class, "test": config.eval_per_class, "train": config.per_class}
    draws: dict[str, dict[str, Draw]] = {"train": {}, "valid": {}, "test": {}}
    for pool, classes in pools.items():
        splits = [split for split in asked if split == pool or (pool == "train" and split not in pools)]
        for name, pictures in classes.items():
            needed = sum(asked[split] or 1 for split in splits)
            if len(pictures) < needed:
                raise _too_few(name, len(pictures), needed, splits, config, place)
            order = [pictures[index] for index in _permutation(f"{config.seed}/{pool}/{name}", len(pictures))]
            wanted = [asked[split] for split in splits]
            if 0 in wanted:  # training takes all that is left, without spares
                wanted[wanted.index(0)] = len(order) - sum(wanted)
            taken, start = sum(wanted), 0
            spare = order[taken:]
            for split, count in zip(splits, wanted, strict=True):
                # Spares are dealt out beforehand, so that what one split finds broken never moves another.
                first, last = (len(spare) * edge // taken for edge in (start, start + count))
                draws[split][name] = Draw((*order[start : start + count], *spare[first:last]), count)
                start += count
    return draws


def _permutation(text: str, count: int) -> list[int]:
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16])).permutation(count).tolist()


def _too_few(name: str, count: int, needed: int, splits: list[str], config: DataConfig, place: str) -> UserError:
    purposes = {
        "train": f"{config.per_class or 'at least 1'} for training",
        "valid": f"{config.eval_per_class} for validation",
        "test": f"{config.eval_per_class} for test",
    }
    flags = ["--data.eval-per-class"] if splits != ["train"] else []
    if "train" in splits and config.per_class:
        flags = ["--data.per-class", *flags]
    wishes = ", ".join(purposes[split] for split in sorted(splits, key=list(purposes).index))
    return UserError(
        f"{place}: class {name!r} has {count} picture{'s' * (count != 1)} where {needed} are needed ({wishes}): "
        f"lower {' or '.join(flags)}"
    )
