"""docs/weights.md: what it prints runs, with a ResNet-18 of random weights for each file that it names."""

import re
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.weights import load, read_state_dict

from .networks import random_variables

pytest.importorskip("torch")
PAGE = (Path(__file__).parent.parent.parent / "docs" / "weights.md").read_text()


def blocks(language):
    return [text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S) if kind == language]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    rn.save_weights(path, random_variables(rn.create_model("resnet18")))
    return path


@pytest.fixture
def folder(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("resnet50-11ad3fa6.pth", "resnet152-f82ba261.pth", "in.pth"):
        (tmp_path / name).symlink_to(weights)
    for name in ("cat.jpg", "dog.jpg"):
        noise = np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_python(folder, weights, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(load, "find_file", lambda weight_set: asked.append(weight_set.name) or weights)
    monkeypatch.setattr(load, "hub_weights", lambda repository: asked.append(repository) or weights)
    code, another_head, segment = blocks("python")
    names = {}
    exec(re.sub(r'load_pretrained\("resnet\d+"', 'load_pretrained("resnet18"', _with_known_sets(code)), names)
    assert asked == ["IMAGENET1K_V1", "timm/resnet152.tv_in1k"]
    named = capsys.readouterr().out
    assert any(name in named for name in rn.class_names())
    names |= {"jax": jax, "images": rn.preprocess(["cat.jpg"], names["preset"])}
    exec(another_head.replace("resnet50", "resnet18"), names)
    assert names["pooled"].shape == (len(names["images"]), 512)
    logits = names["model"].apply(names["mine"], names["images"], train=False)
    head = jax.device_get(names["mine"]["params"]["fc"])
    np.testing.assert_allclose(logits, names["pooled"] @ head["kernel"] + head["bias"][None], atol=1e-4)
    assert read_state_dict("mine.pth")["fc.weight"].shape == (1000, 512)
    rn.save_weights("fcn.safetensors", random_variables(rn.create_model("fcn_resnet18")))
    exec(segment.replace('load_pretrained("fcn_resnet50"', 'load_pretrained("fcn_resnet18", "fcn.safetensors"'), names)
    assert names["logits"].shape == (1, 520, 600, 21)
    assert any(name in capsys.readouterr().out for name in rn.class_names("voc"))


def _with_known_sets(code):
    """ResNet-18 has no second set."""
    return code.replace('load_pretrained("resnet152", "IMAGENET1K_V2")', 'load_pretrained("resnet18", "IMAGENET1K_V1")')


def test_commands(folder, weights, monkeypatch):
    monkeypatch.setattr(load, "find_file", lambda weight_set: weights)
    (folder / "photos" / "tench").mkdir(parents=True)
    shutil.copy(folder / "cat.jpg", folder / "photos" / "tench" / "a.jpg")
    commands = [shlex.split(line, comments=True) for line in blocks("")[0].splitlines()]
    assert [words[3] for words in commands] == ["convert"] * 3 + ["predict", "evaluate"]
    for words in commands:
        if words[3] != "convert":
            main([{"resnet50": "resnet18", "IMAGENET1K_V2": "IMAGENET1K_V1"}.get(word, word) for word in words[3:]])
            continue
        if words[4].startswith("runs/"):
            continue  # a trained run: tests/parity/test_export.py
        main(words[3:])
        assert len(read_state_dict(words[5])) == 122
    assert (folder / "sheet.png").is_file()
