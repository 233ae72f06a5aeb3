"""Labels in the names of files: cat.0.jpg and dog.0.jpg in one folder."""

from collections.abc import Iterable
from pathlib import Path

from cnnjax.data.folder_names import label_in, splits_by_rest
from cnnjax.data.image_files import ENDINGS, ImageFile, images_in
from cnnjax.errors import UserError


def labelled_files(folder: Path, root: Path) -> dict[str, list[ImageFile]] | None:
    """The images directly in a folder by the label in their names; None unless all have one and it makes classes."""
    found: dict[str, list[ImageFile]] = {}
    images = images_in(folder, root)
    for file in images:
        label = label_in(Path(file.name).stem)
        if label is None:
            return None
        found.setdefault(label, []).append(file)
    # Names that hardly repeat are not labels.
    if len(found) < 2 or min(map(len, found.values())) < 2 or 2 * len(found) > len(images):
        return None
    return found


def is_labelled(folder: Path, root: Path) -> bool:
    """Whether the images directly in a folder have labels in their names."""
    return labelled_files(folder, root) is not None


def no_labels(folder: Path, root: Path) -> str:
    """The sentence about a folder in which nothing says what the classes are."""
    remedy = f"put the images of each class ({', '.join(ENDINGS[:6])}, …) into a folder of its own"
    images = images_in(folder, root)
    without = [file.name for file in images if label_in(Path(file.name).stem) is None]
    if 0 < len(without) < len(images) / 10:
        return (
            f"{folder} holds {len(images):,} images, {len(without)} of them without a label in the name, such as "
            f"{without[0]!r}: move these away or rename them, or {remedy}"
        )
    return f"{folder} holds no folders and no labels in the names of its files: {remedy}, or call them CLASS.NUMBER.jpg"


def check_labels(folder: Path, labels: Iterable[str]) -> None:
    """Raises UserError for labels in the names of files that cannot be two classes."""
    seen: dict[str, str] = {}
    labels = list(labels)
    for label in labels:
        other = seen.setdefault(label.lower(), label)
        if other != label:
            raise UserError(
                f"files in {folder} are called {other} and {label}, which differ in case only: rename those of one"
            )
    for splits in splits_by_rest(labels).values():
        first, second = (names[0] for names in list(splits.values())[:2])
        raise UserError(
            f"files in {folder} are called {first} and {second}, as splits of one class: put them into folders train, "
            "valid and test, and there into a folder for each class"
        )
