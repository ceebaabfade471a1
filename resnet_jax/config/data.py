"""Where images come from. Standard library only."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resnet_jax.config.augment import AugmentConfig
from resnet_jax.config.checked import AtLeastOne, Checked, Fraction, NotNegative, Positive, Range
from resnet_jax.config.clip import ClipConfig
from resnet_jax.config.preset import Interpolation, Preset, resized_for
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where images come from and how they are prepared."""

    name: str = "digits"
    """`digits` (embedded), `folder:PATH` (PATH/SPLIT/CLASS/*.jpg), `tfds:NAME` (prepared as array_record),
    `parquet:PATH` (SPLIT-*.parquet, as Hugging Face has them), `records:PATH` (made by `data prepare`), `idx:PATH`
    (MNIST's files), `npz:PATH` (SPLIT_images and SPLIT_labels) or `synthetic` (noise, for benchmarks). With masks:
    `pairs:PATH` (PATH/SPLIT/images and PATH/SPLIT/masks), `voc:PATH` (Pascal VOC's layout). With boxes: `coco:PATH`
    (COCO's JSON), `voc_boxes:PATH` (Pascal VOC's XML), `boxes:PATH` (PATH/SPLIT.csv). For embeddings:
    `rec:PATH` (insightface's record files), `verification:PATH` (its pairs), `lfw:PATH` (LFW's). Videos: `videos:PATH`
    (PATH/SPLIT/CLASS/*.mp4), `ucf101:PATH`, `hmdb51:PATH`, `kinetics:PATH`; docs/data.md."""
    directory: str | None = None
    """Where TFDS data lives; None = TFDS's default (`TFDS_DATA_DIR` or ~/tensorflow_datasets)."""
    train_split: str = "train"
    eval_split: str = "test"
    holdout: Annotated[float, Fraction] = 0.0
    """For a folder without splits (PATH/CLASS/*.jpg): this share of each class, always the same files, is `eval_split`.
    The rest is `train_split`. 0 = the folder has splits."""
    exif: bool = False
    """Photographs are turned upright, as EXIF's orientation says how the camera was held. Published accuracies are
    measured without it."""
    channels: Literal[1, 3] = 3
    image_size: Annotated[int, AtLeastOne] = 224
    """Height and width in pixels of the images that the network sees."""
    eval_resize: Annotated[int, AtLeastOne] = 256
    """Pixels of the shorter side before the central crop in evaluation (antialiased, as torchvision does)."""
    eval_crop_ratio: Annotated[float, Range(low=0, high=1)] = 0.0
    """What the central crop keeps of the shorter side, as timm's `crop_pct`, so that it follows `image_size`; 0 =
    `eval_resize` says it."""
    eval_interpolation: Interpolation = "bilinear"
    """Of this resize."""
    squash: bool = False
    """Images are resized to squares, whatever their shape was, in evaluation and by `augment.train_resize`."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel, for pixel values in [0, 1]."""
    std: tuple[Annotated[float, Positive], ...] = (0.229, 0.224, 0.225)
    repeats: Annotated[int, AtLeastOne] = 1
    """In training: a batch holds this many copies of an image, each cropped differently. An epoch keeps its length and
    sees 1/repeats of the images (Hoffer et al. 2019, arXiv:1901.09335; torchvision's `--ra-reps`)."""
    per_identity: Annotated[int, NotNegative] = 0
    """In training: a batch holds this many images of each of its classes, which are drawn at random, for losses that
    compare the images of a batch. 0 = images come in a random order."""
    same_classes: bool = True
    """For a folder with splits: all have the same classes. False for identities, those of the evaluation being others
    than those of the training."""
    max_broken_fraction: Annotated[float, Fraction] = 0.001
    """Images that cannot be read are skipped in training, up to this fraction of the data set."""
    threads: Annotated[int, AtLeastOne] = 16
    """Threads of one host that read and decode images."""
    workers: Annotated[int, NotNegative] = 0
    """Processes of one host that these threads are spread over; 0 = only the process that trains. Worker processes cost
    memory and time at the start. They help where one process is too slow (docs/data.md says when)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise ConfigError(
                    f"DataConfig.{name} = {values} has {len(values)} values; it must have one for each of the "
                    f"{self.channels} channels"
                )
        coloured = [name for name in ("saturation", "hue", "lighting") if getattr(self.augment, name)]
        if self.channels == 1 and coloured:
            raise ConfigError(
                f"DataConfig.augment: {', '.join(coloured)} change colours, and images of channels = 1 have none; "
                "set them to 0"
            )
        if self.holdout and not self.name.startswith("folder:"):
            raise ConfigError(
                f"DataConfig.holdout = {self.holdout} is for folders of images, and {self.name} has splits; set it to 0"
            )
        largest = max(self.train_sizes)
        if self.augment.train_resize and largest > self.augment.train_resize[0]:
            raise ConfigError(
                f"DataConfig.augment.train_resize = {self.augment.train_resize} must be at least {largest}, the pixels "
                "of a side that training sees, or the crop would not fit"
            )
        fixed = not (self.augment.random_resized_crop or self.augment.train_resize)
        if fixed and largest > self.eval_side:
            raise ConfigError(
                f"DataConfig.augment.train_size = {largest} without random_resized_crop must be at most "
                f"eval_resize = {self.eval_side}, or the central crop would not fit"
            )
        if self.per_identity and self.repeats > 1:
            raise ConfigError(
                f"DataConfig.repeats = {self.repeats} and per_identity = {self.per_identity} both say which images a "
                "batch holds; leave one of them out"
            )
        smallest = {"train_resize": self.train_size, "eval_resize": self.image_size}
        for name, size in smallest.items():
            if min(getattr(self.clip, name), default=size) < size:
                raise ConfigError(
                    f"DataConfig.clip.{name} = {getattr(self.clip, name)} must be at least {size}, the pixels of a "
                    "side that the network sees, or the crop would not fit"
                )
        if self.eval_side < self.image_size:
            raise ConfigError(
                f"DataConfig.eval_resize = {self.eval_side} must be at least image_size = {self.image_size}, "
                "or the central crop would not fit"
            )

    @property
    def train_size(self) -> int:
        """Height and width in pixels of training images, when the run begins."""
        return self.augment.train_size or self.image_size

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Height and width in pixels of training images, in the order in which the run sees them."""
        return (self.train_size, *(resize.size for resize in self.augment.resizes))

    @property
    def eval_side(self) -> int:
        """Pixels of the shorter side before the central crop in evaluation."""
        return resized_for(self.image_size, self.eval_crop_ratio) if self.eval_crop_ratio else self.eval_resize

    @property
    def preset(self) -> Preset:
        """How an image is prepared in evaluation."""
        return Preset(
            resize=self.eval_side,
            crop=self.image_size,
            interpolation=self.eval_interpolation,
            squash=self.squash,
            mean=self.mean,
            std=self.std,
            exif=self.exif,
            exact=self.clip.exact,
            antialias=self.clip.antialias,
        )


def without_folders(name: str) -> str:
    """The name of a data set without the folders above it, which say something of a machine and nothing of the data."""
    kind, colon, path = name.partition(":")
    return f"{kind}{colon}{path.rstrip('/').rsplit('/', 1)[-1]}"
