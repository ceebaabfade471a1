"""Repositories of the Hugging Face hub, such as `timm/resnet152.tv_in1k` or `microsoft/resnet-50`. Needs no torch."""

import json
import math
from pathlib import Path

from resnet_jax.errors import WeightsError
from resnet_jax.weights.catalog import Interpolation, Preset

_INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def hub_weights(repository: str) -> Path:
    """The weight file of a repository, from the hub's cache or downloaded into it.

    Raises:
      WeightsError: no huggingface_hub, no network, no such repository, or none with weights.
    """
    for name in _WEIGHTS:
        if path := _file(repository, name):
            return path
    raise WeightsError(f"the hub's repository {repository!r} holds none of {', '.join(_WEIGHTS)}; choose another")


def hub_preset(repository: str) -> Preset:
    """How the authors of a repository prepare images: timm's `config.json` or transformers' `preprocessor_config.json`.

    Raises:
      WeightsError: as `hub_weights`, or neither file says.
    """
    path = _file(repository, "config.json")
    described = json.loads(path.read_text()).get("pretrained_cfg") if path else None
    if not described and (path := _file(repository, "preprocessor_config.json")):
        config = json.loads(path.read_text())
        size = config["size"] if isinstance(config["size"], int) else config["size"]["shortest_edge"]
        return Preset(
            resize=int(size / config["crop_pct"]),
            crop=size,
            interpolation=_INTERPOLATIONS[config["resample"]],
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
        )
    if not described:
        raise WeightsError(f"the hub's repository {repository!r} does not say how to prepare images; make a Preset")
    size = described["input_size"][-1]
    return Preset(
        resize=math.floor(size / described["crop_pct"]),
        crop=size,
        interpolation=described["interpolation"],
        mean=tuple(described["mean"]),
        std=tuple(described["std"]),
    )


def _file(repository: str, name: str) -> Path | None:
    """One file of a repository; None where the repository has no such file."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise WeightsError(
            f"huggingface_hub is needed for {repository!r}; install it with `pip install huggingface_hub`, "
            "or download the file yourself and pass its path"
        ) from error
    try:
        return Path(hf_hub_download(repository, name))
    except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError that means: cannot tell
        raise WeightsError(
            f"cannot reach the hub for {name} of {repository!r}. Where there is a network, run "
            f"`hf download {repository} {name}` and copy the hub's cache folder here, "
            "or fetch that file and pass its path"
        ) from error
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError as error:
        raise WeightsError(f"the hub has no repository {repository!r} that you may read; check the name") from error
    except OSError as error:
        raise WeightsError(f"cannot fetch {name} of {repository!r} from the hub ({error}); try again") from error
