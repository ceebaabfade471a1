"""`resnet_jax evaluate` of networks that find objects: tables, pictures, and weights on a data set of fewer classes."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.commands.evaluate_boxes import show_boxes
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import Subset, load_source
from resnet_jax.data.boxes import objects_of
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.run.judged import judge_data
from resnet_jax.run.network import Network
from resnet_jax.tasks.detect.coco import judge, truth_of
from tests.data.box_files import coco_annotation, coco_data, write_coco
from tests.weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def judged():
    """Detections of 30 scenes: most objects, moved by a pixel or two, and some that are wrong."""
    rng = np.random.default_rng(0)
    source = Subset(load_source(DataConfig(name="digit_scenes"), "test"), range(30))
    rows = {
        "index": np.arange(30),
        "original": np.full((30, 2), 96),
        "size": np.full((30, 2), 96),
        "boxes": rng.uniform(0, 40, (30, 8, 4)).astype(np.float32),
        "scores": rng.uniform(0.2, 1, (30, 8)),
        "labels": np.full((30, 8), -1),
        "masks": rng.uniform(0, 0.5, (30, 8, 28, 28)).astype(np.float16),
    }
    for i in range(30):
        objects = objects_of(source[i])
        for place, (box, label) in enumerate(zip(objects.boxes, objects.classes, strict=True)):
            if rng.random() < 0.9:
                rows["boxes"][i, place], rows["labels"][i, place] = box + rng.normal(0, 1.2, 4), label
                rows["masks"][i, place] += cv2.resize(objects.bitmaps[place].pixels / 2, (28, 28))
    rows["boxes"][..., 2:] = np.maximum(rows["boxes"][..., 2:], rows["boxes"][..., :2] + 1)
    return judge(truth_of(source, masks=True, exif=False), rows)


def shown(judged, capsys, monkeypatch, found=None, **changes):
    monkeypatch.setenv("COLUMNS", "80")
    usual = {
        "title": "a network, on scenes",
        "note": "",
        "step": 7,
        "per_class": True,
        "curves": None,
        "as_json": False,
    }
    show_boxes(found or {"": judged}, **{**usual, **changes})
    return capsys.readouterr().out


def test_tables_fit_a_screen(judged, capsys, monkeypatch):
    out = shown(judged, capsys, monkeypatch)
    assert max(map(len, out.splitlines())) <= 80
    numbers = judged.numbers
    boxes = next(line for line in out.splitlines() if "│ boxes" in line)
    assert [cell.strip() for cell in boxes.split("│")[2:5]] == [
        f"{100 * numbers[name]:.1f}" for name in ("box_ap", "box_ap50", "box_ap75")
    ]
    assert 0.2 < numbers["box_ap"] < 0.95
    assert "│ masks" in out
    lines = out.split("Average precision by class")[1].splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert sorted(row[0] for row in cells) == sorted("0123456789")
    worst = [float(row[1]) for row in cells]
    assert worst == sorted(worst), "the worst first, by box AP"
    assert sum(int(row[5]) for row in cells) == sum(judged.truth.objects.values())
    assert cells[0][1] == f"{100 * numbers[f'box_ap/{cells[0][0]}']:.1f}"
    several = shown(judged, capsys, monkeypatch, {"val": judged, "other": judged}, per_class=False)
    assert several.count("│ other") == 2, "boxes and masks"
    found = json.loads(shown(judged, capsys, monkeypatch, {"val": judged}, as_json=True))
    assert found["val/mask_ap50"] == numbers["mask_ap50"]
    assert (found["step"], found["val/count"]) == (7, 30)


def test_the_picture_shows_both_curves(judged, capsys, monkeypatch, tmp_path):
    out = shown(judged, capsys, monkeypatch, curves=tmp_path / "curves.png")
    assert "Precision and recall are in" in out
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (round(2 * 5.6 * 120), round(4.9 * 120))
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    left, right = drawn[:, : drawn.shape[1] // 2], drawn[:, drawn.shape[1] // 2 :]
    for half in (left, right):
        for colour in ((0, 114, 178), (0, 158, 115), (213, 94, 0)):
            assert (np.abs(half - colour).max(axis=2) < 30).sum() > 150, "a line of each colour"


def small_network(names, **options):
    model = create_model(
        "retinanet_resnet18_fpn",
        num_classes=len(names),
        stage_sizes=(1, 1),
        width=8,
        levels=(2,),
        extra_levels=0,
        anchor_sizes=((32.0, 64.0),),
        pyramid_width=32,
        head_convs=1,
        min_size=64,
        max_size=96,
        score_thresh=0.0,
        detections_per_img=20,
        **options,
    )
    return Network("a network", model, random_variables(model), Preset(), names)


def test_weights_are_judged_on_a_set_of_fewer_classes(tmp_path, monkeypatch):
    """Detections of classes that the set has not are left out; the others are those of their names."""
    from resnet_jax.run import judged as module

    annotations = [coco_annotation(1, 10, [10, 5, 30, 34], 1), coco_annotation(2, 11, [5, 5, 40, 40], 3)]
    write_coco(tmp_path, {"val": coco_data(annotations)})
    seen = {}
    monkeypatch.setattr(module, "judge", lambda truth, rows: seen.update(rows, truth=truth) or judge(truth, rows))
    config = DataConfig(name=f"coco:{tmp_path}", eval_split="val")
    names = ("__background__", "dog", "N/A", "bird", "cat")
    found = judge_data(small_network(names), config, 2)
    assert set(np.unique(seen["labels"])) <= {-1, 1, 3}, "cat and dog as the set numbers them"
    assert {1, 3} <= set(np.unique(seen["labels"]))
    assert sorted(seen["index"].tolist()) == [0, 1, 2]
    assert found.truth.class_names == ("background", "cat", "N/A", "dog")
    assert 0 <= found.numbers["box_ap"] <= 1
    with pytest.raises(
        ConfigError, match="the network has 3 classes and coco:.* has 2; 2 of these the network does not"
    ):
        judge_data(small_network(("__background__", "tree", "car", "cow")), config, 2)
    with pytest.raises(ConfigError, match="digits gives no boxes: .*an evaluation of boxes needs image and boxes"):
        judge_data(small_network(names), DataConfig(name="digits"), 2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--curves", "x.jpg"], "the picture x.jpg would be a PNG"),
        (["--curves", "x.png"], "--curves draws precision against recall of objects that are found, and .* finds none"),
    ],
)
def test_pictures_of_other_networks_are_refused(words, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Network("resnet18 of x", create_model("cifar_resnet20"), {}, Preset(), ("a", "b"))
    monkeypatch.setattr("resnet_jax.run.network.load_network", lambda *args, **kwargs: network)
    with pytest.raises(SystemExit, match=text):
        main(["evaluate", "--weights", "x", "--data.name", "digits", *words])


@pytest.mark.parametrize("words", [["--fold"], ["--confusion", "x.png"]])
def test_what_detectors_have_not_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("__background__", "cat")
    network = Network("retinanet of x", create_model("retinanet_resnet18_fpn", num_classes=2), {}, Preset(), names)
    monkeypatch.setattr("resnet_jax.run.network.load_network", lambda *args, **kwargs: network)
    with pytest.raises(
        SystemExit, match="--confusion and --fold are for networks that name one class for a whole image"
    ):
        main(["evaluate", "--weights", "x", "--data.name", "digit_scenes", *words])
