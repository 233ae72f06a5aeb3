"""Images in one folder per class, or in such folders under train, valid and test.

    PATH/cat/1.jpg                     PATH/train/cat/1.jpg          PATH/train/cat.1.jpg
    PATH/dog/1.jpg                     PATH/validation/cat/2.jpg     PATH/train/dog.1.jpg
                                       PATH/test/cat/3.jpg           PATH/test1/1.jpg

The first is also the layout of Kaggle's cats and dogs (PetImages/Cat, PetImages/Dog), the last that of Kaggle's
competition Dogs vs. Cats. `folder_layout` says which others are understood. Folders inside a class's folder belong to
the class. Files without the ending of an image file, and hidden ones, are ignored.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from cnnjax import limits
from cnnjax.data.dataset import Dataset
from cnnjax.data.decode import decode
from cnnjax.data.folder_layout import FolderLayout, find_layout
from cnnjax.data.image_files import ENDINGS, ImageFile
from cnnjax.data.inventory import Inventory
from cnnjax.data.load_images import Loading, Source, assemble
from cnnjax.data.splits import Selection, choose, split_dataset
from cnnjax.errors import UserError, missing
from cnnjax.image_size import to_size


def from_folder(
    path: str | Path,
    *,
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
    inventory: Inventory | None = None,
) -> Dataset:
    """The images under a folder, as RGB of one size.

    Splits that have no folder of their own are drawn from the training images, disjointly, by `seed`.
    Broken files are left out, replaced by others while there are any, and named in `Dataset.skipped`.

    Args:
        path: a folder with a folder per class, or with such folders under train, valid (or validation, val) and test,
            or another of the arrangements in `folder_layout`. What was found is a sentence in
            `Dataset.provenance["found"]`.
        image_size: images are resized to this size, one number for squares or (height, width).
        classes: only these classes, in this order; by default all, sorted by name.
        per_class: training images per class; None takes all that are left after validation and test.
        valid: validation images, as a fraction of each class or a number per class. Of a folder of their own, a
            fraction means all.
        test: test images, likewise.
        seed: chooses which images are drawn.
        split_by: "seed" draws exact numbers, anew where images are added. "name" decides by a hash of each file's path
            below the folder, so that no image ever moves to another split.
        adapt: lower `per_class`, `valid` and `test` to what the smallest class has, instead of raising.
        loading: "resident" holds decoded images in memory; "stream" decodes them again for every batch, by workers that
            work ahead; "auto" streams what would take more than a quarter of the free memory. Results do not depend
            on it.
        cache: keep decoded, resized images in the user's cache folder.
        inventory: use exactly these files, which an earlier data set was made of (`Dataset.inventory`).

    Raises UserError when the folder or one of its classes is missing or empty, or holds too few images.
    """
    selection, size, place = Selection(per_class, valid, test, seed, adapt, split_by), to_size(image_size), str(path)
    limits.check_image(size)
    root = check_folder(place)
    if inventory is None:
        layout = find_layout(root, classes)
        names, files = _choose_classes(layout, tuple(classes), place)
        found = layout.describe()
    else:
        names, files = inventory.class_names, inventory.files(root)
        found = f"the {len(names)} classes and {sum(map(len, _everything(files))):,} images that the run was begun with"
        if added := inventory.added(root):
            found = f"{found}; {added:,} others are not used"
    pools = {split: {name: [file.name for file in files[split][name]] for name in names} for split in files}
    everything = [file for some in _everything(files) for file in some]
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
        provenance={"source": f"folder:{place}", "found": found},
        inventory=Inventory.of(files),
    )
    return assemble(source, selection, image_size=size, loading=loading, cache=cache)


def check_folder(path: str) -> Path:
    """The folder's real path. Raises UserError if it is none."""
    root = Path(os.path.realpath(os.path.expanduser(path)))  # pathlib raises for links in a circle and unknown users
    if not root.is_dir():
        remedy = "give a folder with a folder per class"
        if not root.exists():
            raise missing("there is no folder", path, remedy)
        raise UserError(f"the folder {path} is a file: {remedy}")
    return root


def _choose_classes(
    layout: FolderLayout, classes: tuple[str, ...], place: str
) -> tuple[tuple[str, ...], dict[str, dict[str, list[ImageFile]]]]:
    """The names of the classes to use; and split name to class name to files."""
    known, places = layout.splits["train"], layout.places
    names = choose(sorted(known), classes, place)
    files: dict[str, dict[str, list[ImageFile]]] = {}
    for split, found in layout.splits.items():
        extra = sorted(found.keys() - known.keys())
        if extra and not classes:
            raise UserError(f"class {extra[0]!r} is in {places[split]} but not in {places['train']}: add or remove it")
        for name in names:
            if name not in found:
                raise UserError(f"class {name!r} is in {places['train']} but not in {places[split]}: add or remove it")
            if not found[name]:
                raise UserError(
                    f"the folder of class {name!r}, {layout.folder_of(name, split)}, holds no images "
                    f"({', '.join(ENDINGS[:6])}, …): fill it or remove it"
                )
        files[split] = {name: found[name] for name in names}
    return names, files


def _everything(files: dict[str, dict[str, list[ImageFile]]]) -> Iterator[list[ImageFile]]:
    return (some for pool in files.values() for some in pool.values())


def _digest(files: list[ImageFile]) -> str:
    """Changes when a file is added, removed or changed."""
    text = "".join(f"{file.name}\0{file.size}\0{file.changed}\n" for file in files)
    return hashlib.sha256(text.encode("utf8", "surrogateescape")).hexdigest()


def _check_readable(name: str, file: Path, size: tuple[int, int]) -> None:
    try:
        decode(file, size)
    except Exception as error:  # damaged files make Pillow raise exceptions of many kinds
        raise UserError(f"the only image of class {name!r}, {file}, cannot be read ({error}): replace it") from error
