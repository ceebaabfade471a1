"""PyTorch state dictionaries to our variables and back: a rename and a transpose, strict both ways.

    layer1.0.conv1.weight (O, I, H, W)   <->  params/layer1_0/conv1/kernel (H, W, I, O)
    layer1.0.downsample.1.running_var    <->  batch_stats/layer1_0/downsample_bn/var
    bn1.num_batches_tracked              <->  num_batches_tracked/bn1/count

Nothing here needs torch: a state dictionary maps PyTorch's keys to numpy arrays (`files.py` reads and writes them).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from resnet_jax.errors import WeightsError
from resnet_jax.weights.families import Family, family_of
from resnet_jax.weights.fit import check_fit, refuse_foreign
from resnet_jax.weights.names import (
    COUNTERS,
    Path,
    layout_of,
    to_our_axes,
    to_torch_axes,
    torch_key,
    with_names_of_today,
)
from resnet_jax.weights.narrowing import as_count, narrow
from resnet_jax.weights.recognize import leaves_of

StateDict = dict[str, np.ndarray]


def from_torchvision(
    state_dict: Mapping[str, np.ndarray], model: nn.Module, *, channels: int = 3, family: Family | None = None
) -> PyTree[Array]:
    """Converts a state dictionary in any layout of `family` to the variables of `model`.

    Args:
      state_dict: PyTorch's keys to arrays, such as `read_state_dict` gives.
      model: the network that the file is for. Floating-point arrays become its `param_dtype`, so float16 and bfloat16
        files are widened without loss.
      channels: of the images.
      family: of the model: how files name its parts (`families.py`); None = as `family_of` says.

    Returns:
      `{"params", "batch_stats"}`, and `"num_batches_tracked"` (numpy int64) where the file has it.

    Raises:
      WeightsError: names the keys that are missing, unexpected, of the wrong shape or type, or hold numbers that are
        not finite or not within `param_dtype`. A file without any `num_batches_tracked` is complete: PyTorch before
        0.4.1 wrote none. One that is no number (of a network that was `.half()`ed) counts as 0.
    """
    state_dict, paths = _match(state_dict, model, channels, family or family_of(model))
    dtype = np.dtype(getattr(model, "param_dtype", np.float32))
    arrays = narrow({key: state_dict[key] for key in paths}, dtype)
    return unflatten_dict(
        {
            path: as_count(arrays[key]) if path[0] == COUNTERS else jnp.asarray(to_our_axes(arrays[key], path), dtype)
            for key, path in paths.items()
        }
    )


def to_torchvision(
    variables: PyTree[Array],
    *,
    layout: str = "torchvision",
    dtype: Any = None,
    num_batches_tracked: int = 0,
    family: Family | None = None,
) -> StateDict:
    """Converts our variables to a state dictionary that PyTorch's network loads with `strict=True`.

    Args:
      variables: `{"params", "batch_stats"}`; other collections than these and `"num_batches_tracked"` are refused.
      layout: whose names to use; `layout_of(model)` for a network of timm's.
      dtype: of the floating-point arrays; None = as they are.
      num_batches_tracked: what to write where the variables hold no counts, such as the number of training steps.
      family: of the network.

    Raises:
      WeightsError: a leaf that has no name in PyTorch, an unknown layout, or numbers too large for `dtype`.
    """
    family = family or family_of(variables)
    flat = flatten_dict(dict(variables))
    for path in [path for path in flat if path[0] == "batch_stats" and path[-1] == "mean"]:
        flat.setdefault((COUNTERS, *path[1:-1], "count"), num_batches_tracked)
    state_dict = {}
    for path, leaf in flat.items():
        array = np.asarray(leaf, np.int64) if path[0] == COUNTERS else np.asarray(leaf)
        state_dict[torch_key(path, layout, family)] = np.array(to_torch_axes(array, path), order="C")
    return state_dict if dtype is None else narrow(state_dict, np.dtype(dtype))


def translate(
    state_dict: Mapping[str, np.ndarray],
    model: nn.Module,
    *,
    layout: str = "torchvision",
    channels: int = 3,
    family: Family | None = None,
) -> StateDict:
    """A state dictionary of `model` in any layout, with the names of `layout`; the arrays are the same, not copies, but
    for counters, which become whole numbers.

    Raises:
      WeightsError: as `from_torchvision`; or no network of the kind of `model` is written in `layout`, so that whoever
        reads the file would take it for another one.
    """
    family = family or family_of(model)
    if layout in family.foreign(model):
        raise WeightsError(
            f"no network with shortcut = {getattr(model, 'shortcut', None)!r} is written in the layout {layout!r}: "
            f"whoever reads the file would take it for another network. Choose {layout_of(model, family)!r}"
        )
    state_dict, paths = _match(state_dict, model, channels, family)
    return {
        torch_key(path, layout, family): as_count(state_dict[key]) if path[0] == COUNTERS else state_dict[key]
        for key, path in paths.items()
    }


def _match(
    state_dict: Mapping[str, np.ndarray], model: nn.Module, channels: int, family: Family
) -> tuple[StateDict, dict[str, Path]]:
    """The file by the names of today, and where each key belongs. Raises WeightsError unless every key is used and
    every array fits."""
    leaves = leaves_of(model, channels)
    by_layout = {layout: {torch_key(path, layout, family): path for path in leaves} for layout in family.layouts}
    layout = max(by_layout, key=lambda layout: len(state_dict.keys() & by_layout[layout].keys()))
    refuse_foreign(state_dict, model, layout, family)
    keys = by_layout[layout]
    state_dict = with_names_of_today(state_dict, keys, family)
    if not any(key.endswith("." + COUNTERS) for key in state_dict):
        keys = {key: path for key, path in keys.items() if path[0] != COUNTERS}
    check_fit(state_dict, {key: leaves[path] for key, path in keys.items()}, family)
    return state_dict, keys
