"""Images and masks are changed together: beside torchvision's own steps, and by images that show their masks."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import eval_batches, load_source, train_batches
from resnet_jax.data.fills import Draws
from resnet_jax.data.joint import Place, crop_into, draw_place, resize_nearest
from resnet_jax.data.mask_fills import EvalMask, TrainMask
from resnet_jax.errors import ImageError

GREY = (0.4, 0.5, 0.6)
PAD = (102, 128, 153)  # GREY in bytes; 127.5 is rounded to the even number
COLOURS = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)


def pair(rng, height, width, cell=7, classes=5):
    """A mask of cells, some of them not counted, and the image that shows each class in a colour of its own."""
    small = rng.integers(0, classes, (-(-height // cell), -(-width // cell)))
    small[rng.random(small.shape) < 0.1] = 255
    mask = np.kron(small, np.ones((cell, cell))).astype(np.uint8)[:height, :width]
    return COLOURS[mask], mask


def empty(fill):
    return {name: np.full(shape, 77, dtype) for name, (shape, dtype) in fill.leaves.items()}


@pytest.mark.parametrize("seed", range(60))
def test_a_crop_is_that_of_torchvisions_steps(torchvision, seed):
    """references/segmentation: Resize, hflip, pad at the right and bottom, crop; of PIL images."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(9, 90, 2), 3), np.uint8)
    mask = rng.integers(0, 256, image.shape[:2], np.uint8)
    base, crop = int(rng.integers(10, 60)), int(rng.integers(5, 70))
    place = draw_place(rng, image.shape, base=base, scale=(0.5, 2.0), crop=crop)
    size = min(place.shape)
    assert int(0.5 * base) <= size <= 2 * base

    both = []
    for pixels, how, colour in (
        (image, InterpolationMode.BILINEAR, PAD),
        (mask, InterpolationMode.NEAREST, 255),
    ):
        picture = F.resize(Image.fromarray(pixels), size, how)
        assert picture.size[::-1] == place.shape
        picture = F.hflip(picture) if place.flip else picture
        width, height = picture.size
        picture = F.pad(picture, [0, 0, max(crop - width, 0), max(crop - height, 0)], fill=colour)
        assert 0 <= place.top <= max(height - crop, 0)
        assert 0 <= place.left <= max(width - crop, 0)
        both.append(np.asarray(F.crop(picture, place.top, place.left, crop, crop)))
    out = np.empty((crop, crop, 3), np.uint8), np.empty((crop, crop), np.uint8)
    crop_into(*out, image, mask, place, PAD)
    np.testing.assert_array_equal(out[0], both[0])
    np.testing.assert_array_equal(out[1], both[1])


