"""What timm's and transformers' files mean for the pixels, against timm, transformers (where installed) and Pillow."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from resnet_jax.errors import ImageError, WeightsError
from resnet_jax.weights import Preset, preprocess, processors
from resnet_jax.weights.processors import timm_preset, transformers_preset

SIZES = [(375, 500), (501, 333), (97, 301), (300, 225), (224, 224), (461, 460)]

TIMM = {
    "input_size": [3, 64, 64],
    "crop_pct": 0.95,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.3],
    "num_classes": 1000,
    "license": "apache-2.0",
    "label_names": None,
}
CONVNEXT = {
    "image_processor_type": "ConvNextImageProcessor",
    "crop_pct": 0.875,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 65},
}
VIT = {**CONVNEXT, "image_processor_type": "ViTImageProcessor", "size": {"height": 60, "width": 60}, "resample": 2}
BIT = {
    **CONVNEXT,
    "image_processor_type": "BitImageProcessor",
    "do_center_crop": True,
    "crop_size": {"height": 50, "width": 50},
}
for other in (VIT, BIT):
    del other["crop_pct"]

WITH = {
    "ConvNext": CONVNEXT,
    "warped": {**CONVNEXT, "size": {"shortest_edge": 384}},
    "a number as size": {**CONVNEXT, "size": 65},
    "not normalised": {**CONVNEXT, "do_normalize": False},
    "not rescaled": {**CONVNEXT, "do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 61, 62]},
    "neither": {**CONVNEXT, "do_rescale": False, "do_normalize": False},
    "rescaled otherwise": {**CONVNEXT, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]},
    "ViT": VIT,
    "Bit": BIT,
    "ViT with a number": {**VIT, "size": 60},
}


def noise(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_hand(image, config):
    """transformers' rules, with Pillow and numbers."""
    kind, size = config["image_processor_type"][:3], config["size"]
    edge = size if isinstance(size, int) else next(iter(size.values()))
    height, width = image.shape[:2]
    if kind == "ViT" or (kind == "Con" and edge >= 384):
        shape, crop = (edge, edge), edge
    else:
        short = int(edge / config["crop_pct"]) if kind == "Con" else edge
        crop = edge if kind == "Con" else config["crop_size"]["height"]
        shape = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    pixels = np.asarray(Image.fromarray(image).resize(shape[::-1], config["resample"])).astype(np.float64)
    top, left = (shape[0] - crop) // 2, (shape[1] - crop) // 2
    pixels = pixels[top : top + crop, left : left + crop]
    if config["do_rescale"]:
        pixels = pixels * config["rescale_factor"]
    if config["do_normalize"]:
        pixels = (pixels - np.array(config["image_mean"])) / np.array(config["image_std"])
    return pixels


