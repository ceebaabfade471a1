"""Naming what is on images: with weight files, published sets and runs; folders, patterns and broken files."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run.predictor import expand, load_predictor
from resnet_jax.runtime.programs import tell_of_compiling
from resnet_jax.weights import Preset, load

from .weights.networks import random_variables


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = rn.create_model("resnet18", num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    variables = random_variables(model)
    rn.save_weights(path, variables)
    return path, model, variables


@pytest.fixture
def photos(tmp_path):
    for i, name in enumerate(["a.png", "b.jpg", "deep/c.png", "d[1].png"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).resize((300, 260)).save(tmp_path / "photos" / name)
    for name in ("._a.png", "notes.txt", ".git/e.png"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path / "photos"


def test_folders_patterns_and_names_are_expanded(photos):
    names = lambda *words: [str(path.relative_to(photos)) for path in expand([f"{photos}/{word}" for word in words])]
    assert names(".") == ["a.png", "b.jpg", "d[1].png", "deep/c.png"]
    assert names("*.png") == ["a.png", "d[1].png"]
    assert names("**/c.png", "b.jpg") == ["deep/c.png", "b.jpg"]
    assert names("d[1].png") == ["d[1].png"], "a name that exists is that file"
    assert names("absent.png") == ["absent.png"], "named when it is read"
    with pytest.raises(DataError, match="no file matches .*correct the pattern"):
        names("*.tif")
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image; name files"):
        names("empty")


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["1", "3"])
def test_a_weight_file_names_every_image_but_the_broken_one(weights, photos, capsys, batch_size):
    """The oracle is each image alone. A batch that is not full is padded, and a broken image leaves no gap."""
    path, model, variables = weights
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:500])
    with pytest.raises(SystemExit, match=r"error: 1 of 4 images:\n  cannot read .*b.jpg: .*replace or remove"):
        cli.main(["predict", str(path), str(photos), "--batch-size", batch_size, "--top", "5", "--as-json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"][len(str(photos)) + 1 :] for line in lines] == ["a.png", "d[1].png", "deep/c.png"]
    for line in lines:
        logits = model.apply(variables, rn.preprocess(line.pop("image"), Preset()), train=False)
        expected = jax.nn.softmax(logits)[0]
        np.testing.assert_allclose([line[str(i)] for i in range(5)], expected, atol=2e-5)


def test_published_weights_are_taken_by_name(weights, photos, monkeypatch, capsys, tmp_path):
    model = rn.create_model("resnet18")
    rn.save_weights(tmp_path / "published.pth", random_variables(model))
    asked = []
    monkeypatch.setattr(load, "find_file", lambda weights: asked.append(weights.name) or tmp_path / "published.pth")
    cli.main(["predict", "resnet18:IMAGENET1K_V1", str(photos / "a.png")])
    out = capsys.readouterr().out
    assert asked == ["IMAGENET1K_V1"]
    assert "resnet18, IMAGENET1K_V1" in out
    assert any(name in out for name in rn.class_names())


def test_what_names_no_network(tmp_path):
    with pytest.raises(ConfigError, match="there is no nowhere; name the folder of a run, a weight file, or a network"):
        load_predictor("nowhere")
    with pytest.raises(SystemExit, match="--batch-size = 0 must be at least 1"):
        cli.main(["predict", "resnet18", "a.png", "--batch-size", "0"])


def test_compiling_is_said_once_with_its_seconds():
    said = []
    double = tell_of_compiling(jax.jit(lambda x: 2 * x), "the step", said.append)
    assert (double(3), double(4)) == (6, 8)
    assert said[0] == "compiling the step ..."
    assert said[1].startswith("compiled the step in ")
    assert len(said) == 2
