"""Reads how timm's and transformers' files prepare images, as a `Preset`. Each key is used, or refused by name.

Sources: timm `data/config.py`, `data/transforms_factory.py`; transformers
`models/convnext/image_processing_convnext.py`, `models/vit`, `models/bit`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import WeightsError
from resnet_jax.weights.catalog import Interpolation, Preset

_INTERPOLATIONS: dict[Any, Interpolation] = {
    2: "bilinear",  # Pillow's numbers
    3: "bicubic",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
}

# Keys of timm that describe files, names and the network, and do not change the pixels.
_TIMM_OTHER = {
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load"),
    *("min_input_size", "fixed_input_size", "num_classes", "label_offset", "label_names", "label_descriptions"),
    *("pool_size", "test_pool_size", "first_conv", "classifier", "license", "description", "origin_url"),
    *("paper_name", "paper_ids", "notes", "num_features", "global_pool", "model_args"),
}
_TIMM = {"input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "test_input_size", "test_crop_pct"}
_TIMM_CROP, _CONVNEXT_CROP = 0.875, 224 / 256  # where the file gives none

# Keys of transformers that change no pixels: images are always converted to RGB here, and the rest is about arrays.
_TRANSFORMERS_OTHER = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "data_format"),
    *("input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length", "_valid_processor_keys"),
}
_TRANSFORMERS = {
    *("do_resize", "size", "default_to_square", "resample", "crop_pct", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
}
_WARPS_FROM = 384  # pixels: for this size and larger ones, transformers' ConvNext processor does not crop


def timm_preset(config: Mapping[str, Any], where: str, *, test_size: bool = False) -> Preset:
    """The evaluation transform of timm's `pretrained_cfg`.

    Args:
      where: the name of the file in an error.
      test_size: some files name two sizes. Take the size for the best accuracy, not the size of training.

    Raises:
      WeightsError: a key that is not known, or a value that is not supported.
    """
    _refuse_unknown(config, _TIMM | _TIMM_OTHER, where)
    if test_size:
        config = {**config, **{k: config.get(f"test_{k}") or config.get(k) for k in ("input_size", "crop_pct")}}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    if channels != 3 or height != width:
        raise _cannot(where, "input_size", [channels, height, width], "it must be 3 channels of a square")
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise _cannot(where, "crop_mode", mode, "it must be 'center' or 'squash'")
    return Preset(
        resize=math.floor(height / (config.get("crop_pct") or _TIMM_CROP)),
        crop=height,
        interpolation=_interpolation(config.get("interpolation") or "bicubic", where, "interpolation"),
        mean=_colours(config.get("mean") or Preset.mean, where, "mean"),
        std=_colours(config.get("std") or Preset.std, where, "std"),
        squash=mode == "squash",
    )


def transformers_preset(config: Mapping[str, Any], where: str) -> Preset:
    """The transform of transformers' `preprocessor_config.json` of a ConvNext (as ResNets have), ViT or Bit processor.

    Args:
      where: the name of the file in an error.

    Raises:
      WeightsError: another processor, a key that is not known, or a value that is not supported.
    """
    _refuse_unknown(config, _TRANSFORMERS | _TRANSFORMERS_OTHER, where)
    kind = _kind(config, where)
    if not config.get("do_resize", True):
        raise _cannot(where, "do_resize", False, "images must be brought to one size")
    edge, squash = _size(config, where, square=config.get("default_to_square", kind == "ViT"))
    if kind == "ConvNext":
        if squash:
            raise _cannot(where, "size", config["size"], "for this processor it must be {'shortest_edge': ...}")
        resize, crop, squash = edge, edge, edge >= _WARPS_FROM
        if not squash:
            resize = int(edge / (config.get("crop_pct") or _CONVNEXT_CROP))
        if config.get("do_center_crop"):
            raise _cannot(where, "do_center_crop", True, "this processor crops by crop_pct alone")
    elif config.get("crop_pct") is not None:
        raise _cannot(where, "crop_pct", config["crop_pct"], "only a ConvNext processor has it")
    elif config.get("do_center_crop", kind == "Bit"):
        resize, crop = edge, _size({"size": config.get("crop_size")}, where, square=True, name="crop_size")[0]
    else:
        resize = crop = edge
        if not squash:
            raise _cannot(where, "do_center_crop", False, "images of different shapes would stay so")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean, std = (_colours(config.get(name), where, name) for name in ("image_mean", "image_std"))
    # A Preset's mean and std are for pixels in [0, 1]; the file's are for pixels times `rescale_factor`.
    scale = 255 * (config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 255.0
    return Preset(
        resize=resize,
        crop=crop,
        interpolation=_interpolation(config.get("resample"), where, "resample"),
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        squash=squash,
        crop_rounds_down=True,
    )


def _kind(config: Mapping[str, Any], where: str) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None and "crop_pct" in config:
        return "ConvNext"
    match = re.fullmatch(r"(ConvNext|ViT|Bit)(ImageProcessor(Fast|Pil)?|FeatureExtractor)", str(name))
    if match is None:
        raise _cannot(where, "image_processor_type", name, "it must be a ConvNext, ViT or Bit processor")
    return match[1]


def _size(config: Mapping[str, Any], where: str, *, square: bool, name: str = "size") -> tuple[int, bool]:
    """A side in pixels, and whether images are squashed to a square. Otherwise their shorter side gets this length."""
    size = config.get("size")
    match size:
        case int():
            return size, square
        case {"shortest_edge": int(edge), **rest} if not any(rest.values()):
            return edge, False
        case {"height": int(height), "width": int(width), **rest} if height == width and not any(rest.values()):
            return height, True
    raise _cannot(where, name, size, "it must be a number, {'shortest_edge': ...}, or equal height and width")


def _interpolation(value: Any, where: str, name: str) -> Interpolation:
    if value not in _INTERPOLATIONS:
        raise _cannot(where, name, value, "it must be bilinear (2) or bicubic (3)")
    return _INTERPOLATIONS[value]


def _colours(values: Any, where: str, name: str) -> tuple[float, ...]:
    values = [values] if isinstance(values, (int, float)) else list(values or ())
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3:
        raise _cannot(where, name, values, "it must have a value for each of the 3 channels")
    return tuple(map(float, values))


def _refuse_unknown(config: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(key for key, value in config.items() if key not in known and value not in (None, False))
    if unknown:
        raise WeightsError(
            f"{where} says {', '.join(f'{key} = {config[key]!r}' for key in unknown)}, and what that means for the "
            "pixels is not known here. See what it does, and make a resnet_jax.weights.Preset yourself"
        )


def _cannot(where: str, name: str, value: Any, rule: str) -> WeightsError:
    return WeightsError(
        f"{where} says {name} = {value!r}, and that cannot be done here: {rule}. Prepare the images by its "
        "authors' code, or make a resnet_jax.weights.Preset that comes near it"
    )
