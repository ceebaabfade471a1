"""Networks in space and time: what a convolution of a 2-D network becomes on clips (N, T, H, W, C).

Blocks, shortcuts, stems and norms are those of images. A network with `ResNet.time` only gives them another `conv`.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flax import linen as nn
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

TIMES = ("3d", "mixed", "2+1d")
PADDINGS = ("zeros", "border")

# The last layer of torchvision's networks for video begins so, with a bias of zeros.
head_init = nn.initializers.normal(0.01)


def in_time(
    net: "ResNet", conv: Callable[..., Any], norm: Callable[..., Any], act: Callable[[Array], Array]
) -> Callable[..., Callable[..., Any]]:
    """From a stage to the `conv` of its blocks, for a network's `time`.

    The result takes the number of the stage (0 = the stem), and for a block the channels of its input and of its
    stage.
    """
    if net.time is None:
        return lambda stage, inputs=0, width=0: conv

    def of_stage(stage: int, inputs: int = 0, width: int = 0) -> Callable[..., Any]:
        flat = net.time == "mixed" and stage > 1

        def layer(features: int, kernel_size: Any, stride: Any = 1, **fields: Any) -> Any:
            if isinstance(stride, int) and (flat or stage == 0):
                stride = (1, stride, stride)
            if isinstance(kernel_size, int) and flat:
                kernel_size = (1, kernel_size, kernel_size)
            if net.time == "2+1d" and isinstance(kernel_size, int) and kernel_size > 1:
                inner = middle_channels(inputs, width) if stage else features
                fields.pop("groups", None)  # 1, see `misfits`
                return Factored(features, kernel_size, stride, inner, conv, norm, act, **fields)
            return conv(features, kernel_size, stride, **fields)

        return layer

    return of_stage


class Factored(nn.Module):
    """A convolution in space, a norm, an activation, and a convolution in time (Tran et al. 2018, arXiv:1711.11248).

    Attributes:
      kernel_size: of both.
      stride: one number for both, or one for each axis.
      inner: channels between the two.
      conv, norm, act: as of `blocks.Parts`, for clips.
      kernel_init: of the convolution in time; None = that of `conv`.
    """

    features: int
    kernel_size: int
    stride: int | tuple[int, int, int]
    inner: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    act: Callable[[Array], Array]
    dilation: int = 1
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "N T H W C"]) -> Float[Array, "N T2 H2 W2 D"]:
        size, dilation = self.kernel_size, self.dilation
        along, down, across = (self.stride,) * 3 if isinstance(self.stride, int) else self.stride
        init = {} if self.kernel_init is None else {"kernel_init": self.kernel_init}
        spatial = self.conv(self.inner, (1, size, size), (1, down, across), dilation=dilation, name="spatial")
        x = self.act(self.norm(name="norm")(spatial(x)))
        return self.conv(self.features, (size, 1, 1), (along, 1, 1), dilation=dilation, name="temporal", **init)(x)


def middle_channels(inputs: int, outputs: int) -> int:
    """The channels inside a factored 3x3x3 convolution, with which it has as many parameters as the whole one.

    torchvision computes them once for each block, from the input of the block, and uses them for all its convolutions
    (`torchvision/models/video/resnet.py`).
    """
    return (inputs * outputs * 27) // (inputs * 9 + 3 * outputs)


def misfits(net: "ResNet", *, of_images: bool, of_clips: bool, shrinks_everywhere: bool) -> Iterator[str]:
    """What does not go with `time`.

    Args:
      of_images, of_clips: whether the stem is for these alone.
      shrinks_everywhere: whether the shortcut takes every second number along all axes.
    """
    if net.time not in (None, *TIMES):
        yield f"time = {net.time!r} must be one of {', '.join(map(repr, TIMES))}, or None for images"
    if net.time_padding not in PADDINGS:
        yield f"time_padding = {net.time_padding!r} must be 'zeros' or 'border'"
    if net.time is None:
        if of_clips:
            yield f"stem = {net.stem!r} sees clips, and time = None is for images; set time='3d', or stem='imagenet'"
        if net.time_padding != "zeros":
            yield f"time_padding = {net.time_padding!r} is for clips, and time = None is for images; set time='3d'"
        return
    if of_images:
        yield f"stem = {net.stem!r} folds the pixels of images, and time is for clips; choose stem='imagenet'"
    if net.antialias == "before":
        yield "antialias = 'before' is FFCV's, for images, and time is for clips; choose antialias=True"
    if net.time == "mixed" and (net.antialias or shrinks_everywhere):
        yield (
            f"time = 'mixed' keeps all frames, and antialias = {net.antialias} or shortcut = {net.shortcut!r} would "
            "leave out every second one; pass antialias=False and shortcut='projection', or time='3d'"
        )
    if net.time == "2+1d" and (net.groups > 1 or net.widths):
        yield (
            f"time = '2+1d' cuts convolutions in two, and groups = {net.groups} or widths = {net.widths} do not say "
            "what lies between; leave them out, or choose time='3d'"
        )
