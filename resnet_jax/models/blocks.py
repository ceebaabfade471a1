"""Residual blocks: the figures of the papers, each as one short module.

A block's fields are what differs from block to block; `Parts` is what is the same throughout a network. To write your
own, subclass `Block` and pass the class: `create_model("resnet50", block=MyBlock)` (docs/functional.md has one).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.models.deferred import norm_of
from resnet_jax.models.layers import SqueezeExcite, he_normal_fan_out, stochastic_depth, trained
from resnet_jax.models.pooling import blur_pool

ModuleDef = Callable[..., Any]
Activation = Callable[[Array], Array]


LEAST_BLURRED = 16
"""Channels from which on FFCV blurs the input of a strided convolution, so not that of the stem."""


@dataclass(frozen=True)
class Parts:
    """What stems, blocks and shortcuts are made of, bound once at the top of `ResNet.__call__`.

    Attributes:
      conv: `conv(features, kernel_size, stride=1, name=...)`, with the further fields of `layers.Conv`.
      norm: `norm(name=...)`, optionally with `scale_init`: the norm of what a convolution puts out.
      norm_of_sum: likewise, of a sum, as pre-activation blocks have it. Only a folded network makes a difference:
        there a convolution does what the norm after it did, and `norm` gives the identity.
      act: the activation.
      shortcut: one of `shortcuts.SHORTCUTS`.
      groups, base_width: of the 3x3 convolution in a bottleneck (see `Block.inner`).
      se_ratio: of the squeeze-and-excitation that ends a branch, 0 = none.
      antialias: True: blur after a strided convolution that does not stride. `"before"`: blur before a strided one.
      zero_init: start each branch at zero, so that a block starts as its shortcut.
      train: whether stochastic depth drops branches.
      positions: places of the images in the global batch, for `layers.stochastic_depth`.
    """

    conv: ModuleDef
    norm: ModuleDef
    norm_of_sum: ModuleDef
    act: Activation
    shortcut: Callable[..., Array | None]
    groups: int
    base_width: int
    se_ratio: int
    antialias: bool | str
    zero_init: bool
    train: bool
    positions: Int[Array, " N"] | None = None


class Block(nn.Module):
    """Base of all blocks: their fields and the steps that they share. Subclasses add a compact `__call__`.

    Attributes:
      width: channels of the stage; the block puts out `width * expansion`.
      stride: of the whole block.
      dilations: of the first 3x3 convolution and of those that follow; they differ where a stage starts to dilate.
      drop_rate: probability that stochastic depth drops this branch.
      widths: channels that each convolution of the branch puts out: those of `usual_widths`, unless the network is told
        others.
    """

    width: int
    stride: int
    dilations: tuple[int, int]
    drop_rate: float
    widths: tuple[int, ...]
    parts: Parts

    expansion: ClassVar[int] = 1
    # Whether `groups` and `base_width` mean something to this block.
    widens: ClassVar[bool] = False
    # Convolutions see normalised, activated input, and the network normalises once more after its last block.
    preactivation: ClassVar[bool] = False
    # It applies its activation once, so the activation may have parameters, which are those of a module `prelu`.
    activates_once: ClassVar[bool] = False
    # How convolutions begin, where the network does not say.
    kernel_init: ClassVar[nn.initializers.Initializer] = staticmethod(he_normal_fan_out)
    # The names of the shortcuts that this block can be built with; None = all.
    shortcuts: ClassVar[tuple[str, ...] | None] = None

    @classmethod
    def usual_widths(cls, width: int, groups: int, base_width: int) -> tuple[int, ...]:
        """The channels of each convolution of the branch, in a stage of `width` channels.

        A block of your own that takes them from `widths` says here how many there are.
        """
        return (width * cls.expansion,)

    @property
    def blurs(self) -> bool:
        """Anti-aliased where it subsamples, and where dilation stands in for that (as timm does)."""
        antialias = self.parts.antialias is True
        return antialias and (self.stride > 1 or self.dilations[0] != self.dilations[1])

    def strided_conv(self, features: int, kernel_size: int, **fields: Any) -> nn.Module:
        """The convolution that carries the block's stride, unless `blur` does."""
        return self.parts.conv(features, kernel_size, 1 if self.blurs else self.stride, **fields)

    def smooth(self, x: Array) -> Array:
        """To come before a convolution that strides: FFCV's `BlurPoolConv2d`, which leaves out narrow inputs."""
        smooths = self.parts.antialias == "before" and self.stride > 1 and x.shape[-1] >= LEAST_BLURRED
        return blur_pool(x, 1, border="constant") if smooths else x

    def blur(self, y: Array) -> Array:
        """To follow the activation after `strided_conv`."""
        return blur_pool(y, self.stride) if self.blurs else y

    def last_norm(self, name: str) -> nn.Module:
        """The norm that ends a branch (zero scale: Goyal et al. 2017, arXiv:1706.02677, section 5.1)."""
        ones_or_zeros = nn.initializers.zeros if self.parts.zero_init else nn.initializers.ones
        return self.parts.norm(scale_init=ones_or_zeros, name=name)

    def last_conv(self, features: int, kernel_size: int, **fields: Any) -> nn.Module:
        """The convolution that ends a branch which no norm ends."""
        zeros = {"kernel_init": nn.initializers.zeros} if self.parts.zero_init else {}
        return self.parts.conv(features, kernel_size, **zeros, **fields)

    def add(self, x: Array, y: Array) -> Array:
        """The branch `y`, gated and dropped as the network asks, plus the shortcut from `x`."""
        parts = self.parts
        if parts.se_ratio:
            y = SqueezeExcite(parts.se_ratio, parts.conv, name="se")(y)
        if parts.train and self.drop_rate:
            y = stochastic_depth(y, self.make_rng("dropout"), self.drop_rate, parts.positions)
        shortcut = parts.shortcut(self, x, y.shape[-1])
        return y if shortcut is None else self.sum_of(y, shortcut)

    def sum_of(self, y: Array, shortcut: Array) -> Array:
        """A method of its own, so that quantisation finds both."""
        return y + shortcut

    def output(self, y: Array) -> Array:
        """The activation that ends a block. In training what it puts out is read again and again."""
        return trained(self.parts.act)(y) if self.parts.train else self.parts.act(y)


