"""How an image is prepared for evaluation: the one description of it, of configs and of published weights."""

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preset:
    """How an image is prepared for evaluation: the shorter side resized (antialiased), the centre cut out, normalised.

    Attributes:
      resize: pixels of the shorter side; with `squash`, of both sides.
      crop: pixels of the square that the network sees.
      interpolation: of the resize.
      mean: per channel, for pixels in [0, 1].
      std: per channel, for pixels in [0, 1].
      squash: both sides are resized, whatever the shape was.
      crop_rounds_down: where the middle falls between two pixels, the crop begins at the first of them. torchvision
        rounds to an even number.
      exif: photographs are turned upright first, as EXIF says how the camera was held. Published accuracies were
        measured without that.
    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    squash: bool = False
    crop_rounds_down: bool = False
    exif: bool = False

    @property
    def channels(self) -> int:
        """Of the image that the network sees: 1 or 3."""
        return len(self.mean)
