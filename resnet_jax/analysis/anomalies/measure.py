"""How well scores tell anomalies from good images and good pixels, and the masks that say which pixels are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from resnet_jax.config import Preset
from resnet_jax.data import load_image
from resnet_jax.errors import DataError

GROUND_TRUTH = "ground_truth"


def auroc(anomalous: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"], what: str = "images") -> float:
    """The area under the ROC curve: how often an anomaly has a higher score than a good one.

    Args:
      what: is scored, for the error.

    Raises:
      DataError: all are good, or none is.
    """
    from sklearn.metrics import roc_auc_score

    check_both(anomalous, what)
    return float(roc_auc_score(anomalous, scores))


def check_both(anomalous: Bool[np.ndarray, " N"], what: str) -> None:
    """Raises a DataError where all are good, or none is: said before they are scored."""
    if anomalous.all() or not anomalous.any():
        kind = "anomalous" if anomalous.all() else "good"
        raise DataError(
            f"all {len(anomalous):,} {what} are {kind}; an AUROC needs both good and anomalous ones. Score a split "
            "that holds both"
        )


def masks_of(
    root: Path, split: str, files: Sequence[str], anomalous: Bool[np.ndarray, " N"], preset: Preset
) -> Bool[np.ndarray, "N S S"] | None:
    """Which pixels of each image are anomalous, in the layout of MVTec AD: for `root/test/scratch/000.png` the file
    `root/ground_truth/scratch/000_mask.png`. None if there is no folder `ground_truth`.

    Masks are resized and cropped like their images. Good images have none.

    Raises:
      DataError: the mask of an anomalous image is missing, cannot be read, or is of another size than the image.
    """
    from PIL import Image

    if not (root / GROUND_TRUTH).is_dir():
        return None
    masks = np.zeros((len(files), preset.crop, preset.crop), bool)
    grey = Preset(preset.resize, preset.crop, mean=(0.0,), std=(1.0,), squash=preset.squash)
    for place in map(int, np.flatnonzero(anomalous)):
        image = Path(files[place])
        below = image.relative_to(root / split)
        path = root / GROUND_TRUTH / below.parent / f"{image.stem}_mask.png"
        if not path.is_file():
            raise DataError(f"{image} has no mask {path}; put it there, or move the folder {GROUND_TRUTH} away")
        with Image.open(image) as shown, Image.open(path) as mask:
            if shown.size != mask.size:
                raise DataError(
                    f"the mask {path} has {mask.width} x {mask.height} pixels, and its image {shown.width} x "
                    f"{shown.height}; they must be of the same size. Replace the mask"
                )
        masks[place] = load_image(path, grey)[..., 0] >= 128
    return masks
