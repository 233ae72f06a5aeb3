"""Where an atlas keeps what was computed: each batch of pictures in a file of its own, so that a killed run loses one.

The statistics of the data are one pass, which is kept when it is complete.
"""

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnnjax import files
from cnnjax.errors import UserError
from cnnjax.network import Json

Arrays = Mapping[str, np.ndarray]


class Store:
    """The files of one part of an atlas, made with one set of settings.

    `settings.json` says what the part was computed with. A file that is damaged counts as one that is not there.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Json], fresh: bool = False) -> None:
        """Raises UserError if the folder holds results of other settings, unless `fresh`, which deletes them."""
        self.folder, self.settings = Path(folder), json.loads(json.dumps(settings))
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        files.make_folder(self.folder)
        self._check()
        files.write_json(self.folder / "settings.json", self.settings)

    def _check(self) -> None:
        path = self.folder / "settings.json"
        try:
            before = json.loads(files.read_text(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): choose another folder") from error
        except ValueError:
            before = {}
        before = before if isinstance(before, dict) else {}
        changed = [name for name in {**before, **self.settings} if before.get(name) != self.settings.get(name)]
        if changed and self.names(""):  # settings without any result bind nobody
            what = "; ".join(
                f"{name}={_short(self.settings.get(name))} instead of {_short(before.get(name))}" for name in changed
            )
            raise UserError(
                f"{self.folder} was computed with other settings ({what}): choose another folder, or fresh=True to "
                "compute it again"
            )

    def save(self, name: str, arrays: Arrays) -> None:
        """Write arrays to a file, completely or not at all."""

        def write(temporary: Path) -> None:
            np.savez_compressed(temporary, **dict(arrays))  # type: ignore[arg-type]

        files.atomic_write(self.folder / f"{name}.npz", write)

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What `save` wrote; None if it is not there or damaged. Names of arrays are not checked."""
        try:
            path = self.folder / f"{name}.npz"
            # Opened here: of a damaged file NumPy leaves open what it opened itself.
            with files.check_regular(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
                return {key: content[key] for key in content.files}
        # The last two where a flipped bit names another compression, or says that the file is encrypted.
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError):
            return None

    def names(self, prefix: str) -> list[str]:
        """The names of the files that start so, in order."""
        return sorted(path.stem for path in self.folder.glob("*.npz") if path.stem.startswith(prefix))


def slug(layer: str) -> str:
    """A layer's name as part of a file's name and of an address; no two layers' are alike."""
    return re.sub(r"[^\w.-]", lambda found: f"~{ord(found[0]):02x}~", layer)


def _short(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
