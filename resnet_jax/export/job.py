"""What is to be exported, in which form, and what a program that reads the result must know."""

import dataclasses
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnet_jax import __version__
from resnet_jax.compress import Folded, fold
from resnet_jax.compress.quantize import Quantized
from resnet_jax.config import ClipConfig, Preset
from resnet_jax.errors import ConfigError
from resnet_jax.files import explain_failed_write
from resnet_jax.models.headed import refuse_boxes, with_options
from resnet_jax.run.clips import PUBLISHED, describe_clips
from resnet_jax.run.network import Network, describe
from resnet_jax.tasks.clips.task import is_video_network

Format = Literal["stablehlo", "onnx", "huggingface"]
DESCRIPTION = "export.json"
PACKAGES: dict[Format, str] = {"onnx": "onnx", "stablehlo": "flatbuffers"}
"""What a format needs that this package does not bring along."""
PIXELS, IMAGES, CLIPS = "pixels", "images", "clips"
"""The names of the input: bytes (N, H, W, C), which the program scales itself; or scaled float32 numbers."""
_OF_CLIPS = ("frames", "sampling", "step", "rate", "folder_rate", "eval_clips", "eval_crops")
"""Fields of `ClipConfig` that are for evaluation. The preset says how frames are resized."""


@dataclass(frozen=True)
class Job:
    """A network, and the form in which it is to be called.

    Attributes:
      batch: images at a time; None = any number.
      size: height and width of the images, or None for their usual size.
      with_preprocessing: whether the program takes bytes and scales them itself.
      clips: of a network that sees clips (N, T, H, W, C): how their frames are taken.
      quantized: the network in integers, if it is to be written so.
      quantization: how it was quantised, for `export.json`.
    """

    network: Network
    batch: int | None = None
    size: tuple[int, int] | None = None
    with_preprocessing: bool = False
    clips: ClipConfig = PUBLISHED
    quantized: Quantized | None = None
    quantization: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_boxes(self.network.model, "export")
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"--batch = {self.batch} must be at least 1, or symbolic for any number of images")
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"--size = {self.size[0]} {self.size[1]} must be at least 1 pixel high and wide")

    @property
    def preset(self) -> Preset:
        """How images are prepared. A network for segmentation sees whole images."""
        return dataclasses.replace(self.network.preset, crop=0) if self.output == "out" else self.network.preset

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images that the program takes."""
        side = self.preset.crop or self.preset.resize
        return self.size or (side, side)

    @property
    def sees_clips(self) -> bool:
        return is_video_network(self.network.model)

    @property
    def input(self) -> str:
        """The name of what the program takes."""
        return PIXELS if self.with_preprocessing else CLIPS if self.sees_clips else IMAGES

    @property
    def output(self) -> str:
        """The name of what the program gives: `logits` (N, K), of each pixel `out`, or `embedding` (N, E)."""
        return getattr(self.network.model, "gives", "logits")

    def folded(self) -> Folded:
        """The network that is exported: in float32, with batch normalisation folded into the convolutions."""
        if self.quantized:
            return self.quantized.float
        return fold(with_options(self.network.model, dtype=None), self.network.variables)

    def shape(self, batch: Any) -> tuple[Any, ...]:
        """Of the images or clips, with the channels last."""
        frames = (self.clips.frames,) if self.sees_clips else ()
        return (batch, *frames, *self.sides, self.preset.channels)

    def description(self, form: Format, shape: Sequence[Any], files: Sequence[str], norms: Folded) -> str:
        """`export.json`: what programs must know that read the export, and people."""
        net = self.network
        facts = {
            "format": form,
            "files": list(files),
            "network": net.title,
            "norms": {"folded": norms.folded, "kept": norms.kept},
            **({"quantization": dict(self.quantization)} if self.quantized else {}),
            "input": {
                "name": self.input,
                "dtype": "uint8" if self.with_preprocessing else "float32",
                "shape": list(shape),
            },
            "output": {"name": self.output, "dtype": "float32"},
            "preparation": {"outside": self.outside, "inside": self.inside},
            "preset": self.preset.as_json(),
            **({"clip": {name: getattr(self.clips, name) for name in _OF_CLIPS}} if self.sees_clips else {}),
            "classes": list(net.class_names),
            "resnet_jax": __version__,
        }
        return json.dumps(facts, indent=2) + "\n"

    @property
    def outside(self) -> str:
        """What has to be done to an image or a video before the program gets it."""
        height, width = self.sides
        kind = "RGB" if self.preset.channels == 3 else "grey"
        taken = f"{describe_clips(self.clips)}; " if self.sees_clips else ""
        seen = f"{taken}{describe(self.preset)}: {height} x {width} pixels, {kind}"
        return seen if self.with_preprocessing else f"{seen}; {_SCALED.format(self.preset)}"

    @property
    def inside(self) -> str:
        """What the program does to pixels itself."""
        return _SCALED.format(self.preset) if self.with_preprocessing else "nothing"


_SCALED = "(value / 255 - {0.mean}) / {0.std} of each channel"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into. It is given the name `out` at the end, so `out` holds a whole export or is not there."""
    check_out(out)
    begun = out.with_name(f"{out.name}.partial")
    with explain_failed_write(out):
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        yield begun
        if out.exists():
            out.rmdir()
        begun.rename(out)


def check_packages(form: Format) -> None:
    """Raises a ConfigError where a package is not installed that writes the format."""
    package = PACKAGES.get(form)
    if package and not _is_installed(package):
        raise ConfigError(f"--format {form} needs the package {package}; install it with: pip install {package}")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # the name is taken, by nothing
        return False


def check_out(out: Path) -> None:
    """Raises a ConfigError where no new folder of this name can be made."""
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(
            f"--out {out} holds files already, such as {min(out.iterdir()).name}; name a new folder, so that nothing "
            "in it is replaced"
        )
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {out} must be a folder, and {there} is a file; choose another name")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"cannot write into --out {out}: it is not allowed in {there}. Choose another place")
