"""The learning rate of every update, and the steps that follow from epochs."""

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from resnet_jax.config import OptimConfig
from resnet_jax.config.checked import exact

BASE_BATCH_SIZE = 256  # images for which `base_lr` is stated (Goyal et al. 2017, arXiv:1706.02677, section 2.1)


def warmup_steps(optim: OptimConfig, steps_per_epoch: Fraction, total: int) -> int:
    return min(round(exact(optim.warmup_epochs) * steps_per_epoch), total)


def drop_steps(optim: OptimConfig, steps_per_epoch: Fraction) -> list[int]:
    """How many updates come before each drop of the `step` schedule, in order. Two drops may fall on one step."""
    return sorted(round(exact(epoch) * steps_per_epoch) for epoch in optim.drop_epochs)


def make_schedule(
    optim: OptimConfig, batch_size: int, steps_per_epoch: Fraction, total: int, epochs: float | None = None
) -> optax.Schedule:
    """Learning rate by the number of updates already applied: a linear warm-up, then the schedule that `schedule`
    names.

    The peak is `base_lr * batch_size / 256`. In the warm-up of `w` steps, update `t` (from 1) uses `peak * t / w`
    (Goyal et al. 2017, section 2.2, from 0); `warmup_start` and `warmup_first` say otherwise. Epochs of `drop_epochs`
    count from the start of the run. With `rate_moves = "epoch"` the same formulas count epochs, and the rate stays as
    it is within an epoch.

    Args:
      epochs: of the run; None = `total / steps_per_epoch`, which may be a part of a step more or less.
    """
    peak = optim.base_lr * batch_size / BASE_BATCH_SIZE
    if optim.rate_moves == "step":
        return _joined(
            optim, peak, warmup_steps(optim, steps_per_epoch, total), total, drop_steps(optim, steps_per_epoch)
        )
    length = epochs or float(Fraction(total) / steps_per_epoch)
    warmup = min(round(optim.warmup_epochs), math.ceil(length))
    schedule = _joined(optim, peak, warmup, length, [math.ceil(epoch) for epoch in optim.drop_epochs])
    # Epoch e begins with the first update before which e epochs of images were seen.
    starts = np.array(
        [math.ceil(epoch * Fraction(steps_per_epoch)) for epoch in range(math.ceil(length) + 1)], np.int32
    )

    def of_epoch(count: Any) -> Array:
        epoch = jnp.searchsorted(jnp.asarray(starts), jnp.asarray(count), side="right") - 1
        return schedule(epoch.astype(float))

    return of_epoch


def _joined(optim: OptimConfig, peak: float, warmup: int, length: float, drops: list[int]) -> optax.Schedule:
    """The schedule in units of steps or epochs.

    Args:
      length: of the run.
      drops: how many units come before each drop of the `step` schedule.
    """
    skipped = warmup if optim.schedule_from == "warmup" else 0
    after = _after_warmup(optim, peak, max(1, length - skipped), [drop - skipped for drop in drops])
    if not warmup:
        return after
    # Optax counts updates from 0, so a line that should reach the peak with the last update of the warm-up begins at
    # the rate of update 1, and would end one step beyond the peak.
    low, first = peak * optim.warmup_start, optim.warmup_first
    begin = low + (peak - low) * first / warmup
    end = low + (peak - low) * (first / warmup + 1)
    moved: Callable[[Any], Any] = after if skipped else lambda count: after(count + warmup)
    return optax.join_schedules([optax.linear_schedule(begin, end, warmup), moved], [warmup])


def _after_warmup(optim: OptimConfig, peak: float, length: float, drops: list[int]) -> optax.Schedule:
    if optim.schedule == "step":
        factors = {drop: optim.drop_factor**number for drop, number in Counter(drops).items()}
        return optax.piecewise_constant_schedule(peak, factors)
    if optim.schedule == "constant":
        return optax.constant_schedule(peak)
    flat = optim.flat_share * length
    if optim.schedule == "cosine":
        falling = optax.cosine_decay_schedule(peak, length - flat, optim.end_factor)
    else:
        falling = optax.polynomial_schedule(peak, peak * optim.end_factor, optim.power, length - flat)
    return (lambda count: falling(jnp.maximum(count - flat, 0))) if flat else falling
