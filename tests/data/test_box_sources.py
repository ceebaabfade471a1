"""Boxes and masks from files: COCO's JSON, Pascal VOC's XML, CSV. What they give, and what is wrong with them."""

import importlib.util
import io
import json
import logging
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import Subset, fingerprint, load_source, train_batches
from resnet_jax.data.box_fills import TrainBoxes
from resnet_jax.data.boxes import objects_of
from resnet_jax.data.fills import Draws
from resnet_jax.data.sources import read_objects
from resnet_jax.errors import DataError, ImageError
from tests.data.box_files import coco_annotation, coco_data, write_coco, write_csv, write_voc_boxes

ROOT = Path(__file__).parent.parent.parent
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
    """In COCO's file x1, y1, x2, y2, and in a CSV x, y, width, height: only where the file cannot be right."""
    corners = [[10, 5, 40, 39], [50, 30, 79, 59], [30, 20, 60, 50]]
    data = coco_data([coco_annotation(i, 10, box) for i, box in enumerate(corners)])
    with pytest.raises(
        DataError, match="look like x1, y1, x2, y2: .*, 2 of 3 reach out of their images.*annotation 1, a"
    ):
        coco(tmp_path / "a", data)
    data["annotations"][0]["bbox"] = [10, 5, 4, 39]  # no corners either: the boxes that reach out are listed one by one
    assert len(coco(tmp_path / "b", data)) == 3
    sides = [f"a.png,{x1},{y1},{x2 - x1},{y2 - y1},cat" for x1, y1, x2, y2 in corners]
    name = f"boxes:{write_csv(tmp_path / 'c', {'train': sides})}"
    with pytest.raises(
        DataError, match="train.csv look like x, y, width, height: .*, 2 of 3 have no area.*: line 3 of tr"
    ):
        load_source(DataConfig(name=name), "train")
    sides.append("a.png,50,10,60,20,cat")  # no sides: 50 + 60 > 80
    source = load_source(DataConfig(name=f"boxes:{write_csv(tmp_path / 'd', {'train': sides})}"), "train")
    assert len(source) == 1


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


def test_trees_become_a_data_set(tmp_path, capsys):
    """examples/trees.py, on a package with made-up photographs of the names and sizes that deepforest ships."""
    spec = importlib.util.spec_from_file_location("trees", ROOT / "examples" / "trees.py")
    trees = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trees)
    crowns = {name: [[10, 20, 60, 80], [300, 100, 330, 130]] for name in trees.NAMES}
    crowns[trees.LARGEST] = [[10, 20, 60, 80], [300, 100, 330, 130], [1950, 100, 1990, 150], [600, 310, 700, 350]]
    sizes = dict(zip(trees.NAMES, ((2299, 2472), (1249, 1035), (400, 400), (400, 400)), strict=True))
    with zipfile.ZipFile(tmp_path / "deepforest.whl", "w") as wheel:
        for name, boxes in crowns.items():
            content = io.BytesIO()
            Image.new("RGBA", sizes[name], (1, 200, 3, 255)).save(content, "PNG")
            wheel.writestr(f"{trees.FOLDER}/{name}.png", content.getvalue())
            xml = "".join(
                f"<object><name>Tree</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
                "</bndbox></object>"
                for a, b, c, d in boxes
            )
            wheel.writestr(f"{trees.FOLDER}/{name}.xml", f"<annotation>{xml}</annotation>")
    counts = trees.main(tmp_path / "trees", tmp_path / "deepforest.whl")
    assert counts == {"train": 54, "test": 16}, "as of the real package"
    assert "54 squares for training and 16 for the test" in capsys.readouterr().out
    splits = {name: load_source(DataConfig(name=f"boxes:{tmp_path / 'trees'}"), name) for name in ("train", "test")}
    boxes = {name: [read_objects(one, i).boxes.tolist() for i in range(len(one))] for name, one in splits.items()}
    assert splits["train"].class_names == ("background", "tree")
    assert boxes["train"][0] == [[10, 20, 60, 80], [300, 100, 320, 130]], "cut off at the border"
    right = next(found for i, found in enumerate(boxes["train"]) if "0000_0320" in splits["train"][i]["name"])
    assert right == [], "a third of the box, and nine tenths of another one's part, are not enough"
    assert sum(map(len, boxes["test"])) == 1
