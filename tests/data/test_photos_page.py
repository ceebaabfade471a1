"""docs/photos.md: its commands work in order on photographs of noise, with a small network for the large one."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.config_files import find_config
from resnet_jax.models import create_model
from resnet_jax.tasks import assemble
from resnet_jax.weights import load

from ..weights.networks import random_variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "photos.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)\n```$", PAGE, re.M | re.S)
COMMANDS = [shlex.split(text) for kind, text in BLOCKS if not kind]
PRINTED = [text for kind, text in BLOCKS if kind == "text"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, count in (("photos/cat", 24), ("photos/dog", 40), ("new", 3), ("more", 2)):
        Path(name).mkdir(parents=True)
        for i in range(count):
            shade = 200 if name.endswith("cat") else 50
            pixels = np.random.default_rng([i, shade, name == "new"]).integers(0, shade, (48, 64, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((640, 480))
            picture.save(f"{name}/{i}.jpg", **({"exif": turned} if i % 8 == 1 else {}))
    small = lambda config: create_model("cifar_resnet29", num_classes=config.model.num_classes, stage_sizes=(1,))
    monkeypatch.setattr(assemble, "build_model", small)
    return tmp_path


def test_the_commands_in_order(photos, monkeypatch, capsys):
    check, train, predict, published = COMMANDS
    cli.main(check[3:])
    assert capsys.readouterr().out.rstrip() == PRINTED[0]
    assert Path("check.png").is_file()
    path, words = find_config(train[2:])
    at = words.index("--workdir")
    small = ["--data.image-size", "32", "--data.eval-resize", "36", "--epochs", "2", "--optim.warmup-epochs", "1"]
    config = rn.load_config(
        ROOT / path, [*words[:at], *words[at + 2 :], *small, "--batch-size", "8", "--data.threads", "2"]
    )
    rn.train(config, words[at + 1])
    capsys.readouterr()
    cli.main(predict[3:])
    out = capsys.readouterr().out
    assert [f"new/{i}.jpg" in out for i in range(3)] == [True] * 3
    assert "more/1.jpg" in out
    assert "5 images are drawn in predicted.png" in out
    assert Path("predicted.png").is_file()
    # The numbers depend on the photographs; the rest is what is printed.
    words = lambda text: re.sub(r"[\d.]+ %|after \d+ steps|[─━┏┓┡┩┳╇├┤┼└┘┴┃│]", "", text).split()
    assert set(words(PRINTED[1])) - {"cat", "dog"} == set(words(out)) - {"cat", "dog"}

    network = create_model("resnet18")
    rn.save_weights("published.pth", random_variables(network))
    monkeypatch.setattr(load, "find_file", lambda weights: Path("published.pth"))
    small = {"resnet50": "resnet18", "IMAGENET1K_V2": "IMAGENET1K_V1"}
    cli.main([small.get(word, word) for word in published[3:]])
    out = capsys.readouterr().out
    assert "resnet18, IMAGENET1K_V1" in out
    assert "new/2.jpg" in out
