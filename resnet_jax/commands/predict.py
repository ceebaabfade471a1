"""`python -m resnet_jax predict DIR image.png ...`"""

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.display import distinct, plain_console


def predict(
    workdir: Positional[Path],
    images: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]],
    top: int = 3,
    checkpoint: Literal["last", "best"] = "last",
    as_json: bool = False,
) -> None:
    """Name what is on images, with a trained run.

    Args:
        workdir: The folder that `train.py --workdir` filled.
        images: Image files.
        top: How many classes to show for each image.
        checkpoint: The newest checkpoint, or the one with the best top-1 accuracy.
        as_json: Print one JSON object per image instead of a table.
    """
    import numpy as np

    from resnet_jax import run
    from resnet_jax.data import load_image
    from resnet_jax.errors import DataError

    if not images:
        raise DataError("no images given; name one or more files: python -m resnet_jax predict DIR image.png ...")
    trained = run.load_run(workdir, checkpoint)
    pixels = np.stack([load_image(path, trained.config.data) for path in images])
    probabilities = np.asarray(run.predict(trained, pixels))
    best = np.argsort(-probabilities, axis=-1)[:, :top]
    if as_json:
        names = distinct(trained.class_names, taken=["image"])
        for path, row, order in zip(images, probabilities, best, strict=True):
            print(json.dumps({"image": str(path), **{names[i]: round(float(row[i]), 6) for i in order}}))
        return
    table = Table(title=f"{trained.config.model.name} after {int(trained.state.step)} steps")
    table.add_column("image", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("probability", justify="right")
    for path, row, order in zip(images, probabilities, best, strict=True):
        for rank, i in enumerate(order):
            last = rank == len(order) - 1
            table.add_row(
                str(path) if rank == 0 else "", trained.class_names[i], f"{100 * row[i]:.2f} %", end_section=last
            )
    plain_console().print(table)
