"""`data show` draws the very batch that a run trains on."""

import dataclasses
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax import AugmentConfig, Config, cli, load_config
from resnet_jax.commands.data_show import data_show, target_caption
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.models import create_model
from resnet_jax.run.train import train
from resnet_jax.tasks import assemble
from resnet_jax.tasks.classify import task as classify_task
from resnet_jax.tasks.classify.show import training_batch

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits.py"
MIXED = (
    "--data.augment.mixup-alpha",
    "0.4",
    "--data.augment.cutmix-alpha",
    "1",
    "--data.augment.policy",
    "rand_augment",
)


@pytest.mark.slow
def test_what_is_shown_is_what_a_run_trains_on(tmp_path, monkeypatch):
    """The images and targets are caught inside the compiled step of a real run, at its third update."""
    seen = []
    augment = classify_task.augment

    def spy(*args, **options):
        images, targets = augment(*args, **options)
        jax.debug.callback(lambda *x: seen.append([np.asarray(y) for y in x]), images, targets)
        return images, targets

    config = load_config(DIGITS, ["--epochs", "0.14", "--batch-size", "64", "--eval-every-epochs", "0.2", *MIXED])
    with monkeypatch.context() as patch:
        patch.setattr(classify_task, "augment", spy)
        # A small network compiles faster, and has no part in what is looked at.
        patch.setattr(
            assemble, "build_model", lambda _: create_model("cifar_resnet29", num_classes=10, stage_sizes=(1,))
        )
        train(config, tmp_path / "run")
    jax.effects_barrier()
    batch = training_batch(config, 3)
    pixels = [np.clip(images * config.data.std[0] + config.data.mean[0], 0, 1) for images, _ in seen]
    matches = [np.allclose(batch.images, images, atol=1e-5) for images in pixels]
    assert matches == [False, False, True]
    np.testing.assert_allclose(batch.targets, seen[2][1], atol=1e-6)
    assert batch.targets.shape == (64, 10)
    assert batch.class_names == tuple("0123456789")


def test_captions_name_what_is_mixed():
    names = ("tabby, tabby cat", "beagle", "a name that is too long for its place")
    assert target_caption(np.array([0.0, 1.0, 0.0]), names) == "beagle"
    assert target_caption(np.array([0.27, 0.0, 0.73]), names) == "a name that is to… (73 %)\ntabby (27 %)"


@pytest.mark.parametrize("images", [1, 7, 1000])
def test_the_picture_holds_the_images(tmp_path, images):
    data_show(DIGITS, MIXED, out=tmp_path / "grid.png", images=images, step=2)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    shown = training_batch(load_config(DIGITS, MIXED), 2).images[:images]
    assert pixels.std() > 20
    # The brightest and darkest images leave as many black pixels as they should: a grid of the wrong images would not.
    side = 1.5 * 120
    black = (shown < 0.02).mean(axis=(1, 2, 3)).sum() * side**2
    assert (pixels < 6).sum() == pytest.approx(black, rel=0.15, abs=3000)


def test_the_commands_of_the_page_work(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "augmentation.md").read_text()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for line in re.search(r"```bash\n(.*?)```", page, re.S)[1].splitlines():
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "resnet_jax"]
        cli.main(words[3:])
        assert "24 of the 64 images of step" in capsys.readouterr().out
    assert [(tmp_path / name).stat().st_size > 5000 for name in ("grid.png", "mixed.png")] == [True, True]


def test_the_page_names_every_field():
    page = (ROOT / "docs" / "augmentation.md").read_text()
    for field in dataclasses.fields(AugmentConfig):
        assert f"`{field.name}`" in page, field.name


def test_what_cannot_be_shown(tmp_path):
    with pytest.raises(DataError, match="--images = 0 and --step = 1 must be at least 1"):
        data_show(DIGITS, out=tmp_path / "grid.png", images=0)
    with pytest.raises(ConfigError, match="digits has 10 classes"):
        training_batch(Config(), 1)
    with pytest.raises(ConfigError, match="--data.augment.mixup-alpha"):
        data_show(DIGITS, ("--data.augment.mixup-alfa", "1"), out=tmp_path / "grid.png")
