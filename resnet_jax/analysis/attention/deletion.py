"""A number beside a heat map: how much the network misses the hottest part of the image."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from resnet_jax.analysis.attention.gradcam import BATCH, probabilities
from resnet_jax.analysis.attention.heat import Classes, Heat, Images
from resnet_jax.run.network import Network

SHARE = 0.2
DRAWS = 4


class Deletion(NamedTuple):
    """Probabilities of the class that was looked for, one for each image.

    Attributes:
      before: of the image.
      without: of the image without its hottest part.
      elsewhere: of the image without a part of the same shape in another place; a mean over several places.
    """

    before: Float[np.ndarray, " N"]
    without: Float[np.ndarray, " N"]
    elsewhere: Float[np.ndarray, " N"]


def deletion(
    network: Network,
    images: Images,
    heat: Heat,
    classes: Classes,
    *,
    share: float = SHARE,
    seed: int = 0,
    batch_size: int = BATCH,
) -> Deletion:
    """Covers the hottest part of each image with the mean colour, and looks at what the class's probability becomes.

    It is one point of the deletion curve of Petsiuk et al. 2018 (arXiv:1806.07421, section 4.1). A map that says where
    the class is makes the probability fall further than the same part elsewhere does. For that the part is moved by a
    random distance, and what leaves the image comes in at the other side, so its shape and size stay.

    Args:
      heat: as large as the images.
      share: of the pixels that are covered.
      seed: of the other places, and of the choice among pixels that are equally hot.
    """
    rng = np.random.default_rng(seed)
    colour = np.rint(255 * np.asarray(network.preset.mean)).astype(np.uint8)
    hot = hottest(heat, share, rng)
    rows = np.arange(len(images))

    def probability(masks: Bool[np.ndarray, "N S S"]) -> Float[np.ndarray, " N"]:
        covered = np.where(masks[..., None], colour, images)
        return probabilities(network, covered, batch_size)[rows, classes]

    side = images.shape[1]
    moved = []
    for _ in range(DRAWS):
        shifts = rng.integers(1, side, (len(images), 2)) if side > 1 else np.zeros((len(images), 2), int)
        moved.append(
            probability(np.stack([np.roll(mask, shift, (0, 1)) for mask, shift in zip(hot, shifts, strict=True)]))
        )
    return Deletion(probability(np.zeros_like(hot)), probability(hot), np.mean(moved, axis=0))


def hottest(heat: Heat, share: float, rng: np.random.Generator) -> Bool[np.ndarray, "N S S"]:
    """The hottest pixels of each map, this share of them; equal pixels in a random order."""
    flat = heat.reshape(len(heat), -1)
    order = np.lexsort((rng.random(flat.shape), -flat), axis=1)
    masks = np.zeros(flat.shape, bool)
    np.put_along_axis(masks, order[:, : max(1, round(share * flat.shape[1]))], True, axis=1)
    return masks.reshape(heat.shape)
