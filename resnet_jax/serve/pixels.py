"""Serves a network that names a class for each pixel."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.analysis.colours import mask_colour
from resnet_jax.analysis.masks import mask_png, seen_on
from resnet_jax.analysis.report.pictures import data_uri
from resnet_jax.data.canvases import Size, group
from resnet_jax.data.decode import decode_image
from resnet_jax.data.joint import resize_nearest
from resnet_jax.data.transforms import colour_beside, resize_window, resized_shape
from resnet_jax.display import distinct
from resnet_jax.run.masks import MaskPredictor
from resnet_jax.run.network import describe
from resnet_jax.serve.asked import Asked
from resnet_jax.serve.work import Program, Work, up_to

MOST = 4
"""Images whose masks are computed together, as `predict` does it."""


class _OnCanvas(NamedTuple):
    """An image at the top left of its canvas.

    Attributes:
      shape: height and width of the image in its file, or turned upright.
      size: height and width on the canvas.
    """

    pixels: UInt8[np.ndarray, "H W C"]
    shape: Size
    size: Size


class Pixels:
    """The class of each pixel of an image.

    Args:
      predictor: what `predict` uses.
      canvases: the shapes that there are programs for.
      sizes: of batches.
    """

    kind: str = "mask"
    cam: bool = False

    def __init__(self, predictor: MaskPredictor, canvases: Sequence[Size], sizes: Sequence[int]) -> None:
        self.title, self.preset = predictor.title, predictor.preset
        self.note = describe(predictor.preset)
        self.class_names: Sequence[str] = distinct(predictor.class_names)
        self._canvases = sorted(canvases, key=lambda size: (size[0] * size[1], size))
        rows = [(np.zeros((*size, self.preset.channels), np.uint8),) for size in self._canvases]
        self._masks = Program("masks", predictor.predict, rows, up_to(MOST, sizes))
        self.programs: Sequence[Program] = [self._masks]

    async def answer(self, data: bytes, asked: Asked, work: Work) -> dict[str, Any]:
        """`classes` that occur, those with the most pixels first, and `mask`, a palette PNG as a `data:` address.
        Raises as `Served.answer`."""
        mask, probability = await self._segment(data, work)
        png = await work.in_pool(mask_png, mask, len(self.class_names))
        seen = (await work.in_pool(seen_on, mask, probability))[: asked.top]
        rows = [
            {
                "class": self.class_names[one.label],
                "number": one.label,
                "share": round(one.share, 6),
                "probability": round(one.probability, 6),
                "colour": mask_colour(one.label) if one.label else None,
            }
            for one in seen
        ]
        return {"classes": rows, "mask": data_uri(png, "image/png")}

    async def png(self, data: bytes, work: Work) -> bytes:
        """The mask as a palette PNG, whose values are the classes. Raises an ImageError."""
        mask, _ = await self._segment(data, work)
        return await work.in_pool(mask_png, mask, len(self.class_names))

    async def _segment(self, data: bytes, work: Work) -> tuple[UInt8[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
        placed = await work.in_pool(self._place, data)
        said = await work.compute(self._masks, placed.pixels)
        bottom, right = placed.size
        cut = (said[name][:bottom, :right] for name in ("mask", "probability"))
        mask, probability = [await work.in_pool(resize_nearest, part, placed.shape) for part in cut]
        return mask, probability

    def _place(self, data: bytes) -> _OnCanvas:
        image = decode_image(data, self.preset.channels, exif=self.preset.exif)
        shape = (image.shape[0], image.shape[1])
        size, canvas = placed_on(resized_shape(shape, self.preset.resize), self._canvases)
        pixels = np.empty((*canvas, self.preset.channels), np.uint8)
        pixels[...] = colour_beside(self.preset.mean)
        pixels[: size[0], : size[1]] = resize_window(image, size, "bilinear", (0, 0, *size))
        return _OnCanvas(pixels, shape, size)


def placed_on(size: Size, canvases: Sequence[Size]) -> tuple[Size, Size]:
    """The size of an image on its canvas, and the canvas: the smallest that holds it. One that none holds is shrunk
    until it fits, as little as possible.

    Args:
      canvases: the smallest first.
    """
    height, width = size
    for canvas in canvases:
        if height <= canvas[0] and width <= canvas[1]:
            return size, canvas
    scale, canvas = max((min(one[0] / height, one[1] / width), one) for one in canvases)
    return (max(1, round(scale * height)), max(1, round(scale * width))), canvas


def canvases_of(aspects: Sequence[str], resize: int) -> list[Size]:
    """The canvases of images of these shapes, `width:height`: those that `predict` takes for one such image alone."""
    sizes = (resized_shape(tuple(map(int, aspect.split(":")))[::-1], resize) for aspect in aspects)
    return sorted({canvas.size for size in sizes for canvas in group([size], 1)})
