"""The version, readable by the installer without importing jax."""

__version__ = "0.1.0"
