"""Faster R-CNN and Mask R-CNN: boxes that may hold an object, and then what each holds."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from resnet_jax.models.detect.heads import BoxHead, BoxPredictor, RpnHead
from resnet_jax.models.detect.mask_head import MaskHead, MaskPredictor
from resnet_jax.models.detect.network import Detector, Maps
from resnet_jax.models.segment.heads import Tools
from resnet_jax.models.segment.network import head_tools

BOX_GRID, MASK_GRID = 7, 14
"""Cells of a side of the grids that the heads see."""


class TwoStage(Detector):
    """Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) or, with `mask`, Mask R-CNN (He et al. 2017, arXiv:1703.06870)
    on a pyramid, as `torchvision.models.detection` has them.

    Attributes:
      mask: whether there is a head for masks.
      rpn_convs, box_convs, mask_normed: 1, 0 and False are torchvision's first networks, 2, 4 and True its `_v2`.
      head_width: of the linear layers of the box head.
      rpn_..., box_..., bbox_reg_weights: as of torchvision's `FasterRCNN`.
      canonical_scale, canonical_level: a box of `canonical_scale` pixels is looked at on the map with a stride of
        2 ** `canonical_level` pixels, one of half as many on the map before (Lin et al. 2017, arXiv:1612.03144,
        equation 1).
    """

    usual_levels = 4
    mask: bool = False
    rpn_convs: int = 1
    box_convs: int = 0
    mask_normed: bool = False
    head_width: int = 1024
    mask_width: int = 256
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_thresh: float = 0.0
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    bbox_reg_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    canonical_scale: int = 224
    canonical_level: int = 4

    @staticmethod
    def usual_sizes(stride: int) -> tuple[float, ...]:
        return (8 * stride,)

    def setup(self) -> None:
        self.fpn = self._make_pyramid()
        self.rpn_head = RpnHead(self.anchors_at_a_place, self.rpn_convs)
        self.box_head = BoxHead(self.head_width, self.box_convs)
        self.box_predictor = BoxPredictor(self.num_classes)
        if self.mask:
            self.mask_head = MaskHead(self.mask_width, normed=self.mask_normed)
            self.mask_predictor = MaskPredictor(self.num_classes, self.mask_width)

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
        (N, H', W', A), logits of whether an anchor holds an object, and `deltas` (N, H', W', 4 A), where it lies.

        Args:
          train, use_batch_stats, update_stats, positions: as of `ResNet`.
          features: return also what the stages of the backbone put out, as `ResNet` does.
        """
        of_stages, levels, tools = self._levels(images, train, use_batch_stats, update_stats, positions)
        maps = self.fpn(levels, tools)
        scores, deltas = zip(*(self.rpn_head(x, tools) for x in maps), strict=True)
        if self.is_initializing():
            grid = lambda side: jnp.zeros((1, side, side, self.pyramid_width), maps[0].dtype)
            self.boxes(grid(BOX_GRID), train=False)
            if self.mask:
                self.masks(self.mask_features(grid(MASK_GRID), train=False), jnp.zeros(1, int), train=False)
        out = {"maps": maps, "scores": scores, "deltas": deltas}
        return {**of_stages, **out} if features else out

    def boxes(
        self,
        pooled: Float[Array, "R 7 7 C"],
        *,
        train: bool,
        per_image: int = 1,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
    ) -> tuple[Float[Array, "R K"], Float[Array, "R K 4"]]:
        """Grids of boxes -> logits of their classes, and for each class how the object's box lies to them.

        Args:
          per_image: boxes of an image, if there are norms with statistics of groups of images.
        """
        tools = self._tools(per_image, train, use_batch_stats, update_stats)
        return self.box_predictor(self.box_head(pooled, tools), tools)

    def mask_features(
        self,
        pooled: Float[Array, "R 14 14 C"],
        *,
        train: bool,
        per_image: int = 1,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
    ) -> Float[Array, "R 14 14 D"]:
        """Grids of boxes -> what `masks` looks at. The arguments are those of `boxes`."""
        return self.mask_head(pooled, self._tools(per_image, train, use_batch_stats, update_stats))

    def masks(
        self, features: Float[Array, "R 14 14 D"], labels: Int[Array, " R"], *, train: bool
    ) -> Float[Array, "R 28 28"]:
        """Features of boxes and the class of each -> the logits of its mask."""
        return self.mask_predictor(features, labels, self._tools(1, train, None, None))

    def _tools(self, per_image: int, train: bool, use: bool | None, update: bool | None) -> Tools:
        above = self._above()
        above = above.clone(bn_group_size=above.bn_group_size * per_image)
        return head_tools(above, train=train, use_batch_stats=use, update_stats=update, positions=None)
