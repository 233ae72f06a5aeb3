"""Whether a user's function can be called with what this package gives it."""

import inspect
from collections.abc import Sequence

from cnnjax.errors import UserError


def check_takes(function: object, arguments: Sequence[str], what: str) -> None:
    """Raises UserError for what is not a function, or not one of these positional arguments. `what`: "the loss"."""
    listed = f"({', '.join(arguments)})"
    if not callable(function):
        raise UserError(f"{what} must be a function of {listed}, and not {function!r}")
    name = getattr(function, "__name__", type(function).__name__)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions that are written in C do not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        takes = f"({', '.join(signature.parameters)})"
        raise UserError(
            f"{what} {name} takes {takes}, and is called with the {len(arguments)} arguments {listed}: define it for "
            "these"
        ) from error
