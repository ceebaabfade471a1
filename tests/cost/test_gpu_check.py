"""`benchmarks/gpu_check.py`: whole, at small sizes; and its parts, on profiles and processes that end."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from resnet_jax.cost.traffic import Kernel

ROOT = Path(__file__).parent.parent.parent
ONE_DEVICE = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
SCRIPT = [sys.executable, "benchmarks/gpu_check.py"]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.slow
def test_all_of_it_at_small_sizes(tmp_path):
    pytest.importorskip("torch")
    command = [*SCRIPT, "--out", str(tmp_path), "--tiny", "--budget", "800"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ONE_DEVICE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS in " in done.stdout
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["passed"]
    assert found["failures"] == {}
    assert len(found["parity"]) == 2 * 2 * 5  # forms, dtypes, quantities
    assert {row["form"] for row in found["parity"]} == {"cpu"}
    assert [table["title"] for table in found["timing"]] == [
        "resnet18, training step, batch 2, bfloat16",
        "digits, forward pass, batch 4, bfloat16",
    ]
    assert [row["program"] for row in found["timing"][0]["rows"]] == ["ours", "flax example", "torch eager"]
    assert len(found["profile"]) == 5
    assert any(kernel["source"] for kernel in found["profile"])
    page = (tmp_path / "gpu_check.md").read_text()
    assert page.count("| ours |") == 2
    assert "DIFFERS" not in page


def test_a_part_that_ends_its_process_stops_no_other(tmp_path, monkeypatch, capsys):
    """And what is known is written."""
    import gpu_check
    from device_profile import KernelTime

    monkeypatch.setattr(gpu_check, "deviations", refuse)
    monkeypatch.setattr(gpu_check, "start_apart", start_here)
    monkeypatch.setattr(gpu_check, "describe_device", lambda: {"device": "a toy", "memory": 1})
    monkeypatch.setattr(gpu_check, "time_peers", refuse)
    monkeypatch.setattr(
        gpu_check, "profile_step", lambda *sizes: [KernelTime("fusion.1", 2.0, 0.5, "loop", "conv1", 10**9)]
    )
    assert gpu_check.main(["--out", str(tmp_path), "--tiny"]) == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["environment"]["device"] == "a toy"
    assert found["failures"] == {
        "parity of cifar_resnet20, float32, in the form for this device": "its process ended with status 1",
        "parity of cifar_resnet20, bfloat16, in the form for this device": "its process ended with status 1",
        "parity of cifar_resnet20, float32, in the form for cpu": "its process ended with status 1",
        "parity of cifar_resnet20, bfloat16, in the form for cpu": "its process ended with status 1",
        "resnet18, training step": "its process ended with status 1",
        "digits, forward pass": "its process ended with status 1",
    }
    assert [kernel["name"] for kernel in found["profile"]] == ["fusion.1"]
    assert "| fusion.1 | loop | 2.000 | 50.0% | 500 | conv1 |" in (tmp_path / "gpu_check.md").read_text()
    assert "FAIL in " in capsys.readouterr().out


def start_here(work):
    """As `start_apart`."""
    return SimpleNamespace(answer=lambda patience: work())


def refuse(*arguments, **options):
    from seat import CannotRun

    raise CannotRun("its process ended with status 1")


def test_work_apart():
    from seat import CannotRun, start_apart

    good, dead = start_apart(partial(int, "7")), start_apart(partial(os._exit, 3))
    assert good.answer(60) == 7
    with pytest.raises(CannotRun, match="its process ended with status 3"):
        dead.answer(60)


@pytest.mark.slow
def test_a_kernel_that_is_wrong_is_seen(monkeypatch):
    """A tap of every 3x3 convolution is left out where the device computes, which here is a CPU too."""
    import device_parity
    from jax import lax

    right = lax.conv_general_dilated

    def wrong(images, kernel, *arguments, **options):
        broken = kernel.dtype != "float64" and kernel.shape[0] == 3
        return right(images, kernel.at[0, 0].set(0) if broken else kernel, *arguments, **options)

    monkeypatch.setattr(lax, "conv_general_dilated", wrong)
    found = device_parity.deviations("cifar_resnet20", "", "float32", batch_size=4, image_size=17)
    jax.config.update("jax_enable_x64", False)  # what it set in a process that should be its own
    assert len(found) == 5
    assert [deviation.quantity for deviation in found if deviation.passed] == []


def test_relative_error():
    import numpy as np
    from device_parity import Deviation, relative_error

    a, b = {"x": np.array([3.0, 0]), "y": np.array([[4.0]])}, {"x": np.array([3.0, 0]), "y": np.array([[3.5]])}
    assert relative_error(b, a) == 0.1
    assert not Deviation("n", "cpu", "float32", "loss", float("nan"), 1.0).passed


def event(name, nanoseconds, hlo_op=None):
    return SimpleNamespace(name=name, duration_ns=nanoseconds, stats=[("hlo_op", hlo_op)] if hlo_op else [])


def plane(name, **lines):
    return SimpleNamespace(
        name=name, lines=[SimpleNamespace(name=key.replace("_", " "), events=events) for key, events in lines.items()]
    )


HOST = plane("/host:CPU", python=[event("dot.1", 9, "dot.1"), event("end: dot.1", 1, "dot.1"), event("wait", 50)])
GPU = plane("/device:GPU:0", Stream_1=[event("k1", 30, "fusion.1"), event("k2", 5, "conv.2")], Stream_2=[event("m", 8)])
TPU = plane("/device:TPU:0", XLA_Modules=[event("m", 40, "m")], XLA_Ops=[event("f", 7, "f")])


@pytest.mark.parametrize(
    ("planes", "expected"),
    [
        ([HOST], [("dot.1", 9)]),
        ([HOST, GPU], [("fusion.1", 30), ("conv.2", 5)]),
        ([HOST, TPU], [("f", 7)]),
    ],
)
def test_the_events_of_kernels(planes, expected):
    from device_profile import kernel_events

    assert list(kernel_events(SimpleNamespace(planes=planes))) == expected


def test_the_largest_kernels():
    from device_profile import sort_kernels

    known = Kernel("b", "reduce", 3_000, 1_000, 2, (), "layer1_0/bn1")
    found = sort_kernels({"a": 1_000_000.0, "b": 3_000_000.0, "c": 10.0}, (known,), 2)
    assert [kernel.name for kernel in found] == ["b", "a"]
    assert (found[0].milliseconds, round(found[0].share, 4)) == (3.0, 0.75)
    assert (found[0].kind, found[0].source, found[0].bytes) == ("reduce", "layer1_0/bn1", 8_000)
    assert found[0].bytes_per_second == pytest.approx(8_000 / 3e-3)
    assert (found[1].kind, found[1].bytes_per_second) == ("", 0)
