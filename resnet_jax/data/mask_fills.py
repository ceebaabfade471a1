"""How the host turns an image and its mask into a row of a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.fills import CROP, Draws, Leaves, Row
from resnet_jax.data.joint import crop_into, draw_place, resize_nearest
from resnet_jax.data.masks import NOT_COUNTED, check_size, check_values
from resnet_jax.data.transforms import colour_beside, decode, resize_short_side
from resnet_jax.errors import ImageError


@dataclass(frozen=True)
class TrainMask:
    """Writes `image` uint8 (S, S, C) and `mask` uint8 (S, S): a random crop at a random scale, mirrored half the time.

    Attributes:
      preset_mean: of each channel, in [0, 1]. It fills what lies beside an image, and becomes about 0 when the batch is
        normalised: bytes hold it to within 1/510. torchvision's recipe fills with black: that is 0 for each channel.
      channels: 1 or 3.
      base: pixels of the shorter side at scale 1.
      scale: the smallest and largest scale.
      flip: whether crops are mirrored at all.
      crop: pixels of a side (S). A smaller image is padded at its right and bottom.
      exif: turn photographs upright. Masks are taken as they are, so they must be those of the upright image.
      classes: how many there are; a mask with other values than these and 255 is refused.
    """

    preset_mean: tuple[float, ...]
    channels: int
    base: int
    scale: tuple[float, float]
    crop: int
    exif: bool
    classes: int
    flip: bool = True
    needs = ("image", "mask")

    @property
    def leaves(self) -> Leaves:
        side = self.crop
        return {"image": ((side, side, self.channels), np.uint8), "mask": ((side, side), np.uint8)}

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        image, mask = _decoded(example, self.channels, self.classes, exif=self.exif)
        place = draw_place(
            draws.stream(CROP), image.shape, base=self.base, scale=self.scale, crop=self.crop, flip=self.flip
        )
        crop_into(row["image"], row["mask"], image, mask, place, colour_beside(self.preset_mean))


@dataclass(frozen=True)
class EvalMask:
    """Writes `image` uint8 (H, W, C), `mask` uint8 (H, W) and `size` int32 (2,), the real height and width.

    The image lies at the top left. What lies right of and below it is the mean colour, and in the mask 255.

    Attributes:
      preset_mean: as in `TrainMask`.
      base: pixels that the shorter side is resized to (bilinear, antialiased; the mask by the nearest pixel). None =
        the image keeps its size.
      canvas: height and width of the row (H, W).
    """

    preset_mean: tuple[float, ...]
    channels: int
    base: int | None
    canvas: tuple[int, int]
    exif: bool
    classes: int
    needs = ("image", "mask")

    @property
    def leaves(self) -> Leaves:
        return {
            "image": ((*self.canvas, self.channels), np.uint8),
            "mask": (self.canvas, np.uint8),
            "size": ((2,), np.int32),
        }

    def __call__(self, example: Mapping[str, Any], draws: Draws, row: Row) -> None:
        image, mask = _decoded(example, self.channels, self.classes, exif=self.exif)
        if self.base is not None:
            image = resize_short_side(image, self.base)
            mask = resize_nearest(mask, image.shape[:2])
        height, width = mask.shape
        if height > self.canvas[0] or width > self.canvas[1]:
            raise ImageError(
                f"{example['name']} has {height} x {width} pixels here, more than its canvas of {self.canvas[0]} x "
                f"{self.canvas[1]}; a canvas must hold the images that it was chosen for. Choose the canvases anew"
            )
        row["image"][...], row["mask"][...] = colour_beside(self.preset_mean), NOT_COUNTED
        row["image"][:height, :width], row["mask"][:height, :width] = image, mask
        row["size"][...] = height, width


def _decoded(
    example: Mapping[str, Any], channels: int, classes: int, *, exif: bool
) -> tuple[UInt8[np.ndarray, "H W C"], UInt8[np.ndarray, "H W"]]:
    name = example["name"]
    image = decode(example["image"], channels, name=name, exif=exif)
    check_size(image.shape, example["mask"].shape, name=name)
    return image, check_values(example["mask"], classes, name=f"the mask of {name}")
