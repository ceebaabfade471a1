"""Makes a small data set of real images with boxes: the crowns of trees in aerial photographs that the package
`deepforest` ships.

    pip download deepforest --no-deps            # 21 MB; MIT licence
    python examples/trees.py deepforest-*.whl trees
    python -m resnet_jax data show boxes:trees --split test --out trees.png

The package holds four photographs whose trees have boxes (Weinstein et al. 2021, the NEON crowns). They are cut into
squares of 320 x 320 pixels that do not overlap. Of the largest photograph the right quarter is for the test, all other
squares are for training. So no pixel is in both, though a few crowns lie on the border between them. A crown that a
square cuts is cut off there, and left out if less than two fifths of its box are in the square.
"""

import csv
import io
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 320  # pixels of a square
KEPT = 0.4  # share of a crown's box that must be in the square
FOLDER = "deepforest/data"
LARGEST = "2019_YELL_2_528000_4978000_image_crop2"
NAMES = (LARGEST, "2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
LABEL = "tree"
COLUMNS = ("image", "xmin", "ymin", "xmax", "ymax", "label")


def read(package: Path | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A photograph, and the boxes of its trees (n, 4).

    Args:
      package: a wheel, or a folder that holds the package; None = the installed one.
    """
    files = {}
    for ending in ("png", "xml"):
        path = f"{FOLDER}/{name}.{ending}"
        if package is not None and package.is_file():
            with zipfile.ZipFile(package) as wheel:
                files[ending] = wheel.read(path)
            continue
        found = find_spec("deepforest") if package is None else None
        if package is None and (found is None or found.origin is None):
            sys.exit("deepforest is not installed; give its wheel: pip download deepforest --no-deps")
        root = package or Path(found.origin).parent.parent
        files[ending] = (root / path).read_bytes()
    boxes = [
        [float(one.findtext(corner)) for corner in COLUMNS[1:5]]
        for one in ElementTree.fromstring(files["xml"]).iter("bndbox")
    ]
    return np.asarray(Image.open(io.BytesIO(files["png"])).convert("RGB")), np.array(boxes)


def cut(image: np.ndarray, boxes: np.ndarray, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of an image, and the boxes in it, cut off at its border."""
    square = image[top : top + SIDE, left : left + SIDE]
    limits = np.array([square.shape[1], square.shape[0]] * 2)
    inside = np.clip(boxes - np.array([left, top] * 2), 0, limits)
    area = lambda found: (found[:, 2:] - found[:, :2]).prod(axis=1)
    return square, inside[area(inside) >= KEPT * area(boxes)]


def main(out: Path, package: Path | None = None) -> dict[str, int]:
    """Writes the data set. Returns how many squares each split has."""
    lines: dict[str, list[tuple]] = {"train": [], "test": []}
    counts = {"train": 0, "test": 0}
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        image, boxes = read(package, name)
        height, width, _ = image.shape
        for top in range(0, height - SIDE // 2, SIDE):
            for left in range(0, width - SIDE // 2, SIDE):
                split = "test" if name == LARGEST and left + SIDE > 0.75 * width else "train"
                square, found = cut(image, boxes, top, left)
                file = f"images/{name}_{top:04}_{left:04}.png"
                Image.fromarray(square).save(out / file)
                rows = [(file, *(f"{value:g}" for value in box), LABEL) for box in found]
                lines[split] += rows or [(file, "", "", "", "", "")]
                counts[split] += 1
    for split, rows in lines.items():
        with (out / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    print(f"{counts['train']} squares for training and {counts['test']} for the test are in {out}")
    return counts


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/trees.py [DEEPFOREST] OUT")
    *given, folder = map(Path, sys.argv[1:])
    main(folder, *given)
