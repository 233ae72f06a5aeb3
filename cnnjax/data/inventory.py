"""Which files a data set was made of: what a run keeps, so that it can be resumed with exactly these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnjax.data.image_files import ImageFile, images_below
from cnnjax.errors import UserError

_NAMED = 3

Splits = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Split -> class -> name of a file, below the root and with forward slashes -> its bytes."""


@dataclass(frozen=True)
class Inventory:
    """The files of a folder of images, by split and class, whatever the folder is called and wherever it is."""

    splits: Splits

    @classmethod
    def of(cls, files: Mapping[str, Mapping[str, Sequence[ImageFile]]]) -> "Inventory":
        """The inventory of the files of each split and class."""
        return cls(
            {
                split: {name: {file.name: file.size for file in some} for name, some in classes.items()}
                for split, classes in files.items()
            }
        )

    @classmethod
    def from_json(cls, value: Any) -> "Inventory":
        """What `as_json` returned. Raises UserError for anything else."""
        try:
            splits = {
                str(split): {
                    str(name): {str(file): int(size) for file, size in files} for name, files in classes.items()
                }
                for split, classes in value.items()
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"the list of a run's images cannot be read ({error}): restore it, or start over"
            ) from error
        if "train" not in splits:
            raise UserError("the list of a run's images names none for training: restore it, or start over")
        return cls(splits)

    def as_json(self) -> dict[str, dict[str, list[list[Any]]]]:
        """JSON-able data."""
        return {
            split: {name: [[file, size] for file, size in files.items()] for name, files in classes.items()}
            for split, classes in self.splits.items()
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in their order."""
        return tuple(self.splits["train"])

    def files(self, root: Path) -> dict[str, dict[str, list[ImageFile]]]:
        """The files as they are now, below `root`. Raises UserError where one is missing or has another size."""
        found: dict[str, dict[str, list[ImageFile]]] = {}
        missing: list[str] = []
        changed: list[str] = []
        for split, classes in self.splits.items():
            for name, files in classes.items():
                some = found.setdefault(split, {}).setdefault(name, [])
                for file, size in files.items():
                    try:
                        status = (root / file).stat()
                    except (OSError, ValueError):
                        missing.append(file)
                        continue
                    if status.st_size != size:
                        changed.append(file)
                    some.append(ImageFile(file, status.st_size, status.st_mtime_ns))
        if missing or changed:
            lost = [name for name in self.class_names if not found["train"][name]]
            raise UserError(_different(root, missing, changed, lost))
        return found

    def added(self, root: Path) -> int:
        """How many images below `root` are not in this inventory."""
        known = {file for classes in self.splits.values() for files in classes.values() for file in files}
        return sum(file.name not in known for file in images_below(root, root))


def _different(root: Path, missing: list[str], changed: list[str], lost: list[str]) -> str:
    parts = [f"{len(missing):,} are missing ({_some(missing)})"] if missing else []
    parts += [f"{len(changed):,} have another size ({_some(changed)})"] if changed else []
    of_class = f", all of class {lost[0]!r} among them" if lost else ""
    return (
        f"{root} no longer holds the images that the run was begun with: {' and '.join(parts)}{of_class}; restore "
        "them, or start a new run in another run_dir"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
