"""The first convolutions of a network, before the first stage."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.blocks import Parts
from resnet_jax.models.layers import Dtype, Sides, he_normal_fan_out

Image = Float[Array, "N *S C"]


@dataclass(frozen=True)
class Stem:
    """The layers before the first stage.

    Attributes:
      layers: `(parts, images, *widths) -> (convolution, its input)`, called in the network's compact method. It
        computes everything before the last convolution. The network then computes that convolution, a norm and the
        activation (before pre-activation blocks only the convolution). `widths` are the channels of each convolution.
      stride: of these convolutions together.
      pool: whether a 3x3 max-pool of stride 2 comes next.
      shares: channels of the convolutions before the last, as shares of its.
      stage_stride: stride of the first stage.
      norm: the name of the norm after the last convolution.
    """

    layers: Callable[..., tuple[Any, Image]]
    stride: int
    pool: bool
    shares: tuple[float, ...] = ()
    stage_stride: int = 1
    norm: str = "bn1"

    @property
    def total_stride(self) -> int:
        return self.stride * (2 if self.pool else 1)

    def usual_widths(self, channels: int) -> tuple[int, ...]:
        """The channels of each convolution, where the last has `channels`."""
        return (*(int(channels * share) for share in self.shares), channels)


def one_conv(
    parts: Parts, images: Image, channels: int, *, kernel_size: Sides, stride: Sides, name: str = "conv1"
) -> tuple[Any, Image]:
    return parts.conv(channels, kernel_size, stride, name=name), images


def deep(parts: Parts, images: Image, first: int, second: int, channels: int) -> tuple[Any, Image]:
    """Three 3x3 convolutions (He et al. 2018, arXiv:1812.01187, ResNet-C)."""
    x = parts.conv(first, 3, 2, name="conv1_0")(images)
    x = parts.act(parts.norm(name="conv1_1")(x))
    x = parts.conv(second, 3, name="conv1_3")(x)
    x = parts.act(parts.norm(name="conv1_4")(x))
    return parts.conv(channels, 3, name="conv1_6"), x


def space_to_depth(parts: Parts, images: Image, channels: int) -> tuple[Any, Image]:
    """The 7x7 stride-2 convolution as a 4x4 one of stride 1, on images whose 2x2 pixels are folded into channels. This
    keeps a matrix unit busier than three channels do (MLPerf's TPU submissions). An odd side is extended by the zeros
    that the 7x7 sees there.
    """
    n, h, w, c = images.shape
    x = jnp.pad(images, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    x = x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, (h + 1) // 2, (w + 1) // 2, 4 * c)
    return parts.conv(channels, 4, padding=(2, 1), kernel_init=_folded_he_normal, name="conv1"), x


def space_to_depth_kernel(kernel: Float[Array, "7 7 C D"]) -> Float[Array, "4 4 C4 D"]:
    """A 7x7 stem's kernel as the kernel of the `space_to_depth` stem. It is exact: the same numbers in other places.

    Tap k of the seven reads pixel 2i + k - 3. A zero is put before the first tap. Then it is tap k + 1 = 2a + b of
    eight, and reads part b of the folded pixel i + a - 2.
    """
    channels, features = kernel.shape[2:]
    eight = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, channels, features)
    return eight.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 4 * channels, features)


def _folded_he_normal(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """Starts from the same distribution of networks as the 7x7 stem."""
    return space_to_depth_kernel(he_normal_fan_out(key, (7, 7, shape[2] // 4, shape[3]), dtype))


def factored(parts: Parts, clips: Image, inner: int, channels: int) -> tuple[Any, Image]:
    """7x7 in space to 45 channels, and 3 in time, as torchvision's `R2Plus1dStem`."""
    x = parts.conv(inner, (1, 7, 7), (1, 2, 2), name="stem_0")(clips)
    x = parts.act(parts.norm(name="stem_1")(x))
    return parts.conv(channels, (3, 1, 1), name="stem_3"), x


STEMS: dict[str, Stem] = {
    "imagenet": Stem(partial(one_conv, kernel_size=7, stride=2), stride=2, pool=True),
    "cifar": Stem(partial(one_conv, kernel_size=3, stride=1), stride=1, pool=False),
    "face": Stem(partial(one_conv, kernel_size=3, stride=1), stride=1, pool=False, stage_stride=2),
    "deep": Stem(deep, stride=2, pool=True, shares=(1 / 2, 1 / 2)),
    "deep_tiered": Stem(deep, stride=2, pool=True, shares=(3 / 8, 1 / 2)),
    "space_to_depth": Stem(space_to_depth, stride=2, pool=True),
    # Of inflated networks that see three frames at once here (github.com/hassony2/inflated_convnets_pytorch).
    "i3d": Stem(partial(one_conv, kernel_size=(3, 7, 7), stride=(1, 2, 2)), stride=2, pool=True),
    # Of torchvision's networks for video, which call their stems so.
    "r3d": Stem(
        partial(one_conv, kernel_size=(3, 7, 7), stride=(1, 2, 2), name="stem_0"), stride=2, pool=False, norm="stem_1"
    ),
    "r2plus1d": Stem(factored, stride=2, pool=False, shares=(45 / 64,), norm="stem_4"),
}
