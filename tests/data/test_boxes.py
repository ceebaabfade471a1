"""Boxes and bitmaps that move with their image, beside torchvision's own transforms."""

import re

import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import Subset, eval_batches, load_source, train_batches
from resnet_jax.data.box_fills import BoxPlace, EvalBoxes, TrainBoxes, moved_boxes
from resnet_jax.data.boxes import Bitmap, bitmap_in, checked_objects, detection_shape, reaching_out, window_of
from resnet_jax.data.canvases import Canvases
from resnet_jax.data.fills import Draws
from resnet_jax.errors import ImageError

MEAN = (0.4, 0.5, 0.6)


def scene(rng, height=41, width=67, count=5):
    """An image with objects: a bitmap of noise in the window of each box."""
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width - 3, height - 3]
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 2.5], axis=1)
    bitmaps = []
    for box in boxes:
        top, left, bottom, right = window_of(box)
        bitmaps.append(Bitmap(top, left, rng.integers(0, 2, (bottom - top, right - left)).astype(np.uint8)))
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return {
        "image": image,
        "boxes": boxes.astype(np.float32),
        "classes": rng.integers(1, 5, count).astype(np.int32),
        "instances": bitmaps,
        "name": "noise",
    }


def whole_masks(example):
    height, width, _ = example["image"].shape
    out = np.zeros((len(example["boxes"]), height, width), np.uint8)
    for mask, (top, left, pixels) in zip(out, example["instances"], strict=True):
        mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return out


def fill_of(**changes):
    usual = {"preset_mean": MEAN, "channels": 3, "exif": False, "classes": 5, "canvas": (160, 160), "flip": True}
    usual |= {"min_size": (60, 80), "max_size": 120, "jitter": (), "max_boxes": 7, "mask_side": 150}
    return TrainBoxes(**{**usual, **changes})


def filled(fill, example, position=0):
    row = {name: np.full(shape, 77, dtype) for name, (shape, dtype) in fill.leaves.items()}
    fill(example, Draws(0, position), row)
    return row


def test_images_boxes_and_masks_are_resized_as_in_torchvision(torchvision):
    import torch
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    rng, seen = np.random.default_rng(0), set()
    for position in range(12):
        height, width = rng.integers(20, 90, 2)
        example = scene(rng, height, width)
        row = filled(fill_of(), example, position)
        size = tuple(row["size"])
        flip, short = next(
            (flip, short)
            for flip in (False, True)
            for short in (60, 80)
            if fill_of().draw(Draws(0, position).stream(1), (height, width)).flip == flip
            and detection_shape((height, width), short, 120) == size
        )
        seen.add((flip, short))
        image = torch.from_numpy(example["image"].astype(np.float64) / 255).permute(2, 0, 1)
        boxes = torch.from_numpy(example["boxes"].astype(np.float64))
        masks = torch.from_numpy(whole_masks(example))
        if flip:
            image, masks, boxes = image.flip(-1), masks.flip(-1), boxes.clone()
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        transform = GeneralizedRCNNTransform(short, 120, [0.0] * 3, [1.0] * 3, size_divisible=1).double()
        images, targets = transform([image], [{"boxes": boxes, "masks": masks, "labels": torch.ones(5)}])
        theirs = images.tensors[0].permute(1, 2, 0).numpy() * 255
        assert images.image_sizes[0] == size
        assert np.abs(row["image"][: size[0], : size[1]] - theirs).max() <= 0.5 + 1e-3, "bytes are the nearest ones"
        assert (row["image"][size[0] :] == [102, 128, 153]).all()
        np.testing.assert_allclose(row["boxes"][:5], targets[0]["boxes"], rtol=0, atol=2e-5)
        assert (row["boxes"][5:] == 0).all()
        assert row["classes"].tolist() == [*example["classes"], -1, -1]
        assert (row["instances"][5:] == 0).all()
        for bitmap, box, mask in zip(row["instances"], row["boxes"][:5], targets[0]["masks"].numpy(), strict=False):
            top, left, bottom, right = window_of(box)
            assert np.array_equal(bitmap[: bottom - top, : right - left], mask[top:bottom, left:right])
            assert bitmap.sum() == mask[top:bottom, left:right].sum()
    assert len(seen) >= 3, "both directions and both sizes"


