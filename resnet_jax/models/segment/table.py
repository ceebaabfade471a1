"""Names of networks for segmentation: a head, and any network of the family as its backbone."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models.blueprint import draw
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.segment.network import Segmenter
from resnet_jax.models.segment.unet import CHANNELS, UNet

NAMES = (
    *("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"),  # torchvision's
    *("fcn8s_resnet50", "fcn8s_resnet101"),  # with the paper's skips, which torchvision leaves out
    *("unet_resnet18", "unet_resnet34", "unet_resnet50", "unet_resnet101", "unet_resnet152"),
)
"""The names that are listed. `HEAD_NETWORK` is a network for every head and every network of the family."""
DILATED = {"output_stride": 8}


def _with_scores(finest: int) -> Callable[..., nn.Module]:
    def build(name: str, fields: Mapping[str, Any], *, aux_loss: bool = False, **own: Any) -> Segmenter:
        return Segmenter(ResNet(**{**fields, "num_classes": 0}), "fcn", aux_loss=aux_loss, finest=finest, **own)

    return build


def _dilated(head: str) -> Callable[..., nn.Module]:
    def build(name: str, fields: Mapping[str, Any], **own: Any) -> Segmenter:
        return Segmenter(ResNet(**{**DILATED, **fields, "num_classes": 0}), head, **own)

    return build


def _unet(name: str, fields: Mapping[str, Any], *, num_classes: int = 21) -> UNet:
    encoder = ResNet(**{**fields, "num_classes": 0})
    stride = draw(encoder).stride
    if not 2 <= stride <= 2 ** len(CHANNELS):
        raise ModelError(
            f"{name}: the encoder makes images {stride} times smaller, and the decoder has 1 to {len(CHANNELS)} blocks "
            f"that double them; choose a network with a stride of 2 to {2 ** len(CHANNELS)}"
        )
    return UNet(encoder, num_classes)


_OPTIONS = ("num_classes", "aux_loss", "dropout")
HEADS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "fcn": (_dilated("fcn"), _OPTIONS),
    "fcn8s": (_with_scores(8), _OPTIONS),
    "fcn4s": (_with_scores(4), _OPTIONS),
    "fcn2s": (_with_scores(2), _OPTIONS),
    "deeplabv3": (_dilated("deeplabv3"), _OPTIONS),
    "unet": (_unet, ("num_classes",)),
}
"""For the first word of a name: the function that builds the network, and the options that are not the backbone's."""


def head_of(name: str, backbones: Mapping[str, Any]) -> tuple[str, str] | None:
    """`("fcn", "resnet50")` of `fcn_resnet50`; None if it is no name of a network for segmentation.

    Raises:
      ModelError: the head is known, and the backbone is not.
    """
    head, _, backbone = name.partition("_")
    if head not in HEADS:
        return None
    if backbone not in backbones:
        raise ModelError(unknown_name(f"backbone of {head}", backbone, backbones))
    return head, backbone
