"""The runtime's settings, each in a fresh process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cnnjax import runtime
from cnnjax.errors import UserError

YNN, EMITTERS = "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_use_fusion_emitters=false"
# jaxlib 0.12 has no choice of emitters any more.
HAS_EMITTERS = runtime.jaxlib_knows("xla_cpu_use_fusion_emitters")
BOTH = f"{YNN} {EMITTERS}" if HAS_EMITTERS else YNN


def _run(code: str, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "CNNJAX_RUNTIME")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


SHOW = """
import cnnjax, os, jax
cnnjax.configure()
cnnjax.configure()
print(os.environ.get('XLA_FLAGS'), jax.config.jax_compilation_cache_dir)
"""


def test_flag_and_cache_are_set_once(tmp_path):
    assert _run(SHOW, CNNJAX_CACHE=str(tmp_path)) == f"{BOTH} {tmp_path / 'xla'}"


UNCHANGED = """
import os, sys
import jax

def state():
    return dict(os.environ), dict(jax.config.values), list(sys.path)

def heap():
    # Freed memory is returned to the system, as malloc does unless it is configured.
    before = int(open("/proc/self/statm").read().split()[1])
    block = b"x" * 2**26
    del block
    return int(open("/proc/self/statm").read().split()[1]) - before < 2**12

before = state()
import cnnjax
from cnnjax import runtime, distributed, errors
from cnnjax.cli import command_line
print(before == state(), heap(), runtime.changes)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries allocate in their own way")
def test_importing_changes_nothing():
    assert _run(UNCHANGED) == "True True []"


def test_a_users_own_settings_stay(tmp_path):
    mine = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"
    mine += " --xla_cpu_use_fusion_emitters=true" if HAS_EMITTERS else ""
    assert _run(SHOW, XLA_FLAGS=mine, JAX_COMPILATION_CACHE_DIR=str(tmp_path)) == f"{mine} {tmp_path}"


def test_other_flags_are_kept(tmp_path):
    mine = "--xla_force_host_platform_device_count=2"
    printed = _run(SHOW.replace("print(", "print(jax.device_count(), "), XLA_FLAGS=mine, CNNJAX_CACHE=str(tmp_path))
    assert printed == f"2 {mine} {BOTH} {tmp_path / 'xla'}"


@pytest.mark.skipif(not HAS_EMITTERS, reason="this jaxlib has no fusion emitters to choose")
def test_a_flag_of_the_users_leaves_the_other(tmp_path):
    mine = "--xla_cpu_use_fusion_emitters=true"
    assert _run(SHOW, XLA_FLAGS=mine, CNNJAX_CACHE=str(tmp_path)) == f"{mine} {YNN} {tmp_path / 'xla'}"


def test_a_file_of_flags_is_left_alone(tmp_path):
    """XLA reads an XLA_FLAGS without a dash as a file's name, and ends the process when more follows it."""
    flags = tmp_path / "flags"
    flags.write_text("--xla_force_host_platform_device_count=3\n")
    show = SHOW + "print(jax.device_count(), [line for line in cnnjax.runtime.changes if 'names a file' in line] != [])"
    assert _run(show, XLA_FLAGS=str(flags), CNNJAX_CACHE=str(tmp_path)) == f"{flags} {tmp_path / 'xla'}\n3 True"


def test_it_can_be_switched_off():
    assert _run(SHOW, CNNJAX_RUNTIME="off") == "None None"


