"""Gives a network with published or own weights in one call, and writes weights to a file."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from resnet_jax.errors import WeightsError
from resnet_jax.models import create_model
from resnet_jax.weights.catalog import WEIGHT_SETS, find_weight_set, options_of
from resnet_jax.weights.channels import RGB, adapt_input_conv, input_conv
from resnet_jax.weights.download import find_file
from resnet_jax.weights.files import read_state_dict, write_state_dict
from resnet_jax.weights.hub import hub_weights, is_repository
from resnet_jax.weights.recognize import head_and_channels, options_in
from resnet_jax.weights.torchvision import from_torchvision, to_torchvision

_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".safetensors")


def load_pretrained(
    name: str,
    source: str | Path = "DEFAULT",
    *,
    channels: int | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    **options: Any,
) -> tuple[Any, PyTree[Array]]:
    """A network and its weights: `load_pretrained("resnet152", "IMAGENET1K_V2")`.

    Args:
      name: of the network, as of `create_model`.
      source: a published set (`"DEFAULT"` = the most accurate, see `WEIGHT_SETS`), a file, or a repository of the
        Hugging Face hub such as `"timm/resnet152.tv_in1k"`, or a folder with the files of one.
      channels: of the images; None = as the file has it. From weights for RGB images the first convolution for other
        numbers of channels is made as timm does: see `adapt_input_conv`.
      entry: the part of a training checkpoint to take, such as `"model_ema"`.
      prefix: of the keys to take, such as `"module.encoder_q."`.
      **options: of `create_model`. Without `num_classes` the head is as large as the file's; with it, both must agree.
        Without `aux_loss`, there is an auxiliary head where the file has one, as published sets do; with it, both must
        agree. A published set may have options of its own, such as `norm="frozen_eps0"`.

    Returns:
      `(model, variables)` for `model.apply(variables, images, train=False)`.

    Raises:
      WeightsError: the file cannot be found, downloaded or read, does not fit the network exactly, or is for neither
        `channels` channels nor RGB.
    """
    state_dict = read_state_dict(find_weights(name, source), entry=entry, prefix=prefix)
    model = create_model(name, **{**options_of(name, source), **options_in(name, state_dict), **options})
    _, there = head_and_channels(state_dict)
    variables = from_torchvision(state_dict, model, channels=there or RGB)
    if channels is not None:
        arrays = flatten_dict(variables, sep="/")
        if stem := input_conv(arrays):
            arrays[stem] = jnp.asarray(adapt_input_conv(arrays[stem], channels))
            variables = unflatten_dict(arrays, sep="/")
    return model, variables


def load_weights(
    path: str | Path,
    model: nn.Module,
    *,
    channels: int = 3,
    entry: str | None = None,
    prefix: str | None = None,
) -> PyTree[Array]:
    """The variables of `model` from a weight file, which must fit it exactly.

    Args:
      channels: of the images.
      entry: the part of a training checkpoint to take, such as `"model_ema"`.
      prefix: of the keys to take, such as `"module.encoder_q."`.

    Raises:
      WeightsError: the file cannot be read, or does not fit; names the differences.
    """
    return from_torchvision(read_state_dict(path, entry=entry, prefix=prefix), model, channels=channels)


def save_weights(
    path: str | Path,
    variables: PyTree[Array],
    *,
    layout: str = "torchvision",
    dtype: Any = None,
    num_batches_tracked: int = 0,
) -> None:
    """Writes variables as a PyTorch state dictionary, `.safetensors` or `.pth`. Options as `to_torchvision`."""
    write_state_dict(
        path, to_torchvision(variables, layout=layout, dtype=dtype, num_batches_tracked=num_batches_tracked)
    )


def find_weights(name: str, source: str | Path = "DEFAULT") -> Path:
    """The file that `load_pretrained(name, source)` reads. It is downloaded if needed.

    Raises:
      WeightsError: there is no such file, and `source` is not the name of a published set.
    """
    if Path(source).is_file():
        return Path(source)
    source = str(source)
    if is_repository(source):
        return hub_weights(source)
    if source == "DEFAULT" or source in {weights.name for weights in WEIGHT_SETS}:
        return find_file(find_weight_set(name, source))
    if source.endswith(_SUFFIXES) or source.startswith((".", "/", "~")):
        raise WeightsError(f"there is no file {source}; check the path")
    if source.count("/") == 1:
        return hub_weights(source)
    find_weight_set(name, source)  # always raises here, with the names that are near
    raise AssertionError(source)
