"""`data show NAME` draws what a source gives: masks, boxes, instances and videos."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.analysis.colours import MASK_COLOURS
from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import load_source

ROOT = Path(__file__).parent.parent.parent


def show(*words):
    main(["data", "show", *map(str, words)])


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def cut(picture, image, scale, left=10, top=45):
    """The part of a picture where the first image is, a pixel for each of its own."""
    height, width = image.shape[:2]
    return picture[top : top + height * scale, left : left + width * scale][scale // 2 :: scale, scale // 2 :: scale]


def test_the_commands_of_the_page_made_its_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "data.md").read_text()
    lines = re.findall(r"^python -m resnet_jax (data show .*)$", page, re.M)
    assert len(lines) == 3
    for line in lines:
        main(shlex.split(line))
        name = line.split()[-1]
        kept = ROOT / "docs" / "images" / name
        assert f"(images/{name})" in page
        assert kept.stat().st_size < 60_000
        assert f"split train, are in {name}" in capsys.readouterr().out
        # Fonts and palettes may differ a little between versions of Matplotlib and Pillow.
        assert np.abs(pixels(tmp_path / name) - pixels(kept)).mean() < 3


def test_a_scene_has_its_mask_boxes_and_outlines(tmp_path):
    show("digit_scenes", "--split", "test", "--images", "1", "--out", tmp_path / "x.png")
    scene = load_source(DataConfig(name="digit_scenes"), "test")[0]
    drawn = cut(pixels(tmp_path / "x.png"), scene["image"], 2)
    assert drawn.shape == (96, 96, 3)
    plain, mask = scene["image"].astype(int), scene["mask"]
    count = int((scene["classes"] > 0).sum())
    near = np.zeros(mask.shape, bool)  # lines, and captions above boxes
    for x1, y1, x2, y2 in scene["boxes"][:count]:
        near[max(y1 - 10, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
    assert np.abs(drawn - plain)[~near].mean() < 6, "nothing is drawn beside the boxes"
    for box, label, bitmap in zip(scene["boxes"], scene["classes"], scene["instances"], strict=True):
        if label < 0:
            continue
        x1, y1, x2, y2 = box
        inner = np.zeros(mask.shape, bool)
        inner[y1:y2, x1:x2] = bitmap[: y2 - y1, : x2 - x1] > 0
        for axis in (0, 1):  # without the outline
            inner &= np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
        colour = np.array([int(MASK_COLOURS[label - 1][i : i + 2], 16) for i in (1, 3, 5)])
        wanted = 0.6 * colour + 0.4 * plain[inner]
        assert np.median(np.abs(drawn[inner] - wanted)) < 12
        assert np.abs(drawn[inner] - plain[inner]).mean() > 12


def test_a_clip_is_a_row_of_frames(tmp_path):
    show("moving_digits", "--images", "2", "--out", tmp_path / "x.png")  # train is the split that is shown by itself
    clip = load_source(DataConfig(name="moving_digits"), "train")[0]["video"].frames
    picture = pixels(tmp_path / "x.png")
    for number, frame in enumerate(clip):
        drawn = cut(picture, frame, 2, left=10 + 83 * number, top=67)[..., 0]
        assert np.abs(drawn - frame[..., 0]).mean() < 8, number


def test_any_source_is_drawn(tmp_path, capsys):
    for number in range(3):
        path = tmp_path / "photos" / "train" / f"class{number}" / "x.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((300, 200, 3), 80 * number, np.uint8)).save(path)
    show(f"folder:{tmp_path}/photos", "--out", tmp_path / "x.png")
    assert "3 examples of folder:" in capsys.readouterr().out
    assert pixels(tmp_path / "x.png").std() > 20


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["digit_scene"], "unknown data set 'digit_scene'. Did you mean 'digit_scenes'"),
        (["digit_scenes", "--split", "trian"], "split of digit_scenes 'trian'. Did you mean 'train'"),
        (["digit_scenes", "--images", "0"], "--images = 0 and --step = 1 must be at least 1"),
        (["digit_scenes", "--step", "2"], "digit_scenes is no file; correct the path, or give a data set's name alone"),
        (["configs/digits.py", "--split", "train"], "configs/digits.py is a config; leave it out"),
    ],
)
def test_what_cannot_be_drawn(words, text, tmp_path):
    with pytest.raises(SystemExit, match=text):
        show(*words, "--out", tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
