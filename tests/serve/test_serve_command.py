"""The command `serve`: what it refuses before any work, and what it prints."""

import sys

import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.config import ServeConfig
from resnet_jax.errors import ConfigError
from resnet_jax.export.job import Job
from resnet_jax.export.stablehlo import write_stablehlo
from resnet_jax.run.network import Network
from resnet_jax.serve.opened import served_of
from resnet_jax.serve.server import Server
from resnet_jax.weights import Preset

from ..weights.networks import random_variables


def refused(*words):
    with pytest.raises(SystemExit, match="^error: ") as caught:
        cli.main(["serve", *map(str, words)])
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "name one network: the folder of a run or of an export, a weight file or a published set"),
        (["resnet18", "--weights", "DEFAULT"], "name one network: the folder of a run or of an export"),
        (["resnet18", "--entry", "model"], "--entry and --prefix are for --weights; name the file by --weights FILE"),
        (["resnet18", "--port", "70000"], "ServeConfig.port = 70000 is out of range; it must be >= 0 and <= 65535"),
        (["resnet18", "--batch-sizes", "0"], "ServeConfig.batch_sizes[0] = 0 is out of range; it must be >= 1"),
        (
            ["resnet18", "--max-pixels", "90000000"],
            "ServeConfig.max_pixels = 90000000 is out of range; it must be",
        ),
        (["resnet18", "--queue", "0"], "ServeConfig.queue = 0 is out of range; it must be >= 1"),
        (["resnet18", "--timeout", "0"], "ServeConfig.timeout = 0.0 is out of range; it must be > 0"),
        (["resnet18", "--aspects", "4x3"], "ServeConfig.aspects = '4x3' must be width:height, such as 4:3"),
        (["resnet18", "--held-bytes", "5"], "ServeConfig.held_bytes = 5 must be at least max_bytes = 20000000"),
        (["there_is_none", "--port", "0"], "there is no there_is_none; name the folder of a run, a weight file"),
    ],
)
def test_mistakes(words, text):
    assert text in refused(*words)


@pytest.mark.parametrize("name", ["batch_sizes", "aspects"])
def test_none_of_many(name):
    with pytest.raises(ConfigError, match=rf"ServeConfig.{name} = \(\) must name at least one"):
        ServeConfig(**{name: ()})


@pytest.mark.parametrize(
    ("module", "package"),
    [("starlette", "starlette"), ("uvicorn", "uvicorn"), ("python_multipart", "python-multipart")],
)
def test_without_a_package(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    text = f"serve needs the package {package}; install it with: pip install {package}"
    assert refused("resnet18") == f"error: {text}"


def test_without_onnxruntime(tiny, tmp_path, monkeypatch):
    from resnet_jax.export.onnx_file import write_onnx

    write_onnx(Job(tiny), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    text = "an export of format onnx needs the package onnxruntime; install it with: pip install onnxruntime"
    assert text in refused(tmp_path / "out", "--port", 0)


def test_options_of_weights_are_not_for_exports(tiny, tmp_path):
    write_stablehlo(Job(tiny), tmp_path / "out")
    for words in (["--exif"], ["--model", "resnet18"], ["--preset.resize", 9]):
        text = refused(tmp_path / "out", *words, "--port", 0)
        assert "is an export, which says itself what it is; leave --exif, --model and --preset out" in text


def test_networks_that_name_no_class():
    network = Network("features", rn.create_model("cifar_resnet20", num_classes=0), {}, Preset(32, 32), ())
    with pytest.raises(ConfigError, match="features has no last layer, so it names no class; serve a network with cla"):
        served_of(network, ServeConfig())
    whole = Network("whole", rn.create_model("cifar_resnet20", num_classes=2), {}, Preset(32, 0), ("a", "b"))
    with pytest.raises(ConfigError, match="whole sees whole images of any shape, and programs for batches need one"):
        served_of(whole, ServeConfig())


def test_what_is_printed(tiny, tmp_path, capsys, monkeypatch):
    """In 80 columns. The server itself is left out."""
    monkeypatch.setattr(Server, "run", lambda self, sockets: None)
    monkeypatch.setattr("resnet_jax.runtime.programs.remember_programs", lambda: None)
    rn.save_weights(tmp_path / "w.safetensors", random_variables(rn.create_model("cifar_resnet20", num_classes=7)))
    monkeypatch.chdir(tmp_path)
    cli.main(["serve", "w.safetensors", "--model", "cifar_resnet20", "--host", "0.0.0.0", "--port", "0"])
    assert capsys.readouterr().out.splitlines() == [
        "cifar_resnet20 of w.safetensors: 7 classes, with Grad-CAM",
        "images: shorter side 32 pixels (bilinear), centre 32",
        "warning: other machines can reach it, and there is no authentication; put a proxy before it",
        "compiling 5 programs, for batches of 1, 8, 32",
        "0 requests were answered",
    ]
    write_stablehlo(Job(tiny, batch=2), tmp_path / "out")
    cli.main(["serve", "out", "--port", "0"])
    assert capsys.readouterr().out.splitlines()[:3] == [
        "a tiny network: 7 classes, without Grad-CAM",
        "images: shorter side 40 pixels (bilinear), centre 33",
        "compiling 1 program, for batches of 2",
    ]


def test_why_the_programs_failed_is_told(tmp_path, monkeypatch):
    def run(self, sockets):
        self._service.failure = ConfigError("no memory; take smaller --batch-sizes")

    monkeypatch.setattr(Server, "run", run)
    monkeypatch.setattr("resnet_jax.runtime.programs.remember_programs", lambda: None)
    rn.save_weights(tmp_path / "w.safetensors", random_variables(rn.create_model("cifar_resnet20", num_classes=7)))
    words = [tmp_path / "w.safetensors", "--model", "cifar_resnet20", "--port", 0]
    assert refused(*words) == "error: no memory; take smaller --batch-sizes"
