"""ResNet (He et al. 2015, arXiv:1512.03385) as one functional Flax Linen module.

The topology is torchvision's "v1.5": in a bottleneck the 3x3 convolution carries the stride. Submodules carry
torchvision's names, with `layer1.0` written `layer1_0`, so that a weight converter is a rename and a transpose.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.models.layers import BatchNorm, Conv, Dtype, linear_bias_init, linear_kernel_init, max_pool

ModuleDef = Callable[..., Any]

# Table 1 of the paper. Each row gives the arguments of `ResNet`.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {"block": "basic", "stage_sizes": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "stage_sizes": (3, 4, 6, 3)},
    "resnet50": {"block": "bottleneck", "stage_sizes": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "stage_sizes": (3, 4, 23, 3)},
    "resnet152": {"block": "bottleneck", "stage_sizes": (3, 8, 36, 3)},
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (Figure 5, left)."""

    width: int
    stride: int
    conv: ModuleDef
    norm: ModuleDef
    last_scale_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 D"]:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.norm(scale_init=self.last_scale_init, name="bn2")(y)
        return nn.relu(y + shortcut(x, y, self.stride, self.conv, self.norm))


class Bottleneck(nn.Module):
    """1x1 to `width` channels, 3x3, 1x1 to four times as many (Figure 5, right)."""

    width: int
    stride: int
    conv: ModuleDef
    norm: ModuleDef
    last_scale_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 D"]:
        y = self.conv(self.width, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)
        y = self.norm(scale_init=self.last_scale_init, name="bn3")(y)
        return nn.relu(y + shortcut(x, y, self.stride, self.conv, self.norm))


def shortcut(x: Array, y: Array, stride: int, conv: ModuleDef, norm: ModuleDef) -> Array:
    """The identity where the shapes agree, else a 1x1 projection (option B). To be called inside a compact method."""
    if stride == 1 and x.shape[-1] == y.shape[-1]:
        return x
    x = conv(y.shape[-1], 1, stride, name="downsample_conv")(x)
    return norm(name="downsample_bn")(x)


BLOCKS: dict[str, type[nn.Module]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A residual network: stem, stages of blocks at half the resolution and twice the width each, average pool, `fc`.

    Attributes:
      block: `"basic"` or `"bottleneck"`.
      stage_sizes: blocks per stage.
      num_classes: columns of the logits.
      width: channels of the first stage (before a bottleneck's factor of 4).
      stem: `"imagenet"` = 7x7 stride 2 and a 3x3 max-pool stride 2; `"cifar"` = 3x3 stride 1 (section 4.2).
      zero_init_residual: start the last BatchNorm scale of each block at 0, so that a block starts as the identity
        (Goyal et al. 2017, arXiv:1706.02677, section 5.1; torchvision reports 0.2-0.3 points of accuracy).
      bn_group_size: images that share BatchNorm statistics in training, 0 = the whole batch.
      dtype: of activations and convolutions; None = that of images and parameters. Logits are at least float32.
      param_dtype: of parameters and statistics.
    """

    block: Literal["basic", "bottleneck"]
    stage_sizes: tuple[int, ...]
    num_classes: int = 1000
    width: int = 64
    stem: Literal["imagenet", "cifar"] = "imagenet"
    zero_init_residual: bool = False
    bn_group_size: int = 0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "N H W C"],
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
    ) -> Float[Array, "N K"] | dict[str, Array]:
        """(N, H, W, C) normalised images -> (N, num_classes) logits.

        Args:
          train: normalise with batch statistics and update the running ones (`apply` then needs
            `mutable=["batch_stats"]`).
          features: return a dict instead: `stem` (before any max-pool), `stage1`, ... (N, H', W', C'), `pooled` (N, C')
            and `logits`. Under `jit` what is not used is not computed.
          use_batch_stats: overrides `train` for what BatchNorm normalises with; False = frozen.
          update_stats: overrides `train` for whether BatchNorm's running statistics move.

        Raises:
          ValueError: images that are not four-dimensional or not floating point.
        """
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}; they must be floating point (N, H, W, C): "
                "scale pixels to [0, 1] and subtract the mean first"
            )
        conv = partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(
            BatchNorm,
            use_batch_stats=train if use_batch_stats is None else use_batch_stats,
            update_stats=train if update_stats is None else update_stats,
            group_size=self.bn_group_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        last_scale_init = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        out: dict[str, Array] = {}

        imagenet = self.stem == "imagenet"
        x = conv(self.width, *((7, 2) if imagenet else (3, 1)), name="conv1")(images)
        x = out["stem"] = nn.relu(norm(name="bn1")(x))
        if imagenet:
            x = max_pool(x)

        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                x = BLOCKS[self.block](
                    width=self.width * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    conv=conv,
                    norm=norm,
                    last_scale_init=last_scale_init,
                    name=f"layer{i + 1}_{j}",
                )(x)
            out[f"stage{i + 1}"] = x

        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = out["pooled"] = jnp.mean(x, axis=(1, 2))
        out["logits"] = nn.Dense(
            self.num_classes,
            kernel_init=linear_kernel_init,
            bias_init=linear_bias_init(x.shape[-1]),
            param_dtype=self.param_dtype,
            name="fc",
        )(x)
        return out if features else out["logits"]
