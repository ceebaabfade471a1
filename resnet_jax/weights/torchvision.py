"""PyTorch state dictionaries to our variables and back: a rename and a transpose, strict both ways.

    layer1.0.conv1.weight (O, I, H, W)   <->  params/layer1_0/conv1/kernel (H, W, I, O)
    layer1.0.downsample.1.running_var    <->  batch_stats/layer1_0/downsample_bn/var
    bn1.num_batches_tracked              <->  num_batches_tracked/bn1/count

Nothing here needs torch: a state dictionary maps PyTorch's keys to numpy arrays (`files.py` reads and writes them).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from resnet_jax.errors import WeightsError
from resnet_jax.models import ResNet, create_model, list_models
from resnet_jax.weights.layouts import TABLES, Layout, rename, stage_sizes, where_networks_lie
from resnet_jax.weights.narrowing import COUNTER, as_count, first_few, narrow

StateDict = dict[str, np.ndarray]
Path = tuple[str, ...]  # of a leaf in the variables: (collection, module, ..., leaf)
Shape = tuple[int, ...]

# PyTorch's count of a BatchNorm's training passes decides nothing when momentum is a number, so it is no part of
# `batch_stats`, which training updates; it travels in a collection of its own, which `model.apply` ignores.
COUNTERS = COUNTER

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
    (COUNTERS, "count"): "num_batches_tracked",
}


def from_torchvision(state_dict: Mapping[str, np.ndarray], model: ResNet, *, channels: int = 3) -> PyTree[Array]:
    """Converts a state dictionary in any of the layouts of `layouts.py` to the variables of `model`.

    Args:
      state_dict: PyTorch's keys to arrays, such as `read_state_dict` gives.
      model: the network that the file is for. Floating-point arrays become its `param_dtype`, so float16 and bfloat16
        files are widened without loss.
      channels: of the images.

    Returns:
      `{"params", "batch_stats"}`, and `"num_batches_tracked"` (numpy int64) where the file has it.

    Raises:
      WeightsError: names the keys that are missing, unexpected, of the wrong shape or type, or hold numbers that are
        not finite or not within `param_dtype`. A file without any `num_batches_tracked` is complete: PyTorch before
        0.4.1 wrote none. One that is no number (of a network that was `.half()`ed) counts as 0.
    """
    paths = _match(state_dict, model, channels)
    arrays = narrow({key: state_dict[key] for key in paths}, np.dtype(model.param_dtype))
    return unflatten_dict(
        {
            path: as_count(arrays[key])
            if path[0] == COUNTERS
            else jnp.asarray(_to_ours(arrays[key], path), model.param_dtype)
            for key, path in paths.items()
        }
    )


def to_torchvision(
    variables: PyTree[Array],
    *,
    layout: Layout = "torchvision",
    dtype: Any = None,
    num_batches_tracked: int = 0,
) -> StateDict:
    """Converts our variables to a state dictionary that PyTorch's network loads with `strict=True`.

    Args:
      variables: `{"params", "batch_stats"}`; other collections than these and `"num_batches_tracked"` are refused.
      layout: whose names to use; `layout_of(model)` for a network of timm's.
      dtype: of the floating-point arrays; None = as they are.
      num_batches_tracked: what to write where the variables hold no counts, such as the number of training steps.

    Raises:
      WeightsError: a leaf that has no name in PyTorch, or numbers too large for `dtype`.
    """
    flat = flatten_dict(dict(variables))
    for path in [path for path in flat if path[0] == "batch_stats" and path[-1] == "mean"]:
        flat.setdefault((COUNTERS, *path[1:-1], "count"), num_batches_tracked)
    state_dict = {}
    for path, leaf in flat.items():
        array = np.asarray(leaf, np.int64) if path[0] == COUNTERS else np.asarray(leaf)
        state_dict[torch_key(path, layout)] = np.array(_to_torch(array, path), order="C")
    return state_dict if dtype is None else narrow(state_dict, np.dtype(dtype))


def translate(
    state_dict: Mapping[str, np.ndarray], model: ResNet, *, layout: Layout = "torchvision", channels: int = 3
) -> StateDict:
    """A state dictionary of `model` in any layout, with the names of `layout`; the arrays are the same, not copies, but
    for counters, which become whole numbers.

    Raises:
      WeightsError: as `from_torchvision`.
    """
    return {
        torch_key(path, layout): as_count(state_dict[key]) if path[0] == COUNTERS else state_dict[key]
        for key, path in _match(state_dict, model, channels).items()
    }


def layout_of(model: ResNet) -> Layout:
    """The layout in which timm (or torchvision) writes `model`."""
    return "timm_d" if getattr(model, "shortcut", None) == "average_pool" else "torchvision"


def identify(state_dict: Mapping[str, np.ndarray]) -> str | None:
    """The name of the network whose keys and shapes are these, whatever its head and its image channels.

    Of several that differ in what has no arrays (such as `resnet50` and `resnet50_v1`, whose strides lie elsewhere) it
    is the first of `list_models()`; `candidates` gives all.

    Raises:
      WeightsError: the keys are those of networks that write the same arrays under different names.
    """
    names = candidates(state_dict)
    if len({layout_of(create_model(name)) for name in names}) > 1:
        raise WeightsError(
            f"the weights may be of {' or '.join(names)}, whose keys and shapes are the same here; say which it is: "
            "--model NAME, or load_pretrained(NAME, ...)"
        )
    return names[0] if names else None


def candidates(state_dict: Mapping[str, np.ndarray]) -> list[str]:
    """The names of all networks that keys and shapes may be those of, in the order of `list_models()`.

    timm's numbers of the shortcut's parts tell D nets from C nets; written with torchvision's, both are alike.
    """
    found = _fixed({key: array.shape for key, array in state_dict.items() if not key.endswith("." + COUNTERS)})
    sizes, names = stage_sizes(found), []
    for name in list_models():
        model = create_model(name)
        if model.stage_sizes == sizes:
            shapes = {path: shape for path, shape in _paths(model, 3).items() if path[0] != COUNTERS}
            layouts = [layout for layout in TABLES if layout != "timm_d" or layout_of(model) == "timm_d"]
            if any(_fixed({torch_key(p, layout): s for p, s in shapes.items()}) == found for layout in layouts):
                names.append(name)
    return names


def head_and_channels(state_dict: Mapping[str, np.ndarray]) -> tuple[int | None, int | None]:
    """(classes of the head, channels of the images) that the arrays were made for; None where they do not tell."""
    sizes: list[int | None] = []
    for keys, axis in ((_HEAD, 0), (_STEM, 1)):
        array = next((state_dict[key] for key in keys if key in state_dict), None)
        sizes.append(array.shape[axis] if array is not None and array.ndim > axis else None)
    return sizes[0], sizes[1]


def torch_key(path: Path, layout: Layout = "torchvision") -> str:
    """PyTorch's key of the leaf at `path`: `("params", "layer1_0", "bn1", "scale")` is `layer1.0.bn1.weight`.

    Raises:
      WeightsError: a leaf that has no name in PyTorch.
    """
    collection, *modules, leaf = path
    if (collection, leaf) not in _LEAVES:
        raise WeightsError(
            f"{'/'.join(path)} has no name in PyTorch; known are {', '.join('/.../'.join(known) for known in _LEAVES)}"
        )
    return f"{torch_module(modules, layout)}.{_LEAVES[collection, leaf]}"


def torch_module(path: Sequence[str], layout: Layout = "torchvision") -> str:
    """PyTorch's name of the submodule at `path`: `("layer1_0", "downsample_bn")` is `layer1.0.downsample.1`."""
    module = re.sub(r"_(\d+)(?=\.|$)", r".\1", ".".join(path))
    module = module.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
    return rename(module, layout)


