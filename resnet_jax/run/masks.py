"""Names the class of each pixel of image files, with a network from a run or with weights without a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from resnet_jax.config import Preset, Segment
from resnet_jax.data import decode_image, normalize
from resnet_jax.data.canvases import group
from resnet_jax.data.decode import image_size
from resnet_jax.data.joint import resize_nearest
from resnet_jax.data.transforms import colour_beside, resize_short_side, resized_shape
from resnet_jax.errors import DataError
from resnet_jax.run.network import Network, describe
from resnet_jax.run.predict import Run
from resnet_jax.tasks.segment.measure import make_score
from resnet_jax.tasks.segment.task import make_predict


class Segmentation(NamedTuple):
    """One image: the place of its file among those that were asked for, and what is on its pixels.

    Attributes:
      image: as the file has it, or turned upright by EXIF.
      mask: the class of each pixel.
      probability: how sure the network is of it.
    """

    place: int
    image: UInt8[np.ndarray, "H W C"]
    mask: UInt8[np.ndarray, "H W"]
    probability: Float[np.ndarray, "H W"]


@dataclass(frozen=True)
class MaskPredictor:
    """How to read an image for a network that names a class for each pixel, and what it says of a batch of images.

    Attributes:
      preset: `resize` is for the shorter side, `mean` for what lies beside an image on its canvas.
      canvases: to this many shapes images are filled up at most.
      predict: pixels -> `mask` (N, H, W) and `probability` (N, H, W); compiled.
      note: how images are prepared, where people may want to know.
    """

    title: str
    class_names: Sequence[str]
    preset: Preset
    canvases: int
    predict: Callable[[UInt8[np.ndarray, "N H W C"]], Mapping[str, Array | np.ndarray]]
    note: str = ""


def mask_predictor_of(opened: Run | Network, *, exif: bool = False) -> MaskPredictor:
    """What a network says of the pixels of image files, prepared as in its evaluation.

    Args:
      opened: a run or a network for segmentation.
      exif: without a run: turn photographs upright first.
    """
    if isinstance(opened, Run):
        options = opened.config.task
        assert isinstance(options, Segment)
        preset = replace(opened.config.data.preset, crop=0)
        variables, said_of_run = opened.state.eval_variables, opened.task.predict
        program = jax.jit(lambda v, x: said_of_run(v, {"image": x}))  # constants would be in every program
        return MaskPredictor(
            opened.title,
            opened.class_names,
            preset,
            options.eval_canvases,
            lambda pixels: program(variables, pixels),
        )
    preset = replace(opened.preset, crop=0, exif=exif)
    said = make_predict(
        make_score(opened.model), lambda key, batch: {**batch, "image": normalize(batch["image"], preset)}
    )
    compiled = jax.jit(said)
    return MaskPredictor(
        title=opened.title,
        class_names=opened.class_names,
        preset=preset,
        canvases=Segment.eval_canvases,
        predict=lambda pixels: compiled(opened.variables, {"image": pixels}),
        note=describe(preset),
    )


def segmentations(
    predictor: MaskPredictor, paths: Sequence[Path], batch_size: int, broken: list[str]
) -> Iterator[Segmentation]:
    """Each image that can be read, those of one canvas together. A program is compiled for each canvas.

    Args:
      broken: for each image that could not be read, a text that names the file is added.
    """
    preset, sizes, places = predictor.preset, [], []
    for place, path in enumerate(paths):
        try:
            sizes.append(resized_shape(image_size(path, exif=preset.exif), preset.resize))
            places.append(place)
        except DataError as error:
            broken.append(str(error))
    for (height, width), indices in group(sizes, predictor.canvases):
        rows = min(batch_size, len(indices))
        for start in range(0, len(indices), rows):
            pixels = np.empty((rows, height, width, preset.channels), np.uint8)
            pixels[...] = colour_beside(preset.mean)
            read: list[tuple[int, UInt8[np.ndarray, "H W C"], tuple[int, int]]] = []
            for place in (places[index] for index in indices[start : start + rows]):
                try:
                    image = decode_image(paths[place], preset.channels, exif=preset.exif)
                except DataError as error:
                    broken.append(str(error))
                    continue
                small = resize_short_side(image, preset.resize)  # as `EvalMask`
                pixels[len(read), : small.shape[0], : small.shape[1]] = small
                read.append((place, image, small.shape[:2]))
            if not read:
                continue
            said = jax.device_get(predictor.predict(pixels))
            for row, (place, image, (bottom, right)) in enumerate(read):
                mask, sure = (said[name][row, :bottom, :right] for name in ("mask", "probability"))
                shape = image.shape[:2]
                yield Segmentation(place, image, resize_nearest(mask, shape), resize_nearest(sure, shape))
