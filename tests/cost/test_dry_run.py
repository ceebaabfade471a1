"""`train.py --dry-run TARGET`: the verdict, the remedy, the floors, and one clear line for each mistake."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from resnet_jax import AugmentConfig, Config, DataConfig, Distil, ModelConfig
from resnet_jax.cost.aot import Compiled
from resnet_jax.cost.count import count_macs
from resnet_jax.cost.dry_run import dry_run, remedies
from resnet_jax.cost.forecast import forecast_for
from resnet_jax.cost.scaling import efficiency, exchange_seconds, wire_seconds
from resnet_jax.cost.targets import CHIPS, parse_target
from resnet_jax.errors import CompileError, ConfigError
from resnet_jax.tasks.assemble import build_model

ROOT = Path(__file__).parent.parent.parent
CONFIG = Config(
    model=ModelConfig(name="cifar_resnet20", num_classes=10, bn_group_size=4, dtype="bfloat16"),
    data=DataConfig(name="synthetic", image_size=32, eval_resize=32),
    batch_size=64,
)
# A kernel that reads and writes 40 MB, and an all-reduce that puts out 1 MB; what it takes is not in the text.
PROGRAM = """HloModule jit_train_step

ENTRY %main (x: f32[10000000]) -> f32[10000000] {
  %x = f32[10000000]{0} parameter(0)
  %sum = f32[250000]{0} all-reduce(%y), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %out = f32[10000000]{0} negate(%x)
}
"""


class Compiler:
    """In XLA's place: remembers what it was asked for, and gives the memory that `needs` says."""

    def __init__(self, needs):
        self.needs = needs
        self.asked = []

    def __call__(self, target, function, config):
        assert function == "resnet_jax.cost.programs:train_step"
        self.asked.append(config)
        needed = self.needs(config)
        if isinstance(needed, Exception):
            raise needed
        return Compiled(target, PROGRAM, 10**9, int(needed * 1e9) - 10**9, 1.0)


def test_a_step_that_fits():
    compiler = Compiler(lambda config: 16.5)
    text = dry_run(CONFIG, "v5e:4", compile_step=compiler)
    assert len(compiler.asked) == 1
    for line in (
        "One update of cifar_resnet20, compiled for 4 device(s) (v5e:4); nothing was run",
        "64 images, 16 on each device; BatchNorm over 4",
        "memory per device   16.50 of 16.91 GB: state 1000.0 MB, batch 0.0 MB, activations and scratch 15.50 GB",
        "\n                      fits\n",
        "memory traffic      81.0 MB per device, 5 MB per image",
        "collectives         1 all-reduce",
        "on the wire         1.5 MB sent by each device",
        "floor, memory       0.10 ms, 647,901 images/s (0.82 TB/s)",
        "floor, wire         0.01 ms, 8,533,333 images/s (200 GB/s; may hide behind the backward pass)",
        "what binds          memory",
    ):
        assert line in text, f"{line!r} is not in\n{text}"


def test_the_floor_of_arithmetic():
    compiler = Compiler(lambda config: 2)
    macs = count_macs(build_model(CONFIG), image_size=32)
    large = replace(CONFIG, batch_size=6400)
    seconds = 6 * macs * 6400 / 197e12
    text = dry_run(large, "v5e:1", compile_step=compiler)
    assert f"floor, arithmetic   {1e3 * seconds:.2f} ms, {6400 / seconds:,.0f} images/s (197 TFLOP/s)" in text
    in_full = dry_run(replace(large, model=replace(CONFIG.model, dtype="float32")), "a100:1", compile_step=compiler)
    assert "(156 TFLOP/s; float32 in full takes more passes)" in in_full
    tf32 = dry_run(replace(large, model=replace(CONFIG.model, dtype="tf32")), "a100:1", compile_step=compiler)
    assert "(156 TFLOP/s)" in tf32


def test_a_teacher_is_not_counted_and_that_is_said():
    line = "The teacher (distil.teacher) is not counted: its weights, and its forward pass in each update."
    compiler = Compiler(lambda config: 2)
    assert line not in dry_run(CONFIG, "v5e:4", compile_step=compiler)
    taught = replace(CONFIG, distil=Distil(teacher="runs/teacher"))
    assert line in dry_run(taught, "v5e:4", compile_step=compiler)


def test_a_remedy_is_compiled_before_it_is_named():
    said = []
    compiler = Compiler(lambda config: 12 if config.accumulate == 2 else 17 + 1 / (1 + len(config.model.remat)))
    text = dry_run(CONFIG, "v5e:4", say=said.append, compile_step=compiler)
    assert "does not fit: 18.00 of 16.91 GB; --accumulate 2 would: 12.00 of 16.91 GB (compiled, not estimated)" in text
    assert "memory per device   18.00 of 16.91 GB" in text, "the figures are those of the step as it was asked for"
    assert [config.model.remat for config in compiler.asked] == [(), (1, 2), (1, 2, 3), ()]
    assert said[0] == "does not fit: 18.00 of 16.91 GB; compiling it with --model.remat 1 2 ..."


