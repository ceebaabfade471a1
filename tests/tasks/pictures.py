"""Pictures of identities that differ, and vary from image to image."""

import io

import numpy as np
from PIL import Image


def identity_png(identity, rng, side=16):
    """Stripes whose direction and number are the identity's, with another phase, contrast and noise in each image."""
    rows, columns = np.mgrid[:side, :side] / side
    angle, waves = np.pi * (identity % 4) / 4, 1.5 + identity // 4
    phase = 2 * np.pi * waves * (np.cos(angle) * columns + np.sin(angle) * rows) + rng.uniform(0, 6)
    pixels = 128 + rng.uniform(40, 90) * np.sin(phase) + rng.normal(0, 12, phase.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
