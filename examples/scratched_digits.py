"""Writes good and scratched digits in the layout of MVTec AD, to try a detector of anomalies on.

    python examples/scratched_digits.py scratched
    python -m resnet_jax anomalies fit runs/digits --data.name folder:scratched --out detector
    python -m resnet_jax anomalies score runs/digits --data.name folder:scratched --detector detector

The good images are scikit-learn's digits. A scratch is a slanting line of four pixels, in which light and dark are
exchanged. `ground_truth/scratch` says which pixels these are.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source

LENGTH = 4


def scratch(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (8, 8) with a scratch, and the mask of the scratch."""
    top, left = rng.integers(0, 8 - LENGTH + 1, 2)
    down = np.arange(LENGTH)
    across = down if rng.random() < 0.5 else LENGTH - 1 - down
    mask = np.zeros(image.shape, bool)
    mask[top + down, left + across] = True
    return np.where(mask, 255 - image, image), mask


def main(root: Path) -> None:
    for folder in ("train/good", "test/good", "test/scratch", "ground_truth/scratch"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        source = load_source(DataConfig(name="digits"), split)
        for place in range(len(source)):
            image = source[place]["image"][..., 0]
            if split == "train" or place % 2:
                Image.fromarray(image).save(root / split / "good" / f"{place:04}.png")
                continue
            scratched, mask = scratch(image, rng)
            Image.fromarray(scratched).save(root / "test" / "scratch" / f"{place:04}.png")
            Image.fromarray(np.uint8(255) * mask).save(root / "ground_truth" / "scratch" / f"{place:04}_mask.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