def inner_width(width: int, groups: int, base_width: int) -> int:
    """torchvision's rule for ResNeXt (arXiv:1611.05431) and Wide ResNet (arXiv:1605.07146): of 64 channels, each of
    `groups` groups has `base_width`."""
    return int(width * base_width / 64) * groups


class TwoConvolutions(Block):
    """Blocks of two 3x3 convolutions."""

    @classmethod
    def usual_widths(cls, width: int, groups: int, base_width: int) -> tuple[int, ...]:
        return width, width


class ThreeConvolutions(Block):
    """Blocks of 1x1, 3x3 and 1x1 convolutions."""

    expansion = 4
    widens = True

    @classmethod
    def usual_widths(cls, width: int, groups: int, base_width: int) -> tuple[int, ...]:
        inner = inner_width(width, groups, base_width)
        return inner, inner, width * cls.expansion


class BasicBlock(TwoConvolutions):
    """Two 3x3 convolutions (He et al. 2015, Figure 5, left)."""

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 D"]:
        conv, norm, act = self.parts.conv, self.parts.norm, self.parts.act
        y = self.strided_conv(self.widths[0], 3, dilation=self.dilations[0], name="conv1")(self.smooth(x))
        y = self.blur(act(norm(name="bn1")(y)))
        y = conv(self.widths[1], 3, dilation=self.dilations[1], name="conv2")(y)
        y = self.last_norm(name="bn2")(y)
        return self.output(self.add(x, y))


