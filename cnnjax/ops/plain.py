"""The operations of this package as XLA's own, for programs that leave it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLAIN: ContextVar[bool] = ContextVar("plain_operations", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Trace the operations of `cnnjax.ops` as XLA's own, also their derivatives.

    For programs that leave this package, as `jax.export` makes them: they are smaller, every compiler knows them, and
    the size of the batch may be symbolic. Only what is traced inside of the context is affected.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain() -> bool:
    """Whether `plain_operations` is in effect."""
    return _PLAIN.get()
