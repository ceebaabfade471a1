"""Descriptions of GPUs with which XLA compiles without a GPU: the text form of its `GpuTargetConfigProto`.

Figures: NVIDIA's architecture white papers (A100 2020, H100 2022) and appendix "Compute Capabilities" of the CUDA C++
Programming Guide. Versions are those of the libraries with which the project was tested.

XLA fails without the compute capability, the optional shared memory of a block, and the threads of a warp. It makes
other programs (fusions, tiles, scratch) without the numbers of cores and units, the clock, the memory's size and speed,
the cache, or the shared memory of a block. This was tried on a small network, one field at a time (jax 0.10.2).
"""

from dataclasses import dataclass

from resnet_jax.cost.targets import Chip

KIB = 1024
CUDA, CUDNN = "13.0.0", (9, 28, 1)


@dataclass(frozen=True)
class Gpu:
    """Attributes:
    capability: major, minor; `accelerated` = with the instructions that only this architecture has (sm_90a).
    cores: number of streaming multiprocessors.
    fpus: number of float32 units of a core.
    shared: bytes of shared memory of a core.
    cache: bytes of the second-level cache.
    clock: GHz, boosted.
    """

    capability: tuple[int, int]
    accelerated: bool
    cores: int
    fpus: int
    shared: int
    cache: int
    clock: float


GPUS = {
    "NVIDIA A100-SXM4-80GB": Gpu((8, 0), False, 108, 64, 164 * KIB, 40 * KIB**2, 1.41),
    "NVIDIA H100 80GB HBM3": Gpu((9, 0), True, 132, 128, 228 * KIB, 50 * KIB**2, 1.98),
}


def target_config(chip: Chip) -> str:
    """The description for `jax.experimental.topologies.get_topology_desc(..., target_config=)`."""
    gpu = GPUS[chip.kind]
    major, minor = gpu.capability
    feature = " feature_extension: ACCELERATED_FEATURES" if gpu.accelerated else ""
    return f"""
gpu_device_info {{
  name: "{chip.kind}"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {major}.{minor}{"a" if gpu.accelerated else ""}"
  cuda_compute_capability {{ major: {major} minor: {minor}{feature} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock}
  memory_bandwidth: {chip.peak.bytes:.0f}
  device_memory_size: {chip.memory}
  l2_cache_size: {gpu.cache}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block: {48 * KIB}
  shared_memory_per_block_optin: {gpu.shared - KIB}
  registers_per_core_limit: {64 * KIB}
  registers_per_block_limit: {64 * KIB}
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  device_address_bits: 64
  ecc_enabled: true
  driver_version: "{CUDA}"
  runtime_version: "{CUDA}"
  compile_time_toolkit_version: "{CUDA}"
  dnn_version: "{".".join(map(str, CUDNN))}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} patch: {CUDNN[2]} }}
device_description_str: "{chip.kind}"
"""
