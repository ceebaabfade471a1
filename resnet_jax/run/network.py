"""Networks whose weights come without a run: a published set, a weight file, or a repository of the hub."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from resnet_jax.config import AS_PUBLISHED, Preset, PresetChange
from resnet_jax.config_files import FILE_NAME
from resnet_jax.cost.count import usual_size
from resnet_jax.errors import ConfigError, WeightsError
from resnet_jax.files import open_folder
from resnet_jax.models import create_model
from resnet_jax.models.detect.network import Detector
from resnet_jax.models.embed.network import Embedder
from resnet_jax.models.segment.network import Segmenter
from resnet_jax.models.segment.unet import UNet
from resnet_jax.weights import WEIGHT_SETS, class_names, find_weight_set, find_weights, from_torchvision, hub_preset
from resnet_jax.weights.files import read_state_dict
from resnet_jax.weights.hub import hub_labels, hub_network, is_repository
from resnet_jax.weights.names import where_networks_lie
from resnet_jax.weights.recognize import candidates, head_and_channels, identify, options_in

INSIGHTFACE = (0.5, 0.5, 0.5)
"""Mean and deviation of each channel with which insightface trains."""
log = logging.getLogger("resnet_jax")


@dataclass(frozen=True)
class Network:
    """A network for images, as it was published or saved.

    Attributes:
      title: what it is, for people.
      preset: how its images are prepared.
      class_names: those of a published set, or that a repository names; ImageNet's where there are 1000 classes; else
        the numbers of the classes.
    """

    title: str
    model: Any
    variables: PyTree[Array]
    preset: Preset
    class_names: Sequence[str]


def load_network(
    weights: str,
    model: str | None = None,
    *,
    entry: str | None = None,
    prefix: str | None = None,
    preset: PresetChange = AS_PUBLISHED,
) -> Network:
    """The network that `weights` are those of.

    Images are prepared as those who published the weights say. A file says nothing of it, unless it is a published one
    under its own name. Then they are prepared as for torchvision's first sets, 224 of 256 pixels, or for a network of
    small images 32 of 32.

    Args:
      weights: a published set such as `IMAGENET1K_V2` (`DEFAULT` is the most accurate), a weight file, or a repository
        of the Hugging Face hub such as `timm/resnet50.a1_in1k`, or a folder with the files of one.
      model: the network's name. A set needs it; of a file or a repository it is else what they say, or what keys and
        shapes are those of.
      entry, prefix: as of `load_pretrained`.
      preset: what is to be different in the preparation of images.

    Raises:
      ConfigError: a set without `model`, the folder of a run, or a preparation that is not possible.
      WeightsError: there are no such weights, they cannot be had or read, or are not those of the network.
    """
    path, published = Path(weights), None
    described: Preset | None = None
    if path.is_file():
        published = next((found for found in WEIGHT_SETS if found.file == path.name), None)
    elif not is_repository(weights) and (open_folder(weights) / FILE_NAME).exists():
        raise ConfigError(f"{weights} is the folder of a run, which says itself what it holds; name it first, alone")
    elif weights == "DEFAULT" or weights in {found.name for found in WEIGHT_SETS}:
        if model is None:
            raise ConfigError(f"--weights {weights} is there of several networks; say of which: --model resnet50")
        published = find_weight_set(model, weights)
    elif model is None and weights.count("/") != 1 and not is_repository(weights):
        raise ConfigError(
            f"--weights {weights} is no file, no published set (IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT, with --model) "
            "and no repository of the hub (such as timm/resnet50.a1_in1k); correct it"
        )
    if not path.is_file():
        path = find_weights(model or "", published.name if published else weights)
    if published:
        model, described = model or published.model, published.preset
    elif path != Path(weights):
        model, described = model or hub_network(weights), hub_preset(weights)
    state_dict = read_state_dict(path, entry=entry, prefix=prefix)
    model = model or guess(state_dict, weights)
    _, channels = head_and_channels(state_dict)
    net = create_model(model, **{**(published.options if published else {}), **options_in(model, state_dict)})
    variables = from_torchvision(state_dict, net, channels=channels or 3)
    prepared = preset.applied(described or _usual_preset(net))
    if channels not in (None, prepared.channels):
        raise WeightsError(
            f"{weights} is for images of {channels} channels, and nothing says how to prepare those: mean and std are "
            f"of {prepared.channels}. For 1 or 3 channels say them (--preset.mean, --preset.std). Else call "
            "model.apply yourself (docs/weights.md), or name the run that the weights come from"
        )
    labels = None if published or path == Path(weights) else hub_labels(weights)
    names = published.class_names if published else labels or class_names()
    if net.num_classes != len(names):
        names = tuple(map(str, range(net.num_classes)))
    title = f"{model}, {published.name}" if published else f"{model} of {weights}"
    kept = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    return Network(title, net, kept, prepared, names)


def _usual_preset(net: Any) -> Preset:
    """For a network whose preparation of images nobody says."""
    side = usual_size(net)
    if isinstance(net, Segmenter | UNet):
        return Preset(resize=side, crop=0)
    if isinstance(net, Detector):
        return Preset(resize=net.min_size, crop=0, mean=net.image_mean, std=net.image_std, antialias=False)
    if isinstance(net, Embedder) and net.head == "flat":
        return Preset(resize=side, crop=side, mean=INSIGHTFACE, std=INSIGHTFACE)
    return Preset() if side == Preset.crop else Preset(resize=side, crop=side)


def guess(state_dict: Mapping[str, np.ndarray], where: str) -> str:
    """The name of the network that a file's keys and shapes are those of. Where they fit several, all are said.

    Raises:
      WeightsError: they fit none that is known, or several that write the same arrays under different names.
    """
    names = fitting(state_dict, where)
    if len(names) > 1:
        log.warning(
            "the names and shapes of %s fit %s, which compute different things; it is taken for %s. --model decides",
            *(where, " and ".join(names), names[0]),
        )
    return names[0]


def fitting(state_dict: Mapping[str, np.ndarray], where: str | Path) -> list[str]:
    """The names of the networks that a file's keys and shapes fit, one or more. Raises as `guess` does.

    Args:
      where: what to call the file in an error.
    """
    if identify(state_dict) is None:
        advice = where_networks_lie(state_dict) or "name one with --model to see what differs"
        raise WeightsError(f"{where} is of no network known here; {advice}")
    return candidates(state_dict)


def describe(preset: Preset) -> str:
    """How images are prepared, in words."""
    sides = preset.exact or ((preset.resize, preset.resize) if preset.squash else None)
    resized = f"{sides[0]} x {sides[1]} pixels" if sides else f"shorter side {preset.resize} pixels"
    whole = not preset.crop or sides == (preset.crop, preset.crop)
    cut = "" if whole else f", centre {preset.crop}"
    return f"images: {resized} ({preset.interpolation}){cut}"
