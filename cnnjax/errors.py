"""The exceptions that a user may see: one sentence that names the problem and the remedy."""

import difflib
from collections.abc import Iterable

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
