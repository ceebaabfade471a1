"""Boxes from Pascal VOC's XML: what it gives, and what is wrong with it."""

import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.sources import read_objects
from resnet_jax.errors import DataError, ImageError
from tests.data.box_files import write_voc_boxes


def test_pascal_voc(tmp_path):
    images = [[("dog", 1, 1, 80, 60, False), ("cat", 10, 20, 30, 40, True)], []]
    write_voc_boxes(tmp_path / "VOCdevkit" / "VOC2012", {"train": images, "val": [[("dog", 5, 5, 9, 9, False)]]})
    (tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "dog_train.txt").write_text("train_0 1\n")
    source = load_source(DataConfig(name=f"voc_boxes:{tmp_path}"), "train")
    assert source.splits == ("train", "val"), "lists of single classes are none"
    assert source.class_names[8:13:4] == ("cat", "dog")
    objects = read_objects(source, 0)
    assert objects.boxes.tolist() == [[0, 0, 80, 60], [9, 19, 30, 40]]
    assert objects.classes.tolist() == [12, 8]
    assert objects.crowd.tolist() == [False, True], "what is difficult is not judged"
    assert len(read_objects(source, 1).boxes) == 0
    assert source[0]["image"][:2] == b"\xff\xd8"


def test_voc_with_other_classes_and_bad_files(tmp_path):
    images = [[("tree", 1, 1, 80, 60, False)], [("bush", 10, 20, "x", 40, True)], [("tree", 1, 2, 3, 4, False)]]
    write_voc_boxes(tmp_path, {"train": images, "val": [[("palm", 5, 5, 9, 9, False)]]})
    source = load_source(DataConfig(name=f"voc_boxes:{tmp_path}"), "train")
    assert source.class_names == ("background", "bush", "palm", "tree"), "those of all splits"
    with pytest.raises(ImageError, match="train_1.jpg: object 1 of train_1.xml has the box .*; bndbox must hold xmin"):
        source[1]
    (tmp_path / "Annotations" / "train_2.xml").write_text("<annotation>")
    (tmp_path / "Annotations" / "train_0.xml").unlink()
    (tmp_path / "classes.txt").write_text("palm\nbush\n")
    source = load_source(DataConfig(name=f"voc_boxes:{tmp_path}"), "train")
    assert source.class_names == ("background", "palm", "bush")
    with pytest.raises(ImageError, match="train_2.xml is no XML"):
        source[2]
    with pytest.raises(ImageError, match="train_0.xml cannot be read .No such file.*says what the image shows"):
        source[0]
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="val.txt names no image"):
        load_source(DataConfig(name=f"voc_boxes:{tmp_path}"), "val")
    with pytest.raises(
        DataError, match="has not the layout of Pascal VOC; it must hold JPEGImages, Annotations and Im"
    ):
        load_source(DataConfig(name=f"voc_boxes:{tmp_path / 'ImageSets'}"), "val")
