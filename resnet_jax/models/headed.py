"""Networks that are a `ResNet` below a head, and how code that does not know the head reaches the `ResNet`."""

from typing import Any, ClassVar, Self

from flax import linen as nn

from resnet_jax.errors import ModelError
from resnet_jax.models.layers import Dtype
from resnet_jax.models.resnet import ResNet


class Headed(nn.Module):
    """Base of the networks over a `ResNet`.

    Attributes:
      root: the name of the field with the `ResNet`.
      gives: what the network is for, by the name that it has where the network gives several things.
    """

    root: ClassVar[str] = "backbone"
    gives: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if time := resnet_in(self).time:
            raise ModelError(
                f"{type(self).__name__}: the network below it has time = {time!r} and sees clips, and this head is for "
                "images; choose a network without time"
            )

    @property
    def param_dtype(self) -> Dtype:
        return resnet_in(self).param_dtype

    @property
    def sides(self) -> tuple[int, ...]:
        """The axes of a small image that the network can see, without batch and channels."""
        return resnet_in(self).sides

    def on_axis(self, axis: str) -> Self:
        """The network where the whole batch lies on an axis of `jax.shard_map` or `vmap`, see `ResNet.bn_axis_name`."""
        return with_options(self, bn_axis_name=axis)


def resnet_in(model: Any) -> ResNet:
    """The `ResNet` under a network's head, or the network itself."""
    return getattr(model, model.root) if isinstance(model, Headed) else model


def refuse_clips(model: Any, what: str) -> None:
    """Raises a ModelError for a network that sees clips, where `what` knows images alone."""
    if len(getattr(model, "sides", ())) == 3:
        raise ModelError(
            f"{what} is for networks that see images, and {type(model).__name__} sees clips (N, T, H, W, C); use this "
            "network from Python or as a run, or take one for images"
        )


def refuse_boxes(model: Any, what: str) -> None:
    """Raises a ModelError for a network that finds objects, where `what` knows one array for an image alone."""
    if hasattr(model, "anchor_sizes"):
        raise ModelError(
            f"{what} is for networks that give one array for an image, and {type(model).__name__} gives the parts from "
            "which objects are found; use it from Python (resnet_jax.detect) or as a run, or take another network"
        )


def with_options(model: Any, **options: Any) -> Any:
    """The network with other fields of `ResNet`, or of the `ResNet` under its head."""
    if isinstance(model, Headed):
        return model.clone(**{model.root: resnet_in(model).clone(**options)})
    return model.clone(**options)
