"""Data sets and their splits: images with labels, resident in memory or decoded on demand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt8

from cnnjax import files, runtime
from cnnjax.data.inventory import Inventory
from cnnjax.data.lazy_images import LazyImages
from cnnjax.data.split_images import SplitImages, read_split
from cnnjax.errors import UserError

Images = UInt8[np.ndarray | Array, "n height width channels"] | Float32[np.ndarray | Array, "n height width channels"]
"""uint8 in [0, 255] or float32 in [0, 1]."""
Labels = Int32[np.ndarray | Array, " n"] | Float32[np.ndarray | Array, "n classes"]
"""Class indices or, for each image, a distribution over the classes."""


@runtime_checkable
class Split(Protocol):
    """What a data set's split must provide: a length, and examples by their index.

    An example is a mapping with "image", an array (height, width, channels) or (height, width) that is uint8 in
    [0, 255] or floating point in [0, 1], and "label", a class index or a distribution (classes,). All images have the
    same shape. Examples are read by several threads at once, and may be read in any order and repeatedly.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Examples(NamedTuple):
    """Images and labels of some examples, such as a batch. Leading axes may be added."""

    images: Any
    labels: Any


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class ArraySplit:
    """A split that is resident in memory, as arrays of NumPy or JAX. A pytree."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | np.integer) -> dict[str, Any]:
        index = _checked(index, len(self))
        return {"image": self.images[index], "label": self.labels[index]}

    def __repr__(self) -> str:
        return _short(self)

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        keys = [jax.tree_util.GetAttrKey(name) for name in ("images", "labels")]
        return tuple(zip(keys, (self.images, self.labels), strict=True)), None

    def tree_flatten(self) -> tuple[Any, None]:
        return (self.images, self.labels), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> "ArraySplit":
        split = object.__new__(cls)  # JAX unflattens placeholders too, so nothing is checked here
        for name, leaf in zip(("images", "labels"), leaves, strict=True):
            object.__setattr__(split, name, leaf)
        return split


@dataclass(frozen=True, eq=False)
class LazySplit:
    """A split that is streamed: its images are decoded or read when they are indexed; its labels are in memory."""

    images: LazyImages | SplitImages
    labels: Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | np.integer) -> dict[str, Any]:
        index = _checked(index, len(self))
        return {"image": self.images[index], "label": self.labels[index]}

    def __repr__(self) -> str:
        return _short(self)


def _checked(index: int | np.integer, size: int) -> int:
    """A valid index, counted from the start. JAX's arrays would clamp another one."""
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for a split of {size} examples")
    return int(index) % size


def _short(split: ArraySplit | LazySplit) -> str:
    images = split.images
    shape = " × ".join(str(size) for size in getattr(images, "shape", ())[1:])
    return f"{type(split).__name__}({len(split)} images, {shape}, {getattr(images, 'dtype', '?')})"


_SPLITS = ("train", "valid", "test")


