"""Our resizing is Pillow's to the byte."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.resample import height_first, resample
from resnet_jax.data.transforms import resize_short_side


def pillow(image, size, interpolation):
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = np.asarray(pixels.resize(size[::-1], Image.Resampling[interpolation.upper()]))
    return resized.reshape(*size, image.shape[2])


def noise(rng, height, width, channels):
    """Of only black and white every second time: cubic weights then reach beyond a byte on both sides."""
    image = rng.integers(0, 256, (height, width, channels), np.uint8)
    return image if rng.random() < 0.5 else np.where(image > 127, np.uint8(255), np.uint8(0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_window_of_any_size_is_pillows(interpolation, channels):
    rng, compared = np.random.default_rng(0), 0
    for _ in range(600):
        shape, size = (tuple(int(side) for side in rng.integers(1, largest, 2)) for largest in (300, 200))
        if height_first(shape, size):
            continue
        image = noise(rng, *shape, channels)
        top, left = (int(rng.integers(side)) for side in size)
        height, width = int(rng.integers(1, size[0] - top + 1)), int(rng.integers(1, size[1] - left + 1))
        expected = pillow(image, size, interpolation)
        where = f"{shape} to {size}, {(top, left, height, width)}"
        np.testing.assert_array_equal(resample(image, size, interpolation), expected, err_msg=where)
        window = resample(image, size, interpolation, window=(top, left, height, width))
        np.testing.assert_array_equal(window, expected[top : top + height, left : left + width], err_msg=where)
        compared += 1
    assert compared > 300


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (1500, 1700), (2, 1700), (1500, 2)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_extreme_sizes(size, interpolation):
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 3000), (1200, 2400)):
        if not height_first(shape, size):
            image = noise(rng, *shape, 3)
            np.testing.assert_array_equal(resample(image, size, interpolation), pillow(image, size, interpolation))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_tall_images_are_pillows_of_any_version(interpolation):
    """Pillow 13 resizes their height first, those before it the width."""
    rng, tall = np.random.default_rng(0), 0
    for _ in range(100):
        image, short_side = noise(rng, *rng.integers(5, 400, 2), 3), int(rng.integers(2, 50))
        resized = resize_short_side(image, short_side, interpolation)
        tall += height_first(image.shape, resized.shape)
        np.testing.assert_array_equal(resized, pillow(image, resized.shape[:2], interpolation))
    assert tall > 10


def test_memory_of_any_kind():
    image = noise(np.random.default_rng(0), 60, 80, 3)
    expected = pillow(image, (33, 44), "bilinear")
    read_only, batch = image.copy(), np.zeros((2, 33, 44, 3), np.uint8)
    read_only.flags.writeable = False
    strided = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)[::2, ::2]
    for source in (image, read_only, np.asfortranarray(image), strided, image[:, ::-1][:, ::-1]):
        assert resample(source, (33, 44), out=batch[1]) is not None
        np.testing.assert_array_equal(batch, [np.zeros_like(expected), expected])
        batch[:] = 0
    grey = resample(image[..., 1:2], (33, 44))
    np.testing.assert_array_equal(grey, expected[..., 1:2])


def test_a_result_stays_what_it_is_when_the_next_one_is_made():
    first = resample(np.full((50, 50, 3), 7, np.uint8), (20, 20))
    resample(np.full((50, 50, 3), 9, np.uint8), (20, 20))
    assert (first == 7).all()
