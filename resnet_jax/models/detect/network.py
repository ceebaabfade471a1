"""What all detectors have: a backbone, a pyramid on its maps, and torchvision's options as fields."""

from typing import Any, ClassVar

from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.headed import Headed
from resnet_jax.models.pyramid import Extra, Pyramid
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.segment.heads import Tools
from resnet_jax.models.segment.network import head_tools, stages_of, strides_of

Map = Float[Array, "N H W C"]
Maps = dict[str, tuple[Map, ...]]


class Detector(Headed):
    """Base of the networks that find objects. The options have torchvision's names and defaults.

    Attributes:
      backbone: a network without `fc`.
      num_classes: with the background, which is class 0.
      min_size, max_size: images are scaled so that the shorter side has `min_size` pixels, or the longer one
        `max_size` where that is less.
      image_mean, image_std: of the pixels from 0 to 1.
      trainable_backbone_layers: of the five parts conv1, layer1, ..., layer4, how many a run trains, counted from the
        last; None = 3 where it starts from weights, else all.
      levels: the stages of the backbone (from 1) under the pyramid; empty = the last `usual_levels`.
      pyramid_width: channels of the pyramid's maps.
      pyramid_normed: the pyramid's convolutions have norms instead of biases.
      extra, extra_levels: coarser maps on top, see `Pyramid`.
      anchor_sizes: sides of square anchors in pixels, for each level; empty = torchvision's, which follow from the
        stride.
      anchor_ratios: of height to width; each size has all of them.
    """

    usual_levels: ClassVar[int]
    gives = "scores"

    backbone: ResNet
    num_classes: int = 91
    min_size: int = 800
    max_size: int = 1333
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    trainable_backbone_layers: int | None = None
    levels: tuple[int, ...] = ()
    pyramid_width: int = 256
    pyramid_normed: bool = False
    extra: Extra = "pool"
    extra_levels: int = 1
    anchor_sizes: tuple[tuple[float, ...], ...] = ()
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if isinstance(self.backbone, ResNet):
            self._check()
        super().__post_init__()

    def _check(self) -> None:
        for name, low in {
            "num_classes": 2,
            "min_size": 1,
            "max_size": 1,
            "pyramid_width": 1,
            "extra_levels": 0,
        }.items():
            if getattr(self, name) < low:
                raise ModelError(f"{name} = {getattr(self, name)} must be at least {low}")
        if self.trainable_backbone_layers not in (None, *range(6)):
            raise ModelError(f"trainable_backbone_layers = {self.trainable_backbone_layers} must be 0 to 5")
        there = len(self.backbone.stage_sizes)
        if list(self.levels) != sorted({*self.levels} & {*range(1, there + 1)}):
            raise ModelError(
                f"levels = {self.levels} must name stages of the backbone, 1 to {there}, in this order, each once"
            )
        if len(self.anchors) != len(self.strides):
            raise ModelError(
                f"anchor_sizes has sizes for {len(self.anchors)} levels, and the pyramid has {len(self.strides)}: "
                f"{len(self.stages)} of the backbone and {self.extra_levels} on top, with strides {self.strides}; give "
                "a tuple of sizes for each, or leave anchor_sizes empty"
            )
        if len({len(sizes) for sizes in self.anchors}) > 1 or not self.anchors[0] or not self.anchor_ratios:
            raise ModelError(
                f"anchor_sizes = {self.anchor_sizes} with anchor_ratios = {self.anchor_ratios}: all levels share one "
                "head, so each needs the same number of sizes, and at least one"
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages of the backbone under the pyramid."""
        return self.levels or tuple(range(1, len(self.backbone.stage_sizes) + 1))[-self.usual_levels :]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each level, in pixels of the image, as far as the sides of the image are multiples of it."""
        of, names = strides_of(self.backbone), stages_of(self.backbone)
        strides = [of[names[stage - 1]] for stage in self.stages]
        for _ in range(self.extra_levels):
            strides.append(2 * strides[-1])
        return tuple(strides)

    @property
    def anchors(self) -> tuple[tuple[float, ...], ...]:
        """The sizes of anchors of each level."""
        return self.anchor_sizes or tuple(map(self.usual_sizes, self.strides))

    @property
    def anchors_at_a_place(self) -> int:
        return len(self.anchors[0]) * len(self.anchor_ratios)

    @staticmethod
    def usual_sizes(stride: int) -> tuple[float, ...]:
        """torchvision's sizes of the anchors of a level with this stride."""
        raise NotImplementedError

    def _make_pyramid(self) -> Pyramid:
        return Pyramid(self.pyramid_width, self.pyramid_normed, self.extra, self.extra_levels)

    def _levels(
        self,
        images: Float[Array, "N H W C"],
        train: bool,
        use_batch_stats: bool | None,
        update_stats: bool | None,
        positions: Int[Array, " N"] | None,
    ) -> tuple[dict[str, Array], tuple[Map, ...], Tools]:
        """What the stages of the backbone put out, and the maps under the pyramid."""
        options: dict[str, Any] = {"train": train, "use_batch_stats": use_batch_stats, "update_stats": update_stats}
        of_stages = self.backbone(images, features=True, positions=positions, **options)
        names = stages_of(self.backbone)
        own = [of_stages[names[stage - 1]] for stage in self.stages]
        if self.stages[-1] == len(names):
            own[-1] = of_stages.get("activated", own[-1])
        return of_stages, tuple(own), head_tools(self._above(), positions=positions, **options)

    def _above(self) -> ResNet:
        """A network with the options of the layers above the backbone. Frozen norms are those of the backbone alone,
        which was trained before."""
        frozen = self.backbone.norm in ("frozen", "frozen_eps0")
        return self.backbone.clone(norm="batch") if frozen else self.backbone
