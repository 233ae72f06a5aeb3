"""cnnjax: convolutional networks in JAX, trained fast on any accelerator, and shown from the inside.

Importing this package changes nothing in the process; its parts are imported when they are first used. `configure()`
sets what this hardware needs (XLA flags, the compilation cache, memory); the commands call it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cnnjax.version import __version__ as __version__

if TYPE_CHECKING:
    from cnnjax import data, formats, losses, models, train, visualize
    from cnnjax.network import Network
    from cnnjax.runtime import configure

__all__ = ["Network", "configure", "data", "formats", "losses", "models", "train", "visualize"]
_PLACES = {"Network": "cnnjax.network", "configure": "cnnjax.runtime"}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in __all__:
        return import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
