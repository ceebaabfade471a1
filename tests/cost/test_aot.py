"""Compiling in a child process: what it gives back, and that its end is survived.

Where the compilers of TPUs or GPUs are not installed, the child compiles for this machine's CPU.
"""

import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import Config, DataConfig, ModelConfig
from resnet_jax.cost import aot_child
from resnet_jax.cost.aot import compile_ahead, read_memory
from resnet_jax.cost.count import count_parameters
from resnet_jax.cost.targets import parse_target
from resnet_jax.errors import CompileError, ConfigError
from resnet_jax.tasks.assemble import build_model

HERE = str(Path(__file__))
ROOT = Path(__file__).parent.parent.parent
TINY = Config(
    model=ModelConfig(name="cifar_resnet20", num_classes=10, bn_group_size=4),
    data=DataConfig(name="synthetic", image_size=32, eval_resize=32),
    batch_size=32,
    eval_batch_size=32,
)


# What the child of these tests calls.


def lower_product(devices, size):
    x = jax.ShapeDtypeStruct((size, size), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(devices[0]))
    return jax.jit(lambda x: jnp.sin(x @ x)).lower(x)


def abort_as_xla_does(devices):
    print("F1125 01:46:41.672452   25193 tiling.cc:627] Check failed: sum == size (784 vs. 56)", flush=True)
    print("    @     0x7f7ce920cfd3       1888  FailureSignalHandler()", flush=True)
    os.abort()


def leave(devices):
    print("the last words", flush=True)
    os._exit(3)


def fail(devices):
    raise RuntimeError("INTERNAL: no tile sizes\nand more that nobody reads")


def refuse(devices, config):
    raise ConfigError(f"a batch of {config.batch_size} is refused")


def interpreter(path, code):
    """A Python that does not do what it is told, but runs `code`."""
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nfolder = Path(sys.argv[3])\n{dedent(code)}"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def on_cpu(tmp_path):
    """The child finds this machine's CPU in place of the target's devices."""
    code = """
        import jax
        from resnet_jax.cost import aot_child

        aot_child.check_packages = lambda target: None
        aot_child.find_devices = lambda target: jax.devices()[: target.devices]
        aot_child.main(folder)
    """
    return interpreter(tmp_path / "python", code)


def test_what_a_program_tells(on_cpu):
    found = compile_ahead("h100:1", f"{HERE}:lower_product", 64, python=on_cpu)
    size = 64 * 64 * 4
    assert found.argument_bytes == size
    assert found.peak_bytes >= 2 * size
    assert found.fits
    assert found.hbm_bytes >= 2 * size
    assert sum(kernel.bytes for kernel in found.largest_kernels(99)) == found.hbm_bytes
    assert len(found.largest_kernels(1)) == 1
    assert found.collectives == ()
    assert found.text.startswith("HloModule jit__lambda")


def test_options_reach_xla(on_cpu):
    with pytest.raises(CompileError, match="for h100:1: JaxRuntimeError: .*No such compile option: 'xla_no_such'"):
        compile_ahead("h100:1", f"{HERE}:lower_product", 8, compiler_options={"xla_no_such": 1}, python=on_cpu)


def test_inference_of_a_config(on_cpu):
    forward = compile_ahead("h100:1", "resnet_jax.cost.programs:inference", TINY, python=on_cpu)
    parameters, statistics = count_parameters(build_model(TINY)), 2 * 688
    assert forward.argument_bytes == pytest.approx(4 * (parameters + statistics + 32 * 32 * 32 * 3), abs=64)
    assert any("ResNet/layer2_0/conv1" in kernel.source for kernel in forward.kernels)


@pytest.mark.slow
def test_the_step_of_a_config(on_cpu):
    step = compile_ahead("h100:1", "resnet_jax.cost.programs:train_step", TINY, python=on_cpu)
    assert any("transpose(jvp(ResNet))" in kernel.source for kernel in step.kernels)


def test_the_end_of_the_process_is_survived(on_cpu):
    message = (
        r"the compiler ended its process by SIGABRT while it compiled for h100:8: "
        r"F1125 .* tiling.cc:627\] Check failed: sum == size \(784 vs. 56\)$"
    )
    with pytest.raises(CompileError, match=message):
        compile_ahead("h100:8", f"{HERE}:abort_as_xla_does", python=on_cpu)
    with pytest.raises(CompileError, match="ended its process with status 3 while .* a100:1: the last words$"):
        compile_ahead("a100:1", f"{HERE}:leave", python=on_cpu)


def test_what_is_raised_arrives_in_one_line(on_cpu):
    with pytest.raises(
        CompileError, match="^it could not be compiled for v5e:1: RuntimeError: INTERNAL: no tile sizes$"
    ):
        compile_ahead("v5e:1", f"{HERE}:fail", python=on_cpu)
    with pytest.raises(ConfigError, match="^a batch of 32 is refused$"):
        compile_ahead("v5e:1", f"{HERE}:refuse", TINY, python=on_cpu)
    with pytest.raises(CompileError, match="AttributeError: module 'test_aot' has no attribute 'forgotten'"):
        compile_ahead("v5e:1", f"{HERE}:forgotten", python=on_cpu)


