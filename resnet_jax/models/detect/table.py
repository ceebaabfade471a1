"""Names of networks that find objects: torchvision's, and the same with any network of the family as backbone."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models.detect.network import Detector
from resnet_jax.models.detect.one_stage import Fcos, RetinaNet, Yolof
from resnet_jax.models.detect.two_stage import TwoStage
from resnet_jax.models.resnet import ResNet

_V2 = {"pyramid_normed": True, "rpn_convs": 2, "box_convs": 4}
KINDS: dict[tuple[str, str], tuple[type[Detector], dict[str, Any]]] = {
    ("fasterrcnn", "fpn"): (TwoStage, {}),
    ("fasterrcnn", "fpn_v2"): (TwoStage, _V2),
    ("maskrcnn", "fpn"): (TwoStage, {"mask": True}),
    ("maskrcnn", "fpn_v2"): (TwoStage, _V2 | {"mask": True, "mask_normed": True}),
    ("retinanet", "fpn"): (RetinaNet, {}),
    ("retinanet", "fpn_v2"): (RetinaNet, {"extra": "c5", "head_norm": "group", "box_loss": "giou"}),
    ("fcos", "fpn"): (Fcos, {}),
    ("yolof", "c5"): (Yolof, {}),
}
"""For the beginning and the end of a name: the class of the network, and its fields."""
NAMES = tuple(f"{begin}_resnet50_{end}" for begin, end in KINDS)
"""The names that are listed: torchvision's, and YOLOF."""


def parts_of(name: str, backbones: Mapping[str, Any]) -> tuple[tuple[str, str], str] | None:
    """`(("retinanet", "fpn"), "resnet50")` of `retinanet_resnet50_fpn`; None if it is no name of a detector.

    Raises:
      ModelError: the detector is known, and the backbone or the end of the name is not.
    """
    begin, _, rest = name.partition("_")
    ends = [end for first, end in KINDS if first == begin]
    if not ends:
        return None
    match = re.fullmatch(rf"(.+)_({'|'.join(ends)})", rest)
    if not match:
        whole = [f"{begin}_{rest}_{end}" for end in ends] if rest in backbones else []
        raise ModelError(unknown_name("model", name, whole or NAMES))
    if match[1] not in backbones:
        raise ModelError(unknown_name(f"backbone of {begin}", match[1], backbones))
    return (begin, match[2]), match[1]


def own_options(kind: tuple[str, str]) -> frozenset[str]:
    """The options of a network of this kind that are not its backbone's."""
    return frozenset(KINDS[kind][0].__dataclass_fields__.keys() - {"parent", "name", "backbone"})


def build(kind: tuple[str, str], fields: Mapping[str, Any], own: Mapping[str, Any]) -> Detector:
    """The network, with fields of its backbone and of its own."""
    make: Callable[..., Detector]
    make, usual = KINDS[kind]
    return make(ResNet(**{**fields, "num_classes": 0}), **{**usual, **own})
