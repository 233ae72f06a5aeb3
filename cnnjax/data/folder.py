"""`folder:PATH`: real pictures, one folder a class, or such folders under train, valid and test.

    PATH/cat/1.jpg                     PATH/train/cat/1.jpg
    PATH/dog/1.jpg                     PATH/validation/cat/2.jpg     (or valid, val)
                                       PATH/test/cat/3.jpg

The first is also the layout of Kaggle's cats and dogs (PetImages/Cat, PetImages/Dog). Folders inside a class's folder
belong to the class. Files that are not pictures by their ending, and hidden ones, are ignored.
"""

import hashlib
import os
from pathlib import Path

from cnnjax.cli.config import DataConfig
from cnnjax.data.dataset import Dataset
from cnnjax.data.decode import decode
from cnnjax.data.load_images import Source, assemble
from cnnjax.data.splits import choose, divide
from cnnjax.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif")

_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}


def load(config: DataConfig) -> Dataset:
    """The pictures under the folder that `config.source` names, each side × side.

    Splits that have no folder of their own are drawn from the training pictures, disjoint, by `config.seed`.
    Broken files are left out, replaced by others while there are any, and named in `Dataset.skipped`.
    Raises UserError when the folder or one of its classes is missing or empty, or holds too few pictures.
    """
    place = config.source.partition(":")[2]
    root = Path(place).expanduser().resolve()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"the folder {place} {what}: give --data.source folder:PATH a folder with a folder per class")

    roots = _split_folders(root)
    found = {split: _folders(folder) for split, folder in roots.items()}
    if not found["train"]:
        raise UserError(f"{roots['train']} holds no folders: put the pictures of each class in a folder of its own")
    _check_nesting(root, found["train"])
    names = choose(sorted(found["train"]), config.classes, place)

    pools: dict[str, dict[str, list[str]]] = {}
    stats = hashlib.sha256()
    for split, folders in found.items():
        for extra in sorted(set(folders) - set(found["train"])):
            if not config.classes:
                raise UserError(f"class {extra!r} is in {roots[split]} but not in {roots['train']}: add or remove it")
        pools[split] = {}
        for name in names:
            if name not in folders:
                raise UserError(f"class {name!r} is in {roots['train']} but not in {roots[split]}: add or remove it")
            files = _pictures(folders[name], root)
            if not files:
                raise UserError(
                    f"the folder of class {name!r}, {folders[name]}, holds no pictures ({', '.join(ENDINGS)}): "
                    "fill it or remove it"
                )
            pools[split][name] = [relative for relative, _, _ in files]
            for relative, size, changed in files:
                stats.update(f"{relative}\0{size}\0{changed}\n".encode("utf8", "surrogateescape"))
            if len(files) == 1:
                _check_readable(name, root / files[0][0], config.side)

    draws = divide(pools, config, place)
    source = Source(
        place=place,
        key={"source": "folder", "root": str(root), "files": stats.hexdigest()},
        class_names=names,
        count=sum(len(files) for pool in pools.values() for files in pool.values()),
        draws=lambda: draws,
        read=lambda relative: f"{root}/{relative}",
        describe=str,
    )
    return assemble(source, config)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits; without a train folder that holds folders, all is training pictures."""
    folders = {_SPLITS[name.lower()]: path for name, path in _folders(root).items() if name.lower() in _SPLITS}
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
    """A folder too high up is a likely mistake: say which one was meant."""
    if len(folders) == 1:
        (only,) = folders.values()
        if len(_folders(only)) > 1:
            raise UserError(f"{root} holds one folder, {only.name}, with folders in it: did you mean folder:{only}?")


def _pictures(folder: Path, root: Path) -> list[tuple[str, int, int]]:
    """Every picture file below a class's folder, in an order that does not depend on the file system: its path from
    `root`, its size and the time of its last change.
    """
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                file = Path(parent, name)
                status = file.stat() if file.exists() else os.lstat(file)
                files.append((file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(files)


def _check_readable(name: str, file: Path, side: int) -> None:
    try:
        decode(file, side)
    except Exception as error:  # see gather
        raise UserError(f"the only picture of class {name!r}, {file}, cannot be read ({error}): replace it") from error