def test_a_name_that_is_no_function():
    with pytest.raises(ConfigError, match="'lower' names no function; write 'module:name' or 'path/to/file.py:name'"):
        compile_ahead("v5e:1", "lower")


REPORT = (
    "Memory Space: default (color=0)\nTotal bytes: 5000 (4.9KiB)\n\nMemory Space: vmem (color=1)\nTotal bytes: 9 (9B)\n"
)
BUFFERS = """BufferAssignment:
allocation 0: size 512, thread-local:
allocation 1: size 1536, parameter 1, shape |u8[1,1,1,3]| at ShapeIndex {}:
allocation 2: size 512, parameter 0, shape |f32[2]| at ShapeIndex {}, maybe-live-out:
allocation 3: size 2952, preallocated-temp:
"""
MODULE = "HloModule jit_step\n\nENTRY %main (x: f32[2]) -> f32[2] {\n  ROOT %x = f32[2]{0} parameter(0)\n}\n"


@pytest.mark.parametrize(
    ("end", "fits"), [("after_optimizations_after_buffer_assignment", True), ("oom_intermediate_module", False)]
)
@pytest.mark.parametrize("lasts", [600, 0])
def test_a_tpus_program_is_read_from_dumps_and_its_compiler_not_waited_for(tmp_path, end, fits, lasts):
    """Whether it goes on for long, as with code, or ends at once, as where the program does not fit."""
    total = 5000 if fits else 99_000_000_000
    code = f"""
        import os, time
        dump = folder / "dump"
        dump.mkdir()
        stem = "module_0003.jit_step.cl_1"
        (dump / "module_0000.jit_step.cl_1.debug_options").write_text("of an earlier pass")
        report = {REPORT!r}.replace("5000", "{total}")
        (dump / f"{{stem}}.after_optimizations-memory-usage-report.txt").write_text(report)
        (dump / f"{{stem}}.after_optimizations-buffer-assignment.txt").write_text({BUFFERS!r})
        (dump / f"{{stem}}.debug_options").write_text("")  # XLA writes it after each dump, the first time before ours
        time.sleep(0.05)
        with (dump / f"{{stem}}.{end}.txt").open("w") as program:
            program.write({MODULE[:20]!r})
            program.flush()
            time.sleep(0.5)
            program.write({MODULE[20:]!r})
        (dump / f"{{stem}}.debug_options").write_text("")
        Path({str(tmp_path)!r}, "process").write_text(str(os.getpid()))
        time.sleep({lasts})
    """
    found = compile_ahead("v5e:1", "a:b", python=interpreter(tmp_path / "python", code))
    assert (found.argument_bytes, found.temp_bytes) == (2048, total - 2048)
    assert found.text == MODULE
    assert found.fits == fits
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(int((tmp_path / "process").read_text()), 0)


def test_a_report_of_another_form():
    with pytest.raises(CompileError, match="XLA's memory report is not as libtpu 0.0.42 writes it"):
        read_memory("Total: 5", BUFFERS)


@pytest.mark.parametrize(
    ("target", "what", "extra"), [("v5e:1", "libtpu", "tpu"), ("h100:1", "JAX's CUDA plug-in", "gpu")]
)
def test_a_package_that_is_missing(monkeypatch, target, what, extra):
    monkeypatch.setattr(aot_child, "find_spec", lambda name: None)
    message = rf"to compile for {target} this Python needs {what}, .*: pip install -e '\.\[aot-{extra}\]'"
    with pytest.raises(ConfigError, match=message):
        aot_child.check_packages(parse_target(target))


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_missing_package_is_said_by_the_child():
    with pytest.raises(ConfigError, match=r"this Python needs libtpu, .*: pip install -e '\.\[aot-tpu\]'"):
        compile_ahead("v5e:1", "resnet_jax.cost.programs:train_step", TINY)


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[aot-tpu]'")
@pytest.mark.parametrize("target", ["v5e:1", "v4:4"])
def test_a_small_step_for_tpus(target):
    found = compile_ahead(target, "resnet_jax.cost.programs:train_step", TINY)
    assert found.fits
    assert any(kernel.kind.startswith("convolution") for kernel in found.kernels)
    assert len(found.collectives) == (0 if target == "v5e:1" else 1)


@pytest.mark.skipif(
    not any(map(find_spec, aot_child.NEEDED["gpu"])),
    reason="JAX's CUDA plug-in is not installed: pip install -e '.[aot-gpu]'",
)
@pytest.mark.parametrize("target", ["h100:8", "a100:1"])
def test_a_small_network_for_gpus(target):
    found = compile_ahead(target, "resnet_jax.cost.programs:inference", TINY)
    assert found.fits
    assert any(kernel.kind.startswith("__cudnn") for kernel in found.kernels)
