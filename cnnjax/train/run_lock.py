"""One command at a time in the folder of a run, or of another long computation.

The system frees the lock when its process is gone, however it ends.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnjax import distributed
from cnnjax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
_held: set[Path] = set()
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


@contextmanager
def locked(folder: Path, argument: str = "run_dir") -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it does not exist. argument: what named it, for errors.

    A function that is called within takes the same lock again without asking. On several hosts only the primary asks.
    Where the file system knows no locks, nothing is kept out. Raises UserError while another process has the lock, or
    when the folder cannot be made.
    """
    place = Path(os.path.realpath(folder))  # `resolve` raises for links in a circle
    if place in _held or fcntl is None or not distributed.is_primary():
        yield
        return
    file = _acquire(folder, argument)
    _held.add(place)
    try:
        yield
    finally:
        _held.discard(place)
        if file is not None:
            (folder / NAME).unlink(missing_ok=True)
            os.close(file)


def _acquire(folder: Path, argument: str) -> int | None:
    """The locked file, or None where there are no locks."""
    assert fcntl is not None, "asked for by `locked` only where there are locks"
    path = folder / NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _NONBLOCK, 0o644)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): choose another {argument}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise UserError(f"{path} is not a regular file: delete it, or choose another {argument}")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            by = f" {owner}" if owner.isdigit() else ""
            raise UserError(
                f"{folder} is in use by the process{by}: wait until it ends, or choose another {argument}"
            ) from None
        except OSError:  # some network file systems
            os.close(file)
            return None
        # The one that had it before deletes the file: a lock on a deleted file keeps nobody out.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
            return file
        os.close(file)
