"""What a network is trained for: a dataclass for each task. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Fraction, NotNegative, Positive, Range
from resnet_jax.errors import ConfigError


class _OfClasses(Checked):
    """Base of the tasks whose networks have an output for each class."""

    def head(self, num_classes: int, image_size: int) -> dict[str, Any]:
        """The options of `create_model` that the task decides."""
        return {"num_classes": num_classes}


@dataclass(frozen=True, kw_only=True)
class Classify(_OfClasses):
    """Classification: each image has one class of `model.num_classes`."""

    kind: Literal["classify"] = "classify"
    """The name by which `config.json` tells the tasks apart."""
    loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    """In training. `binary`: each class is a question of its own, yes or no, and the loss is the mean over the classes
    of the binary cross entropies (Wightman et al. 2021, arXiv:2110.00476). Evaluation reports the cross entropy."""
    label_smoothing: Annotated[float, Fraction] = 0.0
    """A target t becomes (1 - e) * t + e / K (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    target_threshold: Annotated[float, Range(low=0, below=1)] | None = None
    """`binary`: targets above this become 1, the others 0, after smoothing. So each class of a mixture is there. None =
    targets stay as they are."""
    sum_classes: bool = False
    """`binary`: the sum over the classes instead of the mean."""
    eval_flip: bool = False
    """In evaluation and prediction: the mean of the logits of the image and of its mirror image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss != "binary" and (self.target_threshold is not None or self.sum_classes):
            raise ConfigError(
                f"Classify.target_threshold = {self.target_threshold} and sum_classes = {self.sum_classes} are for "
                f"loss = 'binary', and loss = {self.loss!r}; leave them out, or set loss to 'binary'"
            )


@dataclass(frozen=True, kw_only=True)
class Segment(_OfClasses):
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


@dataclass(frozen=True, kw_only=True)
class Embed(Checked):
    """Embeddings: each image gets a vector, and vectors of one identity lie nearer than those of others. The classes of
    the training set, `model.num_classes`, are the identities. Those of the evaluation may be others.
    """

    kind: Literal["embed"] = "embed"
    """The name by which `config.json` tells the tasks apart."""
    embedding_size: Annotated[int, AtLeastOne] = 512
    """Numbers of an embedding."""
    loss: Literal["margin", "adaface", "softmax", "triplet", "contrastive"] = "margin"
    """`margin`: cosines to class centres, with `margins` (ArcFace, CosFace, SphereFace). `adaface`: with a margin that
    depends on the length of the embedding. `softmax`: an ordinary classifier without bias. `triplet` and `contrastive`
    compare the images of a batch and need `data.per_identity`."""
    margins: tuple[Annotated[float, NotNegative], ...] = (1.0, 0.5, 0.0)
    """(m1, m2, m3): the cosine of the own class becomes cos(m1 * angle + m2) - m3. (1, 0.5, 0) is ArcFace, (1, 0, 0.35)
    CosFace. AdaFace takes m2."""
    scale: Annotated[float, Positive] = 64.0
    """Factor of the cosines in the softmax."""
    gradient: Literal["true", "straight_through"] = "true"
    """`straight_through`: the margin changes the loss, but not the derivative of the cosine. It is what insightface has
    computed since 2022, so its published accuracies are from it."""
    sub_centres: Annotated[int, AtLeastOne] = 1
    """Centres of each class; the nearest counts (Deng et al. 2020). More than one for data with wrong labels."""
    sampled_share: Annotated[float, Range(above=0, high=1)] = 1.0
    """The share of the other classes that a step draws for its softmax (Partial FC, arXiv:2203.15565)."""
    triplet_margin: Annotated[float, Positive] = 0.2
    """In squared distance of unit vectors."""
    temperature: Annotated[float, Positive] = 0.1
    """Of the contrastive loss."""
    dropout: Annotated[float, Fraction] = 0.0
    """Rate at which training drops numbers before the last linear layer."""
    eval_flip: bool = True
    """In evaluation and prediction: the sum of the embeddings of the image and of its mirror image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.margins) != 3:
            raise ConfigError(
                f"Embed.margins = {self.margins} has {len(self.margins)} numbers; it must have three, m1, m2 and m3, "
                "such as (1.0, 0.5, 0.0) for ArcFace"
            )
        if not self.has_centres and (self.sub_centres > 1 or self.sampled_share < 1):
            raise ConfigError(
                f"Embed.sub_centres = {self.sub_centres} and sampled_share = {self.sampled_share} are for losses with "
                f"class centres, and loss = {self.loss!r} has none; leave them at 1"
            )

    def head(self, num_classes: int, image_size: int) -> dict[str, Any]:
        """The options of `create_model` that the task decides."""
        return {"embedding_size": self.embedding_size, "dropout": self.dropout, "sides": (image_size, image_size)}

    @property
    def has_centres(self) -> bool:
        """Whether the loss has a centre for each class."""
        return self.loss in ("margin", "adaface", "softmax")


@dataclass(frozen=True, kw_only=True)
class Clips(_OfClasses):
    """Classification of videos: each has one class of `model.num_classes`. `data.clip` says which frames are seen."""

    kind: Literal["clips"] = "clips"
    """The name by which `config.json` tells the tasks apart."""
    label_smoothing: Annotated[float, Fraction] = 0.0
    """A target t becomes (1 - e) * t + e / K (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    frames: Literal["mean", "lstm", "gru", "transformer"] | None = None
    """None = a network of three axes, see `model.time`. Else `model.name`, a network for images, looks at each frame,
    and this head looks at the features of the frames in their order (`mean`: of all alike)."""
    hidden: Annotated[int, AtLeastOne] = 512
    """Of the head: numbers of a recurrent layer's state, or of a Transformer's token."""
    layers: Annotated[int, AtLeastOne] = 1
    """Of the head."""
    heads: Annotated[int, AtLeastOne] = 8
    """Of a Transformer's attention."""
    dropout: Annotated[float, Fraction] = 0.0
    """Of the head: rate at which training drops numbers."""
    grid: Annotated[int, AtLeastOne] = 1
    """The features of a frame are the means of grid x grid parts of the last maps, so that the head is told where
    things are; 1 = the mean of the whole."""
    fixed_clips: bool = False
    """Training sees of each video the clip in its middle, prepared as in evaluation: always the same. Where the network
    below the head is frozen too, its features are computed once, and kept in the cache folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames == "transformer" and self.hidden % self.heads:
            raise ConfigError(
                f"Clips.hidden = {self.hidden} must be a multiple of heads = {self.heads}; change one of them"
            )
        if self.fixed_clips and self.frames is None:
            raise ConfigError(
                "Clips.fixed_clips = True is for a head over the features of frames, and frames = None has none; set "
                "it to False, or choose a head"
            )

    def head(self, num_classes: int, image_size: int) -> dict[str, Any]:
        """The options of `create_model` that the task decides."""
        own = ("frames", "hidden", "layers", "heads", "dropout", "grid") if self.frames else ()
        return {"num_classes": num_classes, **{name: getattr(self, name) for name in own}}
