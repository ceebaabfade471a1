"""Changing the size of maps, with the conventions of `torch.nn.functional.interpolate`.

`jax.image.resize` takes other pixels with its method "nearest", and smooths where it shrinks.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Map = Float[Array, "N H W C"]


def bilinear(x: Map, height: int, width: int) -> Float[Array, "N H2 W2 C"]:
    """`interpolate(x, (height, width), mode="bilinear", align_corners=False)`: each pixel is a weighted mean of four.

    Pixels are squares, so the middle of pixel i of n lies at (i + 1/2) / n. Nothing is smoothed where the map shrinks.
    16-bit numbers are computed with in float32 and stay so.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # One product with a matrix for each axis: a gather of pixels would be slow on a TPU.
    if x.shape[1] != height:
        x = jnp.einsum("ph,nhwc->npwc", _bilinear_weights(x.shape[1], height, x.dtype), x, precision="highest")
    if x.shape[2] != width:
        x = jnp.einsum("qw,nhwc->nhqc", _bilinear_weights(x.shape[2], width, x.dtype), x, precision="highest")
    return x


def nearest(x: Map, height: int, width: int) -> Float[Array, "N H2 W2 C"]:
    """`interpolate(x, (height, width), mode="nearest")`: each pixel is that of the old map at its upper left corner."""
    if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
        return nearest_doubled(x)
    rows, columns = (_upper_left(old, new) for old, new in zip(x.shape[1:3], (height, width), strict=True))
    return x[:, rows][:, :, columns]


def _upper_left(size: int, new: int) -> Int[np.ndarray, " new"]:
    scale = np.float32(size) / np.float32(new)  # torch computes in float32, whatever the map has
    return np.minimum((np.arange(new, dtype=np.float32) * scale).astype(int), size - 1)


def nearest_doubled(x: Map) -> Float[Array, "N H2 W2 C"]:
    """`interpolate(x, scale_factor=2, mode="nearest")`: each pixel becomes four."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def _bilinear_weights(size: int, new: int, dtype: np.dtype) -> Float[np.ndarray, "new size"]:
    """Of each old pixel in each new one, along one axis."""
    middle = np.maximum((np.arange(new) + 0.5) * (size / new) - 0.5, 0)
    before = np.minimum(middle.astype(int), size - 1)
    after = np.minimum(before + 1, size - 1)
    share = middle - before
    weights = np.zeros((new, size))
    rows = np.arange(new)
    np.add.at(weights, (rows, before), 1 - share)
    np.add.at(weights, (rows, after), share)
    return weights.astype(dtype)