class Bottleneck(ThreeConvolutions):
    """1x1, 3x3, 1x1 to four times `width` (He et al. 2015, Figure 5, right); "v1.5": the 3x3 carries the stride."""

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 D"]:
        conv, norm, act, groups = self.parts.conv, self.parts.norm, self.parts.act, self.parts.groups
        y = conv(self.widths[0], 1, name="conv1")(x)
        y = act(norm(name="bn1")(y))
        y = self.strided_conv(self.widths[1], 3, dilation=self.dilations[0], groups=groups, name="conv2")(
            self.smooth(y)
        )
        y = self.blur(act(norm(name="bn2")(y)))
        y = norm_of(conv(self.widths[2], 1, name="conv3"), self.last_norm(name="bn3"), y)
        return self.output(self.add(x, y))


class BottleneckV1(ThreeConvolutions):
    """The bottleneck as first published: the first 1x1 carries the stride and skips three pixels of four."""

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 D"]:
        conv, norm, act, groups = self.parts.conv, self.parts.norm, self.parts.act, self.parts.groups
        y = self.strided_conv(self.widths[0], 1, name="conv1")(self.smooth(x))
        y = self.blur(act(norm(name="bn1")(y)))
        y = conv(self.widths[1], 3, dilation=self.dilations[0], groups=groups, name="conv2")(y)
        y = act(norm(name="bn2")(y))
        y = norm_of(conv(self.widths[2], 1, name="conv3"), self.last_norm(name="bn3"), y)
        return self.output(self.add(x, y))


class PreactBasicBlock(TwoConvolutions):
    """Full pre-activation (He et al. 2016, arXiv:1603.05027, Figure 4e) of two 3x3 convolutions."""

    preactivation = True

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 D"]:
        norm, act = self.parts.norm, self.parts.act
        z = act(self.parts.norm_of_sum(name="bn1")(x))
        y = self.strided_conv(self.widths[0], 3, dilation=self.dilations[0], name="conv1")(self.smooth(z))
        y = self.blur(act(norm(name="bn2")(y)))
        y = self.last_conv(self.widths[1], 3, dilation=self.dilations[1], name="conv2")(y)
        return self.add(x if x.shape[1:] == y.shape[1:] else z, y)


class PreactBottleneck(ThreeConvolutions):
    """Full pre-activation of a bottleneck. Where shapes change, the shortcut starts after the first activation."""

    preactivation = True

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 D"]:
        conv, norm, act, groups = self.parts.conv, self.parts.norm, self.parts.act, self.parts.groups
        z = act(self.parts.norm_of_sum(name="bn1")(x))
        y = conv(self.widths[0], 1, name="conv1")(z)
        y = act(norm(name="bn2")(y))
        y = self.strided_conv(self.widths[1], 3, dilation=self.dilations[0], groups=groups, name="conv2")(
            self.smooth(y)
        )
        y = self.blur(act(norm(name="bn3")(y)))
        y = self.last_conv(self.widths[2], 1, name="conv3")(y)
        return self.add(x if x.shape[1:] == y.shape[1:] else z, y)


class IRBlock(TwoConvolutions):
    """BN, 3x3, BN, PReLU, 3x3, BN, and nothing after the sum: the improved residual unit of face networks (Deng et al.
    2018, arXiv:1801.07698, section 3.2; insightface's `IBasicBlock`). The shortcut starts before the first norm."""

    activates_once = True
    kernel_init = staticmethod(nn.initializers.normal(0.1))

    @nn.compact
    def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S2 D"]:
        conv, norm, (first, last) = self.parts.conv, self.parts.norm, self.widths
        y = self.parts.norm_of_sum(name="bn1")(x)
        y = conv(first, 3, dilation=self.dilations[0], name="conv1")(y)
        y = self.parts.act(norm(name="bn2")(y))
        y = self.strided_conv(last, 3, dilation=self.dilations[1], name="conv2")(self.smooth(y))
        return self.add(x, self.blur(self.last_norm(name="bn3")(y)))


BLOCKS: dict[str, type[Block]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "bottleneck_v1": BottleneckV1,
    "preact_basic": PreactBasicBlock,
    "preact_bottleneck": PreactBottleneck,
    "ir": IRBlock,
}
