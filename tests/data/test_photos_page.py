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

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "photos.md").read_text()
COMMANDS = [shlex.split(text) for text in re.findall(r"^```\n(.*?)\n```$", PAGE, re.M | re.S)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("photos/cat", 11), ("photos/dog", 12), ("new", 3), ("more", 2)):
        Path(name).mkdir(parents=True)
        for i in range(count):
            shade = 200 if name.endswith("cat") else 50
            pixels = np.random.default_rng(i).integers(0, shade, (90, 80, 3), np.uint8)
            Image.fromarray(pixels).save(f"{name}/{i}.jpg")
    small = lambda config: create_model("cifar_resnet29", num_classes=config.model.num_classes, stage_sizes=(1,))
    monkeypatch.setattr(assemble, "build_model", small)
    return tmp_path


def test_the_commands_in_order(photos, capsys):
    check, train, predict = COMMANDS
    cli.main(check[3:])
    assert "folder:photos, split test: 4 images in 2 classes" in capsys.readouterr().out
    path, words = find_config(train[2:])
    at = words.index("--workdir")
    small = ["--data.image-size", "32", "--data.eval-resize", "36", "--epochs", "2", "--optim.warmup-epochs", "1"]
    config = rn.load_config(
        ROOT / path, [*words[:at], *words[at + 2 :], *small, "--batch-size", "8", "--data.threads", "2"]
    )
    rn.train(config, words[at + 1])
    cli.main(predict[3:])
    out = capsys.readouterr().out
    assert [f"new/{i}.jpg" in out for i in range(3)] == [True] * 3
    assert "more/1.jpg" in out
