"""How the host turns an example into a row of a batch. It writes directly into the memory of the batch.

Everything here is pickled for worker processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from numpy.typing import DTypeLike

from resnet_jax.config import DataConfig, Preset
from resnet_jax.data.joint import draw_place
from resnet_jax.data.policies import apply_policy
from resnet_jax.data.transforms import (
    colour_beside,
    decode,
    draw_interpolation,
    random_crop_into,
    resize_and_center_crop,
    resize_window,
)

if TYPE_CHECKING:
    from resnet_jax.data.canvases import Canvas
    from resnet_jax.data.sources import Source

Leaves = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
Row = dict[str, np.ndarray]
"""Views of one row of every array of a batch. `row["label"][...] = 3` writes a number."""

# Numbers of the random streams. A shuffle, a crop and a policy never share one.
SHUFFLE, CROP, POLICY = 0, 1, 2


class Draws(NamedTuple):
    """The randomness of one row. It depends only on the seed and the row's place.

    Attributes:
      seed: of the run. In evaluation it is 0, since an example is filled the same way every time.
      position: in training the row's position in the global order, in evaluation the example's index.
    """

    seed: int
    position: int

    def stream(self, number: int) -> np.random.Generator:
        """The independent generator of this number. A fill may use any number of them; their results never change."""
        return np.random.default_rng([number, self.seed, self.position])


class Fill(Protocol):
    """Fills rows from examples. A fill is a value that can be pickled.

    Attributes:
      needs: the leaves that an example must have.
      leaves: shape and type of one row of every array of a batch.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def leaves(self) -> Leaves: ...

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        """Writes every array of `row`. `example` is what the source gave. It always has a `name`, for errors.

        Raises:
          ImageError: the example cannot be read.
        """


@runtime_checkable
class Resizable(Protocol):
    """A fill that can write images of another size."""

    def sized(self, size: int) -> Fill:
        """The same fill, for images of `size` pixels on each side."""


@runtime_checkable
class OnCanvases(Protocol):
    """A fill whose rows may have several shapes, one for each batch.

    Attributes:
      canvases: how many shapes at most.
    """

    @property
    def canvases(self) -> int: ...

    def canvases_of(self, source: "Source") -> "Sequence[Canvas]":
        """The canvases that the examples of a split lie on; empty = all lie on one."""

    def on(self, size: tuple[int, int]) -> Fill:
        """The same fill, for a canvas of this height and width."""


def same_shapes(fill: Fill, config: DataConfig) -> bool:
    """Whether all batches of a training have the same shapes."""
    return not config.augment.resizes and not (isinstance(fill, OnCanvases) and fill.canvases > 1)


def at_largest(fill: Fill, config: DataConfig) -> Fill:
    """The fill of the largest images that training sees."""
    return fill.sized(max(config.train_sizes)) if config.augment.resizes and isinstance(fill, Resizable) else fill


@dataclass(frozen=True)
class TrainImage:
    """Writes `image` uint8 (S, S, C), cropped and changed as `config.augment` says for the host, and `label` int32."""

    config: DataConfig
    needs = ("image", "label")

    @property
    def leaves(self) -> Leaves:
        return _image_and_label(self.config.train_size, self.config.channels)

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        config, out = self.config, row["image"]
        encoded, name = example["image"], example["name"]
        augment, rng = config.augment, draws.stream(CROP)
        if augment.train_resize:
            self._crop_of_random_scale_into(out, decode(encoded, config.channels, name=name, exif=config.exif), rng)
        elif augment.random_resized_crop:
            how: Any = {"name": name, "exif": config.exif, "interpolation": augment.crop_interpolation}
            random_crop_into(out, encoded, rng, augment.crop_min_area, **how)
        else:
            image = decode(encoded, config.channels, name=name, exif=config.exif)
            out[...] = resize_and_center_crop(image, replace(config.preset, crop=config.train_size))
        if augment.policy != "none":
            out[...] = apply_policy(out, draws.stream(POLICY), augment, colour_beside(config.mean))
        row["label"][...] = example["label"]

    def sized(self, size: int) -> "TrainImage":
        augment = replace(self.config.augment, train_size=size, resizes=())
        return replace(self, config=replace(self.config, augment=augment))

    def _crop_of_random_scale_into(
        self, out: UInt8[np.ndarray, "S S C"], image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator
    ) -> None:
        low, high = self.config.augment.train_resize
        size = len(out)
        shape = (1, 1) if self.config.squash else image.shape  # a square stands for all that are squashed
        place = draw_place(rng, shape, base=1, scale=(low, high), crop=size, flip=False)
        interpolation = draw_interpolation(self.config.augment.crop_interpolation, rng)
        out[...] = resize_window(image, place.shape, interpolation, (place.top, place.left, size, size))


@dataclass(frozen=True)
class EvalImage:
    """Writes `image` uint8 (S, S, C), resized and cropped at the centre, and `label` int32.

    Attributes:
      preset: how images are prepared.
      labels: the class that is written for each class of the data set; None = the same class.
    """

    preset: Preset
    labels: tuple[int, ...] | None = None
    needs = ("image", "label")

    @property
    def leaves(self) -> Leaves:
        return _image_and_label(self.preset.crop, self.preset.channels)

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        image = decode(example["image"], self.preset.channels, name=example["name"], exif=self.preset.exif)
        row["image"][...] = resize_and_center_crop(image, self.preset)
        row["label"][...] = example["label"] if self.labels is None else self.labels[example["label"]]


def _image_and_label(size: int, channels: int) -> Leaves:
    return {"image": ((size, size, channels), np.uint8), "label": ((), np.int32)}
