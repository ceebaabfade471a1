"""Boxes and masks from COCO's JSON: what it gives, and what is wrong with it."""

import json
import logging
import pickle

import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import Subset, fingerprint, load_source, train_batches
from resnet_jax.data.box_fills import TrainBoxes
from resnet_jax.data.boxes import objects_of
from resnet_jax.data.fills import Draws
from resnet_jax.data.sources import read_objects
from resnet_jax.errors import DataError, ImageError
from tests.data.box_files import coco_annotation, coco_data, write_coco

POLYGON = [10.0, 5.0, 40.5, 8.0, 30.0, 39.5, 12.0, 30.0]
RUNS = {"size": [60, 80], "counts": [60 * 20 + 10, 30, 30, 30, 30, 25, 3445]}


def coco(root, data=None, split="train", **splits):
    write_coco(root, {**({split: data} if data else {}), **splits})
    return load_source(DataConfig(name=f"coco:{root}"), split)


def masks_of(source, index):
    height, width = source.image_size(index)
    out = []
    for top, left, pixels in objects_of(source[index]).bitmaps:
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        out.append(mask)
    return out


def test_coco_gives_boxes_classes_crowds_and_masks(tmp_path):
    pytest.importorskip("pycocotools")
    from pycocotools import mask as oracle
    from pycocotools.coco import COCO

    rng = np.random.default_rng(0)
    star = (np.array([40, 30]) + rng.uniform(5, 25, (9, 1)) * np.stack(
        [np.cos(np.arange(9) * 0.7), np.sin(np.arange(9) * 0.7)], 1)).ravel().round(2).tolist()  # fmt: skip
    noise = np.asfortranarray(rng.integers(0, 2, (60, 80)).astype(np.uint8))
    compressed = oracle.encode(noise)
    compressed["counts"] = compressed["counts"].decode()
    annotations = [
        coco_annotation(5, 10, [10, 5, 30.5, 34.5], segmentation=[POLYGON]),
        coco_annotation(6, 12, [3.25, 4, 60, 50], 3, segmentation=[POLYGON, star]),
        coco_annotation(7, 10, [20, 10, 4, 30], 3, iscrowd=1, segmentation=RUNS),
        coco_annotation(8, 12, [0, 0, 80, 60], 1, segmentation=compressed),
    ]
    source = coco(tmp_path, coco_data(annotations), val=coco_data([], images=1))
    assert source.splits == ("train", "val")
    assert source.class_names == ("background", "cat", "N/A", "dog"), "the ids are the numbers of the classes"
    assert source.leaves == ("image", "boxes", "classes", "instances")
    first, none, last = (read_objects(source, i) for i in range(3))
    assert first.boxes.tolist() == [[10, 5, 40.5, 39.5], [20, 10, 24, 40]]
    assert first.classes.tolist() == [1, 3]
    assert first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [10 * 5 * 0 + 30.5 * 34.5 * 0.5, 60]
    assert first.ids == ["annotation 5", "annotation 7"]
    assert len(none.boxes) == 0
    assert last.boxes[0].tolist() == [3.25, 4, 63.25, 54]
    reader = COCO()
    reader.dataset = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    reader.createIndex()
    for index, names in ((0, (5, 7)), (2, (6, 8))):
        for mask, name in zip(masks_of(source, index), names, strict=True):
            theirs = reader.annToMask(reader.anns[name])
            assert theirs.sum() > 50
            assert np.array_equal(mask, theirs), name
    part = Subset(source, [2, 0])
    assert read_objects(part, 1).ids == first.ids
    assert part.image_size(0) == (60, 80)
    with pytest.raises(DataError, match="no single label, as it shows any number of objects"):
        source.labels()


def test_a_set_trains_with_images_that_show_nothing(tmp_path):
    source = coco(tmp_path, coco_data([coco_annotation(5, 10, [10, 5, 30, 34], segmentation=[POLYGON])]))
    fill = TrainBoxes((0.5,) * 3, 3, False, 4, (96, 96), (72,), 96, (), False, 4, 32)
    batch = next(train_batches(source, DataConfig(), batch_size=3, seed=0, fill=fill))
    assert sorted(batch["classes"][:, 0].tolist()) == [-1, -1, 1]
    assert batch["instances"].sum() > 100
    assert fingerprint(source) == fingerprint(source)
    copied = pickle.loads(pickle.dumps(source))  # as for worker processes
    assert copied.objects(0).bitmaps[0].pixels.sum() == source.objects(0).bitmaps[0].pixels.sum() > 100