def test_nothing_helps():
    def needs(config):
        return CompileError("XLA gave up") if config.model.remat == (1, 2) else 20

    text = dry_run(replace(CONFIG, batch_size=32), "v5e:4", compile_step=Compiler(needs))
    assert (
        "does not fit: 20.00 of 16.91 GB; nor with --model.remat 1 2: XLA gave up; --model.remat 1 2 3: 20.00 of "
        "16.91 GB; --accumulate 2: 20.00 of 16.91 GB. What is left: fewer images on each device, or devices with more "
        "memory"
    ) in text


def test_a_compilation_that_fails():
    with pytest.raises(CompileError, match="^XLA gave up$"):
        dry_run(CONFIG, "v5e:4", compile_step=Compiler(lambda config: CompileError("XLA gave up")))


def options(config, devices):
    return [option for option, _ in remedies(config, devices)]


def test_only_remedies_that_the_config_allows():
    assert options(CONFIG, 4) == ["--model.remat 1 2", "--model.remat 1 2 3", "--accumulate 2", "--accumulate 4"]
    large = ["--accumulate 2", "--model.remat 1 2", "--model.remat 1 2 3", "--accumulate 4", "--accumulate 8"]
    assert options(replace(CONFIG, batch_size=256), 4) == large, "parts of 32 images keep a device busy"
    assert options(replace(CONFIG, model=replace(CONFIG.model, remat=(1, 2, 3))), 8) == ["--accumulate 2"]
    whole = replace(CONFIG, model=replace(CONFIG.model, bn_group_size=0, remat=(1, 2)))
    assert options(whole, 4) == ["--model.remat 1 2 3"], "parts need groups"
    mixed = replace(CONFIG, data=replace(CONFIG.data, augment=AugmentConfig(mixup_alpha=0.2, mix_group_size=16)))
    assert options(mixed, 4)[2:] == [], "parts need whole groups of images that are mixed"


def test_most_of_a_gpus_memory():
    text = dry_run(CONFIG, "h100:4", compile_step=Compiler(lambda config: 70))
    assert "fits, if XLA_PYTHON_CLIENT_MEM_FRACTION=.97 is set: JAX takes 75 % of a GPU's memory otherwise" in text
    assert "does not fit: 90.00 of 84.93 GB" in dry_run(CONFIG, "h100:4", compile_step=Compiler(lambda config: 90))


def test_the_links_of_many_hosts():
    text = dry_run(CONFIG, "h100:16", compile_step=Compiler(lambda config: 2))
    assert "(450 GB/s within a host, 50 GB/s between hosts; may hide behind the backward pass)" in text


def test_more_devices():
    chip, exchanged = CHIPS["h100"], 2e8
    assert wire_seconds(chip, exchanged, 1) == exchange_seconds(chip, exchanged, 1) == 0
    assert wire_seconds(chip, exchanged, 8) == pytest.approx(7 / 8 * 2e8 / 450e9)
    network = 7 / 8 * 2e8 / 8 / 50e9
    assert wire_seconds(chip, exchanged, 64) == pytest.approx(7 / 8 * 2e8 / 450e9 + network), "hosts of eight"
    low, high = efficiency(chip, 1e-3, exchanged, 64)
    assert 0 < low < high <= 1
    assert efficiency(chip, 1e-3, exchanged, 64, exchanges=99)[0] < low, "each exchange waits for its messages"
    text = dry_run(CONFIG, "v5e:4", compile_step=Compiler(lambda config: 2))
    assert re.search(r"more devices        4: \d+% - 100%, 16: \d+% - \d+%, 64: .*256: ", text)


@pytest.fixture
def alone():
    """A program without collectives, as for one device."""

    def compile_step(target, function, config):
        return Compiled(target, PROGRAM.replace("all-reduce", "copy"), 10**9, 10**9, 1.0)

    return compile_step


def test_more_devices_than_one(alone):
    assert "assumed: one all-reduce of the gradients" in dry_run(CONFIG, "v5e:1", compile_step=alone)
    whole = replace(CONFIG, model=replace(CONFIG.model, bn_group_size=0))
    text = dry_run(whole, "v5e:1", compile_step=alone)
    assert "compile for two or more: BatchNorm over the whole batch needs exchanges too" in text


def test_a_batch_that_the_devices_cannot_share_is_refused_before_anything_is_compiled():
    compiler = Compiler(lambda config: 1)
    message = re.escape(
        "batch_size = 64 is not divisible by 1024 = 256 device(s) x 4 images of a BatchNorm group "
        "(model.bn_group_size); the nearest that are: 1024"
    )
    with pytest.raises(ConfigError, match=message):
        forecast_for(CONFIG, parse_target("v5e:16x16"), compiler)
    assert not compiler.asked


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("0", "error: unknown target '0'. Known: a100, h100, v4, v5e, v5p, v6e."),
        ("v4:4x8x8", "error: batch_size = 40 is not divisible by 256 = 256 device(s); the nearest that are: 256"),
    ],
)
def test_one_line_for_each_mistake(tmp_path, target, message):
    command = [sys.executable, str(ROOT / "train.py"), "--dry-run", target, "--batch-size", "40"]
    done = subprocess.run(
        [*command, "--model.bn-group-size", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout
    assert not list(tmp_path.iterdir())
