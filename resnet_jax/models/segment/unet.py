"""U-Net with any network of the family as encoder, as segmentation_models_pytorch has it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.blueprint import draw
from resnet_jax.models.headed import Headed
from resnet_jax.models.layers import relu
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.segment.heads import Tools
from resnet_jax.models.segment.network import Logits, head_tools, skips_of, stages_of, strides_of
from resnet_jax.models.segment.resize import nearest_doubled

Map = Float[Array, "N H W C"]
CHANNELS = (256, 128, 64, 32, 16)
"""Of the decoder's blocks, from the deepest. The encoder's `width_multiplier` multiplies them too."""

he_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
xavier_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class UNet(Headed):
    """An encoder, and a decoder that doubles the resolution as often as the encoder halves it (Ronneberger et al. 2015,
    arXiv:1505.04597; the decoder is that of segmentation_models_pytorch).

    Each block of the decoder sees what the encoder had at its resolution, if it had anything. Images of any size are
    filled up with zeros to a multiple of the encoder's stride, and the logits are cut to the image.

    Attributes:
      encoder: a network without `fc`.
      num_classes: channels of the logits.
    """

    root = "encoder"
    gives = "out"
    encoder: ResNet
    num_classes: int = 21

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ModelError(f"num_classes = {self.num_classes} must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "N H W C"],
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
        positions: Int[Array, " N"] | None = None,
    ) -> Logits | dict[str, Array]:
        """(N, H, W, C) normalised images -> `out`: logits (N, H, W, K), float32. The arguments are `Segmenter`'s."""
        stride = draw(self.encoder).stride
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0)))
        options: dict[str, Any] = {
            "train": train,
            "use_batch_stats": use_batch_stats,
            "update_stats": update_stats,
            "positions": positions,
        }
        maps = self.encoder(padded, features=True, **options)
        tools = head_tools(self.encoder, **options)
        *_, last = stages_of(self.encoder)
        channels = [max(1, round(width * self.encoder.width_multiplier)) for width in CHANNELS]
        skips = {at: maps[name] for at, name in skips_of(strides_of(self.encoder), stride)}
        x = Decoder(tools, channels, name="decoder")(maps.get("activated", maps[last]), skips, stride)
        conv = tools.conv(self.num_classes, 3, use_bias=True, kernel_init=xavier_uniform, name="segmentation_head_0")
        logits = conv(x)[:, :height, :width]
        out = {"out": logits.astype(jnp.promote_types(logits.dtype, jnp.float32))}
        return {**maps, **out} if features else out


class Decoder(nn.Module):
    """The blocks that double the resolution.

    Attributes:
      channels: of five blocks; if the encoder halves less often, there are only the last of them.
    """

    tools: Tools
    channels: Sequence[int]

    @nn.compact
    def __call__(self, x: Map, skips: Mapping[int, Map], stride: int) -> Map:
        doublings = int(math.log2(stride))
        for i, channels in enumerate(self.channels[len(self.channels) - doublings :]):
            stride //= 2
            x = DecoderBlock(channels, self.tools, name=f"blocks_{i}")(x, skips.get(stride))
        return x


class DecoderBlock(nn.Module):
    """Doubles the resolution, joins what the encoder had there, and convolves twice."""

    channels: int
    tools: Tools

    @nn.compact
    def __call__(self, x: Map, skip: Map | None) -> Map:
        x = nearest_doubled(x)
        x = x if skip is None else jnp.concatenate([x, skip.astype(x.dtype)], axis=-1)
        for n in (1, 2):
            x = self.tools.conv(self.channels, 3, kernel_init=he_uniform, name=f"conv{n}_0")(x)
            x = relu(self.tools.norm(name=f"conv{n}_1")(x))
        return x
