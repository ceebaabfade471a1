import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from resnet_jax.config import AugmentConfig, Config, DataConfig, Preset, Segment
from resnet_jax.data import decode_image, load_image, random_resized_crop, resize_and_center_crop
from resnet_jax.data.decode import image_pixels
from resnet_jax.data.fills import CROP, Draws, TrainImage
from resnet_jax.data.transforms import random_crop_box, random_crop_into
from resnet_jax.errors import ConfigError, DataError, ImageError


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def smooth(height, width):
    coarse = Image.fromarray(noise(height // 12, width // 12))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "LA", "P", "1"])
def test_decoding_follows_torchvisions_loader(tmp_path, mode, channels):
    file_format = {"RGB": "JPEG", "L": "JPEG", "CMYK": "JPEG"}.get(mode, "PNG")
    image = Image.fromarray(smooth(37, 23)).convert(mode)
    data = encode(image, file_format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB" if channels == 3 else "L")).reshape(
        37, 23, channels
    )
    np.testing.assert_array_equal(decode_image(data, channels), expected)
    path = tmp_path / "image"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode_image(path, channels), expected)


def test_transparent_palettes_decode_without_a_warning(recwarn):
    image = Image.fromarray(smooth(9, 7)).convert("P")
    data = encode(image, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode_image(data, 3), np.asarray(image.convert("RGB")))
    assert not recwarn.list


def test_sixteen_bits_are_scaled_to_eight():
    values = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    decoded = decode_image(encode(Image.fromarray(values), "PNG"), 1)
    np.testing.assert_array_equal(decoded[..., 0], np.round(values / 257))


DEEP = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)


@pytest.mark.parametrize("white", [255, 4095, 65535, 1000])
def test_deep_greymaps_are_scaled_and_not_clipped(white):
    """Written by the format's definition: big-endian words from 0 to `white`."""
    values = np.linspace(0, white, 35).round().astype(int).reshape(5, 7)
    data = b"P5 7 5 %d\n" % white + values.astype(">u2" if white > 255 else np.uint8).tobytes()
    for channels in (1, 3):
        decoded = decode_image(data, channels)
        assert np.abs(decoded - values[..., None] * 255 / white).max() <= 0.51
        assert len(np.unique(decoded)) == 35


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "I;16B"])
def test_sixteen_bits_of_every_format(form):
    image = Image.frombytes("I;16B", (7, 5), DEEP.astype(">u2").tobytes()) if form == "I;16B" else Image.fromarray(DEEP)
    data = encode(image, "TIFF" if form == "I;16B" else form)
    np.testing.assert_array_equal(decode_image(data, 1)[..., 0], np.round(DEEP / 257))


