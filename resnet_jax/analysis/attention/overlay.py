"""Heat maps in colours over images."""

import numpy as np
from jaxtyping import Float, UInt8

COLOURS = "viridis"  # from dark to light, which colour-blind people see too, and prints in grey
SHARE = 0.7  # of the colour; the rest is the image in grey


def overlay(images: UInt8[np.ndarray, "N S S C"], heat: Float[np.ndarray, "N S S"]) -> UInt8[np.ndarray, "N S S 3"]:
    """Heat maps between 0 and 1 over images in grey: dark blue is cold, yellow is hot."""
    from matplotlib import colormaps

    colours = colormaps[COLOURS](heat)[..., :3]
    grey = images.astype(np.float64).mean(axis=-1, keepdims=True) / 255
    return np.rint(255 * (SHARE * colours + (1 - SHARE) * grey)).astype(np.uint8)
