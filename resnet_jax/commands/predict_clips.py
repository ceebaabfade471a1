"""`resnet_jax predict DIR video.mp4 ...`, with a network that names a class for a video."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from resnet_jax.display import distinct, plain_console

if TYPE_CHECKING:
    from resnet_jax.run.clips import OverTime, VideoPredictor


def predict_clips(
    predictor: "VideoPredictor",
    paths: Sequence[Path],
    *,
    top: int,
    batch_size: int,
    as_json: bool,
    sheet: Path | None,
    broken: list[str],
) -> None:
    """Prints the classes of each video, and of its clips one after the other.

    Args:
      top: how many classes of a whole video are shown, and of a clip in JSON.
      sheet: the picture to draw, of the first videos.
      broken: for each video that could not be read, a text that names the file is added.
    """
    from resnet_jax.commands.draw_clips import MOST, draw_clips
    from resnet_jax.run.clips import predictions_over_time

    names = distinct(predictor.class_names)
    table = Table(title=predictor.title, caption=predictor.note)
    table.add_column("video", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("class", style="bold")
    table.add_column("probability", justify="right")
    drawn: list[OverTime] = []
    for one in predictions_over_time(predictor, paths, batch_size, broken):
        if sheet is not None and len(drawn) < MOST:
            drawn.append(one)
        if as_json:
            print(json.dumps(_as_json(one, names, top)), flush=True)
        rows = [("all", one.video, i) for i in np.argsort(-one.video)[:top]]
        spans = zip(one.start, one.end, one.clips, strict=True)
        rows += [(f"{start:.1f} to {end:.1f}", clip, int(np.argmax(clip))) for start, end, clip in spans]
        said = ""
        for place, (seconds, row, i) in enumerate(rows):
            table.add_row(
                str(one.path) if place == 0 else "",
                seconds if seconds != said else "",
                names[i],
                f"{100 * row[i]:.2f} %",
                end_section=place == len(rows) - 1 or place == min(top, len(names)) - 1,
            )
            said = seconds
    if not as_json and table.row_count:
        plain_console().print(table)
    if sheet is not None and drawn:
        draw_clips(drawn, names, predictor.title, predictor.note, sheet)
        of = f"{len(drawn)} of {len(paths)} videos are" if len(paths) > 1 else "The video is"
        plain_console(stderr=as_json).print(f"{of} drawn in {sheet}", soft_wrap=True)


def _as_json(one: "OverTime", names: Sequence[str], top: int) -> dict[str, object]:
    best = lambda row: {names[i]: round(float(row[i]), 6) for i in np.argsort(-row)[:top]}
    clips = [
        {"start": round(float(start), 3), "end": round(float(end), 3), "classes": best(row)}
        for start, end, row in zip(one.start, one.end, one.clips, strict=True)
    ]
    return {"video": str(one.path), "classes": best(one.video), "clips": clips}