def test_twelve_bits_are_scaled(tmp_path):
    """Two pixels in three bytes: black, 1000, 2000 and white."""
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 6)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags)
    packed = b"".join(int.to_bytes((a << 12) | b, 3, "big") for a, b in ((0, 1000), (2000, 4095)))
    data = b"II*\0" + struct.pack("<I", 14) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    expected = [0, round(1000 * 255 / 4095), round(2000 * 255 / 4095), 255]
    np.testing.assert_array_equal(decode_image(data, 1).ravel(), expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_are_refused(mode, tmp_path):
    image = Image.fromarray(DEEP.astype(np.int32 if mode == "I" else np.float32))
    image.save(tmp_path / "deep.tif")
    with pytest.raises(
        ImageError, match=rf"deep.tif: it holds .*mode {mode}\), and does not say which is white.*Convert it"
    ):
        decode_image(tmp_path / "deep.tif", 3)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_pillow_is_converted_as_pillow_does(mode, channels):
    """Black, white and grey keep their values; LAB by way of colour management."""
    grey = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(grey.convert("RGB"), *profiles, outputMode="LAB")
    else:
        way = {"La": "LA", "RGBa": "RGBA", "HSV": "RGB", "CMYK": "RGB", "PA": "P", "YCbCr": "RGB", "LAB": "RGB"}.get(
            mode
        )
        image = (grey.convert(way) if way else grey).convert(mode)
    pixels = image_pixels(image, channels)
    assert pixels.shape == (1, 3, channels)
    expected = np.array([0, 0 if mode == "1" else 100, 255])[:, None]
    assert np.abs(pixels[0].astype(int) - expected).max() <= (1 if mode in ("LAB", "La", "RGBa") else 0)


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(Image.fromarray(noise(8, 16)), "JPEG", exif=exif), 3).shape == (8, 16, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", encode(Image.fromarray(noise(32, 32)), "JPEG")[:-200]])
def test_unreadable_images_name_the_file(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*broken\.jpg: .*must be a complete image.*replace or remove"):
        decode_image(path, 3)
    with pytest.raises(DataError, match="cannot read example 3: "):
        decode_image(content, 3, name="example 3")


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (97, 65), (200, 31), (31, 200), (8, 8), (7, 300)])
@pytest.mark.parametrize(("resize", "crop"), [(64, 56), (33, 32), (40, 41), (65, 65), (8, 8), (20, 50)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_and_center_crop_is_torchvisions(torchvision, size, resize, crop, channels):
    from torchvision.transforms import CenterCrop, Compose, Resize

    image = noise(*size, channels)
    pil = Image.fromarray(image[..., 0] if channels == 1 else image)
    expected = np.asarray(Compose([Resize(resize, antialias=True), CenterCrop(crop)])(pil)).reshape(
        crop, crop, channels
    )
    np.testing.assert_array_equal(resize_and_center_crop(image, Preset(resize=resize, crop=crop)), expected)


def test_nothing_is_done_where_nothing_changes():
    image = noise(8, 8, 1)
    assert np.shares_memory(resize_and_center_crop(image, Preset(resize=8, crop=8)), image)


@pytest.mark.parametrize("size", [(37, 53), (375, 500), (20, 200), (200, 20), (1, 9), (3, 3)])
@pytest.mark.parametrize("min_area", [0.08, 0.5, 1.0])
def test_crop_boxes_follow_torchvision_draw_by_draw(torchvision, size, min_area):
    import torch
    from torchvision.transforms import RandomResizedCrop

    # The same uniform numbers for both: torch's generator behind the two methods of NumPy's that are used.
    draws = SimpleNamespace(
        uniform=lambda low, high: torch.empty(1).uniform_(low, high).item(),
        integers=lambda low, high: torch.randint(low, high, (1,)).item(),
    )
    image = Image.new("L", size[::-1])
    for seed in range(200):
        torch.manual_seed(seed)
        expected = RandomResizedCrop.get_params(image, [min_area, 1.0], [3 / 4, 4 / 3])
        torch.manual_seed(seed)
        assert random_crop_box(draws, *size, min_area) == expected


@pytest.mark.parametrize("size", [16, 40, 120])
@pytest.mark.parametrize("channels", [1, 3])
def test_random_resized_crop_is_the_box_resized(size, channels):
    image = smooth(80, 100)[..., :channels]
    for seed in range(20):
        top, left, h, w = random_crop_box(np.random.default_rng(seed), 80, 100, 0.08)
        crop = Image.fromarray(np.ascontiguousarray(image[top : top + h, left : left + w, :]).squeeze())
        pillow = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
        ours = random_resized_crop(image, np.random.default_rng(seed), size, 0.08)
        assert ours.shape == (size, size, channels)
        assert ours.dtype == np.uint8
        # OpenCV's filters are not Pillow's to the bit, but show the same picture.
        assert np.abs(ours.astype(float) - pillow).mean() < 6


def test_random_resized_crop_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))[..., None]
    crop = random_resized_crop(stripes, np.random.default_rng(0), 32, 0.9)
    assert crop.astype(float).std() < 20, "fine stripes must average to grey, not show up as coarse ones"


def test_load_image(tmp_path):
    image = noise(40, 60)
    Image.fromarray(image).save(tmp_path / "photo.png")
    preset = DataConfig(image_size=24, eval_resize=32).preset
    np.testing.assert_array_equal(load_image(tmp_path / "photo.png", preset), resize_and_center_crop(image, preset))
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.png: there is no such file; .*Correct the path"):
        load_image(tmp_path / "nowhere.png", preset)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (30, 2, 1), (17, 19, 3)])
