"""`resnet_jax predict DIR image.png ...`"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.commands.sheet import SHOWN, check_picture, cut, draw_grid, short
from resnet_jax.config import AS_PUBLISHED, PresetChange
from resnet_jax.display import distinct, plain_console


def predict(
    network: Positional[Annotated[str, tyro.conf.arg(metavar="[RUN]")]] = "",
    images: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]] = (),
    weights: str | None = None,
    model: str | None = None,
    top: int = 3,
    checkpoint: Literal["last", "best"] = "last",
    batch_size: int = 32,
    as_json: bool = False,
    sheet: Path | None = None,
    exif: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    preset: PresetChange = AS_PUBLISHED,
) -> None:
    """Name what is on images, with a trained run or with published weights.

    If an image cannot be read, the others are still predicted, and the exit status is 1.

    Args:
        network: The folder that `train.py --workdir` filled; a weight file; or the name of a network whose weights are
            published, such as resnet50 or resnet50:IMAGENET1K_V1. With --weights this is an image too.
        images: Image files, folders of them, or patterns such as 'photos/*.jpg'.
        weights: A published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository of the Hugging
            Face hub such as timm/resnet50.a1_in1k. Images are prepared as whoever published it says.
        model: The network that the weights are for; without it the one that a file's keys and shapes are those of.
        top: How many classes to show for each image.
        checkpoint: Of a run: the newest, or the one with the best top-1 accuracy.
        batch_size: Images that are predicted together.
        as_json: Print one JSON object per image instead of a table.
        sheet: Also draw the images, as the network saw them, and their classes as this PNG; the first 100.
        exif: Without a run: turn photographs upright, as EXIF says how the camera was held. A run's config says so.
        entry: With --weights: which part of a training checkpoint to take, such as model_ema.
        prefix: With --weights: take the keys that begin with it, such as module.encoder_q., without it.
        preset: Without a run: how images are prepared, where it is not as the weights say, or they say nothing.
    """
    import numpy as np

    from resnet_jax.errors import ConfigError, DataError
    from resnet_jax.run.network import load_network
    from resnet_jax.run.predictor import expand, load_predictor, predictions, predictor_of

    if weights is None and (entry or prefix):
        raise ConfigError("--entry and --prefix are for --weights; name the file by --weights FILE")
    if weights is not None and network:
        images = (network, *images)
    if not images:
        usage = "--weights WEIGHTS image.png ..." if weights is not None else "DIR image.png ..."
        raise DataError(f"no images given; name one or more files: resnet_jax predict {usage}")
    if batch_size < 1 or top < 1:
        raise DataError(f"--batch-size = {batch_size} and --top = {top} must be at least 1")
    if sheet is not None:
        check_picture(sheet)
    paths = expand(images)
    if weights is not None:
        predictor = predictor_of(load_network(weights, model, entry=entry, prefix=prefix, preset=preset), exif=exif)
    else:
        predictor = load_predictor(network, checkpoint, model, exif=exif, preset=preset)
    names = distinct(predictor.class_names, taken=["image"] if as_json else [])
    table = Table(title=predictor.title, caption=predictor.note)
    table.add_column("image", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("probability", justify="right")
    broken: list[str] = []
    drawn, captions, count = [], [], 0
    for path, pixels, row in predictions(predictor, paths, batch_size, broken):
        best = np.argsort(-row)[:top]
        count += 1
        if sheet is not None and count <= SHOWN:
            drawn.append(pixels / np.float32(255))
            classes = [f"{100 * row[i]:.0f} % {short(names[i], 14)}" for i in best]
            captions.append("\n".join([cut(path.name, 18), *classes]))
        if as_json:
            print(json.dumps({"image": str(path), **{names[i]: round(float(row[i]), 6) for i in best}}), flush=True)
        for rank, i in enumerate(best):
            table.add_row(
                str(path) if rank == 0 else "", names[i], f"{100 * row[i]:.2f} %", end_section=rank == len(best) - 1
            )
    if not as_json and table.row_count:
        plain_console().print(table)
    if sheet is not None and drawn:
        shown = f"{count} images" if count == len(drawn) else f"the first {len(drawn)} of {count} images"
        draw_grid(drawn, captions, f"{predictor.title}: {shown}", predictor.note, sheet)
        plain_console(stderr=as_json).print(f"{shown[0].upper()}{shown[1:]} are drawn in {sheet}", soft_wrap=True)
    if broken:
        reasons = "\n  ".join(broken)
        sys.exit(
            f"error: {reasons}" if len(paths) == 1 else f"error: {len(broken)} of {len(paths)} images:\n  {reasons}"
        )
