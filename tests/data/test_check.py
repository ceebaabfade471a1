"""`data check` reads everything and reports what training would stumble over."""

import shutil

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.check import samples


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


def test_a_sheet_shows_images_of_each_class(photos, tmp_path, capsys):
    (photos / "train" / "cat" / "0.png").write_bytes(b"no image")
    sheet = tmp_path / "sheet.png"
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", f"folder:{photos}", "--sheet", str(sheet)])
    assert f"7 images of its 2 classes are drawn in {sheet}" in capsys.readouterr().out, "4 of 11 and all of 3"
    found = samples(load_source(DataConfig(name=f"folder:{photos}"), "train"), 4, 2, 64)
    assert [(one.name, one.label) for one in found[4:]] == [(f"{i}.png", 1) for i in range(3)]
    assert len({one.name for one in found[:4]} - {"0.png"}) == 4
    assert {one.pixels.shape for one in found} == {(57, 64, 3), (13, 64, 3)}
    with Image.open(sheet) as file:
        drawn = np.asarray(file.convert("L"), float)
    noisy = (np.abs(np.diff(drawn, axis=1)) > 8).mean()
    assert 0.1 < noisy < 0.8, "noise where the images are, and letters are a hundredth"
    with pytest.raises(SystemExit, match="would be a PNG; give a file name that ends in .png"):
        main(["data", "check", f"folder:{photos}", "--sheet", str(tmp_path / "x.gif")])


def test_a_sheet_of_many_classes_shows_the_first(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=np.arange(300) % 150)
    main(["data", "check", f"npz:{tmp_path}/x.npz", "--sheet", str(tmp_path / "sheet.png")])
    assert "100 images of the first 100 of its 150 classes are drawn in" in capsys.readouterr().out


def test_exif_is_said_to_be_ignored_or_heeded(photos, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(photos / "train" / "cat" / "turned.jpg", 7, exif=exif)
    main(["data", "check", f"folder:{photos}"])
    assert "1 are turned by EXIF, which is ignored but with data.exif, as configs/photos.py has it" in (
        capsys.readouterr().out
    )
    main(["data", "check", f"folder:{photos}", "--exif"])
    assert "1 are turned by EXIF, and shown upright" in capsys.readouterr().out