def test_images_smaller_than_the_crop_are_enlarged(shape):
    """No error: torchvision does so, too, and such images are in ImageNet."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert random_resized_crop(image, np.random.default_rng(0), 64, 0.08).shape == (64, 64, shape[2])
    assert resize_and_center_crop(image, Preset(resize=72, crop=64)).shape == (64, 64, shape[2])


@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_other_interpolations_are_timms(torchvision, monkeypatch, interpolation, channels):
    """To the byte, given the same draws."""
    from timm.data import transforms as timms

    image = smooth(80, 100)[..., :channels]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        draws = SimpleNamespace(
            uniform=rng.uniform,
            randint=lambda low, high: int(rng.integers(low, high + 1)),
            choice=lambda options: options[int(rng.integers(0, len(options)))],
        )
        monkeypatch.setattr(timms, "random", draws)
        crop = timms.RandomResizedCropAndInterpolation(32, interpolation=interpolation)
        expected = np.asarray(crop(Image.fromarray(image.squeeze()))).reshape(32, 32, channels)
        ours = np.empty((32, 32, channels), np.uint8)
        random_crop_into(ours, image, np.random.default_rng(seed), 0.08, name="a test", interpolation=interpolation)
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("squash", [False, True])
def test_crops_of_a_random_scale_are_torchvisions(torchvision, squash):
    """He et al. 2015, section 3.4: `Resize` of the shorter side, drawn from a range, and `RandomCrop`."""
    from torchvision.transforms import Resize
    from torchvision.transforms.functional import crop

    augment = AugmentConfig(train_size=20, train_resize=(24, 40))
    fill = TrainImage(DataConfig(image_size=20, eval_resize=24, squash=squash, augment=augment))
    image, seen = smooth(50, 70), set()
    for position in range(80):
        row = {"image": np.empty((20, 20, 3), np.uint8), "label": np.empty((), np.int32)}
        fill({"image": image, "label": 3, "name": "a test"}, Draws(0, position), row)
        rng = Draws(0, position).stream(CROP)
        side = int(rng.integers(24, 41))
        rng.random()  # a flip, which the device draws
        resized = Resize((side, side) if squash else side)(Image.fromarray(image))
        top, left = (int(rng.integers(0, edge - 20 + 1)) for edge in resized.size[::-1])
        np.testing.assert_array_equal(row["image"], np.asarray(crop(resized, top, left, 20, 20)))
        seen.add(side)
    assert len(seen) == 17, "every scale should be drawn"


@pytest.mark.parametrize(("size", "ratio"), [(224, 0.95), (224, 0.875), (256, 0.875), (288, 1.0), (160, 0.95)])
@pytest.mark.parametrize("squash", [False, True])
def test_the_ratio_of_the_crop_is_timms(torchvision, size, ratio, squash):
    from timm.data.transforms_factory import transforms_imagenet_eval

    mode = "squash" if squash else "center"
    theirs = transforms_imagenet_eval(
        size, crop_pct=ratio, crop_mode=mode, interpolation="bicubic", use_prefetcher=True
    )
    image = smooth(310, 400)
    config = DataConfig(image_size=size, eval_crop_ratio=ratio, eval_interpolation="bicubic", squash=squash)
    expected = np.moveaxis(np.asarray(theirs(Image.fromarray(image))), 0, 2)
    np.testing.assert_array_equal(resize_and_center_crop(image, config.preset), expected)


@pytest.mark.parametrize(("build", "text"), [
    (lambda: AugmentConfig(train_resize=(480, 256)), "must be two numbers of pixels, the smaller first"),
    (lambda: AugmentConfig(train_resize=(256,)), "must be two numbers of pixels"),
    (lambda: DataConfig(augment=AugmentConfig(train_resize=(200, 256))), "must be at least 224, the pixels of a side"),
    (lambda: AugmentConfig(random_resized_crop=False, crop_interpolation="random"), "'random' is for random crops"),
    (lambda: Config(task=Segment(), data=DataConfig(squash=True)), "data.squash is set, and the task Segment prepares"),
    (lambda: DataConfig(eval_crop_ratio=1.5), "eval_crop_ratio = 1.5 is out of range"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(build, text):
    with pytest.raises(ConfigError, match=text):
        build()