class Dataset:
    """Disjoint splits of one source, each an object of the `Split` protocol.

    Attributes:
        train: the training split.
        valid: the validation split.
        test: the test split. It may be given as a function without arguments, which is called when it is first needed.
        class_names: one name for each class.
        skipped: names of files that cannot be read and were left out of training and validation.
        provenance: where the images come from, JSON-able; "source" is "arrays", "folder:PATH", "tfds:NAME", "hub:NAME",
            "procedural" or, by default and once a split is replaced, "custom".
        inventory: which files a folder's images were drawn from; None for other sources.
    """

    def __init__(
        self,
        train: Split,
        valid: Split,
        test: Split | Callable[[], Split],
        class_names: tuple[str, ...],
        skipped: tuple[str, ...] = (),
        provenance: Mapping[str, Any] | None = None,
        inventory: Inventory | None = None,
    ) -> None:
        self.train = train
        self.valid = valid
        self._test = test
        self.class_names = tuple(class_names)
        self.skipped = tuple(skipped)
        self.inventory = inventory
        self.provenance = dict(provenance or {"source": "custom"})
        files.check_json(self.provenance, "a data set's provenance")

    def __setattr__(self, name: str, value: Any) -> None:
        """A split that is assigned no longer comes from where the provenance says."""
        if name in _SPLITS and "provenance" in self.__dict__:
            self.provenance, self.inventory = _replaced(self.provenance, [name]), None
            name = "_test" if name == "test" else name
        object.__setattr__(self, name, value)

    @property
    def test(self) -> Split:
        """The test split, loaded when it is first asked for."""
        if not isinstance(self._test, Split):
            self._test = self._test()
        return self._test

    def replace(self, **changes: Any) -> "Dataset":
        """A copy with the named attributes changed. A test split that is not yet loaded stays so.

        With another split the source is "custom", unless `provenance` is given, and no inventory tells its files.
        """
        own = {
            name: getattr(self, name)
            for name in ("train", "valid", "class_names", "skipped", "provenance", "inventory")
        }
        if replaced := [name for name in _SPLITS if name in changes]:
            own |= {"provenance": _replaced(self.provenance, replaced), "inventory": None}
        return Dataset(**{**own, "test": self._test, **changes})

    def __repr__(self) -> str:
        loaded = isinstance(self._test, Split)
        names = ", ".join(self.class_names[:4]) + (", …" if len(self.class_names) > 4 else "")
        return (
            f"Dataset({self.provenance.get('source')}: {len(self.class_names)} classes ({names}), "
            f"{_describe_images(self.train)}train {len(self.train)}, valid {len(self.valid)}, "
            f"test {len(self._test) if loaded else 'not loaded yet'}"
            f"{_without_images(self.train, self.class_names)})"
        )


def _describe_images(split: Split) -> str:
    """The shape of a split's images, and a comma; nothing where it is not known without reading an example."""
    shape = getattr(getattr(split, "images", None), "shape", ())
    return f"images {' × '.join(str(size) for size in shape[1:])}, " if len(shape) == 4 else ""


def _without_images(split: Split, names: tuple[str, ...]) -> str:
    """A note on classes of which a split in memory has no image: often, labels that count from 1."""
    labels = getattr(split, "labels", None)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1:
        return ""
    found = np.bincount(labels[labels >= 0], minlength=len(names))
    missing = [name for name, number in zip(names, found, strict=False) if not number]
    listed = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
    return f"; no training images of {listed}" if missing else ""


