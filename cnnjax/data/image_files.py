"""Which files are images, and which folders are looked into: the same for training and for `classify`."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cnnjax.data.folder_names import ANNOTATIONS
from cnnjax.errors import UserError

ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".sgi", ".rgb", ".qoi", ".ico",
)  # fmt: skip
"""Of files that Pillow decodes by itself. Formats for which it starts another program (PostScript) are left out."""

# Folders that systems and editors leave in archives. Hidden ones (.git, .ipynb_checkpoints) are left out as well.
_SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
_MASK = re.compile(r"(.+)[_-]masks?(?:_\d+)?")  # scan1_mask.png beside scan1.png
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


class ImageFile(NamedTuple):
    """A file, and what shows that it has changed."""

    name: str
    """Its path from the root, with forward slashes."""
    size: int
    changed: int
    """The time of its last change in nanoseconds."""


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image: its ending is in `ENDINGS`, and it is not hidden."""
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders in a folder, and links to folders, without hidden ones and those of systems, sorted by name.

    Links that lead back to this folder or to one around it are left out. Raises UserError when the folder cannot be
    read.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    found = (entry for entry in entries if _is_shown(entry.name) and _is_folder(entry) and not _leads_back(entry))
    return {entry.name: Path(entry.path) for entry in found}


def images_in(folder: Path, root: Path, others: Counter[str] | None = None) -> list[ImageFile]:
    """The images directly in a folder, sorted; other files are counted by their ending in `others`.

    An image that is called as another with _mask behind it is the mask of that one, and counted so.
    """
    return sorted(_images(folder, root, others if others is not None else Counter()))


def images_below(folder: Path, root: Path, others: Counter[str] | None = None) -> list[ImageFile]:
    """The images in a folder and in its folders, in an order that does not depend on the file system.

    Links to folders are followed, each folder once. Folders of masks and other annotations, which lie beside those of
    their images, are left out and counted in `others`. Raises UserError for a folder that cannot be read.
    """
    counted = others if others is not None else Counter()
    return sorted(_walk(folder, root, set(), counted))


def _walk(folder: Path, root: Path, seen: set[Path], others: Counter[str]) -> list[ImageFile]:
    real = folder.resolve()
    if real in seen:  # a link to a folder above
        return []
    seen.add(real)
    found = list(_images(folder, root, others))
    beside: list[tuple[str, list[ImageFile]]] = []
    for name, below in subfolders(folder).items():
        counted = Counter() if name.lower() in ANNOTATIONS else others
        images = _walk(below, root, seen, counted)
        if name.lower() in ANNOTATIONS:
            others += counted
            beside.append((name, images))
        else:
            found += images
    if not found:  # these are the images themselves
        return [file for _, images in beside for file in images]
    for name, images in beside:
        if images:
            others[f"in folders called {name}"] += len(images)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for links that lead in a circle or to where this user may not look: files that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _images(folder: Path, root: Path, others: Counter[str]) -> Iterator[ImageFile]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from error
    stems = {Path(entry.name).stem for entry in entries}
    for entry in entries:
        if _is_folder(entry) or entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing: named as a file that cannot be read
            status = entry.stat(follow_symlinks=False)
        mask = _MASK.fullmatch(Path(entry.name).stem)
        if mask and mask[1] in stems and is_image(entry.name):
            others["masks of other images"] += 1
            continue
        # A pipe would be waited for, and a device may never end.
        if is_image(entry.name) and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            yield ImageFile(Path(entry.path).relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)
        else:
            others[Path(entry.name).suffix.lower() or "without an ending"] += 1


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether this is a link to the folder that it is in, or to one around it: it adds no image of its own."""
    if not entry.is_symlink():
        return False
    return Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _SYSTEM


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"the folder {folder} cannot be read ({error.strerror}): check its permissions")
