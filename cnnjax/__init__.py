"""cnnjax: convolutional networks in JAX, trained fast on whatever accelerator there is, and shown from the inside."""

from cnnjax import runtime
from cnnjax.version import __version__ as __version__

runtime.configure()
