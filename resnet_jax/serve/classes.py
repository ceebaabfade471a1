"""Serves a network that names one class for a whole image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from resnet_jax.analysis.attention.gradcam import cams
from resnet_jax.analysis.attention.heat import enlarge, map_of
from resnet_jax.analysis.attention.overlay import overlay
from resnet_jax.analysis.report.pictures import picture
from resnet_jax.config import Preset
from resnet_jax.display import distinct
from resnet_jax.run.network import Network, describe
from resnet_jax.run.predictor import Predictor
from resnet_jax.serve.asked import Asked
from resnet_jax.serve.work import Program, Work, up_to

TOP = 3
MOST_CAMS = 8
"""Images whose Grad-CAM is computed together: gradients need memory."""


class Classes:
    """The classes of an image, with their probabilities, and where in the image a class is seen.

    Args:
      predictor: what `predict` uses.
      preset: how it prepares images.
      network: what Grad-CAM looks into; None = there is none.
      sizes: of batches.
    """

    kind: str = "classes"

    def __init__(self, predictor: Predictor, preset: Preset, network: Network | None, sizes: Sequence[int]) -> None:
        self.title, self.note, self.preset = predictor.title, describe(preset), preset
        self.class_names: Sequence[str] = distinct(predictor.class_names)
        self.cam = network is not None
        self._load = predictor.load
        side = preset.crop or preset.resize
        row = np.zeros((side, side, preset.channels), np.uint8)
        self._classify = Program("classes", predictor.probabilities, [(row,)], sizes)
        self.programs: Sequence[Program] = [self._classify]
        if network is not None:
            looked, stage = network, map_of(network, None)

            def cam(pixels: UInt8[np.ndarray, "N S S C"], labels: Int[np.ndarray, " N"]) -> Float[Array, "N S S"]:
                return enlarge(cams(looked, pixels, labels, stage=stage, plus=False), side)  # as `grad_cam`

            self._cam = Program("Grad-CAM", cam, [(row, np.asarray(0, np.int32))], up_to(MOST_CAMS, sizes))
            self.programs = [self._classify, self._cam]

    async def answer(self, data: bytes, asked: Asked, work: Work) -> dict[str, Any]:
        """`classes`, the most probable first; with `asked.cam` also `cam`. Raises as `Served.answer`."""
        pixels = await work.in_pool(self._load, data)
        shares = await work.compute(self._classify, pixels)
        best = np.argsort(-shares)[: asked.top or min(TOP, len(shares))].tolist()
        answer: dict[str, Any] = {"classes": [self._row(label, shares) for label in best]}
        if asked.cam:
            label = best[0] if asked.label is None else asked.label
            heat = await work.compute(self._cam, pixels, np.asarray(label, np.int32))
            drawn = await work.in_pool(_drawn, pixels, heat)
            answer["cam"] = {**self._row(label, shares), "picture": drawn}
        return answer

    def _row(self, label: int, shares: Float[np.ndarray, " K"]) -> dict[str, Any]:
        return {"class": self.class_names[label], "number": label, "probability": round(float(shares[label]), 6)}


def _drawn(pixels: UInt8[np.ndarray, "S S C"], heat: Float[np.ndarray, "S S"]) -> str:
    (shown,) = overlay(pixels[None], heat[None])
    return picture(shown, lossless=True)
