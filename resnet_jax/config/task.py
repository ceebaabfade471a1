"""What a network is trained for: a dataclass for each task. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Fraction, NotNegative, Positive
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Classify(Checked):
    """Classification: each image has one class of `model.num_classes`."""

    kind: Literal["classify"] = "classify"
    """The name by which `config.json` tells the tasks apart."""
    label_smoothing: Annotated[float, Fraction] = 0.0
    """A target t becomes (1 - e) * t + e / K (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""


@dataclass(frozen=True, kw_only=True)
class Segment(Checked):
    """Semantic segmentation: each pixel has one class of `model.num_classes`, the background among them.

    In training, the shorter side of an image is resized to a random length, the image is mirrored at random, and a
    square of `data.image_size` pixels is cut out at random. In evaluation the shorter side is resized to
    `data.eval_resize` pixels.
    """

    kind: Literal["segment"] = "segment"
    """The name by which `config.json` tells the tasks apart."""
    loss: Literal["cross_entropy", "focal", "dice", "cross_entropy+dice"] = "cross_entropy"
    """Of each pixel that has a class; `dice` is of each image, weighted by its pixels."""
    class_weights: tuple[Annotated[float, NotNegative], ...] = ()
    """How much a pixel of each class counts in the cross-entropy or the focal loss; empty = 1 each."""
    focal_gamma: Annotated[float, NotNegative] = 2.0
    """Exponent of the focal loss (Lin et al. 2017, arXiv:1708.02002); 0 = cross-entropy."""
    aux_weight: Annotated[float, NotNegative] = 0.5
    """How much the loss of the auxiliary head counts, if the network has one."""
    min_scale: Annotated[float, Positive] = 0.5
    """The shorter side of a training image becomes `data.eval_resize` times a factor from here to `max_scale`."""
    max_scale: Annotated[float, Positive] = 2.0
    eval_flip: bool = False
    """In evaluation and prediction: the mean of the image and of its mirror image."""
    eval_window: Annotated[int, NotNegative] = 0
    """In evaluation and prediction: look at squares of this many pixels that overlap by a third; 0 = at the whole
    image."""
    eval_canvases: Annotated[int, AtLeastOne] = 4
    """Images of different shapes are filled up to this many shapes at most, since the network is compiled for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_scale > self.max_scale:
            raise ConfigError(
                f"Segment.min_scale = {self.min_scale} must be at most max_scale = {self.max_scale}; exchange them"
            )
        if "dice" in self.loss and self.class_weights:
            raise ConfigError(
                f"Segment.class_weights are for the cross-entropy and the focal loss, and loss = {self.loss!r}, which "
                "counts all classes alike; leave one of them out"
            )
