"""Detection: what a network that finds objects is trained for. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, NotNegative, Positive, Range
from resnet_jax.errors import ConfigError

Share = Range(low=0, high=1)

_OF_THE_NETWORK = (
    *("trainable_backbone_layers", "pyramid_width", "head_width", "mask_width", "head_convs", "levels", "extra_levels"),
    *("anchor_sizes", "anchor_ratios"),
    *("canonical_scale", "canonical_level"),
    *("rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_batch_size_per_image", "rpn_positive_fraction"),
    *("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
    *("rpn_nms_thresh", "box_fg_iou_thresh", "box_bg_iou_thresh", "box_batch_size_per_image", "box_positive_fraction"),
    *("box_score_thresh", "box_nms_thresh", "box_detections_per_img"),
    *("fg_iou_thresh", "bg_iou_thresh", "center_sampling_radius"),
    *("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img"),
)
"""Fields that are options of `create_model` under the same names."""


@dataclass(frozen=True, kw_only=True)
class Detect(Checked):
    """Detection: boxes around objects of `model.num_classes` classes, the background among them, and their masks where
    the network has a head for them.

    The shorter side of an image is resized to `min_size` pixels, the longer one to `max_size` at most. The names are
    torchvision's where it has the same option. A field of None, or an empty one, leaves the network as its name says.
    Fields that begin with `rpn_` and `box_` are for networks that make proposals first (Faster R-CNN, Mask R-CNN). The
    fields from `fg_iou_thresh` on are for the others.
    """

    kind: Literal["detect"] = "detect"
    """The name by which `config.json` tells the tasks apart."""
    min_size: tuple[Annotated[int, AtLeastOne], ...] = (800,)
    """Pixels of the shorter side. Training draws one of several; evaluation takes the last."""
    max_size: Annotated[int, AtLeastOne] = 1333
    """Pixels of the longer side at most. Where both cannot be, this one holds."""
    jitter: tuple[Annotated[float, Positive], ...] = ()
    """Large-scale jitter in training, instead of `min_size`: (0.1, 2.0) resizes an image so that it fits a square of
    `canvas` pixels, times a factor drawn from here, and cuts the square out at random (Ghiasi et al. 2021,
    arXiv:2012.07177). Empty = none."""
    canvas: Annotated[int, NotNegative] = 0
    """Pixels of a side of the square that training images lie on; 0 = `max_size`, rounded up to a multiple of 32."""
    train_canvases: Annotated[int, AtLeastOne] = 1
    """More than one: the images of a batch have similar shapes, and lie on one of so many canvases, with little
    padding."""
    eval_canvases: Annotated[int, AtLeastOne] = 4
    """In evaluation and prediction, images are filled up to this many shapes at most, since the network is compiled for
    each."""
    max_boxes: Annotated[int, AtLeastOne] = 100
    """Places for the objects of an image. A data set with more objects in an image is refused."""
    mask_size: Annotated[int, AtLeastOne] = 112
    """Pixels of a side of the bitmap of an object. The mask of a larger object is scaled to it."""
    trainable_backbone_layers: Annotated[int, Range(low=0, high=5)] | None = None
    """Parts of the backbone that are trained, from the last stage on; 5 = all. None = 3 for a run that starts from
    weights, else 5, as in torchvision."""
    pyramid_width: Annotated[int, AtLeastOne] | None = None
    """Channels of the maps of the pyramid, and of the heads on them."""
    head_width: Annotated[int, AtLeastOne] | None = None
    """Numbers of the fully connected layers that look at a proposal."""
    mask_width: Annotated[int, AtLeastOne] | None = None
    """Channels of the head for masks."""
    head_convs: Annotated[int, AtLeastOne] | None = None
    """Convolutions of each head of a network without proposals."""
    levels: tuple[Annotated[int, AtLeastOne], ...] = ()
    """Stages of the backbone, from 1, that feed the pyramid."""
    extra_levels: Annotated[int, NotNegative] | None = None
    """Coarser levels on top of these."""
    anchor_sizes: tuple[tuple[Annotated[float, Positive], ...], ...] = ()
    """Of each level of the pyramid, the finest first: sides in pixels of its square anchors."""
    anchor_ratios: tuple[Annotated[float, Positive], ...] = ()
    """Height to width of the anchors."""
    canonical_scale: Annotated[int, AtLeastOne] | None = None
    """A proposal of this many pixels is looked at on the map of stride 2 ** `canonical_level`; one of half as many on
    the map before (Lin et al. 2017, arXiv:1612.03144, equation 1)."""
    canonical_level: Annotated[int, AtLeastOne] | None = None
    rpn_fg_iou_thresh: Annotated[float, Share] | None = None
    """An anchor that overlaps an object by at least this (IoU) is to find it."""
    rpn_bg_iou_thresh: Annotated[float, Share] | None = None
    """An anchor that overlaps every object by less than this is background."""
    rpn_batch_size_per_image: Annotated[int, AtLeastOne] | None = None
    """Anchors of an image that the losses of the proposals look at, drawn at random."""
    rpn_positive_fraction: Annotated[float, Share] | None = None
    """The share of these that are to find an object, at most."""
    rpn_pre_nms_top_n_train: Annotated[int, AtLeastOne] | None = None
    """Proposals of each level that are kept by score before suppression, in training."""
    rpn_pre_nms_top_n_test: Annotated[int, AtLeastOne] | None = None
    """The same in evaluation and prediction."""
    rpn_post_nms_top_n_train: Annotated[int, AtLeastOne] | None = None
    """Proposals of an image that are kept after suppression, in training."""
    rpn_post_nms_top_n_test: Annotated[int, AtLeastOne] | None = None
    """The same in evaluation and prediction."""
    rpn_nms_thresh: Annotated[float, Share] | None = None
    """A proposal that overlaps a better one by more than this (IoU) is left out."""
    box_fg_iou_thresh: Annotated[float, Share] | None = None
    """A proposal that overlaps an object by at least this (IoU) is to find it."""
    box_bg_iou_thresh: Annotated[float, Share] | None = None
    """A proposal that overlaps every object by less than this is background."""
    box_batch_size_per_image: Annotated[int, AtLeastOne] | None = None
    """Proposals of an image that the losses of the boxes look at, drawn at random."""
    box_positive_fraction: Annotated[float, Share] | None = None
    """The share of these that are to find an object, at most. The loss of the masks looks at them."""
    box_score_thresh: Annotated[float, Share] | None = None
    """Detections with a lower score are left out."""
    box_nms_thresh: Annotated[float, Share] | None = None
    """A detection that overlaps a better one of its class by more than this (IoU) is left out."""
    box_detections_per_img: Annotated[int, AtLeastOne] | None = None
    """Detections of an image at most."""
    fg_iou_thresh: Annotated[float, Share] | None = None
    """RetinaNet: as `rpn_fg_iou_thresh`."""
    bg_iou_thresh: Annotated[float, Share] | None = None
    """RetinaNet: as `rpn_bg_iou_thresh`."""
    center_sampling_radius: Annotated[float, Positive] | None = None
    """FCOS: a place is to find an object whose middle is nearer than this times the stride."""
    score_thresh: Annotated[float, Share] | None = None
    """As `box_score_thresh`."""
    nms_thresh: Annotated[float, Share] | None = None
    """As `box_nms_thresh`."""
    topk_candidates: Annotated[int, AtLeastOne] | None = None
    """Detections of each level that are kept by score before suppression."""
    detections_per_img: Annotated[int, AtLeastOne] | None = None
    """As `box_detections_per_img`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_size or max(self.min_size) > self.max_size:
            raise ConfigError(
                f"Detect.min_size = {self.min_size} must name at least one length, and none above max_size = "
                f"{self.max_size}; change one of them"
            )
        if self.jitter and (len(self.jitter) != 2 or self.jitter[0] > self.jitter[1]):
            raise ConfigError(
                f"Detect.jitter = {self.jitter} must be the smallest and the largest factor, such as (0.1, 2.0), or "
                "empty"
            )
        if self.jitter and self.train_canvases > 1:
            raise ConfigError(
                f"Detect.jitter = {self.jitter} cuts squares out of images, which lie on one canvas, and "
                f"train_canvases = {self.train_canvases}; set it to 1, or leave jitter out"
            )
        if not self.jitter and 0 < self.canvas < self.max_size:
            raise ConfigError(
                f"Detect.canvas = {self.canvas} must hold images of max_size = {self.max_size} pixels; set it to 0, or "
                f"to at least {self.max_size}"
            )
        for low, high in (("rpn_bg", "rpn_fg"), ("box_bg", "box_fg"), ("bg", "fg")):
            least, most = (getattr(self, f"{name}_iou_thresh") for name in (low, high))
            if None not in (least, most) and least > most:
                raise ConfigError(
                    f"Detect.{low}_iou_thresh = {least} must be at most {high}_iou_thresh = {most}; exchange them"
                )

    def head(self, num_classes: int, image_size: int) -> dict[str, Any]:
        """The options of `create_model` that the task decides."""
        own = {name: getattr(self, name) for name in _OF_THE_NETWORK}
        given = {name: value for name, value in own.items() if value not in (None, ())}
        return {"num_classes": num_classes, "min_size": self.min_size[-1], "max_size": self.max_size, **given}

    @property
    def train_side(self) -> int:
        """Pixels of a side of the square that training images lie on."""
        return self.canvas or -(-self.max_size // 32) * 32
