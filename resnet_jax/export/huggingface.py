"""A folder as on the Hugging Face hub, which timm loads: weights, how images are prepared, and a model card."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.config import Preset
from resnet_jax.errors import ConfigError
from resnet_jax.export.card import Trained, model_card
from resnet_jax.export.job import new_folder
from resnet_jax.models import ResNet, create_model
from resnet_jax.models.headed import refuse_boxes, refuse_clips
from resnet_jax.models.resnet import FOR_TRAINING
from resnet_jax.run.network import Network
from resnet_jax.weights import class_names, layout_of, save_weights

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

# The networks that timm has under the same name, with the same arrays. A test compares them with timm's.
TIMM = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet26", "resnet200"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnet50c", "resnet101c", "resnet152c", "resnet50s", "resnet101s", "resnet152s"),
    *("resnet18d", "resnet34d", "resnet26d", "resnet50d", "resnet101d", "resnet152d", "resnet200d"),
    *("resnet26t", "resnet50t", "seresnet50t", "seresnet152d", "seresnet200d", "seresnet269d"),
    *("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152", "seresnext50_32x4d"),
    *("seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext101_32x4d", "seresnext101_32x8d"),
    *("seresnext101d_32x8d", "seresnext101_64x4d"),
    *("resnetblur18", "resnetblur50", "resnetblur50d", "resnetblur101d", "resnet50_gn"),
)


def write_huggingface(network: Network, out: Path, trained: Trained | None = None) -> str:
    """Writes weights, `config.json` and a model card into the new folder `out`.

    Args:
      trained: the run that the network is of, whose record the card is written from; None = there is none.

    Returns:
      timm's name of the network.

    Raises:
      ConfigError: timm has no such network, or `out` holds something.
    """
    refuse_clips(network.model, "--format huggingface")
    refuse_boxes(network.model, "export")
    name = timm_name(network.model)
    if name is None:
        raise ConfigError(
            f"{network.title} is no network that timm has, and --format huggingface is for those: {', '.join(TIMM)}, "
            "without other options. Choose --format onnx or stablehlo"
        )
    steps = int(trained.run.state.step) if trained else 0
    with new_folder(out) as folder:
        save_weights(folder / WEIGHTS, network.variables, layout=layout_of(network.model), num_batches_tracked=steps)
        (folder / CONFIG).write_text(json.dumps(timm_config(name, network), indent=2) + "\n")
        (folder / CARD).write_text(model_card(network, name, trained))
    return name


def timm_name(model: Any) -> str | None:
    """timm's name of a network; None if timm has none that computes the same."""
    if not isinstance(model, ResNet):
        return None
    fixed = {field: getattr(create_model("resnet18"), field) for field in FOR_TRAINING}
    width = {"width": round(model.width * model.width_multiplier), "width_multiplier": 1.0}
    stem = round((model.stem_width or model.width) * model.width_multiplier)
    asked = model.clone(**fixed, **width, stem_width=None if stem == width["width"] else stem)
    return next((name for name in TIMM if create_model(name, num_classes=model.num_classes) == asked), None)


def timm_config(name: str, network: Network) -> dict[str, Any]:
    """timm's `config.json`: the network, its classes, and how images are prepared."""
    preset, model = network.preset, network.model
    config: dict[str, Any] = {
        "architecture": name,
        "num_classes": model.num_classes,
        "num_features": int(np.shape(network.variables["params"]["fc"]["kernel"])[0]),
        "pretrained_cfg": {
            "architecture": name,
            "input_size": [preset.channels, preset.crop, preset.crop],
            "fixed_input_size": False,
            "interpolation": preset.interpolation,
            "crop_pct": crop_share(preset),
            "crop_mode": "squash" if preset.squash else "center",
            "mean": list(preset.mean),
            "std": list(preset.std),
            "num_classes": model.num_classes,
            "pool_size": [-(-preset.crop // 32)] * 2,
            "first_conv": "conv1.0" if "deep" in str(model.stem) else "conv1",
            "classifier": "fc",
        },
    }
    if preset.channels != 3:
        config["model_args"] = {"in_chans": preset.channels}
    if tuple(network.class_names) != class_names():
        config["label_names"] = list(network.class_names)
    return config


def crop_share(preset: Preset) -> float:
    """The share of the resized image that is cut out. timm finds the size of the resized image from it, rounded down,
    so it is a little smaller where the quotient would be rounded wrongly."""
    share = preset.crop / preset.resize
    return share if math.floor(preset.crop / share) == preset.resize else math.nextafter(share, 0)
