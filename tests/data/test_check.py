"""`data check` reads everything and reports what training would stumble over."""

import shutil

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main


def photo(path, seed, size=(80, 90), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    for i in range(12):
        photo(tmp_path / "train" / "cat" / f"{i}.png", i)
        photo(tmp_path / "test" / "cat" / f"{i}.png", 100 + i)
    for split in ("train", "test"):
        for i in range(3):
            photo(tmp_path / split / "dog" / f"{i}.png", 1000 + i + (split == "test") * 10, size=(40 + i, 200))
    return tmp_path


def said(capsys, name, status=0):
    if status:
        with pytest.raises(SystemExit, match="1"):
            main(["data", "check", name])
    else:
        main(["data", "check", name])
    return capsys.readouterr().out


def test_sound_data_are_described(photos, capsys):
    out = said(capsys, f"folder:{photos}")
    assert f"folder:{photos}, split train: 15 images in 2 classes" in out
    assert "shorter side: 40 to 80 pixels, half have at least 80; 3 below 64" in out
    assert "1 classes have fewer than 10 images:\n    dog: 3" in out
    assert not any(word in out for word in ("cannot be read", "unusual", "EXIF", "more than once", "in both"))


def test_everything_odd_is_named(photos, capsys):
    train = photos / "train" / "cat"
    (train / "0.png").write_bytes((train / "0.png").read_bytes()[:300])
    Image.new("CMYK", (70, 70)).save(train / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(train / "turned.jpg", 7, exif=exif)
    shutil.copy(train / "1.png", train / "copy.png")
    shutil.copy(train / "2.png", photos / "train" / "dog" / "cat.png")
    shutil.copy(train / "3.png", photos / "test" / "cat" / "seen.png")
    out = said(capsys, f"folder:{photos}", status=1)
    assert "1 cannot be read:\n    cannot read" in out
    assert "of unusual kinds: 1 CMYK" in out
    assert "1 are turned by EXIF" in out
    assert "2 images are there more than once" in out
    assert "1 of them in different classes" in out
    assert "1 images are in both test and train; leave them out of one" in out
    assert "seen.png = " in out


def test_pixels_are_checked_too(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 1), np.uint8)
    images[3] = images[0]
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=[0, 1, 0, 1])
    out = said(capsys, f"npz:{tmp_path}/x.npz")
    assert "1 images are there more than once" in out
    assert "1 of them in different classes" in out
