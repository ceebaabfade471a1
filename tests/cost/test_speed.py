"""What the benchmarks report: programs that do the work they claim, counts and floors by hand, a table per command."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.commands.benchmark import benchmark
from resnet_jax.cost import peaks, speed
from resnet_jax.cost.facts import Cost
from resnet_jax.cost.peaks import PEAKS, images_per_second_at_peak, peak_of
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model, init

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parent.parent.parent
ONE_DEVICE = os.environ | {"XLA_FLAGS": ""}
TINY = create_model("cifar_resnet20", stage_sizes=(1,), num_classes=10)


def device(kind):
    return SimpleNamespace(device_kind=kind)


def test_peaks_of_named_devices():
    assert peak_of(device("NVIDIA H200")).flops(jnp.bfloat16) == 989e12
    assert peak_of(device("NVIDIA A100-SXM4-40GB")).bytes < peak_of(device("NVIDIA A100-SXM4-80GB")).bytes
    assert peak_of(device("TPU v5 lite")).flops(jnp.float32) < peak_of(device("TPU v5")).flops(jnp.float32)
    assert peak_of(jax.devices()[0]) is None, "a CPU has no published peak"
    assert images_per_second_at_peak(10**9, "float32", 8) is None


def test_what_eight_gpus_could_do(monkeypatch):
    """ResNet-50: 24.5 GFLOP for each image of a training step."""
    monkeypatch.setattr(peaks.jax, "devices", lambda: [device("NVIDIA H200")])
    assert images_per_second_at_peak(4_089_184_256, "bfloat16", 8) == pytest.approx(8 * 989e12 / 24.535e9, rel=1e-4)


def test_floors_by_hand():
    cost = Cost(parameters=0, macs=10**9, activations=10**7, peak_bytes=0)
    peak = PEAKS["NVIDIA H200"]
    train, forward = (speed.floor(cost, peak, jnp.bfloat16, train=train) for train in (True, False))
    assert train.flops_seconds == pytest.approx(6e9 / 989e12)
    assert train.bytes_seconds == pytest.approx(5 * 2e7 / 4.8e12)
    assert (train.binding, forward.binding) == ("memory", "memory")
    assert forward.flops_seconds == pytest.approx(2e9 / 989e12)
    assert speed.floor(cost, peak, jnp.float32, train=True).bytes_seconds == 2 * train.bytes_seconds


def test_programs_compute_what_they_are_said_to():
    images, labels = speed.synthetic_batch(16, 8, 3, 10)
    forward, train = speed.forward_program(TINY, images), speed.train_program(TINY, images, labels)
    expected = TINY.apply(init(TINY, jax.random.key(0)), images, train=False)
    np.testing.assert_allclose(forward.launch(), expected, rtol=1e-3, atol=1e-4)
    losses = [float(train.launch()["loss"]) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0], "each launch goes on from the state of the one before"
    assert 0 < forward.peak_bytes < train.peak_bytes


def test_programs_take_turns_and_medians_count(monkeypatch):
    now, order = 0.0, []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)

    def program(name, seconds):
        durations = iter(seconds)

        def launch():
            nonlocal now
            order.append(name)
            now += next(durations)

        return speed.Program(name, launch, images=1).turn

    slow = program("slow", [9, 1, 1, 8, 1])  # warm-up, to choose how many a turn has, three rounds
    fast = program("fast", [9, 0.25, *[0.25] * 4, *[0.5] * 4, *[0.3] * 4])
    times = speed.time_in_turns({"slow": slow, "fast": fast}, rounds=3, round_seconds=1.0)
    assert times == {"slow": 1.0, "fast": pytest.approx(0.3)}
    assert order[4:] == ["slow", *["fast"] * 4] * 3


@pytest.mark.slow
def test_the_command_prints_both_programs_and_writes_a_trace(tmp_path, capsys):
    benchmark("cifar_resnet20", batch_size=8, image_size=8, rounds=1, profile=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cifar_resnet20, 8x8, batch 8, float32, 8 x cpu"
    assert [line.split()[0] for line in lines[2:4]] == ["forward", "train"]
    assert all(float(line.split()[1].replace(",", "")) > 0 for line in lines[2:4])
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_the_command_refuses_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(ConfigError, match="--batch-size 12 is not a positive multiple of the 8 device"):
        benchmark("cifar_resnet20", batch_size=12)


@pytest.mark.slow
def test_the_side_by_side_starts():
    """The smallest table, on one device, without peers."""
    command = [sys.executable, "benchmarks/step.py", "--models", "digits", "--batch-size", "4", "--rounds", "1"]
    options = ["--round-seconds", "0.01", "--modes", "forward"]
    out = subprocess.run(
        [*command, *options], check=True, capture_output=True, text=True, cwd=ROOT, env=ONE_DEVICE
    ).stdout
    assert "digits, forward pass, batch 4, float32" in out
    assert "ours  " in out


@pytest.mark.parametrize(
    ("build", "patience", "why"),
    [
        (partial(int, "x"), None, r"ValueError: invalid literal for int\(\) with base 10: 'x'"),
        (partial(os._exit, 3), None, "its process ended with status 3"),
        (partial(time.sleep, 600), 0.1, "not ready within 0 s, what was left of the budget"),
    ],
)
def test_a_peer_that_cannot_run_says_why(monkeypatch, build, patience, why):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from seat import CannotRun, Seat

    with pytest.raises(CannotRun, match=why):
        Seat(build).ready(patience)


@pytest.mark.slow
def test_the_side_by_side_beside_its_peers():
    pytest.importorskip("torch")
    command = [sys.executable, "benchmarks/step.py", "--models", "resnet18", "--batch-size", "2", "--rounds", "1"]
    options = ["--round-seconds", "0.01", "--peers", "flax", "eager"]
    out = subprocess.run(
        [*command, *options], check=True, capture_output=True, text=True, cwd=ROOT, env=ONE_DEVICE
    ).stdout
    assert out.count("flax example") == out.count("torch eager") == 2
    assert out.count("ours / best peer:") == 2
