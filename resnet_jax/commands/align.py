"""`resnet_jax align IMAGES --points points.csv --out DIR`"""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from resnet_jax.display import plain_console
from resnet_jax.errors import DataError

SHOWN = 5  # images that an error names


def align(
    images: Positional[Annotated[Path, tyro.conf.arg(metavar="IMAGES")]],
    points: Path,
    out: Path,
    size: int = 112,
    exif: bool = False,
    threads: int = 8,
) -> None:
    """Bring the faces of images to the standard place, by five points of each, as networks for faces want them.

    The points come from a detector of your choice; this command has none. Each image needs a row in the file of
    points, and each row an image. The points of all images are checked before the first image is written.

    If an image cannot be read to its end, the others are still written, and the exit status is 1.

    Args:
        images: A folder of images, also in folders below.
        points: A CSV file with the columns name,x1,y1,...,x5,y5: the path of an image below the folder, then x and y in
            pixels of left eye, right eye, nose, left and right corner of the mouth. Left is left in the image.
        out: The folder for the aligned images, which must be new: NAME.png, in the same folders.
        size: Height and width of the aligned images in pixels. Most networks are trained with 112.
        exif: Turn photographs upright first, as EXIF says how the camera was held; the points are those of the upright
            image.
        threads: Number of threads that read and write images.
    """
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from resnet_jax.commands.analysed import bars
    from resnet_jax.data.align import align as bring
    from resnet_jax.data.align import check_points, read_points, template
    from resnet_jax.data.decode import decode_image, image_size
    from resnet_jax.export.job import check_out, new_folder
    from resnet_jax.files import explain_failed_write

    check_out(out)
    template(size)
    if threads < 1:
        raise DataError(f"--threads = {threads} must be at least 1")
    rows = read_points(points)
    files = _files_of(images, rows, points)
    _check_outputs(rows)

    def check(name: str) -> str:
        try:
            check_points(rows[name], *image_size(files[name], exif=exif), name=files[name])
        except DataError as error:
            return str(error)
        return ""

    def write(name: str, folder: Path) -> str:
        try:
            pixels = decode_image(files[name], 3, exif=exif)
            face = bring(pixels, rows[name], size, name=files[name])
        except DataError as error:
            return str(error)
        path = folder / _png(name)
        with explain_failed_write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(face).save(path)
        return ""

    with ThreadPoolExecutor(threads) as pool:
        if wrong := list(filter(None, pool.map(check, rows))):
            raise DataError(f"{len(wrong)} of {len(rows)} images cannot be aligned, so none was:{_listed(wrong)}")
        broken = []
        with new_folder(out) as folder, bars() as progress:
            for error in progress.track(
                pool.map(lambda name: write(name, folder), rows), len(rows), description="align"
            ):
                broken += [error] * bool(error)
    done = len(rows) - len(broken)
    plain_console().print(f"{done:,} images of {size} x {size} pixels are in {out}", soft_wrap=True)
    if broken:
        sys.exit(f"error: {len(broken)} of {len(rows)} images could not be read:{_listed(broken)}")


def _files_of(folder: Path, rows: Mapping[str, object], points: Path) -> dict[str, str]:
    """The path of each image by its name below the folder.

    Raises:
      DataError: no such folder, images without a row, or rows without an image.
    """
    from resnet_jax.data.sources.folder import image_files

    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it must hold the images that {points} names. Correct it")
    files = {
        Path(os.path.relpath(path, folder)).as_posix(): path for path in image_files(folder, folder.parent, Counter())
    }
    alone, unknown = [name for name in files if name not in rows], [name for name in rows if name not in files]
    if alone or unknown:
        parts = [f"{len(alone)} images of {folder} have no row in {points}: {_some(alone)}"] * bool(alone)
        parts += [f"{len(unknown)} rows of {points} have no image in {folder}: {_some(unknown)}"] * bool(unknown)
        raise DataError(
            f"{'; '.join(parts)}. Each image must have a row that begins with its path below the folder. Add what is "
            "missing, or remove what is alone"
        )
    return files


def _check_outputs(names: Mapping[str, object]) -> None:
    """Raises a DataError where two images would be written as one file. Some disks take x.png and X.png for one."""
    of: dict[str, str] = {}
    for name in names:
        other = of.setdefault(_png(name).casefold(), name)
        if other != name:
            raise DataError(f"{other} and {name} would both be written as {_png(name)}. Rename one")


def _png(name: str) -> str:
    return f"{os.path.splitext(name)[0]}.png"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _listed(texts: Sequence[str]) -> str:
    lines = [*texts[:SHOWN], *[f"and {len(texts) - SHOWN} more"] * (len(texts) > SHOWN)]
    return "".join(f"\n  {line}" for line in lines)
