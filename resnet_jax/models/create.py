"""From a name to a network, and from a network to its variables."""

from collections.abc import Set
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, PyTree

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models import cifar, imagenet, video
from resnet_jax.models.detect import table as detect
from resnet_jax.models.embed import table as embed
from resnet_jax.models.frames.network import FrameNetwork
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.segment import table as segment

VARIANTS: dict[str, dict[str, Any]] = {**imagenet.VARIANTS, **cifar.VARIANTS, **video.VARIANTS}


# Options of torchvision's and timm's create_model, and the option or function with the same effect here.
CALLED_HERE = {
    "pretrained": "resnet_jax.load_pretrained(name), which gives the network and its weights",
    "weights": "resnet_jax.load_pretrained(name, weights), which gives the network and its weights",
    "checkpoint_path": "resnet_jax.load_pretrained(name, path), which gives the network and its weights",
    "progress": "always shown while weights are fetched",
    "in_chans": "resnet_jax.init(model, key, channels=...), since a network here takes images of any; or channels= of "
    "resnet_jax.load_pretrained",
    "act_layer": "act=",
    "norm_layer": "norm=",
    "global_pool": "pool=",
    "drop_path_rate": "stochastic_depth=",
    "width_per_group": "base_width=",
    "base_width_per_group": "base_width=",
    "cardinality": "groups=",
    "zero_init_last": "zero_init_residual=",
    "replace_stride_with_dilation": "output_stride=",
    "features_only": "model.apply(..., features=True), which gives what every stage puts out",
    "stem_type": "stem=",
    "aa_layer": "antialias=True",
    "layers": "stage_sizes=",
    "block_args": "an option of its own, such as se_ratio=",
}


Purpose = Literal["classify", "segment", "detect", "embed", "clips"]


def list_models(pattern: str = "*", *, task: Purpose | None = None) -> list[str]:
    """The names that `create_model` knows, in the order of the tables.

    Args:
      pattern: a shell wildcard like `resnet*`.
      task: what the networks are for; None = any.
    """
    images = (name for name in VARIANTS if name not in video.VARIANTS)
    names = {
        "classify": images,
        "segment": segment.NAMES,
        "detect": detect.NAMES,
        "embed": embed.NAMES,
        "clips": video.VARIANTS,
    }
    return [name for of, listed in names.items() if task in (None, of) for name in listed if fnmatchcase(name, pattern)]


def create_model(name: str, **options: Any) -> Any:
    """Builds the network called `name`: a `ResNet`, or a network for segmentation, detection or embeddings over one.

    Args:
      name: one of `list_models()`; or a head, `fcn`, `deeplabv3`, `unet` or `embed`, and any network of the family as
        its backbone, such as `unet_seresnet50`; or a detector over one, such as `maskrcnn_resnet101_fpn`.
      **options: fields of `ResNet` that override the variant's, such as `num_classes=37`. A network for segmentation
        gives them to its backbone, except `num_classes` (21), and `aux_loss` (True) and `dropout`, which U-Net has not.
        So does a detector, except the fields of its class in `models/detect/`, which have torchvision's names. So does
        a network for embeddings, except `embedding_size` (512), `dropout` (0), and `sides` (112, 112), the size
        of the images of an `iresnet`. It has no `num_classes`. With `frames`, such as `frames="lstm"`, a network for
        classification looks at each frame of a clip, and further options are those of `FrameNetwork`.

    Raises:
      ModelError: an unknown name or option (with the near ones), or options that do not fit each other.
    """
    if embed.is_embedder(name):
        _check_options(name, options, _FIELDS - {"num_classes"} | {*embed.OPTIONS})
        return embed.build(name, VARIANTS, options)
    if (detector := detect.parts_of(name, VARIANTS)) is not None:
        kind, backbone = detector
        _check_options(name, options, _FIELDS | detect.own_options(kind))
        return detect.build(kind, *_shared_out(VARIANTS[backbone], options, detect.own_options(kind)))
    if (parts := segment.head_of(name, VARIANTS)) is None:
        if name not in VARIANTS:
            raise ModelError(unknown_name("model", name, (*VARIANTS, *segment.NAMES, *detect.NAMES, *embed.NAMES)))
        if options.get("frames") is not None:
            return _on_frames(name, options)
        _check_options(name, options, _FIELDS)
        return ResNet(**(VARIANTS[name] | options))
    build, own = segment.HEADS[parts[0]]
    _check_options(name, options, _FIELDS | {*own})
    fields, of_head = _shared_out(VARIANTS[parts[1]], options, {*own})
    return build(name, fields, **of_head)


def _shared_out(
    variant: dict[str, Any], options: dict[str, Any], own: Set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the backbone, and the options of what stands on it."""
    of_backbone = {option: value for option, value in options.items() if option not in own}
    return variant | of_backbone, {option: value for option, value in options.items() if option in own}


def _on_frames(name: str, options: dict[str, Any]) -> FrameNetwork:
    """The network over the frames of clips, whose frames the network called `name` looks at."""
    _check_options(name, options, _FIELDS | _FRAMES)
    cnn = {option: value for option, value in options.items() if option not in _FRAMES}
    own = {option: value for option, value in options.items() if option in _FRAMES}
    return FrameNetwork.over(ResNet(**(VARIANTS[name] | cnn)), **own)


_FRAMES = FrameNetwork.__dataclass_fields__.keys() - {"parent", "name", "cnn"}
_FIELDS = ResNet.__dataclass_fields__.keys() - {"parent", "name"}


def _check_options(name: str, options: dict[str, Any], fields: Set[str]) -> None:
    for option in sorted(options.keys() - fields):
        if option in CALLED_HERE:
            raise ModelError(
                f"{name} has no option {option!r}, which other libraries have; here it is {CALLED_HERE[option]}"
            )
        raise ModelError(unknown_name(f"option of {name}", option, fields))


def backbone_of(name: str) -> str | None:
    """The name of the network that lies under a head: `resnet50` of `fcn_resnet50`, None of `resnet50`."""
    if embed.is_embedder(name):
        return None if name in embed.IRESNETS else embed.trunk_of(name, VARIANTS)
    parts = detect.parts_of(name, VARIANTS) or segment.head_of(name, VARIANTS)
    return parts[1] if parts else None


def init(model: nn.Module, key: Array, *, channels: int = 3, sides: tuple[int, ...] | None = None) -> PyTree[Array]:
    """Initial variables `{"params", "batch_stats"}`. They do not depend on the size of the images, except for an
    `iresnet`, which is made for one size.

    Args:
      model: a network that is called as `model(images, train=False)`.
      key: from `jax.random.key`.
      channels: channels of the images that the network will see.
      sides: the axes of a small image, or of a clip, that the network can see; None = `model.sides`.
    """
    own: tuple[int, ...] = getattr(model, "sides", (64, 64))
    return _init(model, key, (1, *(sides or own), channels))


# Under jit the forward pass is not computed, since nothing uses its result. And the network is traced once, though a
# run asks for its shapes several times.
@partial(jax.jit, static_argnames=("model", "shape"))
def _init(model: nn.Module, key: Array, shape: tuple[int, ...]) -> PyTree[Array]:
    return model.init(key, jnp.zeros(shape), train=False)


def variable_shapes(
    model: nn.Module, *, channels: int = 3, sides: tuple[int, ...] | None = None
) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes and types of what `init` gives, without computing it."""
    return jax.eval_shape(lambda: init(model, jax.random.key(0), channels=channels, sides=sides))
