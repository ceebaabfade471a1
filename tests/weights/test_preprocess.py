"""Preprocessing against torchvision's evaluation transform of PIL images, byte for byte."""

import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.errors import DataError
from resnet_jax.weights import Preset, find_weight_set, preprocess


def noise(height, width, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def encoded(image, suffix="png", **options):
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def expected(torchvision, image, preset):
    """What torchvision's own evaluation does: its folder loader's `convert("RGB")`, then the preset of the weights."""
    from torchvision.transforms._presets import ImageClassification

    transform = ImageClassification(
        crop_size=preset.crop,
        resize_size=preset.resize,
        mean=preset.mean,
        std=preset.std,
        interpolation=torchvision.transforms.InterpolationMode(preset.interpolation),
    )
    return transform(image.convert("RGB")).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("preset", ["IMAGENET1K_V1", "IMAGENET1K_V2", "bicubic"])
@pytest.mark.parametrize("size", [(375, 500), (501, 333), (97, 1001), (300, 225), (224, 224), (13, 40), (233, 232)])
def test_byte_identical_to_torchvision(torchvision, size, preset):
    if preset == "bicubic":
        preset = Preset(resize=75, crop=65, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    else:
        preset = find_weight_set("resnet50", preset).preset
    image = Image.fromarray(noise(*size))
    want = expected(torchvision, image, preset)
    got = preprocess(image, preset)
    assert got.dtype == np.float32
    assert got.shape == (1, *want.shape)
    assert got[0].tobytes() == np.ascontiguousarray(want).tobytes()


def kinds():
    rgb = Image.fromarray(noise(121, 87))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    transparent = rgb.quantize(64)
    transparent.info["transparency"] = 3
    return {
        "grey": encoded(Image.fromarray(noise(121, 87, 1))),
        "grey and alpha": encoded(Image.fromarray(noise(121, 87, 2), "LA")),
        "alpha": encoded(Image.fromarray(noise(121, 87, 4), "RGBA")),
        "palette": encoded(rgb.quantize(64)),
        "palette and transparency": encoded(transparent),
        "one bit": encoded(rgb.convert("1")),
        "CMYK": encoded(Image.fromarray(noise(121, 87, 4), "CMYK"), "jpeg"),
        "EXIF-rotated": encoded(rgb, "jpeg", exif=exif),
        "animated": encoded(
            rgb.quantize(), "gif", save_all=True, append_images=[Image.fromarray(noise(121, 87, 3, 1))]
        ),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("kind", kinds())
def test_images_of_every_kind(torchvision, kind, tmp_path):
    preset = Preset(resize=75, crop=65)
    content = kinds()[kind]
    want = expected(torchvision, Image.open(io.BytesIO(content)), preset)
    path = tmp_path / "image"
    path.write_bytes(content)
    for image in (content, path, str(path), Image.open(path)):
        np.testing.assert_array_equal(preprocess(image, preset)[0], want)


def test_several_images_of_different_sizes_make_a_batch():
    preset = Preset(resize=40, crop=33)
    images = [Image.fromarray(noise(50, 60)), noise(70, 41), encoded(Image.fromarray(noise(41, 41)))]
    batch = preprocess(images, preset)
    assert batch.shape == (3, 33, 33, 3)
    for image, row in zip(images, batch, strict=True):
        np.testing.assert_array_equal(preprocess(image, preset)[0], row)


def test_a_broken_image_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(encoded(Image.fromarray(noise(50, 60)), "jpeg")[:500])
    with pytest.raises(DataError, match=r"broken\.jpg"):
        preprocess(path, Preset())
