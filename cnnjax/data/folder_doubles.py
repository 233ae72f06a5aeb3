"""Folders that are the same as others or may be: copies, links to one folder, names that differ in case only or as
those of copies do, folders that hold folders of the same names, and names that tell a split beside a class."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cnnjax.data.folder_names import split_of, splits_by_rest
from cnnjax.data.image_files import images_below, images_in, subfolders
from cnnjax.errors import UserError

_WORDS = "(?:(?:another|[0-9]+(?:st|nd|rd|th)) )?(?:copy|kopie|copie|copia|cópia|kopia)(?: ?[0-9]+)?"
_COPY = (
    re.compile(rf"(?P<of>.+?)[ _-]*[ _(-](?:{_WORDS})\)?(?: ?\([0-9]+\))?$", re.IGNORECASE),
    re.compile(r"(?P<of>.+?) ?\([0-9]+\)$"),
    re.compile(r"(?:copy|copia|copie|kopie|kopia)(?: ?\([0-9]+\))? (?:of|de|von|av) (?P<of>.+)$", re.IGNORECASE),
)
"""How the file managers of Windows, macOS and Linux call a copy: cat - Copy (2), cat copy 2, cat (another copy)."""


def without_copies(folders: Mapping[str, Path], root: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """The folders without one that holds all the others again, as in some archives (cell_images/cell_images).

    Returns that one's name and number of images, too. Raises UserError where it holds folders of the same names with
    other files in them.
    """
    for name, path in folders.items():
        others = {other: below for other, below in folders.items() if other != name}
        inner = subfolders(path)
        if not others or not others.keys() <= inner.keys() or images_in(path, root):
            continue
        if not any(images_below(inner[other], root) for other in others):
            continue
        if any(_content(inner[other]) != _content(below) for other, below in others.items()):
            if len(others) == 1:  # the class train in the folder test, beside the folder train
                continue
            raise UserError(
                f"{path} holds folders of the same names as those beside it ({', '.join(list(others)[:3])}), with "
                "other files in them: merge them or move one away"
            )
        return others, {name: len(images_below(path, root))}
    return dict(folders), {}


def _content(folder: Path) -> list[tuple[str, int]]:
    return [(file.name, file.size) for file in images_below(folder, folder)]


def check_distinct(place: Path, folders: Mapping[str, Path], classes: Sequence[str]) -> None:
    """Raises UserError for folders in `place` that cannot be two classes.

    These are links to one folder and, unless the caller has named the `classes`, names that differ in case only or
    are those of copies, names that tell a split beside a class, and folders that hold folders of the same names.
    """
    chosen = {name: path for name, path in folders.items() if not classes or name in classes}
    _check_unlike(place, {name: str(path.resolve()) for name, path in chosen.items()}, "are links to one folder")
    if not classes:
        _check_unlike(place, {name: name.lower() for name in chosen}, "differ in case only")
        for splits in splits_by_rest(chosen).values():
            first, second = (names[0] for names in list(splits.values())[:2])
            raise UserError(
                f"the folders {first} and {second} in {place} are called as splits of one class: put the folders of "
                "classes into folders train, valid and test, or name the folders that are classes (`classes`)"
            )
        _check_copied(place, chosen)
        _check_inside(place, chosen)


def _check_copied(place: Path, names: Iterable[str]) -> None:
    """Raises UserError for a folder that is called as file managers call a copy of another one."""
    known = {name.casefold(): name for name in names}
    for name in known.values():
        found = next((match for pattern in _COPY if (match := pattern.match(name))), None)
        other = known.get(found["of"].strip().casefold()) if found else None
        if other is not None and other != name:
            raise UserError(
                f"the folder {name} in {place} is called as a copy of {other}: merge them or move one away, or name "
                "the folders that are classes (`classes`)"
            )


def _check_inside(place: Path, folders: Mapping[str, Path]) -> None:
    """Raises UserError where folders hold folders of the same names: either the outer or the inner ones are classes."""
    inside = {name: _leaves(path) for name, path in folders.items() if subfolders(path)}
    for name, leaves in inside.items():
        for other, others in inside.items():
            both = leaves & others
            if other <= name or len(both) < 2 or 2 * len(both) < min(len(leaves), len(others)):
                continue
            # Many images of one class are often divided into numbered folders.
            if all(leaf.isdigit() for leaf in both) and re.sub(r"\d+", "", name) != re.sub(r"\d+", "", other):
                continue
            raise UserError(
                f"the folders {name} and {other} in {place} both hold folders called {', '.join(sorted(both)[:3])}: "
                f"if these are the classes, give {name} alone or folders train, valid and test of them; if not, name "
                "the folders that are classes (`classes`)"
            )


def _leaves(folder: Path) -> set[str]:
    """The names of the folders below a folder that hold images themselves, but for those of splits."""
    names = {Path(file.name).parent.name for file in images_below(folder, folder)} - {""}
    return {name for name in names if split_of(name) is None}


def _check_unlike(place: Path, folders: Mapping[str, str], what: str) -> None:
    seen: dict[str, str] = {}
    for name, value in folders.items():
        other = seen.setdefault(value, name)
        if other != name:
            raise UserError(
                f"the folders {other} and {name} in {place} {what}: merge them, or name the folders that are classes "
                "(`classes`)"
            )
