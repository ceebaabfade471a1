"""FCN and DeepLabV3: a backbone, a head on its last maps, scores of finer maps if wanted, and bilinear enlargement."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax.linen.initializers import zeros_init
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models.blueprint import draw
from resnet_jax.models.headed import Headed
from resnet_jax.models.resnet import ResNet, tools_of
from resnet_jax.models.segment.heads import HEADS, FcnHead, Tools
from resnet_jax.models.segment.resize import bilinear

SCORES = tuple(f"scores_{2**i}" for i in range(6))
"""The convolutions that score finer maps, by the stride of the map."""
Logits = dict[str, Float[Array, "N H W K"]]


class Segmenter(Headed):
    """A fully convolutional network (Long et al. 2015, arXiv:1411.4038) as torchvision has it: `fcn` or `deeplabv3`.

    Attributes:
      backbone: a network without `fc`, usually with `output_stride=8`.
      head: one of `heads.HEADS`.
      num_classes: channels of the logits, the background among them.
      aux_loss: whether a second head looks at the last stage but one. Training adds its loss (Zhao et al. 2016,
        arXiv:1612.01105, section 3.3).
      dropout: rate at which training drops numbers before the logits; None = torchvision's: 0.1 in an FCN head, 0.5 in
        DeepLabV3's.
      finest: the stride down to which finer maps of the backbone add scores of their own to the head's logits, each
        before the next enlargement (Long et al. 2015, section 4.2: 8 makes their FCN-8s); None = none do.
    """

    gives = "out"
    backbone: ResNet
    head: str
    num_classes: int = 21
    aux_loss: bool = True
    dropout: float | None = None
    finest: int | None = None

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ModelError(unknown_name("head", self.head, HEADS))
        if self.num_classes < 1:
            raise ModelError(f"num_classes = {self.num_classes} must be at least 1")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ModelError(f"dropout = {self.dropout} must be at least 0 and less than 1")
        if isinstance(self.backbone, ResNet) and self.finest is not None:
            strides = strides_of(self.backbone)
            finer = [stride for stride, _ in skips_of(strides, strides[stages_of(self.backbone)[-1]])]
            if self.finest not in finer:
                raise ModelError(
                    f"finest = {self.finest}: the backbone has maps of strides {finer} before its last; choose one of "
                    "these, or None"
                )
        if isinstance(self.backbone, ResNet) and self.aux_loss and len(self.backbone.stage_sizes) < 2:
            raise ModelError("the backbone has one stage, and aux_loss needs the last but one; pass aux_loss=False")
        super().__post_init__()

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
        stages, strides = stages_of(self.backbone), strides_of(self.backbone)
        rate = {} if self.dropout is None else {"dropout": self.dropout}
        head = HEADS[self.head](self.num_classes, tools, **rate, name="classifier")
        out = {"out": head(maps.get("activated", maps[stages[-1]]))}
        for stride, name in skips_of(strides, strides[stages[-1]], self.finest):
            # They begin at 0, as in the paper: what is coarse is learnt first.
            scores = tools.conv(self.num_classes, 1, use_bias=True, kernel_init=zeros_init(), name=f"scores_{stride}")
            out["out"] = bilinear(out["out"], *maps[name].shape[1:3]) + scores(maps[name])
        if self.aux_loss:
            out["aux"] = FcnHead(self.num_classes, tools, **rate, name="aux_classifier")(maps[stages[-2]])
        enlarged = {name: bilinear(logits, *images.shape[1:3]) for name, logits in out.items()}
        return {**maps, **enlarged} if features else enlarged


def stages_of(backbone: ResNet) -> tuple[str, ...]:
    """The names of the stages in what the backbone gives with `features=True`."""
    return tuple(f"stage{i}" for i in range(1, len(backbone.stage_sizes) + 1))


def strides_of(backbone: ResNet) -> dict[str, int]:
    """The stride of the stem (before any max-pool) and of each stage, in pixels of the image."""
    plan = draw(backbone)
    strides, total = {"stem": plan.stem.stride}, plan.stem.total_stride
    for name, (first, *_) in zip(stages_of(backbone), plan.stages, strict=True):
        total *= first.stride
        strides[name] = total
    return strides


def skips_of(strides: Mapping[str, int], below: int, finest: int | None = 1) -> list[tuple[int, str]]:
    """(stride, name) of the last maps at each stride that is finer than `below`, down to `finest`. The coarsest come
    first."""
    last = {stride: name for name, stride in strides.items()}
    return sorted(((s, name) for s, name in last.items() if finest and finest <= s < below), reverse=True)


def head_tools(
    backbone: ResNet,
    *,
    train: bool,
    use_batch_stats: bool | None,
    update_stats: bool | None,
    positions: Int[Array, " N"] | None,
) -> Tools:
    """Convolutions and norms like the backbone's."""
    conv, norm, _ = tools_of(
        backbone, draw(backbone), train=train, use_batch_stats=use_batch_stats, update_stats=update_stats
    )
    return Tools(conv, norm, train, positions)
