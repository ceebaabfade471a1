"""Exports behind the server say what the network says, and damaged ones are refused."""

import io
import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax import cli
from resnet_jax.data import load_image, normalize
from resnet_jax.errors import ConfigError
from resnet_jax.export.huggingface import write_huggingface
from resnet_jax.export.job import Job
from resnet_jax.export.onnx_file import write_onnx
from resnet_jax.export.stablehlo import write_stablehlo
from resnet_jax.run.masks import mask_predictor_of
from resnet_jax.run.named import open_named
from resnet_jax.run.predictor import predictor_of
from resnet_jax.serve.exported import is_export, open_export

from ..export.conftest import network_of
from .conftest import PRESET, photo, serving

pytestmark = pytest.mark.usefixtures("compile_quickly")

WRITERS = {"onnx": write_onnx, "stablehlo": write_stablehlo}


@pytest.fixture(scope="module", autouse=True)
def packages():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("onnx", {}),
        ("onnx", {"with_preprocessing": True, "batch": 2}),
        ("stablehlo", {"with_preprocessing": True}),
        ("stablehlo", {"batch": 3}),
    ],
)
def test_an_export_says_what_the_network_says(form, options, tiny, tmp_path):
    WRITERS[form](Job(tiny, **options), tmp_path / "out")
    assert is_export(str(tmp_path / "out"))
    predictor = predictor_of(tiny)
    with serving(open_export(tmp_path / "out"), batch_sizes=(1, 4)) as running:
        info = running.ask("/info").json
        assert info["batch_sizes"] == ([options["batch"]] if "batch" in options else [1, 4])
        assert (info["network"], info["cam"], info["classes"][:3]) == (tiny.title, False, ["cat", "dog", "crane (2)"])
        for seed in range(3):
            row = np.asarray(predictor.probabilities(predictor.load(photo(seed))[None]))[0]
            found = running.ask("/predict?top=7", photo(seed)).json["classes"]
            assert found[0]["number"] == row.argmax()
            for one in found:
                assert abs(one["probability"] - row[one["number"]]) <= 1e-5
        refused = running.ask("/predict?cam=true", photo())
        assert (refused.status, "is served without Grad-CAM" in refused.text) == (400, True)


@pytest.mark.parametrize("form", ["onnx", pytest.param("stablehlo", marks=pytest.mark.slow)])
def test_masks_of_an_export(form, tmp_path):
    """The program takes one size, so a long image is shrunk until it fits."""
    network = network_of("unet_cifar_resnet20", width_multiplier=0.25, stage_sizes=(1, 1, 1))
    network = replace(network, preset=replace(PRESET, resize=32, crop=0))
    WRITERS[form](Job(network, size=(32, 64)), tmp_path / "out")
    predictor = mask_predictor_of(network)
    with serving(open_export(tmp_path / "out"), batch_sizes=(1,)) as running:
        for size, small in (((50, 50), (32, 32)), ((96, 48), (64, 32)), ((160, 40), (64, 16))):
            data = photo(4, size=size)
            pixels = np.empty((1, 32, 64, 3), np.uint8)
            pixels[...] = [round(255 * value) for value in PRESET.mean]
            resized = Image.open(io.BytesIO(data)).resize(small, Image.Resampling.BILINEAR)
            pixels[0, : small[1], : small[0]] = np.asarray(resized)
            mask = np.asarray(predictor.predict(pixels)["mask"])[0, : small[1], : small[0]]
            expected = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
            found = np.asarray(Image.open(io.BytesIO(running.ask("/segment", data).body)))
            assert len(np.unique(expected)) > 1
            assert (found == expected).mean() > 0.999


@pytest.mark.slow
def test_a_folder_for_timm_is_weights(tmp_path):
    network = network_of("resnet18")
    write_huggingface(network, tmp_path / "out")
    assert not is_export(str(tmp_path / "out"))
    images = normalize(load_image(photo(), network.preset)[None], network.preset)
    logits = jax.jit(partial(network.model.apply, train=False))(network.variables, images)
    with serving(open_named(str(tmp_path / "out")), batch_sizes=(1,), cam=True) as running:
        answer = running.ask("/predict?cam=true", photo()).json
        assert answer["classes"][0]["number"] == int(np.argmax(logits))
        assert answer["cam"]["picture"].startswith("data:image/png")


def changed(folder, **facts):
    path = folder / "export.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_damaged_exports(tiny, tmp_path):
    write_onnx(Job(tiny), tmp_path / "out")
    whole = (tmp_path / "out" / "export.json").read_text()
    for facts, text in (
        ({"format": "litert"}, "is of format 'litert', and onnx and stablehlo can be served; export to these"),
        ({"files": ["other.onnx"]}, "lacks other.onnx, which export.json names; export the network again"),
        ({"preset": {}}, r"export.json is not as `export` writes it \(KeyError: 'mean'\); export the network again"),
        ({"input": None}, r"is not as `export` writes it \(TypeError: .*\); export the network again"),
        (
            {"input": {"name": "images", "shape": ["N", 3, 40, 33]}},
            "takes images of 40 x 33 pixels, and its preparation makes 33 x 33; export the network without --size",
        ),
    ):
        (tmp_path / "out" / "export.json").write_text(whole)
        changed(tmp_path / "out", **facts)
        with pytest.raises(ConfigError, match=text):
            open_export(tmp_path / "out")
    (tmp_path / "out" / "export.json").write_text("{")
    with pytest.raises(SystemExit, match="error: .*export.json is not as `export` writes it"):
        cli.main(["serve", str(tmp_path / "out"), "--port", "0"])
    (tmp_path / "out" / "export.json").write_text(whole)
    (tmp_path / "out" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="out cannot be read: .*; export the network again"):
        open_export(tmp_path / "out")


def test_a_damaged_program(tiny, tmp_path):
    write_stablehlo(Job(tiny), tmp_path / "out")
    (tmp_path / "out" / "program.stablehlo").write_bytes(b"no program")
    with pytest.raises(ConfigError, match="out cannot be read: .*; export the network again"):
        open_export(tmp_path / "out")
