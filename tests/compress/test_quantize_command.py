"""The command `quantize`, and `export --int8`, on a network that was trained on the digits.

`digits.safetensors` was trained by configs/digits.py with the network below for 30 epochs.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.compress.quantize import Scales, in_float32
from resnet_jax.compress.quantize.sensitivity import ALL, parts_of
from resnet_jax.compress.quantize.store import FILE, load
from resnet_jax.config import DataConfig, PresetChange, QuantizeConfig
from resnet_jax.data.sources import digit_scenes
from resnet_jax.models import create
from resnet_jax.run import evaluate
from resnet_jax.run.calibrate import calibration
from resnet_jax.run.network import load_network
from resnet_jax.runtime.mesh import make_mesh

from ..weights.networks import calm, random_variables

WEIGHTS = str(Path(__file__).parent / "digits.safetensors")
ROOT = Path(__file__).parents[2]
PRESET = PresetChange(resize=8, crop=8, mean=(0.305,), std=(0.376,))
SEEN = ["--preset.resize", "8", "--preset.crop", "8", "--preset.mean", "0.305", "--preset.std", "0.376"]
NAMED = [WEIGHTS, "--model", "cifar_narrow8", *SEEN]
DATA = ["--data.name", "digits", "--batch-size", "180"]
MORE_WRONG = 2  # of 360 images, at most

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module", autouse=True)
def known():
    """The network, and one device: eight virtual ones on few cores wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        small = create.VARIANTS["cifar_resnet20"] | {"stage_sizes": (1, 1, 1), "width": 8}
        patch.setattr(create, "VARIANTS", {**create.VARIANTS, "cifar_narrow8": small})
        patch.setattr(evaluate, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, known):
    """What the command has written."""
    out = tmp_path_factory.mktemp("quantized") / "out"
    cli.main(["quantize", *NAMED, *DATA, "--images", "180", "--sensitivity", "--out", str(out)])
    return out


def wrong(numbers):
    return round((1 - numbers["top1"]) * numbers["count"])


def test_int8_is_as_right_on_the_digits(folder):
    said = json.loads((folder / "quantize.json").read_text())
    assert said["float"]["count"] == 360
    assert said["float"]["top1"] > 0.95
    assert wrong(said["int8"]) <= wrong(said["float"]) + MORE_WRONG
    assert said["int8"]["loss"] != said["float"]["loss"]
    assert said["kernels"] == {"quantized": 8, "float": 0}
    assert said["calibration"]["images"] == 180
    assert said["calibration"]["method"] == "mse"
    assert said["int8"]["bytes"] < 0.32 * said["float"]["bytes"]


