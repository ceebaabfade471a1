import dataclasses
import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from resnet_jax.data import jpeg
from resnet_jax.data.decode import MAX_PIXELS, decode_image
from resnet_jax.data.jpeg import decode_box, decode_exactly, read_frame
from resnet_jax.data.transforms import decode, decode_random_crop, random_crop_box, random_resized_crop
from resnet_jax.errors import ImageError


def photo(height, width, seed=0):
    """Smooth colours with some texture, as JPEG likes them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (max(2, height // 80), max(2, width // 80), 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def encode(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def boxes(height, width, count=8, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        yield int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), int(h), int(w)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(97, 131), (64, 48), (375, 500)])
def test_a_box_is_the_same_with_or_without_the_rows_below_it(subsampling, progressive, size):
    data = encode(photo(*size), subsampling=subsampling, progressive=progressive)
    frame = read_frame(data)
    assert (frame.height, frame.width, frame.baseline) == (*size, not progressive)
    uncut = dataclasses.replace(frame, baseline=False)
    for box in boxes(*size):
        for shrunk in (10, 30):
            part = decode_box(data, frame, box, shrunk, 3, name="a photo").copy()
            np.testing.assert_array_equal(part, decode_box(data, uncut, box, shrunk, 3, name="a photo"))
        part = decode_box(data, frame, box, 1000, 3, name="a photo").copy()
        assert part.shape == (box[2], box[3], 3)
        np.testing.assert_array_equal(part, decode_box(data, uncut, box, 1000, 3, name="a photo"))
        exact = decode_image(data, 3)[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        assert np.abs(part.astype(int) - exact).mean() < 4, "the fast methods are off by little"


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_so_it_is_where_colours_have_unusual_blocks(subsampling):
    data = simplejpeg.encode_jpeg(photo(97, 131), 92, colorsubsampling=subsampling)
    frame = read_frame(data)
    for box in boxes(97, 131, count=20):
        part = decode_box(data, frame, box, 1000, 3, name="a photo").copy()
        uncut = decode_box(data, dataclasses.replace(frame, baseline=False), box, 1000, 3, name="a photo")
        np.testing.assert_array_equal(part, uncut)


def test_rows_below_the_box_are_not_decoded(monkeypatch):
    rows = []
    decode_jpeg = jpeg.simplejpeg.decode_jpeg
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", lambda *a, **k: rows.append(decode_jpeg(*a, **k)) or rows[-1])
    data = encode(photo(400, 300))
    decode_box(data, read_frame(data), (10, 10, 50, 60), 50, 3, name="a photo")
    assert rows[0].shape[0] == 60


@pytest.mark.parametrize(("side", "shrink"), [(63, 1), (64, 2), (127, 2), (128, 4), (256, 8), (600, 8)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_box_is_decoded_at_the_smallest_scale_that_suffices(side, shrink, progressive):
    image = photo(701, 803)
    data = encode(image, progressive=progressive)
    box = (50, 61, side, side + 100)
    part = decode_box(data, read_frame(data), box, 32, 3, name="a photo")
    assert min(part.shape[:2]) >= 32
    np.testing.assert_allclose(part.shape[:2], np.array(box[2:]) / shrink, atol=1)
    crop = Image.fromarray(image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]])
    small = np.asarray(crop.resize(part.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(part - small).mean() < 6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_whole_jpegs_are_pillows_to_the_byte(channels, mode):
    rng = np.random.default_rng(0)
    for seed in range(40):
        buffer = io.BytesIO()
        options = {"subsampling": int(rng.integers(3)), "progressive": bool(seed % 2), "quality": int(rng.integers(99))}
        image = Image.fromarray(photo(*rng.integers(1, 200, 2), seed)).convert(mode)
        image.save(buffer, "JPEG", **options)
        found = decode_exactly(buffer.getvalue(), channels, name="a photo")
        np.testing.assert_array_equal(found, decode_image(buffer.getvalue(), channels), err_msg=str(options))


def test_damaged_jpegs_look_as_pillow_sees_them():
    """It alone decides what a damaged file looks like in evaluation, and whether it is an image at all."""
    whole, rng, left_to_pillow = encode(photo(97, 131)), np.random.default_rng(0), 0
    for _ in range(60):
        at, length = (int(n) for n in rng.integers(0, (len(whole) - 60, 60)))
        data = whole[:at] + rng.bytes(int(rng.integers(length + 1))) + whole[at + length :]
        left_to_pillow += decode_exactly(data, 3, name="a photo") is None
        try:
            expected = decode_image(data, 3)
        except ImageError:
            with pytest.raises(ImageError, match="a photo"):
                decode(data, 3, name="a photo")
        else:
            np.testing.assert_array_equal(decode(data, 3, name="a photo"), expected)
    assert 10 < left_to_pillow < 60


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [24, 64, 224])
def test_crops_of_jpegs_are_those_of_the_decoded_image(channels, size):
    """The same box, and nearly the same pixels."""
    for seed in range(12):
        image = photo(300 + 11 * seed, 420 - 7 * seed, seed)
        data = encode(image)
        fast = decode_random_crop(data, np.random.default_rng(seed), size, 0.08, channels, name="a photo")
        slow = random_resized_crop(decode_image(data, channels), np.random.default_rng(seed), size, 0.08)
        assert fast.shape == (size, size, channels)
        assert fast.dtype == np.uint8
        assert np.abs(fast.astype(int) - slow).mean() < 6


def test_crops_are_close_to_torchvisions(torchvision):
    from torchvision.transforms.functional import resized_crop

    for seed in range(6):
        data = encode(photo(375, 500, seed))
        box = random_crop_box(np.random.default_rng(seed), 375, 500, 0.08)
        expected = np.asarray(resized_crop(Image.open(io.BytesIO(data)), *box, [96, 96], antialias=True)).astype(int)
        ours = decode_random_crop(data, np.random.default_rng(seed), 96, 0.08, 3, name="a photo")
        assert np.abs(ours - expected).mean() < 5
        assert abs(ours.mean() - expected.mean()) < 1.5


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_colour_spaces_of_jpeg(mode, channels):
    buffer = io.BytesIO()
    Image.fromarray(photo(80, 60)).convert(mode).save(buffer, "JPEG", quality=95)
    crop = decode_random_crop(buffer.getvalue(), np.random.default_rng(0), 32, 0.5, channels, name="a photo")
    exact = random_resized_crop(decode_image(buffer.getvalue(), channels), np.random.default_rng(0), 32, 0.5)
    assert np.abs(crop.astype(int) - exact).mean() < 4


def test_what_is_no_usual_jpeg_is_left_to_pillow():
    data = encode(photo(40, 50))
    assert read_frame(data) is not None
    for other in (
        b"",
        b"\xff\xd8",
        data[:-200],
        b"RIFF" + data,
        data[: data.index(b"\xff\xc0") + 4],
        data.replace(b"\xff\xc0", b"\xff\xc9", 1),
    ):
        assert read_frame(other) is None
    assert read_frame(data + bytes(20)) is not None, "some writers pad their files"


def test_a_header_that_promises_too_much_is_refused():
    data = bytearray(encode(photo(40, 50)))
    at = read_frame(bytes(data)).at
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match=f"65535 x 65535 pixels, more than {MAX_PIXELS:,}; .*bomb. Shrink or remove"):
        decode_random_crop(bytes(data), np.random.default_rng(0), 32, 0.5, 3, name="a photo")


def test_a_crop_stays_what_it_is_when_the_next_one_is_decoded():
    """Also where nothing is resized: the box is exactly as large as the result."""
    data = [encode(photo(64, 64, seed)) for seed in range(2)]
    first = decode_random_crop(data[0], np.random.default_rng(0), 64, 1.0, 3, name="a photo")
    before = first.copy()
    decode_random_crop(data[1], np.random.default_rng(0), 64, 1.0, 3, name="a photo")
    np.testing.assert_array_equal(first, before)
