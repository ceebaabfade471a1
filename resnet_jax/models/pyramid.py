"""A feature pyramid (Lin et al. 2017, arXiv:1612.03144): the maps of a backbone, each with what coarser ones know.

As `torchvision.ops.FeaturePyramidNetwork`.
"""

from collections.abc import Sequence
from typing import Any, Literal

from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.models.layers import relu
from resnet_jax.models.segment.heads import Tools
from resnet_jax.models.segment.resize import nearest

Map = Float[Array, "N H W C"]
Extra = Literal["pool", "p5", "c5"]
uniform_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
"""torch's `kaiming_uniform_(a=1)`."""


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, the way down from coarse to fine, and a 3x3 convolution at each level.

    Attributes:
      width: channels of every map.
      normed: each convolution has a norm behind it instead of a bias.
      extra: where coarser maps than the backbone's come from: `"pool"` = every second pixel of the map before;
        `"p5"`, `"c5"` = 3x3 convolutions of stride 2, the first of the coarsest map of the pyramid, or of the backbone
        (Lin et al. 2017, arXiv:1708.02002, footnote 2).
      extra_levels: how many of them.
    """

    width: int = 256
    normed: bool = False
    extra: Extra = "pool"
    extra_levels: int = 1

    @nn.compact
    def __call__(self, maps: Sequence[Map], tools: Tools) -> tuple[Map, ...]:
        """Maps of the backbone, the finest first -> maps of the pyramid, the finest first."""
        coarser: Map | None = None
        found: list[Map] = []
        for i in reversed(range(len(maps))):
            inner = self._unit(tools, maps[i], 1, f"inner_blocks_{i}")
            if coarser is not None:
                inner = inner + nearest(coarser, *inner.shape[1:3])
            coarser = inner
            found.insert(0, self._unit(tools, inner, 3, f"layer_blocks_{i}"))
        x = maps[-1] if self.extra == "c5" else found[-1]
        for i in range(self.extra_levels):
            if self.extra == "pool":
                x = x[:, ::2, ::2]
            else:
                x = relu(x) if i else x
                options: dict[str, Any] = {
                    "use_bias": True,
                    "kernel_init": uniform_fan_in,
                    "name": f"extra_blocks_p{6 + i}",
                }
                x = tools.conv(self.width, 3, stride=2, **options)(x)
            found.append(x)
        return tuple(found)

    def _unit(self, tools: Tools, x: Map, kernel_size: int, name: str) -> Map:
        options: dict[str, Any] = {"use_bias": not self.normed, "kernel_init": uniform_fan_in, "name": f"{name}_0"}
        y = tools.conv(self.width, kernel_size, **options)(x)
        return tools.norm(name=f"{name}_1")(y) if self.normed else y
