"""Ahead-of-time compilation (AOT) for devices that are not there, and the facts that the compiled program tells.

    from resnet_jax.cost.aot import compile_ahead

    step = compile_ahead("v5e:4x4", "resnet_jax.cost.programs:train_step", config)
    step.hbm_bytes                   # bytes between one chip and its memory in a step
    step.largest_kernels(5)          # which kernels move most of them
    step.temp_bytes, step.peak_bytes, step.fits
    step.collectives                 # what the chips exchange
    step.text                        # the optimised program

You can compile anything that can be lowered in the same way. Write a function that takes the devices, and any arguments
that can be pickled, and returns a `jax.stages.Lowered`. Name it by module or by file:

    def lower(devices, size):
        sharding = jax.sharding.SingleDeviceSharding(devices[0])
        x = jax.ShapeDtypeStruct((size, size), jnp.bfloat16, sharding=sharding)
        return jax.jit(lambda x: x @ x).lower(x)

    compile_ahead("h100:1", "benchmarks/products.py:lower", 4096)

XLA may end the process in which it compiles, so a child process compiles (`aot_child.py`). If the packages that it
needs (libtpu, or JAX's CUDA plug-in) are in another environment, name its Python: `compile_ahead(..., python=...)`.
"""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_jax.cost.collectives import Collective, read_collectives
from resnet_jax.cost.targets import Target, parse_target
from resnet_jax.cost.traffic import Kernel, read_kernels
from resnet_jax.errors import CompileError, ConfigError

PACKAGES = Path(__file__).parents[2]  # the folder from which `resnet_jax` is imported
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    # The next three only silence warnings.
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # allows several compilations at once, and one beside a run
}


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program as XLA optimised it for a target. Bytes are those of one device.

    Attributes:
      text: the optimised HLO module, after fusion, layout, scheduling and buffer assignment.
      argument_bytes: of the arguments, as laid out. Results that replace arguments lie there too.
      temp_bytes: of everything else: activations, gradients, scratch, other results.
      seconds: time that lowering and compiling took.
    """

    target: Target
    text: str
    argument_bytes: int
    temp_bytes: int
    seconds: float

    @property
    def peak_bytes(self) -> int:
        return self.argument_bytes + self.temp_bytes

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory that a program may use on one device."""
        return self.peak_bytes <= self.target.chip.memory

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        return read_kernels(self.text, on_chip=self.target.chip.is_tpu)

    @property
    def hbm_bytes(self) -> int:
        """Bytes read from and written to the device's memory in one run, counted by `traffic.py`."""
        return sum(kernel.bytes for kernel in self.kernels)

    def largest_kernels(self, count: int) -> list[Kernel]:
        """The kernels that move most bytes."""
        return sorted(self.kernels, key=lambda kernel: -kernel.bytes)[:count]

    @cached_property
    def collectives(self) -> tuple[Collective, ...]:
        return tuple(read_collectives(self.text, self.target.devices))

    @property
    def wire_bytes(self) -> float:
        """The bytes that each device sends."""
        return sum(collective.wire_bytes for collective in self.collectives)


