"""FCN and DeepLabV3: a dilated backbone, a head at an eighth of the resolution, and bilinear enlargement."""

from typing import Any, Self

from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models.blueprint import draw
from resnet_jax.models.layers import Dtype
from resnet_jax.models.resnet import ResNet, tools_of
from resnet_jax.models.segment.heads import HEADS, FcnHead, Tools
from resnet_jax.models.segment.resize import bilinear

Logits = dict[str, Float[Array, "N H W K"]]


class Segmenter(nn.Module):
    """A fully convolutional network (Long et al. 2015, arXiv:1411.4038) as torchvision has it: `fcn` or `deeplabv3`.

    Attributes:
      backbone: a network without `fc`, usually with `output_stride=8`.
      head: one of `heads.HEADS`.
      num_classes: channels of the logits, the background among them.
      aux_loss: whether a second head looks at the last stage but one. Training adds its loss (Zhao et al. 2016,
        arXiv:1612.01105, section 3.3).
      dropout: rate at which training drops numbers before the logits; None = torchvision's: 0.1 in an FCN head, 0.5 in
        DeepLabV3's.
    """

    backbone: ResNet
    head: str
    num_classes: int = 21
    aux_loss: bool = True
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ModelError(unknown_name("head", self.head, HEADS))
        if self.num_classes < 1:
            raise ModelError(f"num_classes = {self.num_classes} must be at least 1")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ModelError(f"dropout = {self.dropout} must be at least 0 and less than 1")
        if isinstance(self.backbone, ResNet) and self.aux_loss and len(self.backbone.stage_sizes) < 2:
            raise ModelError("the backbone has one stage, and aux_loss needs the last but one; pass aux_loss=False")
        super().__post_init__()

    @property
    def param_dtype(self) -> Dtype:
        return self.backbone.param_dtype

    def on_axis(self, axis: str) -> Self:
        """The network where the whole batch lies on an axis of `jax.shard_map` or `vmap`, see `ResNet.bn_axis_name`."""
        return self.clone(backbone=self.backbone.clone(bn_axis_name=axis))

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "N H W C"],
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
        positions: Int[Array, " N"] | None = None,
    ) -> Logits | dict[str, Array]:
        """(N, H, W, C) normalised images -> `out`, and `aux` if there is that head: logits (N, H, W, K), float32.

        Args:
          train, use_batch_stats, update_stats, positions: as of `ResNet`. In training the heads drop numbers, so
            `apply` needs `rngs={"dropout": key}`.
          features: return also what the stages of the backbone put out, as `ResNet` does.

        Raises:
          ModelError: as of `ResNet`; training without a key; DeepLabV3 with statistics of one image.
        """
        if train and self.dropout != 0 and not self.has_rng("dropout"):
            raise ModelError(
                f"{self.head} drops numbers in training; pass rngs={{'dropout': key}} to apply, dropout=0 to "
                "create_model, or train=False"
            )
        options: dict[str, Any] = {
            "train": train,
            "use_batch_stats": use_batch_stats,
            "update_stats": update_stats,
            "positions": positions,
        }
        maps = self.backbone(images, features=True, **options)
        tools = head_tools(self.backbone, **options)
        stages = stages_of(self.backbone)
        rate = {} if self.dropout is None else {"dropout": self.dropout}
        head = HEADS[self.head](self.num_classes, tools, **rate, name="classifier")
        out = {"out": head(maps.get("activated", maps[stages[-1]]))}
        if self.aux_loss:
            out["aux"] = FcnHead(self.num_classes, tools, **rate, name="aux_classifier")(maps[stages[-2]])
        enlarged = {name: bilinear(logits, *images.shape[1:3]) for name, logits in out.items()}
        return {**maps, **enlarged} if features else enlarged


def stages_of(backbone: ResNet) -> tuple[str, ...]:
    """The names of the stages in what the backbone gives with `features=True`."""
    return tuple(f"stage{i}" for i in range(1, len(backbone.stage_sizes) + 1))


def head_tools(
    backbone: ResNet,
    *,
    train: bool,
    use_batch_stats: bool | None,
    update_stats: bool | None,
    positions: Int[Array, " N"] | None,
) -> Tools:
    """Convolutions and norms like the backbone's."""
    conv, norm = tools_of(
        backbone, draw(backbone), train=train, use_batch_stats=use_batch_stats, update_stats=update_stats
    )
    return Tools(conv, norm, train, positions)