def test_evaluation_resizes_as_torchvision(torchvision):
    import torch
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    example = scene(np.random.default_rng(5), 47, 61)
    row = filled(EvalBoxes(MEAN, 3, False, (64, 96), 33, 96), example, 4)
    image = torch.from_numpy(example["image"].astype(np.float64) / 255).permute(2, 0, 1)
    images, _ = GeneralizedRCNNTransform(33, 96, [0.0] * 3, [1.0] * 3, size_divisible=1).double()([image])
    high, wide = row["size"]
    assert images.image_sizes[0] == (high, wide)
    theirs = images.tensors[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(row["image"][:high, :wide] - theirs).max() <= 0.5 + 1e-3
    assert row["original"].tolist() == [47, 61]
    assert row["index"] == 4
    with pytest.raises(ImageError, match="noise has 33 x 42 pixels here, more than its canvas of 32 x 64"):
        filled(EvalBoxes(MEAN, 3, False, (32, 64), 33, 96), example)


def test_jitter_resizes_and_crops(torchvision):
    """As ScaleJitter and FixedSizeCrop of torchvision's references: sizes, pixels, boxes, and which boxes are kept."""
    rng, sizes, kept = np.random.default_rng(1), set(), 0
    fill = fill_of(jitter=(0.2, 2.0), canvas=(64, 96))
    for position in range(30):
        example = scene(rng)
        place, row = fill.draw(Draws(0, position).stream(1), (41, 67)), filled(fill, example, position)
        (high, wide), (top, left) = place.shape, place.offset
        factor = wide / 67 / min(64 / 41, 96 / 67)
        assert 0.17 < factor <= 2
        size = min(high - top, 64), min(wide - left, 96)
        assert tuple(row["size"]) == size
        assert top == 0 or high > 64
        assert left == 0 or wide > 96
        moved = moved_boxes(example["boxes"].astype(np.float64), (41, 67), place, size)
        inside = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        assert row["classes"].tolist() == [*example["classes"][inside], *[-1] * (7 - inside.sum())]
        np.testing.assert_array_equal(row["boxes"][: inside.sum()], moved[inside])
        assert (row["boxes"] <= np.array([size[1], size[0]] * 2)).all()
        sizes.add(size)
        kept += int(inside.sum())
        for bitmap, box in zip(row["instances"], row["boxes"][: inside.sum()], strict=False):
            first_row, first_column, last_row, last_column = window_of(box)
            assert bitmap[last_row - first_row :].sum() == bitmap[:, last_column - first_column :].sum() == 0
    assert len(sizes) > 5
    assert 75 < kept < 150, "some boxes leave the crop"


def test_a_large_object_is_scaled_into_its_bitmap():
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:20, :40] = 1
    box = np.array([10.0, 5.0, 90.0, 45.0])
    where = {"original": (60, 100), "shape": (60, 100)}
    small = bitmap_in(Bitmap(5, 10, pixels), box, 20, **where)
    assert np.array_equal(small, np.pad(np.ones((10, 10), np.uint8), ((0, 10), (0, 10))))
    only_wide = bitmap_in(Bitmap(5, 10, pixels), box, 40, **where)
    assert only_wide[:20, :20].all()
    assert only_wide.sum() == 400, "40 rows are kept as they are, 80 columns are halved"
    mirrored = bitmap_in(Bitmap(5, 10, pixels), box, 80, flip=True, **where)
    assert mirrored[:20, 40:].all()
    assert mirrored.sum() == 800


def test_embedded_scenes_keep_their_bitmaps():
    source = load_source(DataConfig(name="digit_scenes"), "test")
    example = {**source[3], "name": "scene 3"}
    row = filled(fill_of(canvas=(96, 96), min_size=(96,), max_size=96, flip=False, classes=11, mask_side=56), example)
    count = (example["classes"] > 0).sum()
    assert 3 <= count <= 6
    np.testing.assert_array_equal(row["image"], example["image"])
    np.testing.assert_array_equal(row["boxes"][:count], example["boxes"][:count])
    np.testing.assert_array_equal(row["instances"][:count], example["instances"][:count])


def test_batches_and_the_places_of_a_split():
    config = DataConfig(name="digit_scenes")
    source = load_source(config, "test")
    canvases = Canvases(source, base=128, longest=128).groups(4)
    assert [canvas.size for canvas in canvases] == [(128, 128)]
    part = Subset(source, [7, 3, 9])
    assert part.image_size(1) == (96, 96)
    fill = EvalBoxes(MEAN, 3, False, (128, 160), 128, 160, (7, 3, 9))
    batch = next(iter(eval_batches(part, config, batch_size=4, fill=fill)))
    assert batch["index"].tolist() == [7, 3, 9, 0]
    assert batch["size"].tolist() == [[128, 128]] * 3 + [[0, 0]]
    assert batch["original"][0].tolist() == [96, 96]
    train = next(train_batches(source, config, batch_size=4, seed=0, fill=fill_of(classes=11, mask_side=0)))
    assert "instances" not in train
    assert train["boxes"].shape == (4, 7, 4)


