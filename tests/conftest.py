"""Strict numerics, eight CPU devices, shapes checked, no network: set before jax is imported."""

import os
import tempfile

# Rendezvous of eight forced devices on two cores needs more threads than cores, or collectives time out.
os.environ["NPROC"] = "32"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# A cache for each of pytest's processes: JAX's compilation cache may be read while another process writes it.
if "CNNJAX_CACHE" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["CNNJAX_CACHE"] = tempfile.mkdtemp(prefix="cnnjax-test-cache-")

import compiling
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Annotated shapes and dtypes are checked in every call that the tests make.
# An int is a float, as Python itself has it.
hook = install_import_hook("cnnjax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
hook.__enter__()

import cnnjax  # noqa: E402

cnnjax.configure()


@pytest.fixture(scope="module")
def quickly_compiled():
    """For all of a module: `compiling.quickly`."""
    with compiling.quickly():
        yield
