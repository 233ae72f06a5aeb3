"""What this hardware needs before jax starts a backend: flags, the compilation cache, memory, where caches live.

Imported first by `cnnjax/__init__.py`. `CNNJAX_RUNTIME=off` leaves everything as it was found.
"""

import ctypes
import logging
import mmap
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

# YNNPACK is slower than Eigen on x86 for these networks' shapes: the empty value switches it off.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"

# glibc hands big blocks back to the system when they are freed, and gets them again as fresh pages, a fault for each.
# XLA frees its temporary buffers after every call: a training step of the small network spent a sixth of its CPU time
# on 75,000 page faults. One arena, no block apart from the heap, nothing handed back. (Numbers: glibc's malloc.h.)
_MALLOC = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2**21

changes: list[str] = []
"""What `configure` set, one line each."""


def told() -> str:
    """What was set, and how to switch it off, in one line for people."""
    return f"{'; '.join(changes)}; CNNJAX_RUNTIME=off leaves all as it was" if changes else "left as it was found"


def cache_dir() -> Path:
    """The folder for decoded pictures and compiled programs: $CNNJAX_CACHE, else the user's cache folder / cnnjax."""
    if folder := os.environ.get("CNNJAX_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnjax"


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that are free for pictures: on the host or, if that is less, on an accelerator. Starts JAX's backend."""
    import jax

    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    for path, pattern in (("/proc/meminfo", r"MemAvailable: +(\d+) kB"), ("/sys/fs/cgroup/memory.max", r"(\d+)")):
        if Path(path).is_file() and (found := re.search(pattern, Path(path).read_text())):
            bounds.append(int(found[1]) * (1024 if "kB" in pattern else 1))
    device = (jax.local_devices()[0].memory_stats() or {}) if jax.default_backend() != "cpu" else {}
    if "bytes_limit" in device:
        bounds.append(device["bytes_limit"] - device.get("bytes_in_use", 0))
    return min(bounds, default=2**32)


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
    """Set the XLA flag, the compilation cache and malloc, never against a setting of the user's own."""
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
    if _keep_memory():
        changes.append("freed memory is kept for the next step, in huge pages (glibc's malloc)")
    logging.getLogger(__name__).info(told())


def _keep_memory() -> bool:
    """Whether malloc was told so; never where the user tuned it, or on a system without glibc."""
    tuned = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if tuned or sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    taken = mallopt is not None and all(mallopt(*setting) for setting in _MALLOC.values())
    if taken:
        _reserve_huge_pages(libc)
    return taken


def _reserve_huge_pages(libc: ctypes.CDLL) -> None:
    """Let the heap's room to grow, addresses without memory, be filled by pages of 2 MiB.

    One fault then brings what 512 did, and the processor finds its way through large arrays: 2% of a step of
    the small network's training, 5% of VGG16's (two cores).
    """
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    room = libc.malloc(size)
    if room:  # not where the user limits a process's addresses
        start = -(-room // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(start, (room + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        libc.free(room)
