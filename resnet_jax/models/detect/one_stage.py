"""RetinaNet, FCOS and YOLOF: each place of each map names classes and a box at once."""

from typing import Any, Literal

from jaxtyping import Array, Float, Int

from resnet_jax.models.detect.heads import DilatedEncoder, OneStageHead, YolofHead
from resnet_jax.models.detect.network import Detector, Map, Maps
from resnet_jax.models.layers import relu
from resnet_jax.models.pyramid import Extra


class OneStage(Detector):
    """Base of the networks whose pyramid is looked at by one head.

    Attributes:
      head_convs: 3x3 convolutions of each tower of the head.
      head_norm: see `Tower`.
      score_thresh, nms_thresh, detections_per_img, topk_candidates: as of torchvision's `RetinaNet` and `FCOS`.
    """

    usual_levels = 3
    extra: Extra = "p5"
    extra_levels: int = 2
    head_convs: int = 4
    head_norm: str = "none"
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_img: int = 300
    topk_candidates: int = 1000

    def setup(self) -> None:
        self.fpn = self._make_pyramid()
        self.head = OneStageHead(
            self.anchors_at_a_place, self.num_classes, self.head_convs, self.head_norm, isinstance(self, Fcos)
        )

    def __call__(
        self,
        images: Float[Array, "N H W C"],
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
        positions: Int[Array, " N"] | None = None,
    ) -> Maps | dict[str, Any]:
        """(N, H, W, C) normalised images -> for each level, the finest first: `maps` (N, H', W', D), `scores`
        (N, H', W', A K), the logits of each class at each anchor, and `deltas` (N, H', W', 4 A), where its box lies;
        of FCOS also `centred` (N, H', W', A).

        Args:
          train, use_batch_stats, update_stats, positions: as of `ResNet`.
          features: return also what the stages of the backbone put out, as `ResNet` does.
        """
        of_stages, levels, tools = self._levels(images, train, use_batch_stats, update_stats, positions)
        maps = self.fpn(levels, tools)
        found = zip(*(self.head(x, tools) for x in maps), strict=True)
        out = {"maps": maps, **self.named(*found)}
        return {**of_stages, **out} if features else out

    def named(self, *found: tuple[Map, ...]) -> Maps:
        """What the head gives, by its names."""
        scores, deltas = found
        return {"scores": scores, "deltas": deltas}


class RetinaNet(OneStage):
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002), as `torchvision.models.detection` has it.

    Attributes:
      fg_iou_thresh, bg_iou_thresh: as of torchvision's `RetinaNet`.
      box_loss: of the boxes: `"l1"` of the coded ones, or `"giou"`, as of torchvision's `_v2`.
    """

    fg_iou_thresh: float = 0.5
    bg_iou_thresh: float = 0.4
    box_loss: Literal["l1", "giou"] = "l1"

    @staticmethod
    def usual_sizes(stride: int) -> tuple[float, ...]:
        return tuple(int(4 * stride * 2 ** (third / 3)) for third in range(3))


class Fcos(OneStage):
    """FCOS (Tian et al. 2019, arXiv:1904.01355), as `torchvision.models.detection` has it: an anchor is a place, and
    the four numbers are distances from its middle to the sides of the box, in strides.

    Attributes:
      center_sampling_radius: an object is learnt at places that are at most so many strides from its middle.
    """

    head_norm: str = "group_biased"
    score_thresh: float = 0.2
    nms_thresh: float = 0.6
    detections_per_img: int = 100
    anchor_ratios: tuple[float, ...] = (1.0,)
    center_sampling_radius: float = 1.5

    @staticmethod
    def usual_sizes(stride: int) -> tuple[float, ...]:
        return (stride,)

    def named(self, *found: tuple[Map, ...]) -> Maps:
        scores, deltas, centred = found
        return {"scores": scores, "deltas": tuple(map(relu, deltas)), "centred": centred}


class Yolof(OneStage):
    """YOLOF (Chen et al. 2021, arXiv:2103.09460), "You Only Look One-level Feature": anchors of five sizes on the last
    maps of the backbone, and no pyramid. Options begin as in mmdetection's `yolof_r50_c5_8x8_1x_coco.py`.

    Attributes:
      dilations: of the blocks between the backbone and the head.
      class_convs: 3x3 convolutions of the tower for classes; the one for boxes has `head_convs`.
      center_clamp: pixels by which a box's middle can be from its anchor's, at most.
      match_times: an object is learnt at so many anchors that are nearest to it, and at as many whose boxes are.
      pos_ignore_thresh: not at those of them that overlap it by less than this (IoU).
      neg_ignore_thresh: an anchor that is none of them, and whose box overlaps an object by more than this, is no
        background.
    """

    usual_levels = 1
    extra_levels: int = 0
    pyramid_width: int = 512
    nms_thresh: float = 0.6
    detections_per_img: int = 100
    anchor_ratios: tuple[float, ...] = (1.0,)
    dilations: tuple[int, ...] = (2, 4, 6, 8)
    class_convs: int = 2
    center_clamp: float = 32.0
    match_times: int = 4
    pos_ignore_thresh: float = 0.15
    neg_ignore_thresh: float = 0.7

    @staticmethod
    def usual_sizes(stride: int) -> tuple[float, ...]:
        return tuple(stride * 2**octave for octave in range(5))

    def setup(self) -> None:
        self.fpn = DilatedEncoder(self.pyramid_width, self.dilations)
        self.head = YolofHead(self.anchors_at_a_place, self.num_classes, self.class_convs, self.head_convs)
