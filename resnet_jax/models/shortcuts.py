"""What the branch of a block is added to: He et al. 2015, section 3.3, options A, B and C, and later ones.

Each is a function `(block, x, features)`, called inside the block's compact method: it brings the block's input `x` to
the stride of the block and to `features` channels. None = there is nothing to add.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.blocks import Block
from resnet_jax.models.deferred import norm_of
from resnet_jax.models.pooling import halving_average_pool, smoothing_average_pool

Image = Float[Array, "N *S C"]
Shortcut = Callable[[Block, Image, int], Image | None]


def zero_pad(block: Block, x: Image, features: int) -> Image:
    """Option A: every `stride`-th pixel, and zeros for the channels that are missing. No parameters."""
    return _padded(block, x, 0, features - x.shape[-1])


def zero_pad_centred(block: Block, x: Image, features: int) -> Image:
    """Option A with half of the zeros before the copied channels and half after them: akamaster/pytorch_resnet_cifar10.

    The paper does not say where the zeros are. Weights of one form are of no use in the other. Of an odd number of
    zeros, one more lies after the channels.
    """
    missing = features - x.shape[-1]
    return _padded(block, x, missing // 2, missing - missing // 2)


def project_changes(block: Block, x: Image, features: int) -> Image:
    """Option B: the identity where the shapes agree, else a 1x1 convolution."""
    return x if _fits(block, x, features) else project(block, x, features)


def project(block: Block, x: Image, features: int) -> Image:
    """Option C: always a 1x1 convolution."""
    return _project(block, x, features, block.stride)


def pool_and_project(block: Block, x: Image, features: int) -> Image:
    """As B, but a 2x2 mean instead of dropping three pixels of four (He et al. 2018, arXiv:1812.01187, ResNet-D)."""
    if _fits(block, x, features):
        return x
    if block.stride > 1:
        x = halving_average_pool(x)
    elif block.dilations[1] > 1:
        x = smoothing_average_pool(x)
    return _project(block, x, features, 1)


def nothing(block: Block, x: Image, features: int) -> None:
    """A plain network: the paper's baseline."""


def _padded(block: Block, x: Image, before: int, after: int) -> Image:
    kept = x[:, *[slice(None, None, block.stride)] * (x.ndim - 2)]
    return jnp.pad(kept, [(0, 0)] * (x.ndim - 1) + [(before, after)])


def _fits(block: Block, x: Image, features: int) -> bool:
    return block.stride == 1 and x.shape[-1] == features


def _project(block: Block, x: Image, features: int, stride: int) -> Image:
    conv = block.parts.conv(features, 1, stride, name="downsample_conv")
    x = block.smooth(x) if stride > 1 else x
    return conv(x) if block.preactivation else norm_of(conv, block.parts.norm(name="downsample_bn"), x)


SHORTCUTS: dict[str, Shortcut] = {
    "zero_pad": zero_pad,
    "zero_pad_centred": zero_pad_centred,
    "projection": project_changes,
    "projection_always": project,
    "average_pool": pool_and_project,
    "none": nothing,
}