_HEAD = tuple(torch_key(("params", "fc", "kernel"), layout) for layout in TABLES)
_HEAD_BIAS = tuple(torch_key(("params", "fc", "bias"), layout) for layout in TABLES)
_STEM = (*(torch_key(("params", "conv1", "kernel"), layout) for layout in TABLES), "conv1.0.weight")


def _fixed(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Without what the number of classes and of image channels decide."""
    fixed = dict(shapes)
    for keys, axis in ((_HEAD, 0), (_HEAD_BIAS, 0), (_STEM, 1)):
        fixed |= {key: shapes[key][:axis] + shapes[key][axis + 1 :] for key in keys if key in shapes}
    return fixed


def _paths(model: ResNet, channels: int) -> dict[Path, Shape]:
    """Every leaf of the model's variables, and of the counters, with the shape that PyTorch gives it."""
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    paths = {}
    for path, leaf in flatten_dict(shapes).items():
        paths[path] = _to_torch(np.broadcast_to(np.float32(0), leaf.shape), path).shape
        if path[0] == "batch_stats" and path[-1] == "mean":
            paths[COUNTERS, *path[1:-1], "count"] = ()
    return paths


def _to_torch(array: np.ndarray, path: Path) -> np.ndarray:
    """(H, W, I, O) -> (O, I, H, W), (T, H, W, I, O) -> (O, I, T, H, W) and (I, O) -> (O, I), as a view."""
    if path[-1] != "kernel":
        return array
    *axes, inputs, outputs = range(array.ndim)
    return array.transpose(outputs, inputs, *axes)


def _to_ours(array: np.ndarray, path: Path) -> np.ndarray:
    """(O, I, H, W) -> (H, W, I, O), (O, I, T, H, W) -> (T, H, W, I, O) and (O, I) -> (I, O), as a view."""
    if path[-1] != "kernel":
        return array
    outputs, inputs, *axes = range(array.ndim)
    return array.transpose(*axes, inputs, outputs)


def _match(state_dict: Mapping[str, np.ndarray], model: ResNet, channels: int) -> dict[str, Path]:
    """Where each key of the file belongs. Raises WeightsError unless every key is used and every array fits."""
    paths = _paths(model, channels)
    layout = max(TABLES, key=lambda layout: len(state_dict.keys() & {torch_key(path, layout) for path in paths}))
    keys = {torch_key(path, layout): path for path in paths}
    if not any(key.endswith("." + COUNTERS) for key in state_dict):
        keys = {key: path for key, path in keys.items() if path[0] != COUNTERS}
    _check(state_dict, {key: paths[path] for key, path in keys.items()})
    return keys


def _check(state_dict: Mapping[str, np.ndarray], expected: Mapping[str, Shape]) -> None:
    missing = [key for key in expected if key not in state_dict]
    unexpected = [key for key in state_dict if key not in expected]
    common = {key: state_dict[key] for key in expected if key in state_dict}
    misshaped = [
        f"{key} {array.shape} != {expected[key]}" for key, array in common.items() if array.shape != expected[key]
    ]
    mistyped = [
        f"{key} is {array.dtype}"
        for key, array in common.items()
        if not key.endswith("." + COUNTERS) and not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if problems := [
        f"{len(keys)} {what}: {first_few(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of wrong shape (file != network)", misshaped),
            ("not floating point", mistyped),
        )
        if keys
    ]:
        raise WeightsError(
            f"the weights do not fit the network: {_remedy(state_dict, expected)}\n  " + "\n  ".join(problems)
        )
    if bad := [
        f"{key} ({np.sum(~np.isfinite(array))} of {array.size})"
        for key, array in common.items()
        if not key.endswith("." + COUNTERS) and not np.isfinite(array).all()
    ]:
        raise WeightsError(
            f"the weights hold NaN or infinite numbers in {len(bad)} arrays; training may have diverged, "
            f"use an earlier checkpoint: {first_few(bad)}"
        )