def test_each_layer_has_its_cost(folder):
    costs = json.loads((folder / "quantize.json").read_text())["sensitivity"]
    layers = [f"layer{i}_0{what}" for i in (1, 2, 3) for what in ("/conv1", "/conv2", " (sum)")]
    assert [cost["name"] for cost in costs] == ["conv1", *layers, "fc", ALL]
    *single, together = (cost["error"] for cost in costs)
    assert min(single) > 0
    assert max(single) < together < 0.1
    assert together < sum(single)
    assert (folder / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["quantize.json", FILE, "sensitivity.png"]


def test_the_onnx_file_names_the_same_classes(folder, tmp_path, capsys):
    """For all 360 test images; the logits are equal to the last bit, or nearly."""
    onnxruntime, out = pytest.importorskip("onnxruntime"), tmp_path / "onnx"
    words = ["--int8", "--quantized", str(folder), "--format", "onnx", "--out", str(out)]
    cli.main(["export", *NAMED, *words])
    assert "integers: 8 kernels, 12 tensors" in capsys.readouterr().out
    how = json.loads((out / "export.json").read_text())["quantization"]
    assert how == json.loads((folder / "quantize.json").read_text())["calibration"]
    network = load_network(WEIGHTS, "cifar_narrow8", preset=PRESET)
    test = DataConfig(name="digits", train_split="test", threads=2)
    images = np.concatenate(list(calibration(network, test, QuantizeConfig(), count=360).batches()))
    session = onnxruntime.InferenceSession(out / "model.onnx")
    (theirs,) = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
    done, _ = load(folder / FILE, in_float32(network.model, network.variables))
    ours = np.asarray(jax.jit(lambda v, x: done.model.apply(v, x))(done.variables, images))
    assert len(ours) == 360
    assert np.array_equal(theirs.argmax(1), ours.argmax(1))
    assert np.mean((theirs == ours).all(axis=1)) > 0.95


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--weight-bits", "1"], "QuantizeConfig.weight_bits = 1 is out of range; it must be >= 2 and <= 8"),
        (["--images", "0"], "images = 0 to calibrate with must be at least 1; 128 to 1024 are usual"),
        (["--keep-float", "layer4_0"], "unknown layer to keep in floating point 'layer4_0'. Did you mean 'layer"),
        (["--batch-size", "0"], "--batch-size = 0 must be at least 1"),
        (["--out", "OUT"], "--out .* holds files already, such as mine.txt; name a new folder"),
    ],
)
def test_mistakes(words, text, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    words = [str(tmp_path / "full") if word == "OUT" else word for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=text):
        cli.main(["quantize", *NAMED, *DATA, *out, *words])
    assert not (tmp_path / "out").exists()


def test_a_network_for_embeddings(tmp_path):
    model = rn.create_model("embed_resnet18")
    rn.save_weights(tmp_path / "own.safetensors", random_variables(model))
    words = ["--weights", str(tmp_path / "own.safetensors"), "--model", "embed_resnet18", "--data.name", "digits"]
    with pytest.raises(SystemExit, match="gives embeddings and names no class, by which quantize says how right the i"):
        cli.main(["quantize", *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--format", "huggingface", "--int8"], "timm has no integers; leave --int8 out, or choose --format onnx"),
        (["--format", "onnx", "--quantized", "q"], "--quantized q is for --int8; add that, or leave it out"),
        (
            ["--format", "onnx", "--int8"],
            "comes without a run; quantize it first with --data.name, and name the fol",
        ),
        (["--format", "onnx", "--int8", "--quantized", "q"], "there is no q/quantized.safetensors; name the folder"),
    ],
)
def test_mistakes_of_an_export(words, text, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(SystemExit, match=text):
        cli.main(["export", *NAMED, *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_is_calibrated_on_its_own_images(short_runs, tmp_path, capsys):
    """By both commands, with the same result."""
    pytest.importorskip("onnx")
    config = rn.load_config(ROOT / "configs" / "digits.py", ["--model.name", "cifar_resnet8", "--epochs", "1"])
    rn.train(config, tmp_path / "run")
    cli.main(["quantize", str(tmp_path / "run"), "--out", str(tmp_path / "q"), "--as-json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["calibration"]["images"] == 512
    exports = []
    for words in ([], ["--quantized", str(tmp_path / "q")]):
        exports.append(tmp_path / f"onnx{len(exports)}")
        cli.main(["export", str(tmp_path / "run"), "--format", "onnx", "--int8", "--out", str(exports[-1]), *words])
    one, other = ((folder / "model.onnx").read_bytes() for folder in exports)
    assert one == other
    assert json.loads((exports[0] / "export.json").read_text())["quantization"] == said["calibration"]


@pytest.mark.slow
def test_segmentation_is_measured_by_its_own_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digit_scenes, "LENGTHS", {"train": 32, "test": 32})
    monkeypatch.setattr(digit_scenes.DigitScenes, "class_names", tuple(map(str, range(11))))
    variables = calm(random_variables(create.create_model("unet_cifar_narrow8", num_classes=11), channels=1))
    rn.save_weights(tmp_path / "w.safetensors", variables)
    words = [str(tmp_path / "w.safetensors"), "--model", "unet_cifar_narrow8", "--data.name", "digit_scenes"]
    words += ["--preset.resize", "64", "--preset.mean", "0.1", "--preset.std", "0.3", "--batch-size", "16"]
    cli.main(["quantize", *words, "--images", "32", "--out", str(tmp_path / "q"), "--as-json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["kernels"] == {"quantized": 12, "float": 0}
    assert said["int8"]["miou"] == pytest.approx(said["float"]["miou"], abs=0.01)
    assert said["int8"]["loss"] == pytest.approx(said["float"]["loss"], rel=0.01)


def test_sums_are_parts_of_their_own():
    scales = Scales(
        dict.fromkeys(["conv1", "layer1_0/input", "layer1_0/conv2", "layer1_0/branch", "layer1_0", "fc"]),
        {},
        (("conv1", "conv1"), ("layer1_0/conv1", "layer1_0/input"), ("layer1_0/conv2", "layer1_0/conv2"), ("fc", "fc")),
        8,
        8,
    )
    parts = parts_of(scales)
    assert list(parts) == ["conv1", "layer1_0/conv1", "layer1_0/conv2", "layer1_0 (sum)", "fc", ALL]
    assert parts["layer1_0/conv1"] == {"layer1_0/conv1/kernel", "layer1_0/input"}
    assert parts["layer1_0 (sum)"] == {"layer1_0/branch", "layer1_0"}
    assert len(parts[ALL]) == 10
