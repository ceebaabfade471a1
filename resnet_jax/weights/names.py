"""Names of modules and leaves, from ours to those of files, by the tables of `families.py`; and the order of axes."""

import functools
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from resnet_jax.errors import WeightsError, unknown_name
from resnet_jax.weights.families import RESNET, Family, Rows, family_of, named
from resnet_jax.weights.narrowing import COUNTER

T = TypeVar("T")
Path = tuple[str, ...]  # of a leaf in the variables: (collection, module, ..., leaf)

# PyTorch's count of a BatchNorm's training passes decides nothing when momentum is a number, so it is no part of
# `batch_stats`, which training updates; it travels in a collection of its own, which `model.apply` ignores.
COUNTERS = COUNTER

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "slope"): "weight",
    ("params", "bias"): "bias",
    ("params", "embedding"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
    (COUNTERS, "count"): "num_batches_tracked",
}


def torch_key(path: Path, layout: str = "torchvision", family: Family = RESNET) -> str:
    """PyTorch's key of the leaf at `path`: `("params", "layer1_0", "bn1", "scale")` is `layer1.0.bn1.weight`.

    Raises:
      WeightsError: a leaf that has no name in PyTorch, or an unknown layout.
    """
    collection, *modules, leaf = path
    if (collection, leaf) not in _LEAVES:
        raise WeightsError(
            f"{'/'.join(path)} has no name in PyTorch; known are {', '.join('/.../'.join(known) for known in _LEAVES)}"
        )
    return _rename(f"{torch_module(modules, layout, family)}.{_LEAVES[collection, leaf]}", family.keys)


def torch_module(path: Sequence[str], layout: str = "torchvision", family: Family = RESNET) -> str:
    """PyTorch's name of the submodule at `path`: `("layer1_0", "downsample_bn")` is `layer1.0.downsample.1`."""
    if layout not in family.layouts:
        raise WeightsError(unknown_name("layout", layout, family.layouts))
    if not family.rooted and path[0] in family.roots:
        path = path[1:]
    module = re.sub(r"_(\d+)(?=[._]|$)", r".\1", ".".join(path))
    return named(family, _rename(_rename(module, family.modules), family.layouts[layout]))


def with_names_of_today(arrays: Mapping[str, T], expected: Container[str], family: Family = RESNET) -> dict[str, T]:
    """The same arrays by the names that files have today, as far as those are `expected` and the old ones are not."""
    today = {key: _rename(key, family.old) if family.old else key for key in arrays}
    return {
        now if key not in expected and now in expected and now not in arrays else key: arrays[key]
        for key, now in today.items()
    }


def layout_of(model: Any, family: Family | None = None) -> str:
    """The layout in which timm (or torchvision) writes `model`.

    Args:
      family: of the model; None = as `family_of` says.
    """
    return (family or family_of(model)).layout_of(model)


@functools.cache
def keys_of(module: str, leaf: str, family: Family = RESNET) -> tuple[str, ...]:
    """The keys that a leaf of our `module`, such as `"fc"`, has in all layouts."""
    return tuple(f"{torch_module((module,), layout, family)}.{leaf}" for layout in family.layouts)


def stage_sizes(keys: Iterable[str], family: Family = RESNET) -> tuple[int, ...]:
    """Blocks per stage, as the keys of a state dictionary in any layout tell; `()` where they tell nothing."""
    blocks: dict[int, set[int]] = {}
    for key in keys:
        if match := re.search(family.block, key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def where_networks_lie(keys: Iterable[str]) -> str:
    """What to say of keys that have something in front of a network's own; empty where they have nothing."""
    prefixes = sorted({prefix for key in keys if (prefix := prefix_of_network(key))})
    if not prefixes:
        return ""
    which = " or ".join(map(repr, prefixes))
    return f"the network lies under {which} in this file; say so: prefix={prefixes[0]!r}, --prefix {prefixes[0]}"


def prefix_of_network(key: str, family: Family = RESNET) -> str | None:
    """`"module.encoder_q."` of `module.encoder_q.conv1.weight`; None of keys that are not those of a stem.

    A block's own first convolution, `layer1.0.conv1.weight`, is none. Nor is that of a block of U-Net's decoder.
    """
    for stem in (key for module in family.stem for key in keys_of(module, "weight", family)):
        prefix = key.removesuffix(stem)
        if (
            prefix != key
            and (not prefix or prefix.endswith("."))
            and not re.search(rf"{family.block}|decoder\.blocks\.", key)
        ):
            return prefix
    return None


def to_torch_axes(array: np.ndarray, path: Path) -> np.ndarray:
    """(H, W, I, O) -> (O, I, H, W), (T, H, W, I, O) -> (O, I, T, H, W) and (I, O) -> (O, I), as a view."""
    if path[-1] != "kernel":
        return array
    *axes, inputs, outputs = range(array.ndim)
    return array.transpose(outputs, inputs, *axes)


def to_our_axes(array: np.ndarray, path: Path) -> np.ndarray:
    """(O, I, H, W) -> (H, W, I, O), (O, I, T, H, W) -> (T, H, W, I, O) and (O, I) -> (I, O), as a view."""
    if path[-1] != "kernel":
        return array
    outputs, inputs, *axes = range(array.ndim)
    return array.transpose(*axes, inputs, outputs)


@functools.cache
def _patterns(rows: Rows) -> list[tuple[re.Pattern[str], str]]:
    numbers = lambda ours: re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(ours))
    return [(re.compile(numbers(ours)), theirs) for ours, theirs in rows]


def _rename(module: str, rows: Rows) -> str:
    for pattern, theirs in _patterns(rows):
        if match := pattern.fullmatch(module):
            numbers = {name: int(value) for name, value in match.groupdict().items()}
            return theirs.format(**numbers, **{f"{name}0": value - 1 for name, value in numbers.items()})
    return module
