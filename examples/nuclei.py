"""Makes a small data set of real images with masks: the cell nuclei that the package `stardist` ships.

    pip download stardist --no-deps            # 3 MB; BSD licence
    python examples/nuclei.py stardist-*.whl nuclei
    python -m resnet_jax data show pairs:nuclei --out nuclei.png

The package holds one microscopy image of 512 x 512 pixels with a number for each of 125 nuclei (Caicedo et al. 2019,
the 2018 Data Science Bowl). It is cut into squares of 128 x 128 that do not overlap. The right column of squares is for
the test, the others are for training. So no pixel is in both, though a few nuclei lie on the border between them.
"""

import io
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128  # pixels of a square
FILES = {"image": "stardist/data/images/img2d.tif", "instances": "stardist/data/images/mask2d.tif"}


def read(package: Path | None) -> dict[str, np.ndarray]:
    """The image, and the number of each pixel's nucleus.

    Args:
      package: a wheel, or a folder that holds the package; None = the installed one.
    """
    if package is not None and package.is_file():
        with zipfile.ZipFile(package) as wheel:
            files = {name: wheel.read(path) for name, path in FILES.items()}
    else:
        found = find_spec("stardist") if package is None else None
        if package is None and (found is None or found.origin is None):
            sys.exit("stardist is not installed; give its wheel: pip download stardist --no-deps")
        root = package or Path(found.origin).parent.parent
        files = {name: (root / path).read_bytes() for name, path in FILES.items()}
    return {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in files.items()}


def main(out: Path, package: Path | None = None) -> dict[str, int]:
    """Writes the data set. Returns how many squares each split has."""
    arrays = read(package)
    image = np.clip(arrays["image"], 0, 255).astype(np.uint8)  # its 16 bits hold no value above 235
    mask = (arrays["instances"] > 0).astype(np.uint8)
    counts = {"train": 0, "test": 0}
    for top in range(0, image.shape[0], SIDE):
        for left in range(0, image.shape[1], SIDE):
            split = "test" if left + 2 * SIDE > image.shape[1] else "train"
            counts[split] += 1
            for part, pixels in (("images", image), ("masks", mask)):
                folder = out / split / part
                folder.mkdir(parents=True, exist_ok=True)
                square = pixels[top : top + SIDE, left : left + SIDE]
                Image.fromarray(square).save(folder / f"{top:03}_{left:03}.png")
    (out / "classes.txt").write_text("background\nnucleus\n", "utf-8")
    print(f"{counts['train']} squares for training and {counts['test']} for the test are in {out}")
    return counts


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/nuclei.py [STARDIST] OUT")
    *given, folder = map(Path, sys.argv[1:])
    main(folder, *given)