def test_without_a_home_folder_the_cache_is_temporary(tmp_path):
    code = (
        "import os, pathlib\n"
        "def homeless(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = homeless\n"
        "from cnnjax import runtime\n"
        "print(runtime.cache_dir(), runtime.cache_dir().is_dir())"
    )
    environment = {"CNNJAX_CACHE": "", "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}
    folder = tmp_path / f"cnnjax-cache-{os.getuid()}"
    assert _run(code, **environment) == f"{folder} True"
    assert _run(code, **environment) == f"{folder} True"
    folder.chmod(0o777)  # others could have put programs there
    other, there = _run(code, **environment).split(" ")
    assert other != str(folder) and other.startswith(str(tmp_path)) and there == "True"


@pytest.mark.parametrize(
    ("platforms", "cpu"), [("cpu", True), ("cpu,cuda", True), ("cuda", False), ("tpu,cpu", False), ("rocm", False)]
)
def test_the_platform_decides_whether_memory_is_kept(platforms, cpu):
    code = (
        "import cnnjax; from cnnjax import runtime; cnnjax.configure(); "
        "print(runtime.is_cpu_host(), any('malloc' in line for line in runtime.changes))"
    )
    assert _run(code, JAX_PLATFORMS=platforms, JAX_COMPILATION_CACHE_DIR="/tmp") == f"{cpu} {cpu}"
    code = code.replace("configure()", "configure(keep_memory=False)")
    assert _run(code, JAX_PLATFORMS=platforms, JAX_COMPILATION_CACHE_DIR="/tmp") == f"{cpu} False"


def test_device_files_tell_an_accelerator(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setattr(runtime, "_ACCELERATORS", (str(tmp_path / "nvidia0"),))
    assert runtime.is_cpu_host()
    (tmp_path / "nvidia0").touch()
    assert not runtime.is_cpu_host()


FAULTS = """
import cnnjax, resource, numpy
cnnjax.configure()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(16 * 2**20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) < 1000, "malloc" in cnnjax.runtime.changes[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries allocate in their own way")
def test_freed_memory_is_kept():
    assert _run(FAULTS) == "True True"
    assert _run(FAULTS.replace("print(", "print(len(cnnjax.runtime.changes),"), MALLOC_ARENA_MAX="2").endswith("False")


HUGE = """
import cnnjax, ctypes, re
cnnjax.configure()
array = (ctypes.c_char * 2**26)()  # NumPy asks for huge pages of its own accord
middle = ctypes.addressof(array) + 2**25
for line in open("/proc/self/smaps"):
    if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
        inside = int(mapping[1], 16) <= middle < int(mapping[2], 16)
    elif line.startswith("VmFlags") and inside:
        print("hg" in line.split())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries allocate in their own way")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the system has no huge pages")
def test_large_arrays_may_lie_in_huge_pages():
    assert _run(HUGE) == "True"
    assert _run(HUGE, CNNJAX_RUNTIME="off") == "False"


@pytest.mark.parametrize(
    "flag",
    [
        "xla_cpu_use_fusion_emitters=false",
        "xla_cpu_experimental_ynn_fusion_type=",
        "xla_force_host_platform_device_count=2",
        "xla_dump_to=",
        "xla_cpu_use_thunk_runtime=true",
        "xla_no_such_flag_at_all=1",
    ],
)
def test_what_jaxlib_knows_is_what_xla_accepts(flag):
    """XLA ends a process that names another one; jaxlib 0.12 still contains the names of flags that it has no more."""
    environment = os.environ | {"XLA_FLAGS": f"--{flag}", "JAX_PLATFORMS": "cpu"}
    code = "import jax; jax.devices()"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120, check=False)
    assert runtime.jaxlib_knows(flag.partition("=")[0]) == (ended.returncode == 0)


def test_imports_are_lean():
    code = "import cnnjax.data, sys; print([m for m in ('tensorflow', 'matplotlib') if m in sys.modules])"
    assert _run(code) == "[]"


def test_free_memory_is_some_of_what_the_machine_has():
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < int(_run("from cnnjax import runtime; print(runtime.free_memory())")) <= physical


@pytest.mark.parametrize("flags", ["--xla_cpu_no_such_flag=1", "--xla_dump_max_hlo_modules=3 -xla_cpu_nor_this"])
def test_an_xla_flag_that_jaxlib_does_not_have_is_refused(monkeypatch, flags):
    """XLA would end the process with a stack trace."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(UserError, match=r"^XLA_FLAGS names --xla_cpu_no\w+, which the installed jaxlib does not have"):
        runtime._set_xla_flags()


def test_options_of_a_program_are_those_that_the_user_left_open(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    first = {"xla_cpu_experimental_ynn_fusion_type": ""}
    both = first | ({"xla_cpu_use_fusion_emitters": False} if HAS_EMITTERS else {})
    assert runtime.compiler_options("cpu") == both and runtime.compiler_options("tpu") is None
    (estimator,) = runtime.compiler_options("gpu")
    assert jax.jit(lambda x: 2 * x, compiler_options=both)(np.float32(3)) == 6  # XLA takes them
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=true")
    assert runtime.compiler_options("cpu") == first
    monkeypatch.setenv("XLA_FLAGS", f"{YNN} {EMITTERS} --{estimator}=true")
    assert runtime.compiler_options("cpu") is None and runtime.compiler_options("gpu") is None


def test_what_a_container_uses_is_not_free(monkeypatch, tmp_path):
    for name, text in (("max", "4000000"), ("current", "3500000"), ("stat", "anon 7\ninactive_file 200000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(runtime, "_CGROUP", tmp_path)
    assert runtime.available_memory() == 4_000_000 - 3_500_000 + 200_000
    (tmp_path / "memory.max").write_text("max\n")
    assert runtime.available_memory() > 4_000_000
