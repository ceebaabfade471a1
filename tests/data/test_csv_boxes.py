"""Boxes from CSV files: what they give, and what is wrong with them."""

import logging

import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.sources import read_objects
from resnet_jax.errors import DataError, ImageError
from tests.data.box_files import write_csv


def test_csv(tmp_path, caplog):
    lines = ["a.png,1,2,30.5,40,tree", "images/b.png,,,,,", "a.png,5,6,20,30,Bush"]
    write_csv(tmp_path, {"train": lines, "test": ["c.png,1,1,9,9,palm"]})
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        source = load_source(DataConfig(name=f"boxes:{tmp_path}"), "train")
    assert source.splits == ("test", "train")
    assert source.class_names == ("background", "Bush", "palm", "tree")
    assert read_objects(source, 0).boxes.tolist() == [[1, 2, 30.5, 40], [5, 6, 20, 30]]
    assert read_objects(source, 0).classes.tolist() == [3, 1]
    assert len(read_objects(source, 1).boxes) == 0, "an image with no object"
    assert source.image_size(1) == (60, 80)
    assert "1 images below" in caplog.text
    assert f"line with four empty fields: {tmp_path / 'd.png'}" in caplog.text


def test_bad_csv(tmp_path):
    lines = ["a.png,1,2,30,40,tree", "b.png,1,2,3,,tree", "c.png,1,2,30,40,", "d.png,5,6,1,2,tree"]
    write_csv(tmp_path, {"train": lines}, header="image_path,xmin,ymin,xmax,ymax,class")
    source = load_source(DataConfig(name=f"boxes:{tmp_path}"), "train")
    assert source.class_names == ("background", "tree")
    with pytest.raises(ImageError, match="b.png: line 3 of train.csv has the box 1, 2, 3, ; it must be four numbers"):
        source[1]
    with pytest.raises(
        ImageError, match="c.png: line 4 of train.csv is of the class '', which is none of the 1 classes"
    ):
        source[2]
    assert read_objects(source, 3).boxes.tolist() == [[5, 6, 1, 2]], "refused where the size of the image is known"
    (tmp_path / "bad.csv").write_text("image,label\n")
    with pytest.raises(
        DataError, match="bad.csv has the columns image, label; it must have image,xmin,ymin,xmax,ymax,l"
    ):
        load_source(DataConfig(name=f"boxes:{tmp_path}"), "train")
    (tmp_path / "bad.csv").write_text("image,xmin,ymin,xmax,ymax,label\na.png,1,2\n")
    with pytest.raises(DataError, match="line 2 of .*bad.csv has 3 fields, and the first line 6"):
        load_source(DataConfig(name=f"boxes:{tmp_path}"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file SPLIT.csv; it must hold one with the columns image,xmin"):
        load_source(DataConfig(name=f"boxes:{tmp_path / 'empty'}"), "train")


def test_sides_taken_for_corners_are_recognised(tmp_path):
    """x, y, width, height: only where the file cannot be right."""
    sides = ["a.png,10,5,30,34,cat", "a.png,50,30,29,29,cat", "a.png,30,20,30,30,cat"]
    name = f"boxes:{write_csv(tmp_path / 'a', {'train': sides})}"
    with pytest.raises(
        DataError, match="train.csv look like x, y, width, height: .*, 2 of 3 have no area.*: line 3 of tr"
    ):
        load_source(DataConfig(name=name), "train")
    sides.append("a.png,50,10,60,20,cat")  # no sides: 50 + 60 > 80
    source = load_source(DataConfig(name=f"boxes:{write_csv(tmp_path / 'b', {'train': sides})}"), "train")
    assert len(source) == 1
