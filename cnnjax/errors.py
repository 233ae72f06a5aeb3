"""The exceptions a user may see: a single sentence that names the thing and the remedy."""

import difflib
from collections.abc import Iterable

_NAMED = 40  # of ImageNet's thousand classes nobody reads all


class UserError(ValueError):
    """Bad input. Scripts print the sentence and exit with code 2; nothing already computed is lost."""


class Preempted(Exception):
    """SIGTERM came and all is saved. Scripts print the sentence, which tells how to go on, and exit with code 0."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not there, with the nearest names that are.

    `unknown("layer", "block1_conv9", layers)` → "unknown layer 'block1_conv9': did you mean block1_conv1, …?"
    """
    known = list(known)
    parts = [other for other in known if name and name.lower() in other.lower().split()]
    near = list(dict.fromkeys(parts + difflib.get_close_matches(name, known, n=3, cutoff=0.4)))[:3]
    if near:
        return UserError(f"unknown {kind} {name!r}: did you mean {', '.join(near)}?")
    rest = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return UserError(f"unknown {kind} {name!r}: choose one of {', '.join(known[:_NAMED])}{rest}")
