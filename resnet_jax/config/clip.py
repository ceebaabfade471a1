"""What a clip shows of a video. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Positive
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Checked):
    """Which frames of a video the network sees, and how frames are resized. Images have none of this."""

    frames: Annotated[int, AtLeastOne] = 16
    """Frames of a clip. A shorter video is filled up with its last frame."""
    sampling: Literal["dense", "uniform"] = "dense"
    """`dense`: frames that follow each other; in training the clip begins anywhere. `uniform`: one frame out of each
    of `frames` equal parts of the video, in training a random one (Wang et al. 2016, arXiv:1608.00859)."""
    step: Annotated[int, AtLeastOne] = 1
    """Of `dense`: every step-th frame is taken."""
    rate: Annotated[float, Positive] | None = None
    """Of `dense`: frames per second that a clip has before `step`, from videos of any rate; None = the video's own
    frames."""
    folder_rate: Annotated[float, Positive] = 25.0
    """Frames per second of videos that are folders of frames, which do not say it."""
    eval_clips: Annotated[int, AtLeastOne] = 5
    """In evaluation and prediction: clips of each video, spread evenly over it."""
    eval_crops: Literal[1, 3] = 1
    """In evaluation and prediction: squares of each clip. 1 = the middle; 3 = beginning, middle and end of the longer
    side."""
    train_resize: tuple[Annotated[int, AtLeastOne], ...] = ()
    """In training: the shorter side becomes a random number of pixels between these two, and a square is cut out at
    random. Empty = a random crop, or the middle, as `augment.random_resized_crop` says."""
    eval_resize: tuple[Annotated[int, AtLeastOne], ...] = ()
    """In evaluation: height and width that frames are resized to, whatever their shape was. Empty = the shorter side
    becomes `DataConfig.eval_resize`."""
    antialias: bool = True
    """In evaluation: frames are resized with antialiasing. torchvision's published video networks do without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_resize", "eval_resize"):
            values = getattr(self, name)
            if len(values) not in (0, 2):
                raise ConfigError(
                    f"ClipConfig.{name} = {values} has {len(values)} values; it must have two, or none. Give both"
                )
        if self.train_resize and self.train_resize[0] > self.train_resize[1]:
            raise ConfigError(
                f"ClipConfig.train_resize = {self.train_resize} must have its smaller number first; exchange them"
            )
        if self.sampling == "uniform" and (self.step > 1 or self.rate is not None):
            raise ConfigError(
                f"ClipConfig.step = {self.step} and rate = {self.rate} are for sampling = 'dense', and 'uniform' takes "
                "its frames from the whole video; leave them at 1 and None"
            )

    @property
    def exact(self) -> tuple[int, int] | None:
        """Height and width that frames are resized to in evaluation, if `eval_resize` says them."""
        return (self.eval_resize[0], self.eval_resize[1]) if self.eval_resize else None