def test_ids_that_begin_at_zero_or_have_large_gaps_are_numbered_anew(tmp_path, caplog):
    data = coco_data([coco_annotation(1, 10, [1, 2, 3, 4], 7000)], categories=((0, "things"), (7000, "dog")))
    with caplog.at_level(logging.WARNING):
        source = coco(tmp_path, data)
    assert source.class_names == ("background", "things", "dog")
    assert source[0]["classes"].tolist() == [2]
    assert "ids of the 2 categories skip numbers; the classes are numbered from 1" in caplog.text


def test_roboflow_layout(tmp_path):
    write_coco(tmp_path, {"train": coco_data([coco_annotation(1, 10, [1, 2, 3, 4])])})
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "train" / "_annotations.coco.json")
    source = load_source(DataConfig(name=f"coco:{tmp_path}"), "train")
    assert len(source) == 3
    assert source[1]["image"][:4] == b"\x89PNG"
    assert source.leaves == ("image", "boxes", "classes"), "no masks"


BAD_ANNOTATIONS = {
    "no area": (coco_annotation(41, 11, [5, 5, 0, 20]), "annotation 41 has the box .5, 5, 5, 25., which has no area"),
    "negative": (coco_annotation(41, 11, [50, 5, -10, 20]), "annotation 41 has the box .50, 5, 40, 25., which has no"),
    "outside": (coco_annotation(41, 11, [500, 5, 10, 20]), "annotation 41 has the box .*, outside the image"),
    "category": (coco_annotation(41, 11, [5, 5, 9, 20], 2), "annotation 41 is of the category 2, which the file does"),
    "no box": (coco_annotation(41, 11, [5, 5, 9, 20]) | {"bbox": [], "segmentation": []}, "annotation 41 has no box; "),
    "mask alone": (
        coco_annotation(41, 11, [5, 5, 9, 20], segmentation=[POLYGON]) | {"bbox": None},
        "annotation 41 has a mask and no box; its bbox must be x, y, width and height",
    ),
    "three numbers": (coco_annotation(41, 11, [5, 5, 9, 1]) | {"bbox": [5, 5, 9]}, "annotation 41 has a bbox of 3"),
    "size of runs": (
        coco_annotation(41, 11, [5, 5, 9, 20], segmentation=RUNS | {"size": [80, 60]}),
        "annotation 41 has a run-length code of 80 x 60, and its image has 60 x 80 .height x width.",
    ),
    "sum of runs": (
        coco_annotation(41, 11, [5, 5, 9, 20], segmentation=RUNS | {"counts": [100, 20]}),
        "annotation 41 has a run-length code of 120 pixels, and its image has 60 x 80",
    ),
    "damaged runs": (
        coco_annotation(41, 11, [5, 5, 9, 20], segmentation=RUNS | {"counts": "zzzzzzz"}),
        "cannot read a mask of .*1.png: .*; it must be polygons or a run-length code",
    ),
    "two points": (
        coco_annotation(41, 11, [5, 5, 9, 20], segmentation=[[1, 2, 3, 4]]),
        "annotation 41 has a polygon of 4 numbers; it must have x and y of at least three points",
    ),
    "mask elsewhere": (
        coco_annotation(41, 11, [60, 40, 9, 15], segmentation=[POLYGON]),
        "annotation 41 has its mask elsewhere than its box",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ANNOTATIONS)
def test_bad_annotations_are_named_with_their_file(tmp_path, kind):
    """The image is an error where it is read for training; other images are not."""
    annotation, text = BAD_ANNOTATIONS[kind]
    good = coco_annotation(1, 10, [10, 5, 30, 34], segmentation=[POLYGON])
    annotation = {"segmentation": [POLYGON], **annotation}
    if kind in ("no area", "negative", "outside"):
        good, annotation = ({**one, "segmentation": None} for one in (good, annotation))
    source = coco(tmp_path, coco_data([good, annotation]))
    fill = TrainBoxes((0.5,) * 3, 3, False, 4, (96, 96), (72,), 96, (), False, 4, 32 * ("instances" in source.leaves))
    row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in fill.leaves.items()}
    with pytest.raises(ImageError, match=f"1.png.*{text}" if "cannot read" not in text else text):
        fill(source[1], Draws(0, 0), row)
    fill(source[0], Draws(0, 0), row)
    assert row["classes"].tolist() == [1, -1, -1, -1]


