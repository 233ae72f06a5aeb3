"""How this package writes a file, completely or not at all, and reads what may not be one; folders for files."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path in the same folder, then rename that file to `path`.

    An interruption at any time leaves the previous file, or none. The folder is created if it does not exist. The
    temporary name is `.PID.NAME`, so that it keeps the suffix by which libraries choose a format.

    Raises UserError if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path} ({reason}): make room there, or choose a folder that you may write to"
        ) from error
    finally:
        if path.parent.is_dir():
            with contextlib.suppress(OSError):  # of a read-only disk, also where there is nothing to remove
                temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, in ASCII; see `atomic_write`."""
    text = json.dumps(value, indent=indent) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text))


def check_regular(path: Path) -> Path:
    """The path. Raises OSError unless a regular file is there: a pipe would be waited for, a device may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path


def read_text(path: Path) -> str:
    """The text of a regular file, in UTF-8. Raises OSError or ValueError."""
    return check_regular(path).read_text(encoding="utf8")


def check_json(value: Any, what: str) -> None:
    """Raises UserError unless JSON can hold a value, before work is done that ends in a file."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{what} cannot be kept as JSON ({error}): use texts, numbers, lists and dicts in it"
        ) from error


def make_folder(folder: Path) -> Path:
    """Create a folder and check that files can be created in it. Raises UserError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another folder") from None
    return folder
