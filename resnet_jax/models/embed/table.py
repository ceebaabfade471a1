"""Names of networks that give embeddings: insightface's, and a head for any network of the family."""

from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models.embed.network import Embedder
from resnet_jax.models.resnet import ResNet

IR: dict[str, Any] = {"block": "ir", "stem": "face", "act": "prelu"}
# insightface's `recognition/arcface_torch/backbones/iresnet.py`; `iresnet152` is that of its older model zoo (MXNet),
# and has no published twin in PyTorch to compare with.
IRESNETS: dict[str, dict[str, Any]] = {
    "iresnet18": IR | {"stage_sizes": (2, 2, 2, 2)},
    "iresnet34": IR | {"stage_sizes": (3, 4, 6, 3)},
    "iresnet50": IR | {"stage_sizes": (3, 4, 14, 3)},
    "iresnet100": IR | {"stage_sizes": (3, 13, 30, 3)},
    "iresnet152": IR | {"stage_sizes": (3, 8, 36, 3)},
    "iresnet200": IR | {"stage_sizes": (6, 26, 60, 6)},
}
PREFIX = "embed_"
NAMES = (*IRESNETS, *(f"{PREFIX}{name}" for name in ("resnet18", "resnet50", "resnet101", "resnet152")))
"""The names that are listed. `embed_NETWORK` is a network for every network of the family."""
OPTIONS = ("embedding_size", "sides", "dropout")
"""The options that are not the trunk's."""


def is_embedder(name: str) -> bool:
    """Whether `name` is, or begins as, that of a network for embeddings."""
    return name in IRESNETS or name.startswith(PREFIX)


def trunk_of(name: str, backbones: Mapping[str, Any]) -> str:
    """`resnet50` of `embed_resnet50`.

    Raises:
      ModelError: it is no network of the family.
    """
    trunk = name.removeprefix(PREFIX)
    if trunk not in backbones:
        raise ModelError(unknown_name("backbone of embed", trunk, backbones))
    return trunk


def build(name: str, backbones: Mapping[str, Any], options: Mapping[str, Any]) -> Embedder:
    """The network of this name, with options of the trunk or of the head."""
    fields = IRESNETS[name] if name in IRESNETS else backbones[trunk_of(name, backbones)]
    own = {option: value for option, value in options.items() if option in OPTIONS}
    trunk = fields | {option: value for option, value in options.items() if option not in OPTIONS}
    return Embedder(ResNet(**trunk | {"num_classes": 0}), head="flat" if name in IRESNETS else "pooled", **own)
