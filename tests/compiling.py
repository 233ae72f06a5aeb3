"""Compilations that take half as long."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import pytest


@contextmanager
def quickly() -> Iterator[None]:
    """Compile without LLVM's optimizations, in this process and in those that it starts.

    For programs that run a few times. What XLA itself does to a program is the same; code in loops is ten times slower.
    With JAX_DISABLE_MOST_OPTIMIZATIONS=false in the environment everything is compiled as users have it.
    """
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", False)
