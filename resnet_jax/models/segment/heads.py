"""What turns the maps of a backbone into logits for each of their pixels: torchvision's two heads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.layers import dropout, linear_bias_init, linear_kernel_init, relu

Map = Float[Array, "N H W C"]
RATES = (12, 24, 36)
"""Dilations of DeepLabV3's branches at stride 8 (Chen et al. 2017, arXiv:1706.05587, section 3.3)."""
WIDTH = 256


@dataclass(frozen=True)
class Tools:
    """What heads are made of, as the backbone has it.

    Attributes:
      conv, norm: as in `blocks.Parts`. Kernels start as PyTorch's convolutions do, since torchvision leaves them so.
      train: whether numbers are dropped.
      positions: places of the images in the global batch.
    """

    conv: Callable[..., Any]
    norm: Callable[..., Any]
    train: bool
    positions: Int[Array, " N"] | None

    def unit(self, x: Map, features: int, kernel_size: int, names: tuple[str, str], dilation: int = 1) -> Map:
        """A convolution, a norm and ReLU; `names` are those of the first two."""
        y = self.conv(features, kernel_size, dilation=dilation, kernel_init=linear_kernel_init, name=names[0])(x)
        return relu(self.norm(name=names[1])(y))

    def logits(self, x: Map, classes: int, name: str) -> Map:
        """A 1x1 convolution with a bias."""
        bias = linear_bias_init(x.shape[-1])
        return self.conv(classes, 1, use_bias=True, kernel_init=linear_kernel_init, bias_init=bias, name=name)(x)

    def dropped(self, x: Map, rate: float, make_rng: Callable[[str], Array]) -> Map:
        return dropout(x, make_rng("dropout"), rate, self.positions) if self.train and rate else x


class FcnHead(nn.Module):
    """A 3x3 convolution to a quarter of the channels, and logits (torchvision, `models/segmentation/fcn.py`).

    Attributes:
      dropout: rate at which training drops numbers before the logits.
    """

    classes: int
    tools: Tools
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Map) -> Map:
        y = self.tools.unit(x, x.shape[-1] // 4, 3, ("0", "1"))
        return self.tools.logits(self.tools.dropped(y, self.dropout, self.make_rng), self.classes, "4")


class DeepLabHead(nn.Module):
    """DeepLabV3's head: branches that look near and far, one more 3x3 convolution, and logits (torchvision,
    `models/segmentation/deeplabv3.py`)."""

    classes: int
    tools: Tools
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: Map) -> Map:
        y = Aspp(self.tools, self.dropout, name="0")(x)
        return self.tools.logits(self.tools.unit(y, WIDTH, 3, ("1", "2")), self.classes, "4")


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, Figure 5): a 1x1 convolution, three dilated
    3x3 convolutions and the mean of the image, side by side, then mixed by a 1x1 convolution."""

    tools: Tools
    dropout: float

    @nn.compact
    def __call__(self, x: Map) -> Map:
        tools = self.tools
        branches = [tools.unit(x, WIDTH, 1, ("convs_0_0", "convs_0_1"))]
        for i, rate in enumerate(RATES, start=1):
            branches.append(tools.unit(x, WIDTH, 3, (f"convs_{i}_0", f"convs_{i}_1"), dilation=rate))
        branches.append(jnp.broadcast_to(self._of_the_image(x), branches[0].shape))
        y = tools.unit(jnp.concatenate(branches, axis=-1), WIDTH, 1, ("project_0", "project_1"))
        return tools.dropped(y, self.dropout, self.make_rng)

    def _of_the_image(self, x: Map) -> Float[Array, "N 1 1 D"]:
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        try:
            return self.tools.unit(mean, WIDTH, 1, ("convs_4_1", "convs_4_2"))
        except ValueError as error:  # the norm has one number
            raise ModelError(
                "DeepLabV3 normalises one number per channel of each image, and statistics of 1 image do not exist; "
                "train with at least 2 images in a batch and in each group of bn_group_size, or with frozen statistics"
            ) from error


HEADS: dict[str, Callable[..., nn.Module]] = {"fcn": FcnHead, "deeplabv3": DeepLabHead}
