"""`resnet_jax predict DIR image.png ... --out FOLDER`, with a network that names a class for each pixel."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from resnet_jax.analysis.masks import Seen, mask_png, seen_on
from resnet_jax.commands.draw_masks import overlay_png
from resnet_jax.display import distinct, plain_console
from resnet_jax.errors import DataError
from resnet_jax.files import explain_failed_write, write_atomically

if TYPE_CHECKING:
    from resnet_jax.run.masks import MaskPredictor


def check_out(out: Path) -> None:
    """Raises a DataError where no files can be written into a folder of this name, which need not be there."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise DataError(f"--out {out} must be a folder, and {there} is a file; choose another name")
    if not os.access(there, os.W_OK):
        raise DataError(f"cannot write into --out {out}: it is not allowed in {there}. Choose another place")


def outputs(paths: Sequence[Path], out: Path) -> list[list[Path]]:
    """The files of the mask and of the overlay of each image. Raises as `check_free`."""
    return check_free(paths, [[out / f"{path.stem}.png", out / f"{path.stem}_overlay.png"] for path in paths])


def check_free(paths: Sequence[Path], named: list[list[Path]]) -> list[list[Path]]:
    """The files that will be written for each image.

    Raises:
      DataError: two images would be written as one file, or a file is there already.
    """
    of: dict[str, Path] = {}
    for path, files in zip(paths, named, strict=True):
        for file in files:
            other = of.setdefault(file.name.casefold(), path)  # some disks take x.png and X.png for the same
            if other is not path:
                raise DataError(
                    f"{other} and {path} would both be written as {file}; predict them into different folders, or "
                    "rename one"
                )
            if file.exists():
                raise DataError(
                    f"{file} is there already, and would be written for {path}; choose another --out, or remove it"
                )
    return named


def predict_masks(
    predictor: "MaskPredictor",
    paths: Sequence[Path],
    out: Path,
    *,
    top: int | None,
    batch_size: int,
    as_json: bool,
    broken: list[str],
) -> None:
    """Writes the mask and the overlay of each image, and prints which classes it shows.

    Args:
      top: print only so many classes of each image, those with the most pixels; None = all that occur.
      broken: for each image that could not be read, a text that names the file is added.
    """
    from resnet_jax.run.masks import segmentations

    files = outputs(paths, out)
    with explain_failed_write(out):
        out.mkdir(parents=True, exist_ok=True)
    found: dict[int, list[Seen]] = {}
    for place, image, mask, probability in segmentations(predictor, paths, batch_size, broken):
        found[place] = seen = seen_on(mask, probability)
        write_atomically(files[place][0], mask_png(mask, len(predictor.class_names)))
        write_atomically(files[place][1], overlay_png(image, mask, seen, predictor.class_names))
    if as_json:
        names = distinct(predictor.class_names)
        for place, seen in sorted(found.items()):
            mask_file, overlay_file = map(str, files[place])
            shown = {
                names[one.label]: {"share": round(one.share, 6), "probability": round(one.probability, 6)}
                for one in seen[:top]
            }
            print(
                json.dumps({"image": str(paths[place]), "mask": mask_file, "overlay": overlay_file, "classes": shown}),
                flush=True,
            )
    elif found:
        _print(predictor, paths, found, top)
    if found:
        word = "image" if len(found) == 1 else "images"
        text = f"The masks and overlays of {len(found)} {word} are in {out}"
        plain_console(stderr=as_json).print(text, soft_wrap=True)


def _print(predictor: "MaskPredictor", paths: Sequence[Path], found: dict[int, list[Seen]], top: int | None) -> None:
    table = Table(title=predictor.title, caption=predictor.note)
    table.add_column("image", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("pixels", justify="right")
    table.add_column("probability", justify="right")
    for place, seen in sorted(found.items()):
        shown = seen[:top]
        for rank, (label, share, probability) in enumerate(shown):
            table.add_row(
                str(paths[place]) if rank == 0 else "",
                predictor.class_names[label],
                f"{100 * share:.2f} %",
                f"{100 * probability:.2f} %",
                end_section=rank == len(shown) - 1,
            )
    plain_console().print(table)
