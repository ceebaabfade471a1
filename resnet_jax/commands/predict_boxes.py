"""`resnet_jax predict DIR image.png ... --out FOLDER`, with a network that finds objects."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from resnet_jax.commands.draw_boxes import MASK, boxes_png
from resnet_jax.commands.predict_masks import check_free
from resnet_jax.display import plain_console
from resnet_jax.errors import DataError
from resnet_jax.files import explain_failed_write, write_atomically

if TYPE_CHECKING:
    from resnet_jax.run.boxes import BoxPredictor, Detections

NAME = "detections.json"


def predict_boxes(
    predictor: "BoxPredictor",
    paths: Sequence[Path],
    out: Path,
    *,
    top: int | None,
    least_score: float,
    batch_size: int,
    as_json: bool,
    broken: list[str],
) -> None:
    """Draws the objects of each image, writes those of all images in COCO's form, and prints them.

    Args:
      top: draw and print only so many objects of an image, the surest; None = all.
      least_score: draw and print only objects that are at least so sure. The file in COCO's form holds all.
      broken: for each image that could not be read, a text that names the file is added.
    """
    from resnet_jax.run.boxes import detections

    pictures = check_free(paths, [[out / f"{path.stem}_boxes.png"] for path in paths])
    if (out / NAME).exists():
        raise DataError(f"{out / NAME} is there already; choose another --out, or remove it")
    with explain_failed_write(out):
        out.mkdir(parents=True, exist_ok=True)
    found: dict[int, list[dict[str, Any]]] = {}
    lines: dict[int, list[tuple[str, float, Sequence[float]]]] = {}
    for one in detections(predictor, paths, batch_size, broken):
        place = one.place
        shown = np.flatnonzero(one.scores >= least_score)[:top].tolist()
        found[place] = in_coco_form(one, image_id(paths, place), paths[place].name)
        lines[place] = [
            (predictor.class_names[one.labels[i]], float(one.scores[i]), one.boxes[i].tolist()) for i in shown
        ]
        write_atomically(pictures[place][0], boxes_png(one, shown, predictor.class_names))
    everything = [entry for _, entries in sorted(found.items()) for entry in entries]
    if found:
        write_atomically(out / NAME, json.dumps(everything) + "\n")
    if as_json:
        for place, objects in sorted(lines.items()):
            listed = [
                {"class": name, "score": round(score, 6), "box": [round(side, 2) for side in box]}
                for name, score, box in objects
            ]
            print(json.dumps({"image": str(paths[place]), "picture": str(pictures[place][0]), "objects": listed}))
    elif found:
        _print(predictor, paths, lines)
    if found:
        word = "image" if len(found) == 1 else "images"
        text = f"{len(found)} {word} with their objects are in {out}; all objects are in {out / NAME}, as COCO has them"
        plain_console(stderr=as_json).print(text, soft_wrap=True)


def image_id(paths: Sequence[Path], place: int) -> int:
    """The number in the name of each file, as COCO's files have them. Where a name has none, their places from 1."""
    return int(paths[place].stem) if all(path.stem.isdigit() for path in paths) else place + 1


def in_coco_form(found: "Detections", number: int, name: str) -> list[dict[str, Any]]:
    """The objects as COCO's results: x, y, width and height of boxes, and masks as run-length codes of the image.

    Args:
      number: of the image.
      name: of its file.
    """
    from resnet_jax.data.boxes import Bitmap
    from resnet_jax.tasks.detect.coco import encode

    entries: list[dict[str, Any]] = []
    for place, (box, label, score) in enumerate(zip(found.boxes, found.labels, found.scores, strict=True)):
        left, top, right, bottom = (float(side) for side in box)
        entry = {
            "image_id": number,
            "file_name": name,
            "category_id": int(label),
            "bbox": [round(side, 3) for side in (left, top, right - left, bottom - top)],
            "score": round(float(score), 6),
        }
        if found.masks is not None:
            pixels = (found.masks[place] >= MASK).astype(np.uint8)
            code = encode(Bitmap(0, 0, pixels), found.image.shape[:2])
            entry["segmentation"] = {**code, "counts": code["counts"].decode("ascii")}  # JSON has no bytes
        entries.append(entry)
    return entries


def _print(
    predictor: "BoxPredictor", paths: Sequence[Path], lines: dict[int, list[tuple[str, float, Sequence[float]]]]
) -> None:
    table = Table(title=predictor.title, caption=predictor.note)
    table.add_column("image", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("score", justify="right")
    table.add_column("box (x1, y1, x2, y2)", justify="right")
    for place, objects in sorted(lines.items()):
        rows = [
            (name, f"{100 * score:.1f} %", ", ".join(f"{side:.0f}" for side in box)) for name, score, box in objects
        ]
        for rank, row in enumerate(rows or [("nothing", "", "")]):
            table.add_row(str(paths[place]) if rank == 0 else "", *row, end_section=rank == max(len(rows) - 1, 0))
    plain_console().print(table)
