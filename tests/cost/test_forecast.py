"""What a step will take, told before it is run; compiled programs are remembered."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from resnet_jax import Config, DataConfig, ModelConfig, OptimConfig, Segment
from resnet_jax.cli import main
from resnet_jax.cost.count import count_macs, count_parameters
from resnet_jax.cost.forecast import forecast, kept_bytes
from resnet_jax.cost.report import describe
from resnet_jax.errors import ConfigError
from resnet_jax.tasks.assemble import build_model

ROOT = Path(__file__).parent.parent.parent


pytestmark = pytest.mark.usefixtures("short_runs")


def tiny(batch_size=64, accumulate=1, remat=(), **optim):
    return Config(
        model=ModelConfig(name="cifar_resnet8", num_classes=10, bn_group_size=4, remat=remat),
        data=DataConfig(name="synthetic", image_size=32, eval_resize=32),
        optim=OptimConfig(**optim),
        batch_size=batch_size,
        accumulate=accumulate,
    )


@pytest.fixture(scope="module")
def one(short_runs):
    return forecast(tiny(32), jax.devices()[:2])


def test_the_forecast_adds_up(one):
    model = build_model(tiny())
    parameters, statistics = count_parameters(model), 2 * 240
    assert one.state_bytes == pytest.approx(4 * (2 * parameters + statistics), abs=64), "parameters, momentum, counters"
    assert one.batch_bytes == 16 * (32 * 32 * 3 + 4)
    assert one.flops == 6 * 16 * count_macs(model, image_size=32)
    text = describe(one)
    assert "compiled for 2 device(s) (cpu); nothing was run" in text
    assert "32 images, 16 on each device; BatchNorm over 4" in text
    assert "1 all-reduce" in text


def test_parts_take_the_memory_of_one(one):
    """Four times the images, in four parts: the same, but for the bytes of the images and a sum of gradients."""
    four = forecast(tiny(128, 4), jax.devices()[:2])
    assert four.temporary_bytes < 1.15 * one.temporary_bytes + 4 * count_parameters(build_model(tiny()))
    assert four.kept_bytes == one.kept_bytes
    assert four.batch_bytes == 4 * one.batch_bytes


@pytest.mark.slow
def test_a_split_optimizer_takes_less_memory(one):
    split = forecast(tiny(32, shard_state=True), jax.devices()[:2])
    assert split.state_bytes == pytest.approx(one.state_bytes * 3 / 4, rel=0.02)


def test_rematerialisation_keeps_less_for_the_backward_pass(one):
    some, more = (kept_bytes(config, build_model(config), 16) for config in (tiny(remat=(1,)), tiny(remat=(1, 2, 3))))
    assert more < some < 0.75 * one.kept_bytes


def test_what_is_frozen_has_no_backward_pass(one):
    probe = forecast(tiny(32, level="head"), jax.devices()[:2])
    forward = 2 * 16 * count_macs(build_model(tiny()), image_size=32)
    assert probe.flops == forward + 2 * 16 * 64 * 10, "the gradient of the head's kernel"
    assert probe.kept_bytes < 0.01 * one.kept_bytes
    assert probe.state_bytes < 0.6 * one.state_bytes, "no momentum for the frozen part"


def test_a_network_for_segmentation():
    """Its batches hold masks. Only the last convolutions are trained: that is less than three forward passes."""
    whole = replace(tiny(16), model=ModelConfig(name="fcn_cifar_resnet8", num_classes=3), task=Segment())
    config = replace(whole, optim=OptimConfig(level="head"))
    found, model = forecast(config, jax.devices()[:2]), build_model(config)
    assert found.batch_bytes == 8 * 32 * 32 * (3 + 1)
    forward = 2 * count_macs(model, image_size=32) * 8
    assert forward < found.flops < 1.5 * forward
    assert 0 < found.kept_bytes < kept_bytes(whole, model, 8)


def test_a_batch_that_the_devices_cannot_share():
    message = (
        r"batch_size = 64 is not divisible by 48 = 3 device\(s\) x 4 parts \(accumulate\) x 4 images of a BatchNorm "
        r"group \(model.bn_group_size\); the nearest that are: 48 or 96"
    )
    with pytest.raises(ConfigError, match=message):
        forecast(tiny(accumulate=4), jax.devices()[:3])


@pytest.mark.slow
def test_memory_with_and_without_rematerialisation(capsys):
    main(["memory", "cifar_resnet20", "--batch-size", "64", "--image-size", "32", "--stages", "1", "2", "3"])
    text = capsys.readouterr().out
    units = {"KB": 1e3, "MB": 1e6, "GB": 1e9}
    kept = re.findall(r"kept for the backward pass ([\d.]+) ([KMG]B)", text)
    without, remat = (float(number) * units[unit] for number, unit in kept)
    assert 0 < remat < 0.5 * without, text
    assert len(re.findall(r"peak [\d.]+ MB: state [\d.]+ MB, batch \d+ KB, activations", text)) == 2
    assert "remat of stages 1, 2, 3" in text


def train(tmp_path, *arguments, **environment):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    environment = {**os.environ, "XLA_FLAGS": "", **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3000)


def test_dry_run_for_more_devices_than_there_are(tmp_path):
    done = train(
        tmp_path,
        str(ROOT / "tests" / "small_digits.py"),
        "--dry-run",
        "16",
        "--model.bn-group-size",
        "4",
        "--data.directory",
        "/nowhere",
    )
    assert done.returncode == 0, done.stderr
    assert "compiled for 16 device(s) (cpu); nothing was run" in done.stdout
    assert "1 all-reduce" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_programs_are_remembered_in_the_users_cache_directory(tmp_path):
    environment = {"JAX_COMPILATION_CACHE_DIR": None, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    short = ("--epochs", "0.1")
    assert train(tmp_path, *short, "--workdir", "none", "--no-compilation-cache", **environment).returncode == 0
    assert not (tmp_path / "cache" / "resnet_jax").exists()
    assert train(tmp_path, *short, "--workdir", "a", **environment).returncode == 0
    programs = {path.name for path in (tmp_path / "cache" / "resnet_jax" / "programs").iterdir()}
    assert any("train_step" in name for name in programs)
    assert train(tmp_path, *short, "--workdir", "b", **environment).returncode == 0
    again = {path.name for path in (tmp_path / "cache" / "resnet_jax" / "programs").iterdir()}
    compiled = {name for name in again - programs if name.endswith("-cache")}
    assert not compiled, "the second run compiled something anew"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("r3d_18", "clips", "8 clips of 16 frames of 112 pixels"),
        ("unet_resnet18", "segment", "8 images of 520 pixels"),
        ("iresnet18", "embed", "8 images of 112 pixels"),
        ("cifar_resnet20", "classify", "8 images of 32 pixels"),
    ],
)
def test_the_memory_of_any_network_is_that_of_its_own_task_and_size(monkeypatch, capsys, name, kind, said):
    asked = []
    stand_in = SimpleNamespace(peak_bytes=4, state_bytes=1, batch_bytes=1, temporary_bytes=2, kept_bytes=1)
    monkeypatch.setattr("resnet_jax.cost.forecast.forecast", lambda config, device: asked.append(config) or stand_in)
    main(["memory", name, "--batch-size", "8"])
    assert said in capsys.readouterr().out
    assert {config.task.kind for config in asked} == {kind}
