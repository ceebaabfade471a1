"""The child process of `aot.py`: lowers a function for devices that are not there, and compiles it.

    python -m resnet_jax.cost.aot_child FOLDER

reads `call.pickle` in FOLDER, and writes `result.pickle` (the parts of `Compiled`, or the exception) or XLA's dumps.
"""

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cost.gpu_target import target_config
from resnet_jax.cost.targets import Target
from resnet_jax.errors import CompileError, ConfigError, ResnetJaxError

if TYPE_CHECKING:
    import jax

NEEDED = {"tpu": ("libtpu",), "gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin")}


def check_packages(target: Target) -> None:
    """Raises `ConfigError` if the compiler for the target's devices is not installed."""
    kind = "tpu" if target.chip.is_tpu else "gpu"
    if not any(map(find_spec, NEEDED[kind])):
        what = "libtpu" if kind == "tpu" else "JAX's CUDA plug-in"
        raise ConfigError(
            f"to compile for {target.name} this Python needs {what}, the compiler without the device: "
            f"pip install -e '.[aot-{kind}]' (in an environment of its own, it is large)"
        )


def find_devices(target: Target) -> "Sequence[jax.Device]":
    from jax.experimental import topologies

    if not target.chip.is_tpu:
        hosts = max(1, target.devices // target.chip.island)
        shape = f"1x{hosts}x{target.devices // hosts}"  # slices x hosts x GPUs of a host
        options: dict[str, Any] = {"topology": shape, "target_config": target_config(target.chip)}
        return topologies.get_topology_desc(platform="cuda", topology_name="gpu", **options).devices
    generation = target.name.partition(":")[0]
    options = {"chip_config_name": "megacore"} if generation == "v4" else {}  # a chip is one device, as in JAX's use
    shape = "x".join(map(str, target.shape or target.chip.shapes[0]))
    found = topologies.get_topology_desc(platform="tpu", topology_name=f"{generation}:{shape}", **options)
    return found.devices[: target.devices]


def load(function: str) -> "Callable[..., jax.stages.Lowered]":
    place, _, name = function.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    sys.path.insert(0, str(Path(place).parent))
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def compile_in(folder: Path) -> tuple[str, int, int]:
    """The optimised program, the bytes of its arguments, and the bytes of everything else.

    For TPUs the parent reads these from XLA's dumps instead, and ends this process before the compilation is over.
    """
    target, function, arguments, options = pickle.loads((folder / "call.pickle").read_bytes())
    check_packages(target)
    lowered = load(function)(find_devices(target), *arguments)
    if target.chip.is_tpu:
        options |= {"xla_dump_to": str(folder / "dump"), "xla_dump_hlo_as_text": True}
    compiled: Any = lowered.compile(compiler_options=options or None)
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled.as_text(), memory.argument_size_in_bytes, memory.temp_size_in_bytes + new


def main(folder: Path) -> None:
    try:
        result: Any = compile_in(folder)
    except ResnetJaxError as error:
        result = error
    except Exception as error:  # of XLA, or of the function that lowers; its traceback would not help the user
        target = pickle.loads((folder / "call.pickle").read_bytes())[0]
        text = str(error).strip().partition("\n")[0]
        result = CompileError(f"it could not be compiled for {target.name}: {type(error).__name__}: {text}")
    (folder / "result.pickle.new").write_bytes(pickle.dumps(result))
    (folder / "result.pickle.new").rename(folder / "result.pickle")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
