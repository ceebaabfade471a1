"""`data check`, `data info` and `data show` of data sets with boxes, and images with more objects than places."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import Arrays, Subset, load_source
from resnet_jax.data.box_survey import check_places
from resnet_jax.data.check import check_some
from resnet_jax.errors import ConfigError, DataError
from tests.data.box_files import coco_annotation, coco_data, write_coco, write_csv, write_voc_boxes

POLYGON = [10.0, 5.0, 40.5, 8.0, 30.0, 39.5, 12.0, 30.0]


def said(capsys, *words, status=0):
    if status:
        with pytest.raises(SystemExit, match="1"):
            main(["data", *map(str, words)])
    else:
        main(["data", *map(str, words)])
    return capsys.readouterr().out


def bad_coco(root):
    good = coco_annotation(1, 10, [10, 5, 30, 34], segmentation=[POLYGON])
    bad = [
        coco_annotation(2, 10, [20, 10, 40, 40], 3, segmentation=[POLYGON], iscrowd=1),
        coco_annotation(3, 99, [1, 2, 3, 4], segmentation=[POLYGON]),
        coco_annotation(4, 11, [5, 5, 0, 9], segmentation=[POLYGON]),
        coco_annotation(5, 11, [5, 5, 9, 9], 2, segmentation=[POLYGON]),
        coco_annotation(6, 12, [10, 5, 78, 34], 1, segmentation=[POLYGON]),
    ]
    return write_coco(root, {"train": coco_data([good, *bad], images=9), "val": coco_data([good], images=1)})


def test_everything_wrong_is_listed_with_file_and_number(tmp_path, capsys):
    root = bad_coco(tmp_path)
    for name in (f"{number}.png" for number in range(3, 9)):
        (root / "train" / name).unlink()
    out = said(capsys, "check", f"coco:{root}", status=1)
    assert "split train: 9 images in 4 classes" in out
    assert "7 cannot be read:" in out
    assert f"{root}/train/1.png: annotation 5 is of the category 2, which the file does not list; annotation 4" in out
    assert "(5, 5, 5, 14), which has no area: x1 < x2 and y1 < y2 must hold. Correct or remove them" in out
    assert "2 objects, at most 1 in an image" in out
    assert "1 crowds or difficult objects, which are neither trained on nor judged" in out
    assert (
        f"in 1 images boxes reach out by more than a pixel, and are cut off there:\n    {root}/train/2.png: annot"
        in out
    )
    assert "1 annotations of images that instances_train.json does not list are not used" in out
    assert "annotation 3 of image 99" in out
    assert "the ids of the 2 categories skip numbers; these are called N/A:\n    2\n" in out
    assert "2 classes have fewer than 10 images:\n    dog: 1\n    cat: 2" in out, "not the background, not N/A"
    assert "and 2 more; --everything names all" in out
    every = said(capsys, "check", f"coco:{root}", "--everything", status=1)
    assert all(f"{number}.png: No such file" in every for number in range(3, 9))
    (tmp_path / "good").mkdir()
    good = write_csv(tmp_path / "good", {"train": ["a.png,1,2,30,40,tree", "b.png,,,,,"]})
    out = said(capsys, "check", f"boxes:{good}")
    assert "1 images show no object; they are trained on as they are" in out
    with pytest.raises(SystemExit, match="draws images by their labels, and boxes:.* has none.*data show boxes:"):
        main(["data", "check", f"boxes:{good}", "--sheet", str(tmp_path / "x.png")])


def test_what_a_set_holds_is_told(tmp_path, capsys):
    root = bad_coco(tmp_path)
    out = said(capsys, "info", f"coco:{root}")
    assert max(map(len, out.splitlines())) <= max(80, len(str(root)) + 90)
    assert [f" {word} " for word in out.split("split train")[1].split()[3:6]] == [" cat ", " 2 ", " 2 "]
    assert f"train: 1 images have annotations that cannot be used; see data check coco:{root}" in out
    found = json.loads(said(capsys, "info", f"coco:{root}", "--as-json"))["splits"]["train"]
    assert found == {
        "images": 9,
        "objects": 2,
        "crowds": 1,
        "most_in_an_image": 1,
        "without_objects": 6,
        "cannot_be_used": 1,
        "classes": {"cat": 2, "N/A": 0, "dog": 0},
    }
    voc = write_voc_boxes(tmp_path / "voc", {"train": [[("dog", 1, 1, 80, 60, False)]]})
    assert json.loads(said(capsys, "info", f"voc_boxes:{voc}", "--as-json"))["splits"]["train"]["classes"]["dog"] == 1


def test_boxes_and_masks_are_drawn(tmp_path, capsys):
    root = write_coco(tmp_path, {"train": coco_data([coco_annotation(1, 10, [10, 5, 30, 34], segmentation=[POLYGON])])})
    Image.new("RGB", (80, 60), (90, 90, 90)).save(root / "train" / "0.png")
    said(capsys, "show", f"coco:{root}", "--images", "1", "--out", tmp_path / "x.png")
    drawn = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)[75:255, 10:250]
    assert (drawn[-1] == 90).all(), "the image without its objects"
    rows, columns = np.nonzero((drawn != 90).any(axis=2))
    scale = 3  # pixels of the picture for one of the image
    assert abs(columns.min() - 10 * scale) <= 2
    assert abs(columns.max() - 40 * scale) <= 2
    assert abs(rows.max() - 39 * scale) <= 2
    assert (drawn.min(axis=2) > 150).sum() > 100, "a white outline around the mask"


def test_more_objects_than_places_are_refused(tmp_path):
    lines = [f"{name}.png,{i},2,30,40,tree" for name, count in (("a", 3), ("b", 5), ("c", 4)) for i in range(count)]
    source = load_source(DataConfig(name=f"boxes:{write_csv(tmp_path, {'train': lines})}"), "train")
    check_places(source, 5, "boxes:trees")
    text = r"2 of 3 images of boxes:trees have more than task.max_boxes = 3 objects: .*b.png \(5\), .*c.png \(4\). Set "
    with pytest.raises(ConfigError, match=f"{text}task.max_boxes to at least 5"):
        check_places(source, 3, "boxes:trees")
    with pytest.raises(ConfigError, match=r"images have more than task.max_boxes = 3 objects|1 of 1 .*b.png \(5\)"):
        check_places(Subset(source, [1]), 3, "a part")
    scenes = load_source(DataConfig(name="digit_scenes"), "train[:40]")
    check_places(scenes, 6, "digit_scenes")
    with pytest.raises(ConfigError, match=r"of 40 images of digit_scenes have more than task.max_boxes = 4 o"):
        check_places(scenes, 4, "digit_scenes")


def test_too_many_bad_images_stop_a_run_before_it_begins(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        source = load_source(DataConfig(name=f"coco:{bad_coco(tmp_path)}"), "train")
    with pytest.raises(DataError, match="1 of 9 images cannot be read, more than max_broken_fraction = 0.001.*anno"):
        check_some(DataConfig(), source)
    check_some(DataConfig(max_broken_fraction=0.2), source)
    assert not hasattr(Arrays, "objects"), "a source without annotations is as before"
