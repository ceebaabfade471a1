"""Tables of names: how files call the parts of a family of networks. `names.py` reads them.

A row has the name of a module, and its name elsewhere. `{stage}`, `{block}` and `{n}` stand for numbers. `{stage0}` is
one less, for libraries that count from 0. A module that no row names keeps its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Rows = tuple[tuple[str, str], ...]
Layout = Literal["torchvision", "timm_d", "huggingface"]


@dataclass(frozen=True, eq=False)  # compared by identity, so that it may be a key of caches
class Family:
    """How files name the parts of one family of networks. A new family is one more of these, and no new code.

    Attributes:
      modules: rows from our modules, with dots and numbers (`layer1.0.downsample_conv`), to the layout "torchvision".
      layouts: whose names there are; rows from the layout "torchvision", which is one of them and has none.
      head: our modules with one output for each class: their arrays have another size where the classes are others.
      stem: our convolutions that may be the first, the one that reads the image.
      block: a regular expression that finds the number of a stage and of a residual block in a key of any layout.
      layout_of: the layout in which the library that has this network writes it.
      special: layouts in which no other networks are written than those that `layout_of` says.
      image: axes of a small image, or clip, without batch and channels.
    """

    modules: Rows
    layouts: Mapping[str, Rows]
    head: tuple[str, ...]
    stem: tuple[str, ...]
    block: str
    layout_of: Callable[[Any], str] = lambda model: "torchvision"
    special: frozenset[str] = frozenset()
    image: tuple[int, ...] = (64, 64)


_BLOCK = "layer{stage}.{block}"
_HF = "resnet.encoder.stages.{stage0}.layers.{block}"

RESNET = Family(
    modules=(
        (f"{_BLOCK}.downsample_conv", f"{_BLOCK}.downsample.0"),
        (f"{_BLOCK}.downsample_bn", f"{_BLOCK}.downsample.1"),
    ),
    layouts={
        # Also timm's names, for every network whose shortcut does not pool.
        "torchvision": (),
        # timm's networks with an average pool in front of the shortcut's convolution, such as resnet50d.
        "timm_d": (
            (f"{_BLOCK}.downsample.0", f"{_BLOCK}.downsample.1"),
            (f"{_BLOCK}.downsample.1", f"{_BLOCK}.downsample.2"),
        ),
        # transformers' ResNetForImageClassification, such as microsoft/resnet-50.
        "huggingface": (
            ("conv1", "resnet.embedder.embedder.convolution"),
            ("bn1", "resnet.embedder.embedder.normalization"),
            (f"{_BLOCK}.conv{{n}}", f"{_HF}.layer.{{n0}}.convolution"),
            (f"{_BLOCK}.bn{{n}}", f"{_HF}.layer.{{n0}}.normalization"),
            (f"{_BLOCK}.downsample.0", f"{_HF}.shortcut.convolution"),
            (f"{_BLOCK}.downsample.1", f"{_HF}.shortcut.normalization"),
            ("fc", "classifier.1"),
        ),
    },
    head=("fc",),
    stem=("conv1", "conv1.0"),
    block=r"(?:layer|encoder\.stages\.)(\d+)\.(?:layers\.)?(\d+)\.",
    layout_of=lambda model: "timm_d" if getattr(model, "shortcut", None) == "average_pool" else "torchvision",
    special=frozenset({"timm_d"}),
)
"""The networks of `list_models()`."""
