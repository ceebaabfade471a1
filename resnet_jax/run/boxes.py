"""Finds the objects in image files, with a network from a run or with weights without a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from resnet_jax.config import Detect
from resnet_jax.data import decode_image
from resnet_jax.data.boxes import detection_shape
from resnet_jax.data.canvases import group
from resnet_jax.data.decode import image_size
from resnet_jax.errors import DataError
from resnet_jax.run.detect import detect
from resnet_jax.run.network import Network
from resnet_jax.run.predict import Run


class Detections(NamedTuple):
    """One image: the place of its file among those that were asked for, and the objects in it, the surest first.

    Attributes:
      image: as the file has it, or turned upright by EXIF.
      boxes: x1, y1, x2, y2 in its pixels.
      masks: how sure each pixel is part of each object; None if the network has no masks.
    """

    place: int
    image: UInt8[np.ndarray, "H W C"]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    masks: Float[np.ndarray, "n H W"] | None


@dataclass(frozen=True)
class BoxPredictor:
    """A network that finds objects, and how to read an image for it.

    Attributes:
      canvases: to this many shapes images are filled up at most.
    """

    title: str
    class_names: Sequence[str]
    model: Any
    variables: PyTree[Array]
    exif: bool
    canvases: int

    @property
    def note(self) -> str:
        """How images are prepared, for people."""
        return f"images: shorter side {self.model.min_size} pixels, longer side {self.model.max_size} at most"


def box_predictor_of(opened: Run | Network, *, exif: bool = False) -> BoxPredictor:
    """What finds the objects in image files, which are prepared as in evaluation.

    Args:
      opened: a run or a network for detection.
      exif: without a run: turn photographs upright first.
    """
    if isinstance(opened, Run):
        options, preset = opened.config.task, opened.config.data.preset
        assert isinstance(options, Detect)
        variables, canvases, exif = opened.state.eval_variables, options.eval_canvases, preset.exif
    else:
        preset, variables, canvases = opened.preset, opened.variables, Detect.eval_canvases
    model = opened.model.clone(image_mean=tuple(preset.mean), image_std=tuple(preset.std))
    return BoxPredictor(opened.title, opened.class_names, model, variables, exif, canvases)


def detections(
    predictor: BoxPredictor, paths: Sequence[Path], batch_size: int, broken: list[str]
) -> Iterator[Detections]:
    """Each image that can be read, those of one canvas together. A program is compiled for each canvas.

    Args:
      broken: for each image that could not be read, a text that names the file is added.
    """
    model, sizes, places = predictor.model, [], []
    for place, path in enumerate(paths):
        try:
            sizes.append(detection_shape(image_size(path, exif=predictor.exif), model.min_size, model.max_size))
            places.append(place)
        except DataError as error:
            broken.append(str(error))
    for canvas, indices in group(sizes, predictor.canvases):
        rows = min(batch_size, len(indices))
        for start in range(0, len(indices), rows):
            read: list[tuple[int, UInt8[np.ndarray, "H W C"]]] = []
            for place in (places[index] for index in indices[start : start + rows]):
                try:
                    read.append((place, decode_image(paths[place], len(model.image_mean), exif=predictor.exif)))
                except DataError as error:
                    broken.append(str(error))
            images = [image for _, image in read]
            found = detect(model, predictor.variables, images, canvas=canvas, batch_size=rows) if read else []
            for (place, image), one in zip(read, found, strict=True):
                yield Detections(place, image, one["boxes"], one["labels"], one["scores"], one.get("masks"))