def test_annotations_of_images_that_are_not_listed(tmp_path, caplog):
    data = coco_data([coco_annotation(1, 10, [1, 2, 3, 4]), coco_annotation(2, 99, [1, 2, 3, 4])])
    with caplog.at_level(logging.WARNING):
        source = coco(tmp_path, data)
    assert "1 annotations of images that instances_train.json does not list are not used" in caplog.text
    assert "annotation 2 of image 99" in caplog.text
    assert [remark.items for remark in source.remarks if remark.wrong] == [("annotation 2 of image 99",)]
    (tmp_path / "train" / "0.png").unlink()
    with pytest.raises(ImageError, match="cannot read .*0.png: No such file.*named in the annotations of coco:"):
        source[0]


def test_some_masks_are_none(tmp_path, caplog):
    data = coco_data(
        [coco_annotation(1, 10, [1, 2, 3, 4]), coco_annotation(2, 11, [1, 2, 3, 4], segmentation=[POLYGON])]
    )
    source = coco(tmp_path, data)
    assert "1 of 2 objects have no mask, so the masks of the others are not used: annotation 1" in caplog.text
    assert "instances" not in source.leaves


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data.pop("categories"), "has no list 'categories'; COCO's annotations of objects"),
        (lambda data: data["images"][1].pop("width"), "number 1 of images lacks width"),
        (lambda data: data["images"].append(data["images"][0]), "1 ids of images are there more than once.*: 10. Corr"),
        (lambda data: data["categories"].clear(), "names no category; objects need at least one"),
        (lambda data: data.update(images="none"), "has no list 'images'"),
        (lambda data: data["annotations"].append(7), "number 1 of annotations lacks everything"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, change, text):
    data = coco_data([coco_annotation(1, 10, [1, 2, 3, 4])])
    write_coco(tmp_path, {"train": data})
    change(data)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=text):
        load_source(DataConfig(name=f"coco:{tmp_path}"), "train")


def test_no_coco_at_all(tmp_path):
    write_coco(tmp_path, {"train": coco_data([])})
    with pytest.raises(DataError, match="unknown split of coco:.* 'trian'. Did you mean 'train'"):
        load_source(DataConfig(name=f"coco:{tmp_path}"), "trian")
    (tmp_path / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(DataError, match="cannot read .*instances_train.json: .*; it must be a JSON as COCO has it"):
        load_source(DataConfig(name=f"coco:{tmp_path}"), "train")
    with pytest.raises(DataError, match="holds 0.png, 1.png, 2.png, and no annotations; it must hold annotations/inst"):
        load_source(DataConfig(name=f"coco:{tmp_path / 'train'}"), "train")
    with pytest.raises(DataError, match="is not a folder"):
        load_source(DataConfig(name=f"coco:{tmp_path / 'nowhere'}"), "train")


def test_corners_taken_for_sides_are_recognised(tmp_path):
    """Only where the file cannot be right."""
    corners = [[10, 5, 40, 39], [50, 30, 79, 59], [30, 20, 60, 50]]
    data = coco_data([coco_annotation(i, 10, box) for i, box in enumerate(corners)])
    with pytest.raises(
        DataError, match="look like x1, y1, x2, y2: .*, 2 of 3 reach out of their images.*annotation 1, a"
    ):
        coco(tmp_path / "a", data)
    data["annotations"][0]["bbox"] = [10, 5, 4, 39]  # no corners either: the boxes that reach out are listed one by one
    assert len(coco(tmp_path / "b", data)) == 3
