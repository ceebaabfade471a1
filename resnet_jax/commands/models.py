"""`python -m resnet_jax models`"""

from fnmatch import fnmatchcase
from typing import Annotated

import tyro

from resnet_jax.cost.facts import Cost, stored_facts
from resnet_jax.errors import ModelError


def models(
    pattern: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "*", image_size: int | None = None, layers: bool = False
) -> None:
    """List the networks with the cost of one image's forward pass, as counted in the traced network.

    The costs are parameters, multiply-accumulates (MACs), activations (outputs of convolutions and matrix products),
    and the peak memory of variables and intermediate values in float32. At the default size they are read from a stored
    table. At another size they are counted, which takes up to seconds for each network.

    Args:
        pattern: A shell wildcard, such as 'resnet*'.
        image_size: Height and width in pixels, for counting; by default 224, 520 for segmentation, 112
            for an iresnet and for clips (of 16 frames), or 32 for networks with the CIFAR stem.
        layers: Print each network layer by layer.
    """
    facts = stored_facts()
    names = [name for name in facts if fnmatchcase(name, pattern)]
    if not names:
        raise ModelError(f"no model matches {pattern!r}; without a pattern all are listed")
    widest = max(map(len, names))
    print(f"{'name':<{widest}}  pixels   parameters      GMACs  activations      peak")
    for name in names:
        usual = facts[name].image_size
        pixels = usual if image_size is None else image_size
        cost = facts[name].cost if pixels == usual else _counted(name, pixels)
        print(
            f"{name:<{widest}}  {pixels:>6}  {cost.parameters:>11,}  {cost.macs / 1e9:>9.4f}  "
            f"{cost.activations / 1e6:>9.2f} M  {cost.peak_bytes / 1e6:>5.0f} MB",
            flush=True,  # counting takes up to seconds
        )
        if layers:
            print(f"\n{_layers(name, pixels)}\n")


# The functions below import JAX, which takes seconds.


def _counted(name: str, pixels: int) -> Cost:
    from resnet_jax.cost.count import measure
    from resnet_jax.models import create_model

    return measure(create_model(name), image_size=pixels)


def _layers(name: str, pixels: int) -> str:
    from resnet_jax.cost.count import summary
    from resnet_jax.models import create_model

    return summary(create_model(name), image_size=pixels)
