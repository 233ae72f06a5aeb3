"""What this machine needs before JAX starts a backend: XLA flags, the compilation cache, memory, a cache folder.

Importing this module changes nothing. `configure()`, exported as `cnnjax.configure`, is called by the commands; a
script or notebook calls it first, before anything touches a device, to get the same settings.
"""

import ctypes
import functools
import logging
import mmap
import os
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from cnnjax.errors import UserError

_CPU_FLAGS: dict[str, str | bool] = {
    # YNNPACK is slower than Eigen on x86 for these networks' shapes; the empty value switches it off.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Kernels of fused operations that XLA makes by MLIR compile twice as long as its others, and a training step of
    # the small network takes a fifth longer with them.
    "xla_cpu_use_fusion_emitters": False,
}

_GPU_OPTIONS: dict[str, str | bool] = {
    # On H100s XLA's scheduler estimates times by a model with which it sums the gradients of VGG16's dense layers when
    # all convolutions are done. Without that model it sums them while the convolutions' gradients are computed, as it
    # does on A100s (benchmarks/schedule.py).
    "xla_gpu_enable_analytical_sol_latency_estimator": False,
}
_OPTIONS = {"cpu": _CPU_FLAGS, "gpu": _GPU_OPTIONS, "cuda": _GPU_OPTIONS}

# glibc returns large blocks to the system when they are freed, and gets them again as new pages with a fault for each.
# XLA frees its temporary buffers after every call: a training step of the small network spent a sixth of its CPU time
# on 75,000 page faults. Hence one arena, no block outside the heap, nothing returned. (Numbers from glibc's malloc.h.)
_MALLOC = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2**21
_ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/accel/accel0", "/dev/vfio/0")

changes: list[str] = []
"""What `configure` did, one line each."""
_configured = False


def configure(*, keep_memory: bool | None = None) -> None:
    """Set XLA flags, JAX's compilation cache and malloc for fast training; a second call does nothing.

    A setting of the user's own is never changed: not an XLA flag that is given, nor an XLA_FLAGS that names a file of
    flags, nor a compilation cache, nor a tuned malloc. The environment variable CNNJAX_RUNTIME=off makes this function
    do nothing. Call it before JAX starts its backend: flags that are set later have no effect.

    Args:
        keep_memory: Whether malloc keeps freed memory for the next step, in huge pages. None decides: only where JAX
            computes on the CPU, since the memory that is kept serves no purpose on a host whose arrays live on an
            accelerator.
    """
    global _configured
    if _configured or os.environ.get("CNNJAX_RUNTIME") == "off":
        return
    _configured = True
    _set_xla_flags()
    _set_compilation_cache()
    if (is_cpu_host() if keep_memory is None else keep_memory) and _keep_memory():
        changes.append("freed memory is kept for the next step, in huge pages (glibc's malloc)")
    logging.getLogger(__name__).info(describe())


def describe() -> str:
    """What `configure` has set and how to switch it off, in one line."""
    return f"{'; '.join(changes)}; CNNJAX_RUNTIME=off changes nothing" if changes else "nothing was changed"


def is_cpu_host() -> bool:
    """Whether JAX will compute on the CPU, decided without starting a backend.

    The platform that is configured decides (JAX_PLATFORMS or jax.config.jax_platforms), else whether the machine has
    the device files of an NVIDIA or AMD GPU or of a TPU.
    """
    jax = sys.modules.get("jax")
    platforms = (jax.config.jax_platforms if jax else None) or os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(Path(path).exists() for path in _ACCELERATORS)


