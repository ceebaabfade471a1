"""Exports that `python -m resnet_jax export` wrote, as networks that predict."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from resnet_jax.config import Preset
from resnet_jax.data import load_image, normalize
from resnet_jax.data.canvases import Size
from resnet_jax.errors import ConfigError
from resnet_jax.export.job import DESCRIPTION, PIXELS
from resnet_jax.run.masks import MaskPredictor
from resnet_jax.run.predictor import Predictor

PACKAGES = {"onnx": "onnxruntime", "stablehlo": "flatbuffers"}
"""What running a format needs that this package does not bring along."""

Run = Callable[[UInt8[np.ndarray, "N H W C"]], Float[np.ndarray, "N ..."]]
"""Bytes -> logits, the classes last."""


@dataclass(frozen=True)
class Export:
    """An export that can be asked.

    Attributes:
      batch: how many images its program takes at a time; None = any number.
      sides: height and width of its images.
    """

    predictor: Predictor | MaskPredictor
    preset: Preset
    batch: int | None
    sides: Size


def is_export(name: str) -> bool:
    """Whether it is a folder that `export --format onnx` or `--format stablehlo` wrote."""
    return (Path(name) / DESCRIPTION).is_file()


def open_export(folder: Path) -> Export:
    """Reads an export.

    Raises:
      ConfigError: it is damaged, takes images that its preparation does not make, or a package is not installed.
    """
    try:
        facts = json.loads((folder / DESCRIPTION).read_text())
        form, asked, output = facts["format"], facts["input"], facts["output"]["name"]
        known: dict[str, Any] = {**facts["preset"]}
        known |= {name: tuple(known[name]) for name in ("mean", "std", "exact") if name != "exact" or name in known}
        preset, names, title = Preset(**known), tuple(map(str, facts["classes"])), str(facts["network"])
        shape, scaled = list(asked["shape"]), asked["name"] != PIXELS
        batch = shape[0] if isinstance(shape[0], int) else None
        height, width = map(int, shape[2:] if form == "onnx" and scaled else shape[1:3])
        files = [folder / name for name in facts["files"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{folder / DESCRIPTION} is not as `export` writes it ({type(error).__name__}: {error}); export the "
            "network again"
        ) from error
    if form not in PACKAGES:
        raise ConfigError(
            f"{folder} is of format {form!r}, and {' and '.join(PACKAGES)} can be served; export to these"
        )
    if "clip" in facts:
        raise ConfigError(
            f"{folder} takes clips of {facts['clip']['frames']} frames, and the server answers images; run the program "
            "from your own, or serve a network for images"
        )
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ConfigError(f"{folder} lacks {missing[0]}, which {DESCRIPTION} names; export the network again")
    segments = output != "logits"
    if not segments and (height, width) != (preset.crop, preset.crop):
        raise ConfigError(
            f"{folder} takes images of {height} x {width} pixels, and its preparation makes {preset.crop} x "
            f"{preset.crop}; export the network without --size"
        )
    if importlib.util.find_spec(PACKAGES[form]) is None:
        package = PACKAGES[form]
        raise ConfigError(
            f"an export of format {form} needs the package {package}; install it with: pip install {package}"
        )
    opened = _onnx if form == "onnx" else _stablehlo
    try:
        run = opened(folder, asked["name"], output, preset, scaled=scaled)
    except Exception as error:  # the readers of both formats raise anything on a damaged file
        raise ConfigError(f"{folder} cannot be read: {str(error)[:200]}; export the network again") from error
    predictor = (
        MaskPredictor(title, names, preset, 1, lambda pixels: _masks(run(pixels)))
        if segments
        else Predictor(title, names, lambda image: load_image(image, preset), lambda pixels: _softmax(run(pixels)))
    )
    return Export(predictor, preset, batch, (height, width))


def _onnx(folder: Path, name: str, output: str, preset: Preset, *, scaled: bool) -> Run:
    import onnxruntime

    from resnet_jax.export.onnx_file import FILE

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    mean, std = (np.asarray(values, np.float32) for values in (preset.mean, preset.std))

    def run(pixels: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N ..."]:
        given = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2) if scaled else pixels
        (logits,) = session.run([output], {name: np.ascontiguousarray(given)})
        return np.moveaxis(logits, 1, -1)

    return run


def _stablehlo(folder: Path, name: str, output: str, preset: Preset, *, scaled: bool) -> Run:
    import jax
    from jax import export
    from safetensors.numpy import load_file

    from resnet_jax.export.stablehlo import PROGRAM, WEIGHTS

    program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    weights = jax.device_put(load_file(folder / WEIGHTS))

    @jax.jit
    def logits(weights: Mapping[str, Array], pixels: UInt8[Array, "N H W C"]) -> Float[Array, "N ..."]:
        given: Any = program.call(weights, normalize(pixels, preset) if scaled else pixels)
        return given[output]

    return lambda pixels: np.asarray(logits(weights, pixels))


def _softmax(logits: Float[np.ndarray, "N ... K"]) -> Float[np.ndarray, "N ... K"]:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _masks(logits: Float[np.ndarray, "N H W K"]) -> dict[str, np.ndarray]:
    """As the task's own prediction, see `tasks/segment/task.py`."""
    shares = _softmax(logits)
    return {"mask": shares.argmax(axis=-1).astype(np.uint8), "probability": shares.max(axis=-1)}