def test_masks_are_resized_as_pillow_does_it():
    rng = np.random.default_rng(0)
    for _ in range(400):
        (height, width), size = rng.integers(1, 300, 2), rng.integers(1, 300, 2)
        mask = rng.integers(0, 256, (height, width), np.uint8)
        expected = Image.fromarray(mask).resize(tuple(map(int, size[::-1])), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(resize_nearest(mask, tuple(size)), np.asarray(expected))


def test_places_have_the_law_of_the_recipe():
    rng = np.random.default_rng(0)
    places = [draw_place(rng, (30, 40), base=20, scale=(0.5, 2.0), crop=24) for _ in range(6000)]
    counts = np.bincount([place.shape[0] for place in places], minlength=41)
    assert counts[:10].sum() == 0
    assert np.abs(counts[10:] / 6000 * 31 - 1).max() < 0.25, "each of 10 to 40 pixels equally often"
    assert abs(np.mean([place.flip for place in places]) - 0.5) < 0.03
    large = [place for place in places if place.shape == (39, 52)]
    assert {place.top for place in large} == set(range(16))
    assert {place.left for place in large} == set(range(29))
    assert {(place.top, place.left) for place in places if place.shape[1] <= 24} == {(0, 0)}


def away_from_borders(mask, reach):
    """Where all pixels within `reach` have one value; not at the edge of the array, behind which all may lie."""
    inside = np.zeros(mask.shape, bool)
    inner = slice(reach, -reach)
    views = np.lib.stride_tricks.sliding_window_view(mask, (2 * reach + 1,) * 2)
    inside[inner, inner] = (views == mask[inner, inner, None, None]).all(axis=(2, 3))
    return inside


@pytest.mark.parametrize(("scale", "reach"), [((1.0, 1.0), 0), ((0.5, 2.0), 3)])
def test_image_and_mask_stay_aligned(scale, reach):
    """At scale 1 everywhere. Otherwise away from the borders of cells, where the image has mixed colours."""
    fill = TrainMask(GREY, channels=3, base=80, scale=scale, crop=64, exif=False, classes=5)
    flips, seen = set(), 0
    for number in range(80):
        rng = np.random.default_rng(number)
        height, width = (80, 100) if number % 2 else (130, 80)
        image, mask = pair(rng, height, width, cell=20)
        row = empty(fill)
        fill({"image": image, "mask": mask, "name": "x"}, Draws(3, number), row)
        beside = (row["image"] == PAD).all(axis=2) & (row["mask"] == 255)
        expected = COLOURS[row["mask"]]
        inside = ~beside if reach == 0 else away_from_borders(np.where(beside, 254, row["mask"]), reach) & ~beside
        np.testing.assert_array_equal(row["image"][inside], expected[inside])
        seen += inside.sum()
        if reach == 0:
            flips.add(any((row["mask"] == part).all() for part in _windows(mask, 64)))
    assert seen > 80 * 64 * 64 * 0.25
    assert reach or flips == {True, False}, "some are mirrored, some are not"


def _windows(mask, size):
    views = np.lib.stride_tricks.sliding_window_view(mask, (size, size))
    return views.reshape(-1, size, size)


def test_a_flip_mirrors_both():
    image, mask = pair(np.random.default_rng(0), 20, 30)
    rows = []
    for flip, left in ((False, 4), (True, 30 - 4 - 12)):
        out = np.empty((12, 12, 3), np.uint8), np.empty((12, 12), np.uint8)
        crop_into(*out, image, mask, Place((20, 30), flip, 3, left), PAD)
        rows.append(out)
    np.testing.assert_array_equal(rows[0][0], image[3:15, 4:16])
    np.testing.assert_array_equal(rows[0][1], mask[3:15, 4:16])
    np.testing.assert_array_equal(rows[1][0], rows[0][0][:, ::-1])
    np.testing.assert_array_equal(rows[1][1], rows[0][1][:, ::-1])


@pytest.mark.parametrize(("height", "width", "base"), [(33, 47, 24), (47, 33, 24), (20, 31, 40), (21, 64, None)])
def test_evaluation_shows_the_whole_image(torchvision, height, width, base):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = rng.integers(0, 5, (height, width), np.uint8)
    fill = EvalMask(GREY, channels=3, base=base, canvas=(64, 96), exif=False, classes=5)
    row = empty(fill)
    fill({"image": image, "mask": mask, "name": "x"}, Draws(0, 0), row)
    pictures = [Image.fromarray(image), Image.fromarray(mask)]
    if base is not None:
        hows = (InterpolationMode.BILINEAR, InterpolationMode.NEAREST)
        pictures = [F.resize(picture, base, how) for picture, how in zip(pictures, hows, strict=True)]
    w, h = pictures[0].size
    assert row["size"].tolist() == [h, w]
    assert row["size"].dtype == np.int32
    np.testing.assert_array_equal(row["image"][:h, :w], np.asarray(pictures[0]))
    np.testing.assert_array_equal(row["mask"][:h, :w], np.asarray(pictures[1]))
    outside = np.ones((64, 96), bool)
    outside[:h, :w] = False
    assert (row["image"][outside] == PAD).all()
    assert (row["mask"][outside] == 255).all()


def test_what_a_fill_refuses():
    image, mask = pair(np.random.default_rng(0), 20, 30)
    train = TrainMask(GREY, channels=3, base=20, scale=(1.0, 1.0), crop=16, exif=False, classes=5)
    evaluate = EvalMask(GREY, channels=3, base=None, canvas=(32, 28), exif=False, classes=5)
    turned = np.ascontiguousarray(mask.T)
    mask_of_9 = np.where(mask == 4, 9, mask)
    for fill, example, text in (
        (train, (image, mask[:19]), "the mask of p.jpg has 19 x 30 pixels and the image 20 x 30; .* must be equal"),
        (train, (image, turned), "has 30 x 20 pixels .* change data.exif if the camera was held on its side"),
        (evaluate, (image, mask_of_9), r"the mask of p.jpg holds the value 9 \(.* too high.*must be 0..4, .* or 255"),
        (evaluate, (image, mask), "p.jpg has 20 x 30 pixels here, more than its canvas of 32 x 28; .* canvases anew"),
    ):
        with pytest.raises(ImageError, match=text):
            fill({"image": example[0], "mask": example[1], "name": "p.jpg"}, Draws(0, 0), empty(fill))


def test_a_photograph_is_turned_and_its_mask_is_not():
    image, mask = pair(np.random.default_rng(0), 24, 40, cell=8)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise, so stored turned the other way
    Image.fromarray(np.rot90(image)).save(buffer, "PNG", exif=exif)
    for fill in (
        TrainMask(GREY, channels=3, base=24, scale=(1.0, 1.0), crop=24, exif=True, classes=5),
        EvalMask(GREY, channels=3, base=None, canvas=(24, 40), exif=True, classes=5),
    ):
        row, example = empty(fill), {"image": buffer.getvalue(), "mask": mask, "name": "p.png"}
        fill(example, Draws(0, 0), row)
        np.testing.assert_array_equal(row["image"], COLOURS[row["mask"]])
        with pytest.raises(ImageError, match="the mask of p.png has 24 x 40 pixels and the image 40 x 24; .*data.exif"):
            replace(fill, exif=False)(example, Draws(0, 0), row)


def test_grey_images_have_one_channel():
    image, mask = pair(np.random.default_rng(0), 20, 30)
    fill = TrainMask((0.4,), channels=1, base=10, scale=(1.0, 1.0), crop=32, exif=False, classes=5)
    row = empty(fill)
    fill({"image": image, "mask": mask, "name": "x"}, Draws(0, 0), row)
    assert row["image"].shape == (32, 32, 1)
    assert (row["image"][10:] == 102).all()
    grey = np.asarray(Image.fromarray(image).convert("L").resize((15, 10), Image.Resampling.BILINEAR))
    assert any((row["image"][:10, :15, 0] == one).all() for one in (grey, grey[:, ::-1]))


def test_batches_belong_to_their_place():
    """Not to threads, hosts or where reading begins; and fills are pickled for worker processes."""
    config = DataConfig(name="digit_scenes", threads=3)
    source = load_source(config, "test")
    fill = TrainMask(GREY, channels=3, base=48, scale=(0.5, 2.0), crop=40, exif=False, classes=11)
    fill = pickle.loads(pickle.dumps(fill))
    batches = train_batches(source, config, batch_size=8, seed=5, fill=fill)
    first, second = next(batches), next(batches)
    assert first["image"].shape == (8, 40, 40, 3)
    assert first["mask"].shape == (8, 40, 40)
    part = train_batches(source, config, batch_size=8, seed=5, fill=fill, process_index=1, process_count=2)
    part.set_state({"position": 8})
    here = next(part)
    for name in ("image", "mask"):
        np.testing.assert_array_equal(here[name], second[name][4:])
    batches.close()
    part.close()
    whole = EvalMask(GREY, channels=3, base=None, canvas=(96, 128), exif=False, classes=11)
    shown = next(iter(eval_batches(source, config, batch_size=4, fill=whole, start=len(source) - 3)))
    assert shown["weight"].tolist() == [1, 1, 1, 0]
    assert shown["size"].tolist() == [[96, 96]] * 3 + [[0, 0]]
    np.testing.assert_array_equal(shown["mask"][2, :, :96], source[len(source) - 1]["mask"])
