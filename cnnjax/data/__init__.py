"""Data sets of images: their sources, splits, normalization and augmentation."""

from typing import Any

from cnnjax.data import procedural
from cnnjax.data.arrays import from_arrays
from cnnjax.data.augment import Augment
from cnnjax.data.dataset import ArraySplit, Dataset, LazySplit, Split, as_dataset, as_split, image_shape
from cnnjax.data.folder import from_folder
from cnnjax.data.hub import from_hub
from cnnjax.data.mixup import Mix, cutmix, mixup
from cnnjax.data.normalize import Normalizer, fit_normalizer
from cnnjax.data.tfds import from_tfds
from cnnjax.errors import UserError, unknown

__all__ = [
    "ArraySplit",
    "Augment",
    "Dataset",
    "LazySplit",
    "Mix",
    "Normalizer",
    "Split",
    "as_dataset",
    "as_split",
    "cutmix",
    "fit_normalizer",
    "from_arrays",
    "from_folder",
    "from_hub",
    "from_tfds",
    "image_shape",
    "load",
    "mixup",
    "procedural",
]

_SOURCES = {"folder": from_folder, "tfds": from_tfds, "hub": from_hub}


def load(source: str, **arguments: Any) -> Dataset:
    """The data set that a string names: "procedural", "folder:PATH", "tfds:NAME" or "hub:NAME".

    `arguments` are those of `data.procedural.load`, `data.from_folder`, `data.from_tfds` or `data.from_hub`.
    Raises UserError for another string, and as these do.
    """
    kind, _, name = source.partition(":")
    if source == "procedural":
        return procedural.load(**arguments)
    if kind not in _SOURCES:
        raise unknown("data source", source, ("procedural", *(f"{kind}:…" for kind in _SOURCES)))
    if not name:
        what = "PATH" if kind == "folder" else "NAME"
        raise UserError(f"the data source {source!r} is incomplete: write {kind}:{what}")
    return _SOURCES[kind](name, **arguments)
