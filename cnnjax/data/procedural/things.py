"""Things, drawn from signed distances."""

from collections.abc import Callable

THINGS: dict[str, Callable] = {}