@pytest.mark.parametrize("name", WITH)
@pytest.mark.parametrize("size", SIZES)
def test_transformers_keys_are_heeded(name, size):
    image, config = noise(*size), WITH[name]
    found = preprocess(image, transformers_preset(config, "a test"))[0]
    np.testing.assert_allclose(found, by_hand(image, config), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", WITH)
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_are_transformers(torchvision, name, size):
    pytest.importorskip("transformers")
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    image, config = noise(*size), WITH[name]
    processors = {"Con": ConvNextImageProcessorPil, "ViT": ViTImageProcessorPil, "Bit": BitImageProcessorPil}
    theirs = processors[config["image_processor_type"][:3]](**config)(Image.fromarray(image), return_tensors="np")
    found = preprocess(image, transformers_preset(config, "a test"))[0]
    np.testing.assert_allclose(found, theirs["pixel_values"][0].transpose(1, 2, 0), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"crop_pct": None},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_mode": "squash", "interpolation": "bilinear"},
        {"crop_mode": None, "mean": None, "std": None, "interpolation": None},
        {"test_input_size": [3, 80, 80], "test_crop_pct": 1.0},
    ],
)
@pytest.mark.parametrize("test_size", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_are_timms(torchvision, change, test_size, size):
    pytest.importorskip("timm")
    from timm.data import create_transform, resolve_data_config

    image, config = noise(*size), TIMM | change
    transform = create_transform(**resolve_data_config(pretrained_cfg=config, use_test_size=test_size))
    found = preprocess(image, timm_preset(config, "a test", test_size=test_size))[0]
    np.testing.assert_allclose(found, transform(Image.fromarray(image)).permute(1, 2, 0), atol=1e-6)


def test_every_key_that_timm_has_is_known(torchvision):
    pytest.importorskip("timm")
    from timm.models import PretrainedCfg

    fields = {field.name for field in dataclasses.fields(PretrainedCfg)}
    assert fields <= processors._TIMM | processors._TIMM_OTHER
    assert fields >= processors._TIMM


@pytest.mark.parametrize(
    ("read", "config", "change", "message"),
    [
        (timm_preset, TIMM, {"crop_mode": "border"}, "says crop_mode = 'border', .*'center' or 'squash'"),
        (timm_preset, TIMM, {"interpolation": "lanczos"}, "says interpolation = 'lanczos', .*bilinear .2. or bicubic"),
        (timm_preset, TIMM, {"input_size": [3, 64, 96]}, r"says input_size = \[3, 64, 96\], .*of a square"),
        (timm_preset, TIMM, {"input_size": [1, 64, 64]}, "it must be 3 channels"),
        (timm_preset, TIMM, {"mean": [0.5, 0.5]}, "it must have a value for each of the 3 channels"),
        (timm_preset, TIMM, {"gamma": 2.2}, "says gamma = 2.2, and what that means .*Preset yourself"),
        (transformers_preset, CONVNEXT, {"resample": 1}, "says resample = 1, .*it must be bilinear"),
        (transformers_preset, CONVNEXT, {"resample": None}, "says resample = None, .*it must be bilinear"),
        (transformers_preset, CONVNEXT, {"image_mean": None}, "says image_mean = .*for each of the 3 channels"),
        (transformers_preset, CONVNEXT, {"do_resize": False}, "says do_resize = False, .*brought to one size"),
        (transformers_preset, CONVNEXT, {"do_center_crop": True}, "says do_center_crop = True, .*by crop_pct alone"),
        (transformers_preset, CONVNEXT, {"size": {"height": 64, "width": 64}}, "says size = .*{'shortest_edge': ...}"),
        (transformers_preset, CONVNEXT, {"do_pad": True}, "says do_pad = True, and what that means"),
        (transformers_preset, VIT, {"size": {"height": 64, "width": 96}}, "says size = .*equal height and width"),
        (transformers_preset, VIT, {"size": {"longest_edge": 64}}, "says size = .*equal height and width"),
        (transformers_preset, VIT, {"size": {"shortest_edge": 64}}, "says do_center_crop = False, .*shapes"),
        (transformers_preset, VIT, {"crop_pct": 0.9}, "says crop_pct = 0.9, .*only a ConvNext"),
        (transformers_preset, BIT, {"crop_size": None}, "says crop_size = None"),
        (transformers_preset, CONVNEXT, {"image_processor_type": "CLIPImageProcessor"}, "ConvNext, ViT or Bit"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_name(read, config, change, message):
    with pytest.raises(WeightsError, match=f"a test .*{message}"):
        read({**config, **change}, "a test")


def test_a_missing_crop_is_the_processors_own():
    assert transformers_preset({**CONVNEXT, "crop_pct": None}, "a test").resize == int(65 / 0.875)
    assert transformers_preset({**CONVNEXT, "size": 400, "crop_pct": None}, "a test").squash


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30), (20, 30, 4)])
def test_arrays_of_another_layout_are_refused(shape):
    message = "channels first.*transpose" if shape[0] == 3 else "it must be uint8"
    with pytest.raises(ImageError, match=message):
        preprocess(np.zeros(shape, np.uint8), Preset())
    with pytest.raises(ImageError, match="float32 array"):
        preprocess(np.zeros((20, 30, 3), np.float32), Preset())
