"""The methods by name, and the class that a user names."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

import numpy as np

from resnet_jax.analysis.attention import gradcam, integrated
from resnet_jax.analysis.attention.gradcam import grad_cam
from resnet_jax.analysis.attention.heat import Classes, Heat, Images, to_unit
from resnet_jax.analysis.attention.integrated import STEPS, Baseline, integrated_gradients
from resnet_jax.analysis.attention.occlusion import occlusion
from resnet_jax.errors import ConfigError
from resnet_jax.run.network import Network

Method = Literal["gradcam", "gradcam++", "integrated-gradients", "occlusion"]


def heat_maps(
    network: Network,
    images: Images,
    classes: Classes,
    method: Method = "gradcam",
    *,
    stage: str | None = None,
    baseline: Baseline = "black",
    steps: int = STEPS,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = gradcam.BATCH,
) -> Heat:
    """Maps between 0 and 1 by any method: what speaks for the class is hot, what speaks against it is 0.

    Args and errors are those of `grad_cam`, `integrated_gradients` and `occlusion`. Batches may be smaller than
    `batch_size`: gradients down to the pixels need much memory.
    """
    if method == "integrated-gradients":
        size = min(batch_size, integrated.BATCH)
        return integrated_gradients(network, images, classes, baseline=baseline, steps=steps, batch_size=size).heat
    size = min(batch_size, gradcam.BATCH)
    if method == "occlusion":
        falls = occlusion(network, images, classes, window=window, stride=stride, batch_size=size)
        return np.asarray(to_unit(np.maximum(falls, 0)))
    return grad_cam(network, images, classes, stage=stage, plus=method == "gradcam++", batch_size=size)


def class_number(named: str, class_names: Sequence[str], title: str) -> int:
    """The class that a user names, by its name, by one of its synonyms (`tabby` of `tabby, tabby cat`) or its number.

    A name goes before a number: `10` is the class called 10, if there is one.

    Raises:
      ConfigError: there is no such class, or several.
    """
    synonyms = [{name, *(part.strip() for part in name.split(","))} for name in class_names]
    found = [i for i, name in enumerate(class_names) if name == named]
    found = found or [i for i, names in enumerate(synonyms) if named in names]
    if len(found) > 1:
        raise ConfigError(
            f"--class {named} is the name of {len(found)} classes, {' and '.join(map(str, found[:4]))}; give the number"
        )
    if found:
        return found[0]
    last = len(class_names) - 1
    if named.lstrip("-").isdecimal():
        if not 0 <= int(named) <= last:
            raise ConfigError(f"--class {named} is none of the classes of {title}; their numbers are 0 to {last}")
        return int(named)
    near = get_close_matches(named, sorted(set().union(*synonyms)), n=4, cutoff=0.6)
    remedy = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Give a name, or a number from 0 to {last}"
    raise ConfigError(f"{title} has no class {named!r}. {remedy}")