def compile_ahead(
    target: str | Target,
    function: str,
    *arguments: Any,
    compiler_options: Mapping[str, Any] | None = None,
    python: str | os.PathLike[str] = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Compiled:
    """Lowers and compiles in a child process.

    Args:
      target: such as `v5e:4x4` or `h100:8`, see `targets.parse_target`.
      function: `module:name` or `path/to/file.py:name`, of a function `(devices, *arguments) -> Lowered`.
      arguments: are pickled.
      compiler_options: XLA's options, by name, for this compilation.
      python: the interpreter of the environment that has JAX and the target's compiler.
      environment: variables that are added to the child's environment.

    Raises:
      ConfigError: the target is not possible, a package is missing, or `function` raised it.
      CompileError: the function failed, XLA refused the program, or XLA ended the process.
    """
    if isinstance(target, str):
        target = parse_target(target)
    with tempfile.TemporaryDirectory(prefix="resnet_jax_aot_") as name:
        folder = Path(name)
        call = (target, _absolute(function), arguments, dict(compiler_options or {}))
        (folder / "call.pickle").write_bytes(pickle.dumps(call))
        started = time.perf_counter()
        with (folder / "printed.txt").open("wb") as printed:
            child = subprocess.Popen(
                [str(python), "-m", "resnet_jax.cost.aot_child", name],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=_environment(target, environment or {}),
            )
            try:
                dump = _wait(child, folder)
            finally:
                if child.poll() is None:
                    child.kill()  # a TPU's program is known; XLA would only go on to generate its code
                child.wait()
        seconds = time.perf_counter() - started
        if dump is not None:
            return _read_dump(dump, target, seconds)
        if (folder / "result.pickle").exists():
            result = pickle.loads((folder / "result.pickle").read_bytes())
            if isinstance(result, Exception):
                raise result
            text, argument_bytes, temp_bytes = result
            return Compiled(target, text, argument_bytes, temp_bytes, seconds)
        raise CompileError(_epitaph(target, child.returncode, (folder / "printed.txt").read_text(errors="replace")))


def _absolute(function: str) -> str:
    place, separator, name = function.rpartition(":")
    if not separator or not name.isidentifier():
        raise ConfigError(f"{function!r} names no function; write 'module:name' or 'path/to/file.py:name'")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else function


def _environment(target: Target, extra: Mapping[str, str]) -> dict[str, str]:
    # XLA ends the process at a flag that it does not know. libtpu's XLA may not know the flags for CPUs.
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith("--xla_cpu_")]
    if not target.chip.is_tpu:
        flags.append("--xla_gpu_autotune_level=0")  # autotuning runs kernels, and there is no device to run them
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        **(TPU_ENVIRONMENT if target.chip.is_tpu else {}),
        "JAX_PLATFORMS": "cpu",  # where JAX itself computes; for the target it only compiles
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # XLA does not dump a program that comes from the cache
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": path,
        **extra,
    }


def _wait(child: subprocess.Popen, folder: Path) -> Path | None:
    """Waits for the child's end, or for a TPU's program. Then it returns the path of the program's dump, without
    ending.

    For TPUs, fusion, layouts, memory and collectives are final when XLA dumps the program with its buffers. After that
    XLA generates code, which takes minutes.
    """
    while True:
        ended = child.poll() is not None
        for end in _PROGRAM_ENDS:
            for path in folder.glob(f"dump/*.{end}"):
                stem = Path(str(path).removesuffix(f".{end}"))
                if _is_whole(path, Path(f"{stem}.debug_options")):
                    return stem
        if ended:
            return None
        time.sleep(0.1)


# The second file is written if the program does not fit into the device's memory.
_PROGRAM_ENDS = ("after_optimizations_after_buffer_assignment.txt", "oom_intermediate_module.txt")


def _is_whole(program: Path, options: Path) -> bool:
    """Whether a dump is complete. XLA writes the options after each dump, so they are older than an unfinished one."""
    return options.exists() and options.stat().st_mtime_ns >= program.stat().st_mtime_ns and program.stat().st_size > 0


def _read_dump(stem: Path, target: Target, seconds: float) -> Compiled:
    text = next(path for end in _PROGRAM_ENDS if (path := Path(f"{stem}.{end}")).exists()).read_text()
    report = Path(f"{stem}.after_optimizations-memory-usage-report.txt").read_text()
    buffers = Path(f"{stem}.after_optimizations-buffer-assignment.txt").read_text()
    argument_bytes, temp_bytes = read_memory(report, buffers)
    return Compiled(target, text, argument_bytes, temp_bytes, seconds)


def read_memory(report: str, buffers: str) -> tuple[int, int]:
    """Bytes of arguments and of everything else in the device's memory, from two of XLA's dumps for TPUs."""
    total = re.search(r"^Memory Space: default .*\nTotal bytes: (\d+)", report, re.M)
    if total is None:
        raise CompileError(
            "XLA's memory report is not as libtpu 0.0.42 writes it, so its figures cannot be read: install that version"
        )
    arguments = sum(map(int, re.findall(r"^allocation \d+: size (\d+), parameter \d+", buffers, re.M)))
    return arguments, int(total[1]) - arguments


def _epitaph(target: Target, status: int, printed: str) -> str:
    """What ended the child: XLA's own line if it printed one, else the last line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    fatal = [line for line in lines if "Check failed" in line or re.match(r"F\d{4} ", line)]
    last = (fatal or lines or ["nothing was printed"])[-1 if not fatal else 0]
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"the compiler ended its process {how} while it compiled for {target.name}: {last}"
