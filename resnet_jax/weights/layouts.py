"""Whose names a file uses: torchvision's, timm's or Hugging Face's, as tables over torchvision's.

A row gives a torchvision module and its name elsewhere. `{stage}`, `{block}` and `{n}` stand for torchvision's numbers;
`{stage0}` and `{n0}` are one less, for libraries that count from 0. A module that no row names keeps its name.
"""

import re
from collections.abc import Iterable
from typing import Literal

Layout = Literal["torchvision", "timm_d", "huggingface"]

_BLOCK = "layer{stage}.{block}"
_HF = "resnet.encoder.stages.{stage0}.layers.{block}"

TABLES: dict[Layout, tuple[tuple[str, str], ...]] = {
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
}

_PATTERNS = {
    layout: [(re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(ours))), theirs) for ours, theirs in rows]
    for layout, rows in TABLES.items()
}

# A residual block's stage and number in any of the layouts.
_ANY_BLOCK = re.compile(r"(?:layer|encoder\.stages\.)(\d+)\.(?:layers\.)?(\d+)\.")


def rename(module: str, layout: Layout) -> str:
    """The name in `layout` of the module that torchvision calls `module`, such as `layer1.0.bn2`."""
    for pattern, theirs in _PATTERNS[layout]:
        if match := pattern.fullmatch(module):
            numbers = {name: int(value) for name, value in match.groupdict().items()}
            return theirs.format(**numbers, **{f"{name}0": value - 1 for name, value in numbers.items()})
    return module


def stage_sizes(keys: Iterable[str]) -> tuple[int, ...]:
    """Blocks per stage, as the keys of a state dictionary in any layout tell; `()` where they tell nothing."""
    blocks: dict[int, set[int]] = {}
    for key in keys:
        if match := _ANY_BLOCK.search(key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


# The stem's weights in any of the layouts: where the keys of a network begin.
_STEM = re.compile(r"(.*?)(?:conv1\.(?:0\.)?weight|resnet\.embedder\.embedder\.convolution\.weight)")


def where_networks_lie(keys: Iterable[str]) -> str:
    """What to say of keys that have something in front of a network's own; empty where they have nothing."""
    prefixes = sorted({prefix for key in keys if (prefix := prefix_of_network(key))})
    if not prefixes:
        return ""
    which = " or ".join(map(repr, prefixes))
    return f"the network lies under {which} in this file; say so: prefix={prefixes[0]!r}, --prefix {prefixes[0]}"


def prefix_of_network(key: str) -> str | None:
    """`"module.encoder_q."` of `module.encoder_q.conv1.weight`; None of keys that are not those of a stem.

    A block's own first convolution, `layer1.0.conv1.weight`, is none.
    """
    match = _STEM.fullmatch(key)
    if match is None or _ANY_BLOCK.search(key) or (match[1] and not match[1].endswith(".")):
        return None
    return match[1]