def _replaced(provenance: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The provenance of a data set with other splits of these names."""
    before = provenance.get("replaced", [])
    made_from = provenance["made from"] if before else dict(provenance)
    return {"source": "custom", "replaced": list(dict.fromkeys([*before, *names])), "made from": made_from}


def image_shape(split: Split) -> tuple[int, int, int]:
    """The shape (height, width, channels) of a split's images."""
    if isinstance(split, ArraySplit | LazySplit):
        return tuple(int(size) for size in split.images.shape[1:])
    if not len(split):
        raise UserError("the split is empty, so the shape of its images is unknown: give at least one example")
    return SplitImages.example(split, 0)[0].shape


def fits_in_memory(size: int) -> bool:
    """Whether `size` bytes are at most a quarter of the free memory, of the host or of an accelerator."""
    return size <= runtime.free_memory() * 0.25


def as_split(split: Split) -> ArraySplit | LazySplit:
    """A split of any kind as one that training can use.

    One of this package is returned as it is. Any other is read once, by several threads: if its images fit into a
    quarter of the free memory they become resident, else they are streamed, that is, read again by the split's own
    `__getitem__` whenever they are needed.

    Raises UserError for an empty split, arrays of other types or shapes than `ArraySplit` has, and an example that is
    not as `Split` says or unlike the first one.
    """
    if isinstance(split, ArraySplit):
        _check_arrays(split)
    if not isinstance(split, Split):
        raise UserError(
            f"a split must have __len__ and __getitem__, and {type(split).__name__} has not: use data.from_arrays, or "
            "see data.Split"
        )
    if not len(split):
        raise UserError("the split is empty: give at least one example")
    if isinstance(split, ArraySplit | LazySplit):
        return split
    images, labels = read_split(split, fits_in_memory)
    return LazySplit(images, labels) if isinstance(images, SplitImages) else ArraySplit(images, labels)


def _check_arrays(split: ArraySplit) -> None:
    """The arrays' types and shapes; `from_arrays` also looks at what they hold."""
    images, labels = split.images, split.labels
    kinds = images.dtype in (np.uint8, np.float32) and labels.dtype == (np.int32 if labels.ndim == 1 else np.float32)
    if not kinds or images.ndim != 4 or labels.ndim not in (1, 2) or len(images) != len(labels):
        raise UserError(
            f"an ArraySplit with images {images.dtype}{list(images.shape)} and labels "
            f"{labels.dtype}{list(labels.shape)} cannot be used: build it with data.from_arrays, which converts them"
        )


def as_dataset(dataset: Any) -> Dataset:
    """Any object with `train`, `valid` and `test` splits as a `Dataset` whose splits training can use (`as_split`).

    Its `class_names` are used if it has them; else classes are named by their numbers. A test split that is
    not yet loaded is only looked at when it is asked for. Raises UserError where a split is missing, its labels do not
    fit the class names, or its images have another shape than those for training.
    """

    def has(name: str) -> bool:
        # What an object passes on from another one says nothing of its own splits.
        return hasattr(type(dataset), name) or name in getattr(dataset, "__dict__", {})

    missing = [name for name in _SPLITS if not has(name)]
    if missing:
        raise UserError(f"the data set has no split {missing[0]!r}: give an object with train, valid and test")
    train, valid = as_split(dataset.train), as_split(dataset.valid)
    names = getattr(dataset, "class_names", None)
    if names is None:
        names = tuple(map(str, range(_num_classes(train.labels))))
    names = tuple(names)

    def test() -> ArraySplit | LazySplit:
        split = _checked_labels(as_split(dataset.test), names, "test")
        _check_shape(train, split, "test")
        return split

    _checked_labels(train, names, "training")
    _checked_labels(valid, names, "validation")
    _check_alike(train, valid)
    others = {name: getattr(dataset, name) for name in ("skipped", "provenance", "inventory") if has(name)}
    if not isinstance(others.get("provenance", {}), Mapping):
        kind = type(others["provenance"]).__name__
        raise UserError(f"the data set's provenance must be a dict, such as {{'source': …}}, and not {kind}")
    given = getattr(dataset, "__dict__", {}).get("_test" if isinstance(dataset, Dataset) else "test")
    # One that is there already costs nothing to check.
    return Dataset(train, valid, test() if isinstance(given, ArraySplit | LazySplit) else test, names, **others)


def _check_shape(train: ArraySplit | LazySplit, other: ArraySplit | LazySplit, what: str) -> None:
    if image_shape(train) != image_shape(other):
        raise UserError(
            f"the training images have shape {image_shape(train)} and the {what} images {image_shape(other)}: "
            "resize them to one shape"
        )


def _check_alike(train: ArraySplit | LazySplit, valid: ArraySplit | LazySplit) -> None:
    _check_shape(train, valid, "validation")
    if train.images.dtype != valid.images.dtype:
        raise UserError(
            f"the training images are {train.images.dtype} and the validation images {valid.images.dtype}: convert "
            "them to one type"
        )


def _num_classes(labels: Any) -> int:
    return labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1


def _checked_labels(split: ArraySplit | LazySplit, names: tuple[str, ...], what: str) -> ArraySplit | LazySplit:
    labels = split.labels
    if labels.ndim == 2 and labels.shape[1] != len(names):
        raise UserError(
            f"the {what} labels are distributions over {labels.shape[1]} classes, and class_names has {len(names)}: "
            "give one name for each class"
        )
    if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= len(names)):
        wrong = labels.max() if labels.max() >= len(names) else labels.min()
        raise UserError(
            f"the {what} labels contain {int(wrong)}, and there are {len(names)} class names: use labels from 0 to "
            f"{len(names) - 1}"
        )
    return split
