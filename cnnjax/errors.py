"""The exceptions that a user may see: one sentence that names the problem and the remedy."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

_NAMED = 40  # nobody reads all of ImageNet's thousand classes


class UserError(ValueError):
    """Bad input. Commands print the sentence and exit with code 2; nothing already computed is lost."""


class Diverged(UserError):
    """The training loss of a run is no longer finite."""


class Preempted(Exception):
    """SIGTERM was received and everything is saved. Commands print the sentence and exit with code 0."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest names that do.

    `unknown("layer", "block1_conv9", layers)` → "unknown layer 'block1_conv9': did you mean block1_conv1, …?"
    """
    known = list(known)
    parts = [other for other in known if name and name.lower() in other.lower().split()]
    near = list(dict.fromkeys(parts + difflib.get_close_matches(name, known, n=3, cutoff=0.4)))[:3]
    if near:
        return UserError(f"unknown {kind} {name!r}: did you mean {', '.join(near)}?")
    rest = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return UserError(f"unknown {kind} {name!r}: choose one of {', '.join(known[:_NAMED])}{rest}")


def missing(what: str, path: Path | str, remedy: str) -> UserError:
    """The error for a path that does not exist, with the nearest that does, if there is one.

    `missing("there is no run", "runs/photo", "…")` → "there is no run runs/photo (did you mean runs/photos?): …"
    """
    near = _nearest(Path(path))
    return UserError(f"{what} {path}{f' (did you mean {near}?)' if near else ''}: {remedy}")


def _nearest(path: Path) -> Path | None:
    """What the first part of a path that does not exist resembles among the names in that folder."""
    try:
        first = next(part for part in (*reversed(path.parents), path) if not part.exists())
        found = difflib.get_close_matches(first.name, os.listdir(first.parent), n=1, cutoff=0.75)
    except (OSError, ValueError, StopIteration):  # a folder that cannot be listed, a path with a null byte
        return None
    return first.parent / found[0] if found else None
