"""What a run was given: its classes, its images and their files, in the run's folder, and what has changed since."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import files
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit, as_split
from cnnjax.data.inventory import Inventory
from cnnjax.errors import UserError

NAME = "data.json"


def keep(folder: Path, class_names: tuple[str, ...], dataset: Dataset) -> None:
    """Write what a run is given into its folder. Raises UserError if that cannot be written."""
    files.write_json(folder / NAME, describe(class_names, dataset), indent=None)


def check(folder: Path, class_names: tuple[str, ...], dataset: Dataset) -> None:
    """Raises UserError, which says what has changed, unless these are the classes and images of the run in the folder.

    A run of an older version, which kept nothing, is only noted down.
    """
    if not (folder / NAME).exists():
        keep(folder, class_names, dataset)
        return
    before, now = _read(folder), describe(class_names, dataset)
    if before["class_names"] != now["class_names"]:
        raise _changed(folder, f"the classes {_names(before)}", f"there are {_names(now)}")
    if before["inventory"] and now["inventory"] and before["inventory"] != now["inventory"]:
        kept, found = (_files(about) for about in (before, now))
        what = f"{len(found - kept)} images were added, {len(kept - found)} are missing or have changed"
        raise UserError(
            f"{folder} was begun with other images ({what}): to use those of the run pass "
            "inventory=train.read_inventory(run_dir) to from_folder, or choose another run_dir"
        )
    for split, old in before["splits"].items():
        new, what = now["splits"][split], {"train": "training", "valid": "validation"}[split]
        if old["count"] != new["count"]:
            raise _changed(folder, f"{old['count']} {what} images", f"there are {new['count']}")
        if old["labels"] != new["labels"]:
            raise _changed(folder, f"other labels of the {what} images", "they have changed")
        # Streamed images are described by their names and statistics, resident ones by their pixels.
        # Features that a network computes depend on the device by rounding.
        if old["kind"] == new["kind"] and not now["computed"] and old["images"] != new["images"]:
            raise _changed(folder, f"other {what} images", "what they show has changed")


def read_inventory(folder: Path) -> Inventory | None:
    """The files that the run in a folder was given; None if it has not begun, or its images come from elsewhere.

    Raises UserError when the list cannot be read.
    """
    if not (folder / NAME).exists():
        return None
    value = _read(folder)["inventory"]
    return Inventory.from_json(value) if value else None


def describe(class_names: tuple[str, ...], dataset: Dataset) -> dict[str, Any]:
    """What `keep` writes."""
    splits = {"train": dataset.train, "valid": dataset.valid}
    return {
        "class_names": list(class_names),
        "source": dataset.provenance.get("source"),
        "computed": bool(dataset.provenance.get("features")),
        "splits": {name: _split(as_split(split)) for name, split in splits.items()},
        "inventory": dataset.inventory.as_json() if dataset.inventory else None,
    }


def _split(split: ArraySplit | LazySplit) -> dict[str, Any]:
    kind = "streamed" if isinstance(split, LazySplit) else "resident"
    images, labels = checksums(split)
    return {"count": len(split), "kind": kind, "images": images, "labels": labels}


def checksums(split: ArraySplit | LazySplit) -> tuple[int, int]:
    """Of the images or, of streamed ones, of what tells them apart; and of the labels."""
    streamed = isinstance(split, LazySplit)
    images = split.images.fingerprint() if streamed else zlib.crc32(np.ascontiguousarray(split.images).data)
    return images, zlib.crc32(np.ascontiguousarray(split.labels).data)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    try:
        value = json.loads(files.read_text(path))
        splits = [value["splits"][name] for name in ("train", "valid")]
        _ = value["class_names"], value["inventory"], [split[key] for split in splits for key in _split_keys()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as the list of a run's data: restore it, or choose another run_dir"
        ) from error
    return value


def _split_keys() -> tuple[str, ...]:
    return "count", "kind", "images", "labels"


def _files(about: dict[str, Any]) -> set[tuple[str, str, str, int]]:
    return {
        (split, name, file, size)
        for split, classes in about["inventory"].items()
        for name, files in classes.items()
        for file, size in files
    }


def _names(about: dict[str, Any]) -> str:
    names = about["class_names"]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _changed(folder: Path, before: str, now: str) -> UserError:
    return UserError(f"{folder} was begun with {before}, and now {now}: restore the data, or choose another run_dir")
