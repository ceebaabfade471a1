"""`resnet_jax predict DIR image.png ...`"""

import json
import sys
from typing import Annotated, Literal

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.display import distinct, plain_console


def predict(
    network: Positional[str],
    images: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]],
    top: int = 3,
    checkpoint: Literal["last", "best"] = "last",
    model: str | None = None,
    batch_size: int = 32,
    as_json: bool = False,
) -> None:
    """Name what is on images, with a trained run or with published weights.

    If an image cannot be read, the others are still predicted, and the exit status is 1.

    Args:
        network: The folder that `train.py --workdir` filled; a weight file; or the name of a network whose weights are
            published, such as resnet50 or resnet50:IMAGENET1K_V1.
        images: Image files, folders of them, or patterns such as 'photos/*.jpg'.
        top: How many classes to show for each image.
        checkpoint: For a run: the newest checkpoint, or the one with the best top-1 accuracy.
        model: The name of the network in a weight file; by default the keys and shapes of the file decide.
        batch_size: Images that are predicted together.
        as_json: Print one JSON object per image instead of a table.
    """
    import numpy as np

    from resnet_jax.errors import DataError
    from resnet_jax.run.predictor import expand, load_predictor, predictions

    if not images:
        raise DataError("no images given; name one or more files: resnet_jax predict DIR image.png ...")
    if batch_size < 1 or top < 1:
        raise DataError(f"--batch-size = {batch_size} and --top = {top} must be at least 1")
    paths = expand(images)
    predictor = load_predictor(network, checkpoint, model)
    names = distinct(predictor.class_names, taken=["image"] if as_json else [])
    table = Table(title=predictor.title)
    table.add_column("image", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("probability", justify="right")
    broken: list[str] = []
    for path, row in predictions(predictor, paths, batch_size, broken):
        best = np.argsort(-row)[:top]
        if as_json:
            print(json.dumps({"image": str(path), **{names[i]: round(float(row[i]), 6) for i in best}}), flush=True)
        for rank, i in enumerate(best):
            table.add_row(
                str(path) if rank == 0 else "", names[i], f"{100 * row[i]:.2f} %", end_section=rank == len(best) - 1
            )
    if not as_json and table.row_count:
        plain_console().print(table)
    if broken:
        reasons = "\n  ".join(broken)
        sys.exit(
            f"error: {reasons}" if len(paths) == 1 else f"error: {len(broken)} of {len(paths)} images:\n  {reasons}"
        )