def _remedy(state_dict: Mapping[str, np.ndarray], expected: Mapping[str, Shape]) -> str:
    classes, channels = head_and_channels(state_dict)
    found = {key: array.shape for key, array in state_dict.items()}
    if classes and not {*_HEAD} & {*expected} and _headless(found) == _headless(expected):
        return (
            f"the file has a head of {classes} classes, and the network none. Take it as it is, without num_classes; "
            'model.apply(..., features=True)["pooled"] gives what lies before it (docs/weights.md, "Another head")'
        )
    if found != dict(expected) and _fixed(found) == _fixed(expected):
        wrong = {key for key in expected if found[key] != expected[key]}
        options = [f"num_classes={classes}"] if wrong & {*_HEAD} else []
        options += [f"channels={channels}"] if wrong & {*_STEM} else []
        other = ' (for a head of another size see docs/weights.md, "Another head")' if wrong & {*_HEAD} else ""
        return f"to take them as they are pass {' and '.join(options)}{other}"
    names = candidates(state_dict)
    asked = candidates({key: np.broadcast_to(np.float32(0), shape) for key, shape in expected.items()})
    if {*names} & {*asked}:
        return "it is this network but for what follows; the file is damaged, or was changed after it was saved"
    if names:
        return f"this file looks like {' or '.join(names)}; ask for that network, or choose another file"
    return where_networks_lie(state_dict) or "they are of no network known here; see list_models()"


def _headless(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {key: shape for key, shape in shapes.items() if key not in (*_HEAD, *_HEAD_BIAS)}
