"""`python -m resnet_jax models`"""

from typing import Annotated

import tyro


def models(
    pattern: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "*", image_size: int | None = None, layers: bool = False
) -> None:
    """List the networks with what one image's forward pass costs, counted in the traced network.

    Parameters, multiply-accumulates (MACs), activations (what convolutions and matrix products put out), and the peak
    memory of variables and intermediate values in float32.

    Args:
        pattern: A shell wildcard, such as 'resnet*'.
        image_size: Height and width in pixels, for counting; by default 224, or 32 for networks with the CIFAR stem.
        layers: Print each network layer by layer.
    """
    from resnet_jax.cost.count import measure, summary
    from resnet_jax.errors import ModelError
    from resnet_jax.models import create_model, list_models

    names = list_models(pattern)
    if not names:
        raise ModelError(f"no model matches {pattern!r}; without a pattern all are listed")
    widest = max(map(len, names))
    print(f"{'name':<{widest}}  pixels   parameters      GMACs  activations      peak")
    for name in names:
        model = create_model(name)
        pixels = image_size or (32 if model.stem == "cifar" else 224)
        cost = measure(model, image_size=pixels)
        print(
            f"{name:<{widest}}  {pixels:>6}  {cost.parameters:>11,}  {cost.macs / 1e9:>9.4f}  "
            f"{cost.activations / 1e6:>9.2f} M  {cost.peak_bytes / 1e6:>5.0f} MB",
            flush=True,  # a trace takes up to seconds
        )
        if layers:
            print(f"\n{summary(model, image_size=pixels)}\n")
