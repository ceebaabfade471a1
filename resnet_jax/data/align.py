"""Faces in a standard place: five points of each are brought to a template, as insightface does it.

A network knows faces from the place in which it was trained on them. Without alignment, or with another, accuracies
fall by several percent.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.errors import ConfigError, DataError

POINTS = ("left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth")
"""The order of the points. Left is left in the image."""
COLUMNS = ("name", *(f"{axis}{number}" for number in range(1, 6) for axis in "xy"))
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the points come to lie, x and y, in 112 x 112 pixels (insightface's `utils/face_align.py`, `arcface_dst`)."""
_SIDE, _OTHER_SIDE, _SHIFT = 112, 128, np.array([8.0, 0.0])  # 128 has 8 pixels more at the left and at the right
_FLAT = 1e-3  # how narrow five points may be, as a share of their length
_MIRRORED = 2.0  # how much larger the mirrored face must be to say that the points are exchanged


def template(size: int) -> Float[np.ndarray, "5 2"]:
    """The points in `size` x `size` pixels. Multiples of 128 have a wider margin, as in insightface.

    Raises:
      ConfigError: a size that is not positive.
    """
    if size < 1:
        raise ConfigError(f"size = {size} must be at least 1, such as 112")
    if size % _OTHER_SIDE == 0 and size % _SIDE:
        return (TEMPLATE + _SHIFT) * (size / _OTHER_SIDE)
    return TEMPLATE * (size / _SIDE)


def similarity(points: Float[np.ndarray, "N 2"], target: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "2 3"]:
    """The matrix that turns, scales and moves points so that the sum of squared distances to `target` is the least.

    This is what Umeyama 1991 (IEEE PAMI 13(4)) finds, who excludes reflections. In the plane, points are complex
    numbers, and turning and scaling is the multiplication by one of them.
    """
    (ours, theirs), middles = zip(*map(_centred, (points, target)), strict=True)
    factor = np.vdot(ours, theirs) / np.vdot(ours, ours).real
    moved = middles[1] - factor * middles[0]
    return np.array([[factor.real, -factor.imag, moved.real], [factor.imag, factor.real, moved.imag]])


def align(
    image: UInt8[np.ndarray, "H W C"], points: Float[np.ndarray, "5 2"], size: int = 112, *, name: str = "the image"
) -> UInt8[np.ndarray, "S S C"]:
    """The face of an image, with its points in the place of the template; bilinear, and 0 where the image ends.

    Args:
      points: x and y of `POINTS`, in pixels; (0, 0) is the middle of the first pixel.
      size: height and width of the result.
      name: of the image, for errors.

    Raises:
      DataError: as `check_points`, or an image that is not uint8 (H, W, 1) or (H, W, 3).
      ConfigError: a size that is not positive.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise DataError(
            f"{name} is a {image.dtype} array of shape {image.shape}; it must be uint8 (H, W, 1) or (H, W, 3). Convert "
            "it"
        )
    points = np.asarray(points, np.float64)
    check_points(points, *image.shape[:2], name=name)
    matrix = similarity(points, template(size))
    warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    return warped.reshape(size, size, image.shape[2])


def check_points(points: Float[np.ndarray, "5 2"], height: int, width: int, *, name: str) -> None:
    """Raises a DataError where five points cannot be those of a face in an image of this size."""
    if points.shape != (len(POINTS), 2):
        raise DataError(f"the points of {name} have the shape {points.shape}; it must be (5, 2), x and y of {_order()}")
    for what, (x, y) in zip(POINTS, points.tolist(), strict=True):
        if not np.isfinite(x + y):
            raise DataError(f"the {what} of {name} is at ({x}, {y}), which is no place. Correct or remove its row")
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise DataError(
                f"the {what} of {name} is at ({x:g}, {y:g}), outside the image of {width} x {height} pixels; points "
                "are x and y in pixels of this image. Correct or remove its row"
            )
    for first, second in zip(*np.nonzero(np.triu((points[:, None] == points).all(axis=2), 1)), strict=True):
        x, y = points[first]
        raise DataError(
            f"the {POINTS[first]} and the {POINTS[second]} of {name} are both at ({x:g}, {y:g}); the five points must "
            "differ. Correct or remove its row"
        )
    wide, narrow = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if narrow <= _FLAT * wide:
        raise DataError(f"the five points of {name} lie on a line, as no face's do. Correct or remove its row")
    ours, theirs = _centred(points)[0], _centred(TEMPLATE)[0]
    if abs(np.dot(ours, theirs)) > _MIRRORED * abs(np.vdot(ours, theirs)):
        raise DataError(
            f"the points of {name} are those of a mirrored face; their order is {_order()}. Exchange left and right"
        )


def read_points(path: Path) -> dict[str, Float[np.ndarray, "5 2"]]:
    """The points of images by name, from a CSV file with the columns `name,x1,y1,...,x5,y5`. A first line with these
    names may be there.

    Raises:
      DataError: a file that cannot be read, or a row that is none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file, strict=True), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"cannot read {path}: {reason}; it must be a CSV file with the columns {','.join(COLUMNS)}. Correct it"
        ) from error
    if rows and [word.strip() for word in rows[0][1]] == list(COLUMNS):
        rows = rows[1:]
    found: dict[str, Float[np.ndarray, "5 2"]] = {}
    for number, (name, *words) in rows:
        if name in found:
            raise DataError(f"{path} has {name} a second time, in row {number}; remove one")
        found[name] = _parse(words, path, number)
    if not found:
        raise DataError(f"{path} holds no row; each image must have one, {','.join(COLUMNS)}. Fill it")
    return found


def _parse(words: Sequence[str], path: Path, number: int) -> Float[np.ndarray, "5 2"]:
    try:
        return np.array([float(word) for word in words]).reshape(len(POINTS), 2)
    except ValueError as error:
        raise DataError(
            f"row {number} of {path} has {len(words)} columns behind the name: {','.join(words)[:60]}; they must be "
            f"ten numbers, x and y of {_order()}. Correct or remove it"
        ) from error


def _order() -> str:
    return ", ".join(POINTS)


def _centred(points: Float[np.ndarray, "N 2"]) -> tuple[np.ndarray, complex]:
    """Points as complex numbers around their mean, and the mean."""
    numbers = points[:, 0] + 1j * points[:, 1]
    middle = complex(numbers.mean())
    return numbers - middle, middle
