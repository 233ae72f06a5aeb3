"""How a folder of images is arranged: which images belong to which split and class.

Understood are the layouts in which archives of labelled images are published:

    ROOT/cat/1.jpg                     a folder for each class
    ROOT/train/cat/1.jpg               a folder for each split, and in it one for each class
    ROOT/cat/train/1.jpg               a folder for each class, and in it one for each split
    ROOT/train/cat.1.jpg               a folder for each split, the class in the name of the file
    ROOT/cat_1.jpg                     the class in the name of the file

with one or two folders around them that hold nothing else. Folders of splits may be called train, training,
training_set, valid, val, validation, dev, eval, test, test1, testing and the like, and are never classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnnjax.data.folder_doubles import check_distinct, without_copies
from cnnjax.data.folder_labels import check_labels, is_labelled, labelled_files, no_labels
from cnnjax.data.folder_names import (
    ANNOTATIONS,
    SPLIT_WORDS,
    is_never_a_class,
    is_unlabelled,
    split_of,
    splits_by_rest,
)
from cnnjax.data.image_files import ImageFile, images_below, images_in, subfolders
from cnnjax.errors import UserError

Files = dict[str, list[ImageFile]]
"""The name of a class -> its images."""
_SPARE_LEVELS = 16


@dataclass
class FolderLayout:
    """What was found. Raises nothing itself; `find_layout` makes it."""

    splits: dict[str, Files]
    """"train" and, where the folder has them, "valid" and "test" -> class -> images."""
    places: dict[str, Path]
    """The folder of each split; ROOT/*/train where each class has one."""
    labels: str
    """Where the labels come from: "folders" or "file names"."""
    unused: dict[str, int] = field(default_factory=dict)
    """Folders whose images are not used, because they have no labels -> number of images."""
    copies: dict[str, int] = field(default_factory=dict)
    """Folders that hold the same files again as those beside them -> number of images."""
    empty: list[str] = field(default_factory=list)
    """Folders of splits that hold no images."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are not read, counted by their ending."""

    def folder_of(self, name: str, split: str) -> Path:
        """The folder of a class in a split."""
        place = self.places[split]
        return place.parent.parent / name / place.name if place.parent.name == "*" else place / name

    def describe(self) -> str:
        """What was found, in a sentence: "2 classes, 25,000 images; labels from file names"."""
        count = sum(len(files) for split in self.splits.values() for files in split.values())
        parts = [f"{len(self.splits['train'])} classes, {count:,} images; labels from {self.labels}"]
        if len(self.splits) > 1:
            sizes = (f"{split} {sum(map(len, files.values())):,}" for split, files in self.splits.items())
            parts.append(f"splits of its own: {', '.join(sizes)}")
        parts += [
            f"{number:,} images in {name} are not used: they have no labels" for name, number in self.unused.items()
        ]
        parts += [f"{number:,} images in {name} are not used: it is a copy" for name, number in self.copies.items()]
        parts += [f"{name} holds no images" for name in self.empty]
        if self.others:
            parts.append("not read: " + ", ".join(f"{n:,} {ending}" for ending, n in self.others.most_common(5)))
        return "; ".join(parts)


def find_layout(root: Path, classes: Sequence[str] = ()) -> FolderLayout:
    """Look at a folder and everything below it.

    Args:
        root: the folder.
        classes: names that are classes, even those that a split could have.

    Raises UserError when the arrangement is none of those above, could be two of them, or a folder cannot be read.
    """
    place = _inner(root, classes)
    folders = _class_folders(place, classes)
    layout = FolderLayout({}, {}, "folders")
    folders, layout.copies = without_copies(folders, root)
    splits, rest = _split_folders(folders, classes)
    if splits:
        _by_split(layout, root, place, splits, rest, classes)
    elif folders and not is_labelled(place, root):
        for name in [name for name in folders if is_never_a_class(name) and name not in classes]:
            layout.unused[name] = len(images_below(folders.pop(name), root))
        check_distinct(place, folders, classes)
        inside = {name: _split_folders(subfolders(folder), ()) for name, folder in folders.items()}
        by_class = {name: splits for name, (splits, _) in inside.items()}
        considered = {name: splits for name, splits in by_class.items() if not classes or name in classes}
        if any(considered.values()):
            by_class = considered
            _by_class_and_split(layout, root, place, by_class)
            for name in by_class:
                beside = inside[name][1]
                loose = [*images_in(folders[name], root)]
                loose += [file for path in beside.values() for file in images_below(path, root)]
                if loose:
                    layout.others[f"images of {name} in no split"] += len(loose)
            for name in inside.keys() - by_class.keys():
                layout.unused[name] = len(images_below(folders[name], root))
        else:
            layout.splits["train"] = {name: images_below(path, root) for name, path in folders.items()}
            layout.places["train"] = place
            if loose := len(images_in(place, root)):
                layout.unused[f"{place} itself"] = loose
    else:
        layout.labels, layout.places["train"] = "file names", place
        layout.splits["train"] = labelled_files(place, root) or {}
        if not layout.splits["train"]:
            raise UserError(no_labels(place, root))
        check_labels(place, layout.splits["train"])
        for name, path in folders.items():
            if number := len(images_below(path, root)):
                layout.unused[name] = number
    images_below(root, root, layout.others)
    return layout


def _class_folders(place: Path, classes: Sequence[str]) -> dict[str, Path]:
    """The folders in a folder that may be those of classes or splits: all but those of annotations."""
    found = subfolders(place).items()
    return {name: path for name, path in found if name in classes or name.lower() not in ANNOTATIONS}


def _inner(root: Path, classes: Sequence[str]) -> Path:
    """The folder below spare levels: as long as a folder holds one folder and no images, that one."""
    place = root
    for _ in range(_SPARE_LEVELS):
        folders = _class_folders(place, classes)
        if len(folders) > 1:
            filled = {name: path for name, path in folders.items() if images_below(path, root)}
            folders = filled if len(filled) == 1 and _divides(*filled.values(), root) else folders
        if len(folders) != 1 or images_in(place, root):
            break
        ((name, only),) = folders.items()
        if name in classes or (split_of(name) and not _split_folders(subfolders(only), classes)[0]):
            break
        if not subfolders(only) and not is_labelled(only, root):
            break  # a class of its own
        place = only
    return place


def _divides(folder: Path, root: Path) -> bool:
    """Whether a folder holds several classes or splits by itself, perhaps below spare levels."""
    for _ in range(_SPARE_LEVELS):
        filled = [below for below in subfolders(folder).values() if images_below(below, root)]
        if len(filled) != 1 or images_in(folder, root):
            break
        (folder,) = filled
    return len(filled) > 1 or is_labelled(folder, root)


def _split_folders(
    folders: Mapping[str, Path], classes: Sequence[str]
) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """The folders of splits, and the other folders."""
    splits: dict[str, list[Path]] = {}
    rest: dict[str, Path] = {}
    for name, path in folders.items():
        split = None if name in classes else split_of(name)
        if split:
            splits.setdefault(split, []).append(path)
        else:
            rest[name] = path
    told = splits_by_rest(rest)
    if not splits and not rest.keys() & set(classes) and len(told) == 1:  # alphabet_train, alphabet_test
        ((_, named),) = told.items()
        if sum(map(len, named.values())) == len(rest):
            return {split: [rest[name] for name in names] for split, names in named.items()}, {}
    return splits, rest


def _by_split(
    layout: FolderLayout,
    root: Path,
    place: Path,
    splits: Mapping[str, list[Path]],
    rest: Mapping[str, Path],
    classes: Sequence[str],
) -> None:
    """A folder for each split, with folders of classes or with labels in the names of files."""
    _check_rest(layout, root, place, splits, rest)
    if "train" not in splits:
        named = ", ".join(path.name for paths in splits.values() for path in paths)
        raise UserError(
            f"{place} holds {named}, but no folder for training: call one train, or name the folders that are classes "
            "(`classes`)"
        )
    kinds = set()
    for split in (name for name in SPLIT_WORDS if name in splits):
        known = layout.splits.get("train", {})
        found = {path: _classes_in(path, root, layout, known, classes) for path in splits[split]}
        labelled = {path: kind for path, kind in found.items() if kind}
        if len(labelled) > 1:
            raise UserError(
                f"{place} holds more than one folder for the split {split}: {', '.join(p.name for p in labelled)}; "
                "merge them or move one away"
            )
        for path in found.keys() - labelled.keys():
            if split == "train" and not labelled:
                raise UserError(no_labels(path, root))
            if number := len(images_below(path, root)):
                layout.unused[path.name] = number
            else:
                layout.empty.append(path.name)
        for path, (kind, files) in labelled.items():
            layout.splits[split], layout.places[split] = files, path
            kinds.add(kind)
    layout.labels = " and ".join(sorted(kinds))


def _check_rest(
    layout: FolderLayout, root: Path, place: Path, splits: Mapping[str, list[Path]], rest: Mapping[str, Path]
) -> None:
    """Folders beside those of the splits: images for prediction are counted; what could be classes is asked about."""
    classes = []
    for name, path in rest.items():
        number = len(images_below(path, root))
        if not number:
            continue
        if is_unlabelled(name):
            layout.unused[name] = number
        else:
            classes.append(name)
    if classes:
        named = ", ".join(path.name for paths in splits.values() for path in paths)
        raise UserError(
            f"{place} holds folders of splits ({named}) beside folders of images ({', '.join(classes[:5])}): move one "
            "kind away, or name the folders that are classes (`classes`)"
        )


def _classes_in(
    folder: Path, root: Path, layout: FolderLayout, known: Files, classes: Sequence[str]
) -> tuple[str, Files] | None:
    """The classes in the folder of a split and where their names come from, or None if it holds no labels.

    known: the training classes, if these are already found. classes: the names that the caller gave.
    """
    for _ in range(2):  # training_set/training_set/cat
        folders = subfolders(folder)
        if len(folders) != 1 or images_in(folder, root):
            break
        (only,) = folders.values()
        is_again = only.name == folder.name or split_of(only.name) is not None  # cars_train/cars_train
        if not is_again and not subfolders(only) and not is_labelled(only, root):
            break
        folder = only
    folders = _class_folders(folder, tuple(known))
    if labelled := labelled_files(folder, root):
        check_labels(folder, labelled)
        return "file names", labelled
    if not folders or not any(images_below(path, root) for path in folders.values()):
        return None
    check_distinct(folder, folders, classes)
    files = {name: images_below(path, root) for name, path in folders.items()}
    if known and len(files) == 1 and not files.keys() & known.keys():
        return None  # one folder for all, as Keras' generators want it for images without labels
    if loose := images_in(folder, root):
        layout.unused[f"{folder.name} itself"] = len(loose)
    return "folders", files


def _by_class_and_split(
    layout: FolderLayout, root: Path, place: Path, by_class: Mapping[str, Mapping[str, list[Path]]]
) -> None:
    """A folder for each class, and in it one for each split."""
    if without := [name for name, splits in by_class.items() if not splits]:
        named = next(paths[0] for splits in by_class.values() for paths in splits.values())
        raise UserError(
            f"{named} is the folder of a split within that of a class, but {without[0]} has none: divide every class, "
            "or give the folder another name"
        )
    for name, splits in by_class.items():
        for split, paths in splits.items():
            files = [file for path in paths for file in images_below(path, root)]
            layout.splits.setdefault(split, {})[name] = sorted(files)
            layout.places[split] = place / "*" / paths[0].name
    if "train" not in layout.splits:
        raise UserError(f"the folders of the classes in {place} hold no folder for training: call one train")
    layout.splits = {split: layout.splits[split] for split in ("train", "valid", "test") if split in layout.splits}
