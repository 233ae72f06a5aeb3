"""Accelerators that need not be present: what a compiler must know of them, and their makers' figures.

Peaks (dense, bfloat16), memory and its bandwidth are from the makers' data sheets (cloud.google.com/tpu/docs/system-
architecture-tpu-vm; NVIDIA's A100 and H100 data sheets). `links`: bytes per second that a chip sends to its slice of
eight, over half of a TPU's links, as in `prediction.py`, or over NVLink.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from cnnjax.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """Eight chips of one kind.

    platform: JAX's name of it. topology: the platform plug-in's name for eight chips; options: further ones for it.
    peak: FLOP/s per chip. memory: bytes per chip, and its bandwidth in bytes per second. macs: multiply-adds that a
    TPU's matrix units start per cycle, which with the peak gives the clock. passes: bytes per cycle, read and written,
    that the TPU compiler's model assumes for x + 1 over bfloat16.
    """

    platform: str
    topology: str
    peak: float
    memory: float
    bandwidth: float
    links: float
    options: tuple[tuple[str, str], ...] = ()
    macs: int = 0
    passes: float = 0.0

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.peak / (2 * self.macs)


MEGACORE = (("chip_config_name", "megacore"),)
UNIT = 128 * 128

_GPU = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: 0 feature_extension: {extension} }}
  core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {most}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth} device_memory_size: {memory} l2_cache_size: {cache}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""

# NVIDIA's figures, as OpenXLA publishes them (openxla/xla, xla/backends/gpu/target_config/specs).
_H100 = _GPU.format(
    name="NVIDIA H100 80GB HBM3", major=9, extension="ACCELERATED_FEATURES", cores=132, fpus=128, clock=1.98,
    shared=233472, most=232448, bandwidth=3352320000000, memory=84942979072, cache=52428800,
)  # fmt: skip
_A100 = _GPU.format(
    name="NVIDIA A100-SXM4-80GB", major=8, extension="NONE", cores=108, fpus=64, clock=1.41,
    shared=167936, most=166912, bandwidth=2039040000000, memory=85100068864, cache=41943040,
)  # fmt: skip

MACHINES = {
    "TPU v5e-8": Machine("tpu", "v5e:2x4", 197e12, 16 * GIB, 819e9, 100e9, macs=4 * UNIT, passes=222),
    "TPU v6e-8": Machine("tpu", "v6e:2x4", 918e12, 32 * GIB, 1640e9, 200e9, macs=16 * UNIT, passes=378),
    "8 × TPU v4": Machine(
        "tpu", "v4:2x2x2", 275e12, 32 * GIB, 1228e9, 150e9, options=MEGACORE, macs=8 * UNIT, passes=452
    ),
    "8 × TPU v5p": Machine("tpu", "v5p:2x2x2", 459e12, 95 * GIB, 2765e9, 300e9, macs=8 * UNIT, passes=574),
    "8 × H100": Machine("cuda", "1x1x8", 989e12, 84942979072, 3352e9, 450e9, (("target_config", _H100),)),
    "8 × A100": Machine("cuda", "1x1x8", 312e12, 85100068864, 2039e9, 300e9, (("target_config", _A100),)),
}

# To be set before jax is imported. No metadata server is asked; several processes may load libtpu: none has a TPU.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "JAX_TRACEBACK_FILTERING": "off",  # so that the last line of a process's output is the error
}


def missing(platform: str) -> str:
    """Why nothing can be compiled for a platform ("tpu", "cuda") here; empty if it can."""
    package, extra = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda12_plugin", "cuda")}[platform]
    if find_spec(package):
        return ""
    return f"{package} is not installed: pip install -e '.[{extra}]'"


def devices(machine: Machine) -> list[Any]:
    """The machine's chips, as JAX describes them to a compiler. Raises UserError if the plug-in is missing."""
    from jax.experimental import topologies

    if reason := missing(machine.platform):
        raise UserError(reason)
    options = dict(machine.options)
    if machine.platform == "cuda":
        described = topologies.get_topology_desc(platform="cuda", topology=machine.topology, **options)
    else:
        described = topologies.get_topology_desc(machine.topology, "tpu", **options)
    return list(described.devices)
