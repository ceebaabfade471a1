"""The images of a split as a network sees them, for pictures and for computations on a few of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8

from resnet_jax.config import Preset
from resnet_jax.data import Source
from resnet_jax.data.fills import EvalImage
from resnet_jax.data.rows import EvalRows

THREADS = 8  # that decode


def images_of(
    source: Source, preset: Preset, places: Sequence[int] | Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n S S C"]:
    """The images at these places of a source, decoded, resized and cropped as in evaluation.

    Raises:
      ImageError: an image cannot be read.
    """
    rows = EvalRows(source, EvalImage(preset))
    batch = rows.empty(0, len(places))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda row: rows.write(int(places[row]), batch, row), range(len(places))))
    return batch["image"]