def test_padding_is_told():
    sizes = [(800, 1066), (1066, 800), (800, 800)]
    source = type("Sized", (), {"__len__": lambda self: 3, "image_size": lambda self, i, exif: sizes[i]})()
    canvases = Canvases(source, base=800, longest=1333)
    groups = canvases.groups(4)
    assert [group.size for group in groups] == [(800, 800), (800, 1088), (1088, 800)]
    assert canvases.padding(groups) == pytest.approx(1 - (2 * 1066 + 800) / (2 * 1088 + 800))


def test_shapes_are_those_of_torchvision(torchvision):
    import torch
    from torchvision.models.detection.transform import _resize_image_and_masks

    rng = np.random.default_rng(0)
    for height, width in rng.integers(5, 200, (200, 2)).tolist():
        resized, _ = _resize_image_and_masks(torch.zeros(3, height, width), 80, 133)
        assert detection_shape((height, width), 80, 133) == tuple(resized.shape[1:])


BAD = {
    "no area": ([5, 5, 5, 20], 1, "has the box (5, 5, 5, 20), which has no area: x1 < x2"),
    "xywh": ([20, 15, 10, 12], 1, "no area: x1 < x2 and y1 < y2 must hold, and looks like x, y, width, height"),
    "reversed": ([50, 5, 45, 30], 1, "no area"),
    "outside": ([70, 5, 80, 30], 1, "outside the image of 67 x 41"),
    "above": ([10, -9, 20, 0], 1, "outside the image"),
    "nan": ([5, np.nan, 9, 20], 1, "not finite"),
    "class 0": ([5, 5, 9, 20], 0, "has the class 0, which must be from 1 to 4"),
    "class 9": ([5, 5, 9, 20], 9, "has the class 9"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_boxes_are_named(kind):
    box, label, text = BAD[kind]
    example = scene(np.random.default_rng(0), count=2) | {"ids": ["annotation 6", "annotation 7"], "name": "a.jpg"}
    example["boxes"][1], example["classes"][1] = box, label
    example.pop("instances")
    with pytest.raises(ImageError, match=f"^a.jpg: annotation 7.*{re.escape(text)}"):
        filled(fill_of(mask_side=0), example)


def test_annotations_of_another_image_are_refused():
    example = scene(np.random.default_rng(0)) | {"shape": (67, 41)}
    with pytest.raises(
        ImageError, match="noise has 67 x 41 pixels, and its annotations are of an image of 41 x 67.*exif"
    ):
        filled(fill_of(), example)


def test_masks_elsewhere_and_too_many_objects_are_named():
    example = scene(np.random.default_rng(0), count=3)
    example["instances"][2] = Bitmap(0, 0, np.ones((2, 2), np.uint8))
    with pytest.raises(ImageError, match="noise: box 2 has its mask elsewhere than its box"):
        filled(fill_of(), example)
    example["instances"][2] = Bitmap(0, 0, np.zeros((0, 0), np.uint8))
    with pytest.raises(ImageError, match="noise: box 2 has its mask elsewhere"):
        filled(fill_of(), example)
    with pytest.raises(ImageError, match="noise has 3 objects, and task.max_boxes = 2.*set task.max_boxes to at least"):
        filled(fill_of(max_boxes=2, mask_side=0), {**scene(np.random.default_rng(0), count=3)})


def test_crowds_and_images_without_objects():
    example = scene(np.random.default_rng(0), count=3) | {"crowd": np.array([False, True, False])}
    row = filled(fill_of(), example)
    assert row["classes"].tolist() == [example["classes"][0], example["classes"][2], -1, -1, -1, -1, -1]
    empty = {**example, "boxes": np.zeros((0, 4)), "classes": np.zeros(0, int), "instances": [], "crowd": []}
    row = filled(fill_of(), empty)
    assert (row["classes"] == -1).all()
    assert row["boxes"].sum() == row["instances"].sum() == 0


def test_boxes_that_reach_out_are_cut_off_and_listed():
    example = scene(np.random.default_rng(0), count=2)
    example["boxes"][1] = [60, 30, 68.5, 41.5]
    example.pop("instances")
    objects = checked_objects(example, (41, 67), 5, masks=False)
    assert reaching_out(objects, (41, 67)) == ["box 1"]
    place = BoxPlace(False, (41, 67), (0, 0), False)
    assert moved_boxes(objects.boxes, (41, 67), place, (41, 67))[1].tolist() == [60, 30, 67, 41]
