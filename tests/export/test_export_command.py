"""The command `export`: what it writes and says, and what it refuses before any work."""

import sys
from functools import partial

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.export.job import Job

from .conftest import network_of

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weight files, by the name of the network."""
    paths = {}
    for name in ("resnet18", "cifar_resnet20"):
        paths[name] = tmp_path_factory.mktemp(name) / "own.safetensors"
        rn.save_weights(paths[name], network_of(name).variables)
    return paths


@pytest.fixture
def weights(files):
    return files["resnet18"]


def export(*words):
    cli.main(["export", *map(str, words)])


def test_onnx_of_a_weight_file(files, tmp_path, capsys):
    onnxruntime, weights = pytest.importorskip("onnxruntime"), files["cifar_resnet20"]
    options = ["--preset.resize", 40, "--preset.crop", 40, "--batch", 1, "--with-preprocessing"]
    export(weights, "--format", "onnx", "--out", tmp_path / "out", *options)
    said = capsys.readouterr().out
    assert "norms: 19 folded into convolutions, 0 kept" in said
    assert "inside the program: (value / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225) of each channel" in said
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3)).astype(np.uint8)
    (logits,) = session.run(None, {"pixels": pixels})
    model, variables = rn.load_pretrained("cifar_resnet20", weights)
    images = rn.preprocess(pixels[0], rn.Preset(resize=40, crop=40))
    expected = np.asarray(jax.jit(partial(model.apply, train=False))(variables, images))
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "model.onnx"]


def test_the_other_formats(weights, tmp_path, capsys):
    export("--weights", weights, "--model", "resnet18", "--format", "huggingface", "--out", tmp_path / "hf")
    assert "Converted from resnet18 of own.safetensors." in (tmp_path / "hf" / "README.md").read_text()
    assert f'timm.create_model("local-dir:{tmp_path / "hf"}", pretrained=True)' in capsys.readouterr().out
    export(tmp_path / "hf", "--format", "stablehlo", "--out", tmp_path / "hlo", "--size", 33, 47)
    assert "centre 224: 33 x 47 pixels, RGB; (value / 255" in capsys.readouterr().out
    files = ["README.md", "export.json", "program.stablehlo", "weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "hlo").iterdir()) == files
    assert not list(tmp_path.glob("*.partial"))


def test_what_evaluation_sees_is_what_the_program_takes():
    """Segmentation sees whole images: the program takes a square of their shorter side, or what it is told."""
    square, told = (Job(network_of("unet_resnet18"), size=size) for size in (None, (33, 47)))
    assert (square.sides, told.sides, square.output) == ((40, 40), (33, 47), "out")
    assert square.outside.startswith("images: shorter side 40 pixels (bilinear): 40 x 40 pixels, RGB; (value / 255")
    cut = Job(network_of("cifar_resnet20"), with_preprocessing=True)
    assert (cut.sides, cut.output) == ((33, 33), "logits")
    assert cut.outside == "images: shorter side 40 pixels (bilinear), centre 33: 33 x 33 pixels, RGB"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--format", "onnx"], "name one network: the folder of a run, a weight file or a published set"),
        (["resnet18", "--format", "onnx", "--entry", "model"], "--entry and --prefix are for --weights"),
        (["FILE", "--format", "onnx", "--batch", "some"], "--batch = 'some' must be a number of images, or symbolic"),
        (["FILE", "--format", "onnx", "--batch", "0"], "--batch = 0 must be at least 1, or symbolic"),
        (["FILE", "--format", "stablehlo", "--size", "0", "5"], "--size = 0 5 must be at least 1 pixel high and wide"),
        (
            ["FILE", "--format", "huggingface", "--batch", "symbolic"],
            "huggingface writes weights and no program, so it has no batch, symbolic or other, .*leave --batch",
        ),
        (["FILE", "--format", "huggingface", "--with-preprocessing"], "no preprocessing inside; leave --batch, --size"),
    ],
)
def test_mistakes(words, text, weights, tmp_path):
    with pytest.raises(SystemExit, match=text):
        export(*[str(weights) if word == "FILE" else word for word in words], "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it(weights, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds files already, such as mine.txt; name a new folder"):
        export(weights, "--format", "stablehlo", "--out", tmp_path)
    with pytest.raises(SystemExit, match="must be a folder, and .*mine.txt is a file; choose another name"):
        export(weights, "--format", "stablehlo", "--out", tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("stablehlo", "flatbuffers")])
def test_without_a_package(form, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    text = f"--format {form} needs the package {package}; install it with: pip install {package}"
    with pytest.raises(SystemExit, match=text):
        export("absent", "--format", form, "--out", tmp_path / "out")
