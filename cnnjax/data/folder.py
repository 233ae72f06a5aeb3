"""Images in one folder per class, or in such folders under train, valid and test.

    PATH/cat/1.jpg                     PATH/train/cat/1.jpg
    PATH/dog/1.jpg                     PATH/validation/cat/2.jpg     (or valid, val)
                                       PATH/test/cat/3.jpg

The first is also the layout of Kaggle's cats and dogs (PetImages/Cat, PetImages/Dog). Folders inside a class's folder
belong to the class. Files without the ending of an image file, and hidden ones, are ignored.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnnjax.data.dataset import Dataset
from cnnjax.data.decode import decode
from cnnjax.data.load_images import Loading, Source, assemble
from cnnjax.data.splits import SPLIT_NAMES, Selection, choose, split_dataset
from cnnjax.errors import UserError
from cnnjax.image_size import to_size

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif")


def from_folder(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] = 150,
    classes: Sequence[str] = (),
    per_class: int | None = None,
    valid: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
    loading: Loading = "auto",
    cache: bool = True,
) -> Dataset:
    """The images under a folder, as RGB of one size.

    Splits that have no folder of their own are drawn from the training images, disjointly, by `seed`.
    Broken files are left out, replaced by others while there are any, and named in `Dataset.skipped`.

    Args:
        path: a folder with a folder per class, or with such folders under train, valid (or validation, val) and test.
        image_size: images are resized to this size, one number for squares or (height, width).
        classes: only these classes, in this order; by default all, sorted by name.
        per_class: training images per class; None takes all that are left after validation and test.
        valid: validation images, as a fraction of each class or a number per class. Of a folder of their own, a
            fraction means all.
        test: test images, likewise.
        seed: chooses which images are drawn.
        loading: "resident" holds decoded images in memory; "stream" decodes them again for every batch, by workers that
            work ahead; "auto" streams what would take more than a quarter of the free memory. Results do not depend
            on it.
        cache: keep decoded, resized images in the user's cache folder.

    Raises UserError when the folder or one of its classes is missing or empty, or holds too few images.
    """
    selection, size, place = Selection(per_class, valid, test, seed), to_size(image_size), str(path)
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"the folder {place} {what}: give a folder with a folder per class")
    names, files = _find(root, tuple(classes), place)
    pools = {split: {name: [file.name for file in files[split][name]] for name in names} for split in files}
    everything = [file for pool in files.values() for some in pool.values() for file in some]
    for pool in files.values():
        for name, some in pool.items():
            if len(some) == 1:
                _check_readable(name, root / some[0].name, size)

    samples = split_dataset(pools, selection, place)
    source = Source(
        place=place,
        key={"source": "folder", "root": str(root), "files": _digest(everything)},
        class_names=names,
        count=len(everything),
        samples=lambda: samples,
        read=lambda relative: f"{root}/{relative}",
        provenance={"source": f"folder:{place}"},
    )
    return assemble(source, selection, image_size=size, loading=loading, cache=cache)


class _File(NamedTuple):
    name: str
    """Its path from the root."""
    size: int
    changed: int
    """The time of its last change in nanoseconds."""


def _find(
    root: Path, classes: tuple[str, ...], place: str
) -> tuple[tuple[str, ...], dict[str, dict[str, list[_File]]]]:
    """The names of the classes to use; and split name to class name to files."""
    roots = _split_folders(root)
    found = {split: _folders(folder) for split, folder in roots.items()}
    if not found["train"]:
        raise UserError(f"{roots['train']} holds no folders: put the images of each class into a folder of its own")
    _check_nesting(root, found["train"])
    names = choose(sorted(found["train"]), classes, place)

    files: dict[str, dict[str, list[_File]]] = {}
    for split, folders in found.items():
        for extra in sorted(set(folders) - set(found["train"])):
            if not classes:
                raise UserError(f"class {extra!r} is in {roots[split]} but not in {roots['train']}: add or remove it")
        files[split] = {}
        for name in names:
            if name not in folders:
                raise UserError(f"class {name!r} is in {roots['train']} but not in {roots[split]}: add or remove it")
            files[split][name] = _image_files(folders[name], root)
            if not files[split][name]:
                raise UserError(
                    f"the folder of class {name!r}, {folders[name]}, holds no images ({', '.join(ENDINGS)}): "
                    "fill it or remove it"
                )
    return names, files


def _digest(files: list[_File]) -> str:
    """Changes when a file is added, removed or changed."""
    text = "".join(f"{file.name}\0{file.size}\0{file.changed}\n" for file in files)
    return hashlib.sha256(text.encode("utf8", "surrogateescape")).hexdigest()


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits; without a train folder that holds folders, all images are training images."""
    folders = {SPLIT_NAMES[name.lower()]: path for name, path in _folders(root).items() if name.lower() in SPLIT_NAMES}
    if "train" in folders and _folders(folders["train"]):
        return folders
    return {"train": root}


def _folders(root: Path) -> dict[str, Path]:
    # Archives made on a Mac carry a __MACOSX folder of metadata in files called *.jpg.
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"the folder {root} cannot be read ({error.strerror}): check its permissions") from error
    folders = {entry.name: Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    folders.pop("__MACOSX", None)
    return folders


def _check_nesting(root: Path, folders: dict[str, Path]) -> None:
    """A folder one level too high is a likely mistake: name the one that was probably meant."""
    if len(folders) == 1:
        (only,) = folders.values()
        if len(_folders(only)) > 1:
            raise UserError(f"{root} holds one folder, {only.name}, with folders in it: did you mean {only}?")


def _image_files(folder: Path, root: Path) -> list[_File]:
    """Every image file below a class's folder, in an order that does not depend on the file system."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                file = Path(parent, name)
                status = file.stat() if file.exists() else os.lstat(file)
                files.append(_File(file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(files)


def _check_readable(name: str, file: Path, size: tuple[int, int]) -> None:
    try:
        decode(file, size)
    except Exception as error:  # damaged files make Pillow raise exceptions of many kinds
        raise UserError(f"the only image of class {name!r}, {file}, cannot be read ({error}): replace it") from error
