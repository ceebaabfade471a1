"""Converts numbers to a smaller type. Numbers that do not fit are refused, not made infinite."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from resnet_jax.errors import WeightsError

COUNTER = "num_batches_tracked"
"""The end of a key: PyTorch's count of a BatchNorm's training passes. It is a whole number, whatever the others are."""


def narrow(state_dict: Mapping[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    """The arrays with all floating-point numbers as `dtype`. Counters and other whole numbers stay as they are.

    Raises:
      WeightsError: finite numbers are too large for `dtype`; names the arrays.
    """
    narrowed, lost = {}, {}
    for key, array in state_dict.items():
        if key.endswith(COUNTER) or not is_floating(array.dtype) or array.dtype == dtype:
            narrowed[key] = array
            continue
        with np.errstate(over="ignore"):  # the next lines look for overflow
            narrowed[key] = array.astype(dtype)
        if np.any(np.isinf(narrowed[key]) & np.isfinite(array)):
            lost[key] = float(np.max(np.abs(array[np.isfinite(array)]).astype(np.float64)))
    if lost:
        kind = ml_dtypes.finfo(dtype)
        raise WeightsError(
            f"{len(lost)} arrays hold numbers that {np.dtype(dtype).name} cannot: "
            f"{first_few(f'{key} up to {value:.3g}' for key, value in lost.items())}; the largest it has is "
            f"{float(kind.max):.3g}, and they would become infinite. Choose bfloat16, which is as short, or float32"
        )
    return narrowed


def as_count(array: np.ndarray) -> np.ndarray:
    """A counter as int64. 0 where `.half()` made it infinite: the count changes no result."""
    values = np.asarray(array)
    if is_floating(values.dtype):
        values = values.astype(np.float64)
        values = np.where(np.isfinite(values), values, 0)
    return values.astype(np.int64)


def is_floating(dtype: np.dtype) -> bool:
    """Whether a type is floating-point. NumPy does not count ml_dtypes' types among its own."""
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def first_few(names: Any, few: int = 5) -> str:
    """The first of many names, and how many more there are."""
    names = list(map(str, names))
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more
