"""Image classification sets of the Hugging Face Hub, or files in its formats, through `datasets` (the extra `hub`).

They are downloaded to, and read from, the cache of `datasets`: $HF_HOME, or ~/.cache/huggingface.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnnjax.data.dataset import Dataset
from cnnjax.data.load_images import Loading, Source, assemble, brief
from cnnjax.data.splits import SPLIT_NAMES, ClassSample, Selection, choose, group_by_class, row_of, split_dataset
from cnnjax.errors import UserError
from cnnjax.image_size import to_size


def from_hub(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | tuple[int, int] = 150,
    classes: Sequence[str] = (),
    per_class: int | None = None,
    valid: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
    split_by: Literal["seed", "name"] = "seed",
    adapt: bool = False,
    loading: Loading = "auto",
    cache: bool = True,
) -> Dataset:
    """The images of a set on the Hugging Face Hub, as RGB of one size, downloaded if necessary.

    The set's own validation and test splits are used if it has them; one that it lacks is drawn from its training
    images, disjointly, by `seed`. Images without a label are left out. A class is a name of the set's ClassLabel or,
    if its labels are plain text or numbers, one of their values.

    Args:
        name: the set's name on the Hub, or a local folder that `datasets.load_dataset` can read.
        config: the name of the set's configuration, if it has several.
        revision: the set's version, as a branch, a tag or a commit.
        image_size, classes, per_class, valid, test, seed, split_by, adapt, loading, cache: as
            in `from_folder`.

    Raises UserError where `datasets` is not installed, and for a set that is unknown, cannot be loaded, or is not for
    image classification.
    """
    selection, size, place = (
        Selection(per_class, valid, test, seed, adapt, split_by),
        to_size(image_size),
        f"hub:{name}",
    )
    splits = _splits(_loaded(name, config, revision), place)
    image, label = _columns(splits["train"][1].features, place)
    labels = {split: functools.cache(lambda table=table: _labels(table, label)) for split, (_, table) in splits.items()}
    names = choose(_class_names(splits["train"][1].features[label], labels["train"]), tuple(classes), place)

    @functools.cache
    def samples() -> Mapping[str, Mapping[str, ClassSample]]:
        pools = {split: group_by_class(labels[split](), own, names) for split, (own, _) in splits.items()}
        labelled = {split: pool for split, pool in pools.items() if split == "train" or any(pool.values())}
        return split_dataset(labelled, selection, place)

    source = Source(
        place=place,
        key={
            "source": "hub",
            "name": name,
            "config": config,
            "revision": revision,
            "splits": {own: [len(table), getattr(table, "_fingerprint", "")] for own, table in splits.values()},
        },
        class_names=names,
        count=sum(len(table) for _, table in splits.values()),
        samples=samples,
        read=_Reader({own: _encoded(table, image) for own, table in splits.values()}, image),
        provenance={"source": place, "config": config, "revision": revision},
    )
    return assemble(source, selection, image_size=size, loading=loading, cache=cache)


def _loaded(name: str, config: str | None, revision: str | None) -> Any:
    """The splits of a set by the set's own names."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"hub:{name} needs the package datasets: pip install 'cnnjax[hub]'") from error
    try:
        return datasets.load_dataset(name, config, revision=revision)
    except ConnectionError as error:
        raise UserError(
            f"hub:{name} cannot be downloaded ({brief(error)}): check the name and the network, or copy the set to a "
            "local folder and give its path"
        ) from error
    except Exception as error:  # every format fails in its own way
        raise UserError(f"hub:{name} cannot be loaded: {brief(error)}") from error


def _splits(tables: Mapping[str, Any], place: str) -> dict[str, tuple[str, Any]]:
    """Our names of the splits to the set's own names and tables."""
    splits = {SPLIT_NAMES[own]: (own, table) for own, table in tables.items() if own in SPLIT_NAMES}
    if "train" not in splits and len(tables) == 1:
        splits = {"train": next(iter(tables.items()))}
    if "train" not in splits:
        raise UserError(f"{place} has no split 'train', only {', '.join(tables)}: choose another set or config")
    return splits


def _columns(features: Mapping[str, Any], place: str) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not labels:
        dtypes = {name: str(getattr(feature, "dtype", "")) for name, feature in features.items()}
        plain = [name for name, dtype in dtypes.items() if dtype == "string" or dtype.startswith(("int", "uint"))]
        labels = [name for name in plain if name in ("label", "labels", "class")]
    images.sort(key=lambda name: name not in ("image", "img"))
    labels.sort(key=lambda name: name not in ("label", "labels"))
    if not images or not labels:
        raise UserError(
            f"{place} is not an image classification set: its columns are {', '.join(features)}; choose a set with a "
            "column of images and a column of class labels"
        )
    return images[0], labels[0]


def _labels(table: Any, label: str) -> list[str | None]:
    """The name of each row's class; None where there is none."""
    values = table.select_columns([label])[:][label]
    names = getattr(table.features[label], "names", None)
    if names is None:
        return [None if value is None else str(value) for value in values]
    return [names[value] if value is not None and value >= 0 else None for value in values]


def _class_names(feature: Any, labels: Any) -> list[str]:
    names = getattr(feature, "names", None)
    return list(names) if names else sorted({value for value in labels() if value is not None})


def _encoded(table: Any, image: str) -> Any:
    """The column of images alone, not decoded."""
    import datasets

    return table.select_columns([image]).cast_column(image, datasets.Image(decode=False))


@dataclass(frozen=True)
class _Reader:
    """Reads the encoded image of a candidate, SPLIT[ROW]; another process gets a copy."""

    tables: Mapping[str, Any]
    image: str

    def __call__(self, candidate: str) -> bytes | str:
        split, row = row_of(candidate)
        found = self.tables[split][row][self.image]
        return found["path"] if found["bytes"] is None else bytes(found["bytes"])
