"""How an image is prepared for evaluation: the one description of it, of configs and of published weights."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Positive, Range
from resnet_jax.errors import ConfigError

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preset:
    """How an image is prepared for evaluation: the shorter side resized (antialiased), the centre cut out, normalised.

    Attributes:
      resize: pixels of the shorter side; with `squash`, of both sides.
      crop: pixels of the square that the network sees; 0 = the whole image, whatever its shape.
      interpolation: of the resize.
      mean: per channel, for pixels in [0, 1].
      std: per channel, for pixels in [0, 1].
      squash: both sides are resized, whatever the shape was.
      crop_rounds_down: where the middle falls between two pixels, the crop begins at the first of them. torchvision
        rounds to an even number.
      exif: photographs are turned upright first, as EXIF says how the camera was held. Published accuracies were
        measured without that.
      exact: height and width that the image is resized to, whatever its shape was, instead of `resize`.
      antialias: of the resize. False: two pixels per side, as torchvision's presets for video have it.
    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    squash: bool = False
    crop_rounds_down: bool = False
    exif: bool = False
    exact: tuple[int, int] | None = None
    antialias: bool = True

    @property
    def channels(self) -> int:
        """Of the image that the network sees: 1 or 3."""
        return len(self.mean)

    def as_json(self) -> dict[str, Any]:
        """Its fields, with lists for tuples. What only videos need is left out where it is as for images, since older
        stores of features do not say it."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        plain = {"exact": None, "antialias": True}
        return {name: value for name, value in values.items() if name not in plain or value != plain[name]}


def resized_for(crop: int, ratio: float) -> int:
    """Pixels of the shorter side, for a crop of `crop` pixels that keeps `ratio` of it; rounded down, as in timm."""
    return int(crop / ratio)


@dataclass(frozen=True, kw_only=True)
class PresetChange(Checked):
    """How images of weights without a run are prepared, where those who published the weights do not say it."""

    resize: Annotated[int, AtLeastOne] | None = None
    """Pixels of the shorter side; None = as the weights say."""
    crop: Annotated[int, AtLeastOne] | None = None
    """Pixels of the square that the network sees, from the centre."""
    crop_ratio: Annotated[float, Range(above=0, high=1)] | None = None
    """In the place of `resize`: what the crop keeps of the shorter side, as timm's `crop_pct`."""
    interpolation: Interpolation | None = None
    """Of the resize."""
    mean: tuple[float, ...] = ()
    """Of each channel, for pixel values in [0, 1]; empty = as the weights say."""
    std: tuple[Annotated[float, Positive], ...] = ()
    """Of each channel."""

    def applied(self, preset: Preset) -> Preset:
        """`preset` with these changes.

        Raises:
          ConfigError: the crop is larger than the image, its size is said twice, or mean and std are not of the same
            channels.
        """
        given = {name: value for name, value in vars(self).items() if value not in (None, ())}
        ratio = given.pop("crop_ratio", None)
        if ratio and self.resize:
            raise ConfigError(
                f"preset.crop_ratio = {ratio} and preset.resize = {self.resize} both say how large the image becomes; "
                "leave one of them out"
            )
        changed = replace(preset, **given)
        if ratio and not changed.crop:
            raise ConfigError(f"preset.crop_ratio = {ratio} is of a crop, and these weights see whole images; set crop")
        if ratio:
            changed = replace(changed, resize=resized_for(changed.crop, ratio), exact=None)
        if self.resize:
            changed = replace(changed, exact=None)
        shorter = min(changed.exact or (changed.resize,))
        if changed.crop > shorter:
            raise ConfigError(
                f"preset.crop = {changed.crop} must be at most preset.resize = {shorter}, or the crop would not fit; "
                "set both"
            )
        if len(changed.mean) != len(changed.std) or changed.channels not in (1, 3):
            raise ConfigError(
                f"preset.mean = {changed.mean} and preset.std = {changed.std} must have one value for each of 1 or 3 "
                "channels; set both"
            )
        return changed


AS_PUBLISHED = PresetChange()
"""No change."""
