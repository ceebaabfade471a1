"""`python -m resnet_jax models`"""

from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table


def models(pattern: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "*", image_size: int = 224) -> None:
    """List the networks with their parameters and multiply-accumulates, counted in the traced network.

    Args:
        pattern: A shell wildcard, such as 'resnet*'.
        image_size: Height and width in pixels, for counting.
    """
    from resnet_jax.errors import ModelError
    from resnet_jax.models import create_model, list_models
    from resnet_jax.profile import count_macs, count_parameters

    names = list_models(pattern)
    if not names:
        raise ModelError(f"no model matches {pattern!r}; without a pattern all are listed")
    table = Table(title=f"Networks, counted at {image_size} x {image_size} pixels")
    table.add_column("name")
    table.add_column("parameters", justify="right")
    table.add_column("GMACs", justify="right")
    for name in names:
        model = create_model(name)
        table.add_row(name, f"{count_parameters(model):,}", f"{count_macs(model, image_size=image_size) / 1e9:.3f}")
    Console().print(table)
