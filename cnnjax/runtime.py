"""What this hardware needs before jax starts a backend: flags, the compilation cache, where caches live.

Imported first by `cnnjax/__init__.py`. `CNNJAX_RUNTIME=off` leaves everything as it was found.
"""

import logging
import mmap
import os
from importlib.util import find_spec
from pathlib import Path

# YNNPACK is slower than Eigen on x86 for these networks' shapes: the empty value switches it off.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"

changes: list[str] = []
"""What `configure` set, one line each."""


def cache_dir() -> Path:
    """The folder for decoded pictures and compiled programs: $CNNJAX_CACHE, else the user's cache folder / cnnjax."""
    if folder := os.environ.get("CNNJAX_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnjax"


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jaxlib_knows(flag: str) -> bool:
    """Whether the installed jaxlib has this XLA flag. XLA aborts the process on a flag that it does not know."""
    spec = find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        return False
    for library in Path(next(iter(spec.submodule_search_locations))).glob("*.so"):
        with library.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
                if contents.find(flag.encode()) >= 0:
                    return True
    return False


def configure() -> None:
    """Set the XLA flag and the compilation cache, never against a setting of the user's own."""
    if os.environ.get("CNNJAX_RUNTIME") == "off":
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if _CPU_FLAG not in flags and jaxlib_knows(_CPU_FLAG):
        os.environ["XLA_FLAGS"] = f"{flags} --{_CPU_FLAG}=".strip()
        changes.append(f"XLA_FLAGS: added --{_CPU_FLAG}= (CPU convolutions by Eigen instead of YNNPACK)")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        import jax

        if jax.config.jax_compilation_cache_dir is None:
            folder = cache_dir() / "xla"
            jax.config.update("jax_compilation_cache_dir", str(folder))
            changes.append(f"compiled programs are kept in {folder}")
    logging.getLogger(__name__).info("; ".join(changes))
