"""What stands on the grid of a box in Mask R-CNN: torchvision's head for masks."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.models.detect.heads import at_least_float32, numbers_of
from resnet_jax.models.forms import pointwise
from resnet_jax.models.layers import Dtype, he_normal_fan_out, linear_bias_init, relu
from resnet_jax.models.segment.heads import Tools


class MaskHead(nn.Module):
    """3x3 convolutions on the grid of a box (He et al. 2017, arXiv:1703.06870, Figure 4).

    Attributes:
      normed: each has a norm behind it instead of a bias. Without norms, training looks at some boxes after the other.
    """

    width: int = 256
    convs: int = 4
    normed: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "R S S C"], tools: Tools) -> Float[Array, "R S S D"]:
        for i in range(self.convs):
            x = tools.conv(self.width, 3, use_bias=not self.normed, kernel_init=he_normal_fan_out, name=f"{i}_0")(x)
            x = relu(tools.norm(name=f"{i}_1")(x) if self.normed else x)
        return x


class MaskPredictor(nn.Module):
    """Twice the resolution, and for each box the logits of one mask, that of its class."""

    classes: int
    width: int = 256

    @nn.compact
    def __call__(self, x: Float[Array, "R S S C"], labels: Int[Array, " R"], tools: Tools) -> Float[Array, "R 2*S 2*S"]:
        x = relu(Doubling(self.width, name="conv5_mask", **numbers_of(tools))(x))
        return at_least_float32(ChosenOutput(self.classes, name="mask_fcn_logits", **numbers_of(tools))(x, labels))


class Doubling(nn.Module):
    """torch's `ConvTranspose2d(features, kernel_size=2, stride=2)`: each place becomes four, each by a product of its
    own. The kernel is (2, 2, outputs, inputs), since torch has them in this order here."""

    features: int
    precision: Any = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "R S T C"]) -> Float[Array, "R 2*S 2*T D"]:
        rows, height, width, inputs = x.shape
        kernel = self.param("kernel", he_normal_fan_out, (2, 2, self.features, inputs), self.param_dtype)
        bias = self.param("bias", linear_bias_init(4 * self.features), (self.features,), self.param_dtype)
        dtype = jnp.dtype(self.dtype or jnp.promote_types(x.dtype, self.param_dtype))
        flat = kernel.astype(dtype).transpose(3, 0, 1, 2).reshape(inputs, -1)
        y = pointwise(x.astype(dtype), flat, self.precision if dtype == jnp.float32 else None)
        y = y.reshape(rows, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(rows, 2 * height, 2 * width, self.features) + bias.astype(dtype).reshape(1, 1, 1, -1)


class ChosenOutput(nn.Module):
    """A 1x1 convolution with a bias, as it begins in torchvision. Each row has one of its outputs."""

    features: int
    precision: Any = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "R S T C"], chosen: Int[Array, " R"]) -> Float[Array, "R S T"]:
        inputs = x.shape[-1]
        kernel = self.param("kernel", he_normal_fan_out, (1, 1, inputs, self.features), self.param_dtype)
        bias = self.param("bias", linear_bias_init(inputs), (self.features,), self.param_dtype)
        dtype = jnp.dtype(self.dtype or jnp.promote_types(x.dtype, self.param_dtype))
        own, start = kernel.astype(dtype)[0, 0].T[chosen], bias.astype(dtype)[chosen]
        precision = self.precision if dtype == jnp.float32 else None
        return jnp.einsum("rstc,rc->rst", x.astype(dtype), own, precision=precision) + start[:, None, None]
