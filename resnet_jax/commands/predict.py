"""`resnet_jax predict DIR image.png ...`"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.commands.predict_boxes import predict_boxes
from resnet_jax.commands.predict_clips import predict_clips
from resnet_jax.commands.predict_masks import check_out, predict_masks
from resnet_jax.commands.sheet import SHOWN, check_picture, cut, draw_grid, short
from resnet_jax.config import AS_PUBLISHED, PresetChange
from resnet_jax.display import distinct, plain_console

if TYPE_CHECKING:
    from resnet_jax.run.network import Network
    from resnet_jax.run.predict import Run


def predict(
    network: Positional[Annotated[str, tyro.conf.arg(metavar="[RUN]")]] = "",
    images: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE [FILE ...]")]] = (),
    weights: str | None = None,
    model: str | None = None,
    top: int | None = None,
    checkpoint: Literal["last", "best"] = "last",
    out: Path | None = None,
    least_score: float | None = None,
    batch_size: int | None = None,
    as_json: bool = False,
    sheet: Path | None = None,
    exif: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    preset: PresetChange = AS_PUBLISHED,
) -> None:
    """Name what is on images or videos, with a trained run or with published weights.

    A network for segmentation names the class of each pixel: --out says where its masks are written. A network for
    detection finds objects: --out says where they are drawn. A network for videos names the class of each video, and of
    its clips one after the other.

    If an image cannot be read, the others are still predicted, and the exit status is 1.

    Args:
        network: The folder that `train.py --workdir` filled; a weight file; or the name of a network whose weights are
            published, such as resnet50 or resnet50:IMAGENET1K_V1. With --weights this is an image too.
        images: Image files, folders of them, or patterns such as 'photos/*.jpg'. For a network for videos: video files,
            folders of them, or folders of the frames of one.
        weights: A published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository of the Hugging
            Face hub such as timm/resnet50.a1_in1k. Images are prepared as whoever published it says.
        model: The network that the weights are for; without it the one that a file's keys and shapes are those of.
        top: How many classes to show for each image, 3 by default; of a segmentation all that occur; of a detection how
            many objects, by default all.
        checkpoint: Of a run: the newest, or the one with the best top-1 accuracy.
        out: Of a segmentation: the folder for the masks, NAME.png, whose values are the classes, and for the images
            with the masks over them, NAME_overlay.png. Of a detection: the folder for the images with their objects,
            NAME_boxes.png, and for all objects in COCO's form, detections.json. A file that is there is not replaced.
        least_score: Of a detection: show only objects that are at least so sure, 0.5 by default. The file in COCO's
            form holds all.
        batch_size: Images that are predicted together, 32 by default; of a segmentation 4; of a detection 2; of a video
            8 clips.
        as_json: Print one JSON object per image instead of a table.
        sheet: Also draw the images, as the network saw them, and their classes as this PNG; the first 100. Of videos,
            frames and the probabilities below them; the first 6.
        exif: Without a run: turn photographs upright, as EXIF says how the camera was held. A run's config says so.
        entry: With --weights: which part of a training checkpoint to take, such as model_ema.
        prefix: With --weights: take the keys that begin with it, such as module.encoder_q., without it.
        preset: Without a run: how images are prepared, where it is not as the weights say, or they say nothing.
    """
    import numpy as np

    from resnet_jax.errors import ConfigError, DataError
    from resnet_jax.run.named import detects, sees_videos, segments
    from resnet_jax.run.network import load_network
    from resnet_jax.run.predictor import expand, open_to_predict, predictions, predictor_of

    if weights is None and (entry or prefix):
        raise ConfigError("--entry and --prefix are for --weights; name the file by --weights FILE")
    if weights is not None and network:
        images = (network, *images)
    if not images:
        usage = "--weights WEIGHTS image.png ..." if weights is not None else "DIR image.png ..."
        raise DataError(f"no images given; name one or more files: resnet_jax predict {usage}")
    for option, value in (("batch-size", batch_size), ("top", top)):
        if value is not None and value < 1:
            raise DataError(f"--{option} = {value} must be at least 1")
    if sheet is not None:
        check_picture(sheet)
    if out is not None:
        check_out(out)
    if weights is not None:
        opened: Run | Network = load_network(weights, model, entry=entry, prefix=prefix, preset=preset)
    else:
        opened = open_to_predict(network, checkpoint, model, exif=exif, preset=preset)
    broken: list[str] = []
    if least_score is not None and not detects(opened):
        raise ConfigError(
            f"--least-score is for networks that find objects, and {opened.title} finds none; leave it out"
        )
    if sees_videos(opened):
        if out is not None:
            raise ConfigError(f"--out is for masks, and {opened.title} names classes of videos; leave it out")
        from resnet_jax.run.clips import video_predictor_of, videos_named

        paths, over_time = videos_named(images), video_predictor_of(opened)
        options: dict[str, Any] = {"top": top or 3, "batch_size": batch_size or 8, "as_json": as_json, "sheet": sheet}
        predict_clips(over_time, paths, **options, broken=broken)
        end(broken, len(paths), "videos")
        return
    paths = expand(images)
    if detects(opened):
        if out is None or sheet is not None or preset.crop or preset.interpolation:
            raise ConfigError(
                f"{opened.title} finds objects in whole images, resized bilinearly; give --out FOLDER for the images "
                "with their objects, and leave --sheet, --preset.crop and --preset.interpolation out"
            )
        from resnet_jax.run.boxes import box_predictor_of

        least = 0.5 if least_score is None else least_score
        boxed: dict[str, Any] = {"top": top, "least_score": least, "batch_size": batch_size or 2, "as_json": as_json}
        predict_boxes(box_predictor_of(opened, exif=exif), paths, out, **boxed, broken=broken)
        end(broken, len(paths))
        return
    if segments(opened):
        if out is None or sheet is not None or preset.crop or preset.interpolation:
            raise ConfigError(
                f"{opened.title} names a class for each pixel of whole images, resized bilinearly; give --out FOLDER "
                "for its masks, and leave --sheet, --preset.crop and --preset.interpolation out"
            )
        from resnet_jax.run.masks import mask_predictor_of

        masks = mask_predictor_of(opened, exif=exif)
        predict_masks(masks, paths, out, top=top, batch_size=batch_size or 4, as_json=as_json, broken=broken)
        end(broken, len(paths))
        return
    if out is not None:
        raise ConfigError(
            f"--out is for masks, and {opened.title} names one class for a whole image; leave it out, or draw the "
            "images and their classes with --sheet FILE.png"
        )
    top, batch_size = top or 3, batch_size or 32
    predictor = predictor_of(opened, exif=exif)
    names = distinct(predictor.class_names, taken=["image"] if as_json else [])
    table = Table(title=predictor.title, caption=predictor.note)
    table.add_column("image", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("probability", justify="right")
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
    end(broken, len(paths))


def end(broken: Sequence[str], count: int, what: str = "images") -> None:
    """Exits with status 1 and the reasons where images or videos could not be read."""
    if broken:
        reasons = "\n  ".join(broken)
        sys.exit(f"error: {reasons}" if count == 1 else f"error: {len(broken)} of {count} {what}:\n  {reasons}")
