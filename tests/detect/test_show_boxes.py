"""`data show CONFIG` of a detection: the rows that a run trains on, with their boxes and masks."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax import AugmentConfig, Config, DataConfig, Detect, ModelConfig
from resnet_jax.cli import main
from resnet_jax.config_files import load_config
from resnet_jax.data import load_source, train_batches
from resnet_jax.data.boxes import Bitmap, bitmap_in, window_of
from resnet_jax.tasks.detect.show import bitmaps_of, training_batch
from resnet_jax.tasks.detect.task import train_fill
from tests.data.box_files import write_csv

pytestmark = pytest.mark.usefixtures("compile_quickly")

CONFIG = """
from resnet_jax import AugmentConfig, Config, DataConfig, Detect, ModelConfig
config = Config(
    model=ModelConfig(name="maskrcnn_resnet18_fpn", stage_sizes=(1, 1, 1, 1), num_classes=None),
    task=Detect(min_size=(96,), max_size=96, jitter=(0.5, 1.5), canvas=96, max_boxes=6, mask_size=56),
    data=DataConfig(name="digit_scenes", mean=(0.5,) * 3, std=(0.25,) * 3,
                    augment=AugmentConfig(random_resized_crop=False, flip=False)),
    batch_size=4,
)
"""


def test_the_batch_of_a_step_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(CONFIG)
    main(["data", "show", "small.py", "--out", "seen.png", "--images", "3", "--step", "2"])
    assert "3 of the 4 images of step 2 are in seen.png" in capsys.readouterr().out
    with Image.open("seen.png") as picture:
        assert picture.width > 3 * 192


def test_it_is_what_the_run_trains_on():
    config = Config(
        model=ModelConfig(name="maskrcnn_resnet18_fpn", stage_sizes=(1, 1, 1, 1), num_classes=11),
        task=Detect(min_size=(96,), max_size=96, jitter=(0.5, 1.5), canvas=96, max_boxes=6, mask_size=56),
        data=DataConfig(
            name="digit_scenes",
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            augment=AugmentConfig(random_resized_crop=False, flip=False),
        ),
        batch_size=4,
    )
    shown = training_batch(config, 2)
    batches = train_batches(
        load_source(config.data, "train"),
        config.data,
        batch_size=4,
        seed=config.seed,
        fill=train_fill(config, config.task, masks=True),
    )
    next(batches)
    rows = next(batches)
    batches.close()
    for i, objects in enumerate(shown.objects):
        count = int((rows["classes"][i] > 0).sum())
        np.testing.assert_array_equal(objects.boxes, rows["boxes"][i, :count])
        np.testing.assert_array_equal(objects.classes, rows["classes"][i, :count])
        assert [bitmap.pixels.sum() for bitmap in objects.bitmaps] == rows["instances"][i, :count].sum((1, 2)).tolist()
        high, wide = rows["size"][i]
        real = rows["image"][i, :high, :wide] / 255
        np.testing.assert_allclose(shown.images[i, :high, :wide], real, atol=1e-5)
        assert np.abs(shown.images[i, high:] - 0.5).sum() == 0, "zeros after normalising"


def test_bitmaps_are_as_large_as_their_windows():
    rng = np.random.default_rng(0)
    box = np.array([3.5, 2.0, 40.2, 20.0], np.float32)
    top, left, bottom, right = window_of(box)
    pixels = rng.integers(0, 2, (bottom - top, right - left)).astype(np.uint8)
    where = {"original": (60, 70), "shape": (60, 70)}
    (same,) = bitmaps_of(box[None], bitmap_in(Bitmap(top, left, pixels), box, 40, **where)[None])
    assert (same.top, same.left) == (2, 3)
    np.testing.assert_array_equal(same.pixels, pixels)
    (coarse,) = bitmaps_of(box[None], bitmap_in(Bitmap(top, left, pixels), box, 10, **where)[None])
    assert coarse.pixels.shape == pixels.shape
    assert abs(coarse.pixels.mean() - pixels.mean()) < 0.2


def test_the_config_for_trees_sees_squares_with_boxes(tmp_path):
    lines = [f"{name}.png,{10 + 20 * i},10,{26 + 20 * i},30,tree" for name in "abcd" for i in range(3)]
    root = write_csv(tmp_path, {"train": [*lines, "none.png,,,,,"], "test": lines[:3]})
    config = load_config("configs/detect/trees.py", ["--data.name", f"boxes:{root}", "--batch-size", "4"])
    assert config.model.num_classes == 2
    batch = training_batch(config, 1)
    assert batch.images.shape == (4, 320, 320, 3)
    assert batch.class_names == ("background", "tree")
    assert sum(len(objects.boxes) for objects in batch.objects) >= 3
    assert all((objects.classes == 1).all() for objects in batch.objects)
