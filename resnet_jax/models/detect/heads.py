"""What stands on the maps of a pyramid, or on the grid of a box: torchvision's heads.

They are called with `Tools`, since a module that is used by several methods cannot have the options of a call as
fields.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.models.forms import pointwise
from resnet_jax.models.layers import (
    Dtype,
    he_normal_fan_out,
    linear_bias_init,
    linear_kernel_init,
    relu,
)
from resnet_jax.models.norms import NORMS
from resnet_jax.models.pyramid import uniform_fan_in
from resnet_jax.models.segment.heads import Tools

Map = Float[Array, "N H W C"]
small = nn.initializers.normal(0.01)
RARE = -math.log(99)
"""The bias of a class at the start: each object has a probability of 1 % (Lin et al. 2017, arXiv:1708.02002, 4.1)."""


def at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def group_norm(tools: Tools, width: int, name: str) -> nn.Module:
    """GroupNorm with 32 groups, or as many as divide the width."""
    numbers = {field: number for field, number in numbers_of(tools).items() if field != "precision"}
    return partial(NORMS["group"], num_groups=math.gcd(32, width), **numbers)(name=name)


class RpnHead(nn.Module):
    """For each anchor, whether an object is there, and how its box lies to the anchor (Ren et al. 2015,
    arXiv:1506.01497, section 3.1).

    Attributes:
      anchors: at each place.
      convs: 3x3 convolutions before; torchvision's `_v2` networks have 2.
    """

    anchors: int
    convs: int = 1

    @nn.compact
    def __call__(self, x: Map, tools: Tools) -> tuple[Map, Map]:
        conv = partial(tools.conv, use_bias=True, kernel_init=small)
        width = x.shape[-1]
        for i in range(self.convs):
            x = relu(conv(width, 3, name=f"conv_{i}_0")(x))
        both = together(tools, x, cls_logits=self.anchors, bbox_pred=self.anchors * 4)
        scores, deltas = (at_least_float32(each) for each in both)
        return scores, deltas


def together(tools: Tools, x: Map, **outputs: int) -> list[Map]:
    """1x1 convolutions of the same maps, computed as one: what each gives.

    So the gradient of `x`, and the copy of `x` that XLA for CPUs makes for the gradients of the kernels, exist once,
    and not for each.

    Args:
      outputs: the channels of each convolution, by its name.
    """
    numbers = numbers_of(tools)
    dtype = jnp.dtype(numbers["dtype"] or jnp.promote_types(x.dtype, numbers["param_dtype"]))
    filters = [Filters(channels, numbers["param_dtype"], name=name)(x.shape[-1]) for name, channels in outputs.items()]
    kernel, bias = (jnp.concatenate(parts, -1).astype(dtype) for parts in zip(*filters, strict=True))
    precision = numbers["precision"] if dtype == jnp.float32 else None
    y = pointwise(x.astype(dtype), kernel[0, 0], precision) + bias.reshape(1, 1, 1, -1)
    return jnp.split(y, np.cumsum([*outputs.values()])[:-1], axis=-1)


class Filters(nn.Module):
    """The kernel and the bias of a 1x1 convolution, as `together` needs them."""

    features: int
    param_dtype: Dtype

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Float[Array, "1 1 C D"], Float[Array, " D"]]:
        kernel = self.param("kernel", small, (1, 1, inputs, self.features), self.param_dtype)
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)


class Tower(nn.Module):
    """3x3 convolutions of equal width, and layers on top of them, which see the same.

    Attributes:
      outputs: name and channels of each layer on top; a name and the bias at its start.
      norm: `"none"`, `"group"` = GroupNorm in the place of each bias, `"group_biased"` = beside the biases (FCOS).
    """

    outputs: tuple[tuple[str, int, float], ...]
    convs: int = 4
    norm: str = "none"

    @nn.compact
    def __call__(self, x: Map, tools: Tools) -> tuple[Map, ...]:
        width = x.shape[-1]
        for i in range(self.convs):
            # FCOS counts convolution, norm and ReLU one by one; the others count units of them.
            names = (
                (f"conv_{3 * i}", f"conv_{3 * i + 1}")
                if self.norm == "group_biased"
                else (f"conv_{i}_0", f"conv_{i}_1")
            )
            x = tools.conv(width, 3, use_bias=self.norm != "group", kernel_init=small, name=names[0])(x)
            x = relu(x if self.norm == "none" else group_norm(tools, width, names[1])(x))
        layer = partial(tools.conv, use_bias=True, kernel_init=small)
        return tuple(
            at_least_float32(layer(channels, 3, bias_init=nn.initializers.constant(start), name=name)(x))
            for name, channels, start in self.outputs
        )


class OneStageHead(nn.Module):
    """A tower for classes and one for boxes, both shared by all levels.

    Attributes:
      anchors, classes: at each place; scores are for each pair of them.
      centred: the tower for boxes also says how near its place is to the middle of the object (FCOS).
    """

    anchors: int
    classes: int
    convs: int = 4
    norm: str = "none"
    centred: bool = False

    def setup(self) -> None:
        boxes = (("bbox_reg", self.anchors * 4, 0.0), *((("bbox_ctrness", self.anchors, 0.0),) if self.centred else ()))
        classes = (("cls_logits", self.anchors * self.classes, RARE),)
        self.classification_head = Tower(classes, self.convs, self.norm)
        self.regression_head = Tower(boxes, self.convs, self.norm)

    def __call__(self, x: Map, tools: Tools) -> tuple[Map, ...]:
        """Scores, deltas, and with `centred` what says so."""
        return *self.classification_head(x, tools), *self.regression_head(x, tools)


class DilatedEncoder(nn.Module):
    """One map that knows objects of all sizes: YOLOF's in the place of a pyramid (Chen et al. 2021, arXiv:2103.09460,
    section 4.1), as in mmdetection's `DilatedEncoder`.

    Attributes:
      dilations: of the 3x3 convolution of each block.
    """

    width: int = 512
    dilations: tuple[int, ...] = (2, 4, 6, 8)

    @nn.compact
    def __call__(self, maps: Sequence[Map], tools: Tools) -> tuple[Map, ...]:
        (x,) = maps
        for name, kernel_size in (("lateral", 1), ("fpn", 3)):
            options: dict[str, Any] = {"use_bias": True, "kernel_init": uniform_fan_in, "name": f"{name}_conv"}
            x = tools.norm(name=f"{name}_norm")(tools.conv(self.width, kernel_size, **options)(x))
        for i, dilation in enumerate(self.dilations):
            y = x
            for n, (width, kernel_size) in enumerate(((self.width // 4, 1), (self.width // 4, 3), (self.width, 1))):
                fields = {"dilation": dilation if kernel_size == 3 else 1, "kernel_init": small}
                y = tools.conv(width, kernel_size, **fields, name=f"blocks_{i}_{2 * n}")(y)
                y = relu(tools.norm(name=f"blocks_{i}_{2 * n + 1}")(y))
            x = x + y
        return (x,)


class YolofHead(nn.Module):
    """YOLOF's two towers, the one for boxes with a logit of whether there is any object at all (Chen et al. 2021,
    arXiv:2103.09460, section 4.3), which takes part in the score of every class."""

    anchors: int
    classes: int
    class_convs: int = 2
    box_convs: int = 4

    @nn.compact
    def __call__(self, x: Map, tools: Tools) -> tuple[Map, Map]:
        layer = partial(tools.conv, kernel_size=3, use_bias=True, kernel_init=small)

        def tower(y: Map, convs: int, name: str) -> Map:
            for i in range(convs):
                y = tools.conv(y.shape[-1], 3, kernel_init=small, name=f"{name}_{i}_0")(y)
                y = relu(tools.norm(name=f"{name}_{i}_1")(y))
            return y

        of_classes, of_boxes = tower(x, self.class_convs, "cls_subnet"), tower(x, self.box_convs, "bbox_subnet")
        rare = nn.initializers.constant(RARE)
        classes = layer(self.anchors * self.classes, bias_init=rare, name="cls_score")(of_classes)
        deltas = layer(self.anchors * 4, name="bbox_pred")(of_boxes)
        there = at_least_float32(layer(self.anchors, name="object_pred")(of_boxes))[..., None]
        each = at_least_float32(classes).reshape(*there.shape[:-1], self.classes)
        both = each + there - jnp.logaddexp(jnp.logaddexp(each, there), 0)
        return both.reshape(classes.shape), at_least_float32(deltas)


class BoxHead(nn.Module):
    """From the grid of a box to features of it: torchvision's `TwoMLPHead`, or with `convs` its `FastRCNNConvFCHead`.

    Attributes:
      width: of the linear layers; of two, or of one behind convolutions.
      convs: 3x3 convolutions with a norm before it.
    """

    width: int = 1024
    convs: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "R S S C"], tools: Tools) -> Float[Array, "R D"]:
        for i in range(self.convs):
            x = tools.conv(x.shape[-1], 3, kernel_init=he_normal_fan_out, name=f"{i}_0")(x)
            x = relu(tools.norm(name=f"{i}_1")(x))
        # Channels first, as the weights of a flattened (R, C, S, S) in PyTorch are.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for name in (f"{self.convs + 1}",) if self.convs else ("fc6", "fc7"):
            x = relu(linear(tools, x, self.width, name))
        return x


class BoxPredictor(nn.Module):
    """Logits of each class, the background among them, and a box for each class."""

    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "R D"], tools: Tools) -> tuple[Float[Array, "R K"], Float[Array, "R K 4"]]:
        boxes = at_least_float32(linear(tools, x, self.classes * 4, "bbox_pred"))
        return at_least_float32(linear(tools, x, self.classes, "cls_score")), boxes.reshape(-1, self.classes, 4)


def linear(tools: Tools, x: Float[Array, "R D"], features: int, name: str) -> Float[Array, "R E"]:
    """torch's `Linear`, as it begins there."""
    bias = linear_bias_init(x.shape[-1])
    return nn.Dense(features, kernel_init=linear_kernel_init, bias_init=bias, name=name, **numbers_of(tools))(x)


def numbers_of(tools: Tools) -> dict[str, Any]:
    """With which numbers the network's convolutions compute, for modules that are none of `tools`."""
    options = cast("partial[Any]", tools.conv).keywords
    return {field: options[field] for field in ("precision", "dtype", "param_dtype")}