def cache_dir() -> Path:
    """The folder for decoded images, weights and compiled programs.

    It is $CNNJAX_CACHE, else `cnnjax` in the user's cache folder; without a home folder that can be written, a
    temporary folder, with a warning.
    """
    if folder := os.environ.get("CNNJAX_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "cnnjax"
    try:
        home = Path.home()
    except RuntimeError:
        return _temporary_cache("there is no home folder")
    if home.is_dir() and os.access(home / ".cache" if (home / ".cache").exists() else home, os.W_OK | os.X_OK):
        return home / ".cache" / "cnnjax"
    return _temporary_cache(f"the home folder {home} cannot be written")


@functools.cache
def _temporary_cache(reason: str) -> Path:
    """A folder of this user alone, the same in later processes: what it keeps is loaded and run."""
    folder = Path(tempfile.gettempdir()) / f"cnnjax-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o077 or folder.is_symlink()):
        folder = Path(tempfile.mkdtemp(prefix="cnnjax-cache-"))
    logging.getLogger(__name__).warning(
        f"{reason}: the cache is in {folder}; set CNNJAX_CACHE to choose another folder"
    )
    return folder


_CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are."""


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes free for images: on the host or, if that is less, on an accelerator. Starts JAX's backend."""
    import jax

    bounds = [available_memory()]
    device = (jax.local_devices()[0].memory_stats() or {}) if jax.default_backend() != "cpu" else {}
    if "bytes_limit" in device:
        bounds.append(device["bytes_limit"] - device.get("bytes_in_use", 0))
    return min(bounds)


def available_memory() -> int:
    """Bytes free on the host. Starts nothing."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    if (available := _number(Path("/proc/meminfo"), r"MemAvailable: +(\d+) kB")) is not None:
        bounds.append(1024 * available)
    if (limit := _number(_CGROUP / "memory.max", r"^(\d+)")) is not None:
        used = _number(_CGROUP / "memory.current", r"^(\d+)") or 0
        reclaimable = _number(_CGROUP / "memory.stat", r"inactive_file (\d+)") or 0  # files that were read
        bounds.append(max(0, limit - max(0, used - reclaimable)))
    return min(bounds, default=2**32)


def _number(file: Path, pattern: str) -> int | None:
    """The number in a file of the kernel, if there is one."""
    found = re.search(pattern, file.read_text()) if file.is_file() else None
    return int(found[1]) if found else None


def compiler_options(platform: str) -> dict[str, str | bool] | None:
    """What `jax.jit(compiler_options=...)` takes for fast programs on a platform; None for nothing.

    A program is then as fast without `configure()`. Unlike flags they concern nobody else's programs. pmap takes none.
    An option that XLA_FLAGS names is left to it.
    """
    if os.environ.get("CNNJAX_RUNTIME") == "off":
        return None
    given, options = os.environ.get("XLA_FLAGS", ""), _OPTIONS.get(platform, {})
    return {name: value for name, value in options.items() if name not in given and jaxlib_knows(name)} or None


@functools.cache
def jaxlib_knows(flag: str) -> bool:
    """Whether the installed jaxlib has this XLA flag. XLA aborts the process on a flag that it does not know.

    The library holds a flag's name as a string of its own, which ends with a zero. The name of a flag that was removed,
    such as that of the fusion emitters in jaxlib 0.12, is still there, but in a list of names not to be used again.
    """
    spec = find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        return False
    for library in Path(next(iter(spec.submodule_search_locations))).glob("*.so"):
        with library.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
                if contents.find(flag.encode() + b"\0") >= 0:
                    return True
    return False


def _set_xla_flags() -> None:
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-") and not Path(flags.split()[0]).is_file():
        raise UserError(
            f"XLA_FLAGS={flags} names a file of flags that does not exist: begin flags with --xla, or unset it"
        )
    if flags.startswith("-"):
        _check_known(flags)
    wanted = {name: f"--{name}={str(value).lower()}" for name, value in _CPU_FLAGS.items() if name not in flags}
    if not wanted:
        return
    if flags and (not flags.startswith("-") or "--flagfile" in flags):
        # XLA reads a value that does not begin with a dash as the name of a file of flags.
        changes.append(f"XLA_FLAGS names a file and is left alone; {' '.join(wanted.values())} in it speed up CPUs")
    elif known := [flag for name, flag in wanted.items() if jaxlib_knows(name)]:
        os.environ["XLA_FLAGS"] = " ".join([flags, *known]).strip()
        late = " (JAX's backend has already started, so they have no effect)" if _backend_started() else ""
        changes.append(f"XLA_FLAGS: added {' '.join(known)} for faster programs on CPUs{late}")


def _check_known(flags: str) -> None:
    """Raises UserError for a flag that the installed jaxlib does not have; XLA would end the process."""
    names = re.findall(r"(?<!\S)--?([A-Za-z]\w*)", flags)
    # Where not even this one is found, the libraries are elsewhere and nothing is known.
    if not names or not jaxlib_knows("xla_force_host_platform_device_count"):
        return
    for name in names:
        if name != "flagfile" and not jaxlib_knows(name):
            raise UserError(f"XLA_FLAGS names --{name}, which the installed jaxlib does not have: remove or correct it")


def _backend_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(getattr(bridge, "backends_are_initialized", lambda: False)())


def _set_compilation_cache() -> None:
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_dir() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            # By default JAX keeps only programs that took a second; here a start has several of 0.1 to 0.3 s.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        changes.append(f"compiled programs are kept in {folder}")
        _check_kept_programs()


def _check_kept_programs() -> None:
    """Have JAX keep compiled programs with a checksum also where it compresses them by zstd.

    JAX's own frames have none there, as they have with zlib: a flipped bit in the cache was a segmentation fault, or
    could have been a wrong number. Reading checks the checksum by itself; a damaged program is compiled again.
    """
    from jax._src import compilation_cache

    standard, package = (getattr(compilation_cache, name, None) for name in ("zstd", "zstandard"))
    if standard is not None:
        options = {standard.CompressionParameter.checksum_flag: 1}
        compilation_cache.compress_executable = lambda program: standard.compress(program, options=options)
    elif package is not None:
        # A compressor serves one thread at a time.
        compilation_cache.compress_executable = lambda data: package.ZstdCompressor(write_checksum=True).compress(data)


def _keep_memory() -> bool:
    """Whether malloc could be set; never where the user has tuned it, or on a system without glibc."""
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
    """Let the heap grow by pages of 2 MiB: mark the addresses that follow it, which have no memory yet.

    One page fault then replaces 512, and address translation of large arrays is cheaper: this saves 2% of a training
    step of the small network and 5% of VGG16's (two cores).
    """
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    room = libc.malloc(size)
    if room:  # not where a process's address space is limited
        start = -(-room // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(start, (room + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        libc.free(room)
