"""Repositories of the Hugging Face hub, such as `timm/resnet152.tv_in1k` or `microsoft/resnet-50`. Needs no torch.

A folder of this machine with the same files is read like a repository.
"""

import json
from pathlib import Path
from typing import Any

from resnet_jax.config import Preset
from resnet_jax.errors import WeightsError
from resnet_jax.models import list_models
from resnet_jax.weights.processors import timm_preset, transformers_preset

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def hub_weights(repository: str) -> Path:
    """The weight file of a repository, from the hub's cache or else downloaded into it.

    Raises:
      WeightsError: no huggingface_hub, no network, no such repository, or a repository without weights.
    """
    for name in _WEIGHTS:
        if path := _file(repository, name):
            return path
    raise WeightsError(f"the hub's repository {repository!r} holds none of {', '.join(_WEIGHTS)}; choose another")


def hub_preset(repository: str, *, test_size: bool = False) -> Preset:
    """How the authors of a repository prepare images: timm's `config.json` or transformers' `preprocessor_config.json`.

    Args:
      test_size: take the larger size that gives the best accuracy, where timm names one.

    Raises:
      WeightsError: as `hub_weights`; or neither file describes the images, or it asks for something that is not
        supported here.
    """
    config = _read(repository, "config.json")
    # Before timm 0.9 the description stood in `config.json` itself, not in an entry of its own.
    described = config.get("pretrained_cfg") or (config if {"input_size", "mean"} <= config.keys() else None)
    if described:
        return timm_preset(described, f"config.json of {repository!r}", test_size=test_size)
    if config := _read(repository, "preprocessor_config.json"):
        return transformers_preset(config, f"preprocessor_config.json of {repository!r}")
    raise WeightsError(f"the hub's repository {repository!r} does not say how to prepare images; make a Preset")


def hub_network(repository: str) -> str | None:
    """The network that timm's `config.json` names, if it is one of `list_models()`, where its name means the same.

    Raises:
      WeightsError: as `hub_weights`.
    """
    name = _read(repository, "config.json").get("architecture")
    return name if name in list_models(task="classify") else None


def hub_labels(repository: str) -> tuple[str, ...] | None:
    """The names of the classes, where timm's `config.json` has them in the order of the logits."""
    names = _read(repository, "config.json").get("label_names")
    return tuple(map(str, names)) if isinstance(names, list) else None


def is_repository(path: str | Path) -> bool:
    """Whether it is a folder of this machine with the files of a repository. A run's folder has no such weights."""
    return any((Path(path) / name).is_file() for name in _WEIGHTS)


def _read(repository: str, name: str) -> dict[str, Any]:
    """A JSON object of a repository. Empty if there is no such file."""
    path = _file(repository, name)
    if path is None:
        return {}
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{name} of {repository!r} is no JSON ({error}); make a Preset yourself") from error
    if not isinstance(described, dict):
        raise WeightsError(
            f"{name} of {repository!r} holds a {type(described).__name__}, no object; make a Preset yourself"
        )
    return described


def _file(repository: str, name: str) -> Path | None:
    """One file of a repository. None if the repository has no such file."""
    if is_repository(repository):
        return path if (path := Path(repository) / name).is_file() else None
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
    except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError for a hub that cannot be reached
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
