"""`predict` with a network that finds objects: pictures, COCO's form, and what is refused."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.commands.draw_boxes import boxes_png
from resnet_jax.commands.predict_boxes import image_id, in_coco_form
from resnet_jax.config_files import save_config
from resnet_jax.data import load_source
from resnet_jax.data.sources import digit_scenes
from resnet_jax.files import open_folder
from resnet_jax.run.boxes import Detections, box_predictor_of, detections
from resnet_jax.run.predict import CLASS_NAMES, open_checkpoints
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks import assemble
from resnet_jax.tasks.table import task_of

from .test_task import NAMES, make_config, random_state

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run as it is saved, with random parameters, and three images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, "LENGTHS", {"train": 16, "test": 8})
        where = open_folder(tmp_path_factory.mktemp("runs") / "scenes")
        where.mkdir()
        config = make_config("retinanet_resnet18_fpn")
        task = task_of(config)
        save_config(config, where)
        (where / CLASS_NAMES).write_text(json.dumps(NAMES))
        like = assemble.init_state_of(config, task, make_mesh()).eval_shape(jax.random.key(0))
        state = jax.device_put(random_state(config, task), jax.tree.map(lambda leaf: leaf.sharding, like))
        with open_checkpoints(config, where, task.best) as checkpoints:
            checkpoints.save(0, state, {}, {task.best: 0.5})
        source = load_source(config.data, "test")
        for number, size in enumerate([(96, 96), (60, 90), (60, 90)]):
            Image.fromarray(source[number]["image"][: size[0], : size[1]]).save(where / f"{number:04}.png")
        yield where


def run(capsys, *arguments):
    """The status, and what was printed."""
    try:
        cli.main(["predict", *map(str, arguments)])
        status = 0
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def test_objects_are_drawn_and_written_in_cocos_form(folder, tmp_path, capsys):
    images = sorted(folder.glob("*.png"))
    options = ("--out", tmp_path / "found", "--least-score", "0", "--top", "2")
    status, out, _ = run(capsys, folder, *images, *options)
    assert status == 0
    assert "retinanet_resnet18_fpn after 0 steps" in out
    assert out.count(".png") == 3
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    predictor = box_predictor_of(rn.load_run(folder))
    expected = sorted(detections(predictor, images, 2, []), key=lambda one: one.place)
    assert [one.image.shape[:2] for one in expected] == [(96, 96), (60, 90), (60, 90)]
    assert len(found) == sum(len(one.boxes) for one in expected) > 6
    assert {one["image_id"] for one in found} == {0, 1, 2}, "the numbers in the names, as COCO has them"
    for one in expected:
        mine = [entry for entry in found if entry["image_id"] == one.place]
        boxes = np.array([entry["bbox"] for entry in mine])
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], one.boxes[:, 2:], atol=2e-3)
        assert [entry["category_id"] for entry in mine] == one.labels.tolist()
        assert mine[0]["file_name"] == images[one.place].name
        assert Image.open(tmp_path / "found" / f"{one.place:04}_boxes.png").size[0] >= 200

    status, out, _ = run(capsys, folder, *images[:1], "--out", tmp_path / "json", "--least-score", "0", "--as-json")
    said = json.loads(out)
    assert said["image"] == str(images[0])
    assert len(said["objects"]) == len(expected[0].boxes)
    assert said["objects"][0]["class"] == NAMES[expected[0].labels[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "finds objects in whole images, resized bilinearly; give --out FOLDER for the images with their objects"),
        (("--out", "OUT", "--sheet", "OUT/x.png"), "leave --sheet, --preset.crop and --preset.interpolation out"),
        (("--out", "OUT", "--top", "0"), "--top = 0 must be at least 1"),
    ],
)
def test_what_is_refused(folder, tmp_path, capsys, options, message):
    options = [option.replace("OUT", str(tmp_path)) for option in options]
    status, out, err = run(capsys, folder, folder / "0000.png", *options)
    assert status not in (0, None)
    assert message in " ".join((out + err + str(status)).split())


def test_no_file_is_replaced(folder, tmp_path, capsys):
    for name, message in (
        ("0000_boxes.png", "is there already, and would be written for"),
        ("detections.json", "is there already; choose another --out, or remove it"),
    ):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("mine")
        status, printed, err = run(capsys, folder, folder / "0000.png", "--out", out)
        assert message in " ".join((printed + err + str(status)).split())
        assert (out / name).read_text() == "mine"
        assert len(list(out.iterdir())) == 1


def test_a_broken_image_is_named_and_the_others_are_predicted(folder, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    status, _, err = run(capsys, folder, folder / "0000.png", tmp_path / "broken.png", "--out", tmp_path / "found")
    assert "1 of 2 images" in str(status) + err
    assert (tmp_path / "found" / "0000_boxes.png").exists()


def test_masks_in_cocos_form_are_those_that_were_found():
    pycocotools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    masks = rng.random((2, 20, 30)).astype(np.float32)
    boxes = np.array([[1.5, 2.0, 10.0, 12.0], [0.0, 0.0, 30.0, 20.0]])
    found = Detections(0, np.zeros((20, 30, 3), np.uint8), boxes, np.array([3, 1]), np.array([0.9, 0.2]), masks)
    entries = json.loads(json.dumps(in_coco_form(found, 7, "street.jpg")))
    assert [entry["image_id"] for entry in entries] == [7, 7]
    assert entries[0]["bbox"] == [1.5, 2.0, 8.5, 10.0]
    for entry, mask in zip(entries, masks, strict=True):
        np.testing.assert_array_equal(pycocotools.decode(entry["segmentation"]), mask >= 0.5)


def test_numbers_of_images():
    from pathlib import Path

    assert [image_id([Path("000012.jpg"), Path("7.jpg")], place) for place in (0, 1)] == [12, 7]
    assert [image_id([Path("000012.jpg"), Path("cat.jpg")], place) for place in (0, 1)] == [1, 2]


def test_a_picture_shows_boxes_names_and_masks(tmp_path):
    """A large image is drawn smaller; the pixels of an object have its colour; the surest object lies on top."""
    image = np.full((1500, 3000, 3), 128, np.uint8)
    boxes = np.array([[300.0, 300.0, 900.0, 900.0], [600.0, 600.0, 2990.0, 1400.0]])
    masks = np.zeros((2, 1500, 3000), np.float32)
    masks[0, 300:900, 300:900], masks[1, 600:1400, 600:2990] = 1, 1
    found = Detections(0, image, boxes, np.array([1, 2]), np.array([0.9, 0.6]), masks)
    path = tmp_path / "a.png"
    path.write_bytes(boxes_png(found, [0, 1], ("background", "person", "a class with quite a long name")))
    drawn = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert drawn.shape == (600, 1200, 3)
    first, second, outside = drawn[160, 300], drawn[500, 900], drawn[50, 1100]
    assert np.abs(drawn[300, 300] - first).max() < 8, "where both are, the surest is seen"
    assert np.abs(first - second).max() > 20
    assert (outside == 128).all()
    plain = found._replace(masks=None)
    path.write_bytes(boxes_png(plain, [], ("background", "person", "other")))
    assert (np.asarray(Image.open(path).convert("RGB")) == 128).all(), "nothing is drawn where nothing is shown"


def test_images_are_prepared_as_the_run_says(folder):
    opened = rn.load_run(folder)
    predictor = box_predictor_of(opened)
    assert predictor.model.image_mean == opened.config.data.mean
    assert predictor.model.min_size == 32
    network = SimpleNamespace(
        title="a", class_names=NAMES, model=opened.model, variables=opened.state.variables,
        preset=SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)),
    )  # fmt: skip
    assert box_predictor_of(network, exif=True).exif
    assert box_predictor_of(network).model.image_std == (1.0, 2.0, 3.0)


@pytest.mark.slow
def test_images_that_fill_their_canvas(folder):
    """`rn.predict` looks at images as they are."""
    run = rn.load_run(folder)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = rn.predict(run, images)
    assert found["boxes"].shape == (2, 4, 4)
    sized = run.task.predict(run.state.eval_variables, {"image": images, "size": np.full((2, 2), 32, np.int32)})
    jax.tree.map(np.testing.assert_array_equal, found, sized)
