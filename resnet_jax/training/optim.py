"""The optimizers, the learning rate, and every integer that is computed from a config."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Literal

import jax
import optax
from jaxtyping import PyTree

from resnet_jax.config import Config, OptimConfig
from resnet_jax.config.groups import Group
from resnet_jax.training.frozen import group_of
from resnet_jax.training.sparse import Ramp, ramp_of, sparse

BASE_BATCH_SIZE = 256  # images for which `base_lr` is stated (Goyal et al. 2017, arXiv:1706.02677, section 2.1)

NEVER = Ramp((1,), (0.0,))  # no weight is taken away

LAMB_SECOND_BETA, LAMB_EPSILON = 0.999, 1e-6  # the paper's and timm's

Event = Literal["log", "eval", "save"]


@dataclass(frozen=True)
class Plan:
    """A run in steps. `step` counts updates applied, so the first is 1 and the last is `total`."""

    total: int
    steps_per_epoch: Fraction
    eval_intervals: tuple[Fraction, ...]
    save_interval: Fraction
    log_interval: int
    warmup: int
    schedule: optax.Schedule
    ramp: Ramp

    def is_due(self, event: Event, step: int) -> bool:
        """Whether `event` follows update `step`.

        What is saved is evaluated first, and what is evaluated is logged first. So a checkpoint always has its
        accuracy, and is never written after a loss that is not finite.
        """
        if step == self.total:
            return True
        if event == "save":
            return _passes(step, self.save_interval)
        if event == "eval":
            return bool(self.evaluations_due(step))
        return step % self.log_interval == 0 or self.is_due("eval", step)

    def evaluations_due(self, step: int) -> list[int]:
        """The numbers of the evaluations that follow update `step`, among `Config.evaluations`."""
        return [
            number
            for number, interval in enumerate(self.eval_intervals)
            if step == self.total or _passes(step, interval) or (number == 0 and self.is_due("save", step))
        ]

    def lr(self, step: int) -> float:
        """The learning rate of update `step`."""
        return float(self.schedule(step - 1))


def plan_steps(config: Config, num_images: int) -> Plan:
    """Turns a config's epochs into steps, for a training set of `num_images`. This is the only place where it is done.

    A batch may begin in one epoch and end in the next, so an epoch need not be a whole number of steps. The run has the
    whole number of steps that is nearest to its epochs.
    """
    per_epoch = Fraction(num_images, config.batch_size)
    total = max(1, round(exact(config.epochs) * per_epoch))
    prune = config.optim.prune
    ramp = (prune.begin_epoch, prune.end_epoch)
    return Plan(
        total=total,
        steps_per_epoch=per_epoch,
        eval_intervals=tuple(exact(one.every_epochs) * per_epoch for one in config.evaluations),
        save_interval=exact(config.checkpoint.every_epochs) * per_epoch,
        log_interval=config.log_every_steps,
        warmup=warmup_steps(config.optim, per_epoch, total),
        schedule=make_schedule(config.optim, config.batch_size, per_epoch, total),
        ramp=ramp_of(prune, *(min(round(exact(epoch) * per_epoch), total) for epoch in ramp)),
    )


def warmup_steps(optim: OptimConfig, steps_per_epoch: Fraction, total: int) -> int:
    return min(round(exact(optim.warmup_epochs) * steps_per_epoch), total)


def drop_steps(optim: OptimConfig, steps_per_epoch: Fraction) -> list[int]:
    """How many updates come before each drop of the `step` schedule, in order. Two drops may fall on one step."""
    return sorted(round(exact(epoch) * steps_per_epoch) for epoch in optim.drop_epochs)


def make_schedule(optim: OptimConfig, batch_size: int, steps_per_epoch: Fraction, total: int) -> optax.Schedule:
    """Learning rate by the number of updates already applied: a linear warm-up, then the schedule that `schedule`
    names.

    The peak is `base_lr * batch_size / 256`. In the warm-up of `w` steps, update `t` (from 1) uses `peak * t / w`
    (Goyal et al. 2017, section 2.2, from 0). Epochs of `drop_epochs` count from the start of the run.
    """
    peak = optim.base_lr * batch_size / BASE_BATCH_SIZE
    warmup = warmup_steps(optim, steps_per_epoch, total)
    if optim.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, total - warmup))
    elif optim.schedule == "polynomial":
        after = optax.polynomial_schedule(peak, 0.0, optim.power, max(1, total - warmup))
    elif optim.schedule == "step":
        drops = Counter(step - warmup for step in drop_steps(optim, steps_per_epoch))
        factors = {step: optim.drop_factor**number for step, number in drops.items()}
        after = optax.piecewise_constant_schedule(peak, factors)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    # Optax counts updates from 0, so the line begins at the rate of update 1, and would end one step beyond the peak.
    return optax.join_schedules(
        [optax.linear_schedule(peak / warmup, peak * (1 + 1 / warmup), warmup), after], [warmup]
    )


def make_optimizer(optim: OptimConfig, schedule: optax.Schedule, ramp: Ramp = NEVER) -> optax.GradientTransformation:
    """The rule that `optim.optimizer` names, after clipping; and zeros for the weights that `optim.prune` takes away.

    - `sgd` is `torch.optim.SGD`: the decay is added to the gradient, momentum accumulates both, and the rate stays
      outside the buffer.
      `g += weight_decay * p; buffer = momentum * buffer + g; p -= lr * (g + momentum * buffer if nesterov else buffer)`
    - `adamw` is `torch.optim.AdamW`: the decay, times the rate, is subtracted from the parameter itself.
    - `lars` is optax's, with the rate inside the buffer, as in the paper and in MLPerf.
    - `lamb` is optax's, except that parameters that are not decayed keep their rate, as in timm's.

    Where a group of `optim.groups` has a decay of its own, that decay replaces `weight_decay`, except for parameters
    that `no_decay` names. At the end, the updates of a group are multiplied by its rate. Frozen parameters are not
    given to the rule.

    Args:
      ramp: when weights are taken away, and how many; see `Plan`.
    """

    def mask(params: PyTree) -> PyTree[bool]:
        return decay_mask(params, optim.no_decay)

    def mask_of(number: int, params: PyTree) -> PyTree[bool]:
        """The parameters that are decayed as group `number`. -1: those that are decayed with `weight_decay`."""
        decays_as = jax.tree.map(lambda i: i if i in own_decay else -1, group_of(params, optim.groups))
        return jax.tree.map(lambda decayed, i: decayed and i == number, mask(params), decays_as)

    own_decay = {i: group.decay for i, group in enumerate(optim.groups) if group.decay is not None}
    decay_rest = partial(mask_of, -1) if own_decay else mask
    decay = optax.add_decayed_weights(optim.weight_decay, mask=decay_rest)
    decay_own = [optax.add_decayed_weights(value, mask=partial(mask_of, i)) for i, value in own_decay.items()]
    decay = optax.chain(decay, *decay_own) if decay_own else decay
    rate = optax.scale_by_learning_rate(schedule)
    if optim.optimizer == "lars":
        rule = optax.lars(
            learning_rate=schedule,
            weight_decay=optim.weight_decay,
            weight_decay_mask=decay_rest,
            trust_coefficient=optim.trust_coefficient,
            trust_ratio_mask=mask,
            momentum=optim.momentum,
            nesterov=optim.nesterov,
        )
        rule = optax.chain(*decay_own, rule) if decay_own else rule
    elif optim.optimizer == "lamb":
        rule = optax.chain(
            optax.scale_by_adam(b1=optim.momentum, b2=LAMB_SECOND_BETA, eps=LAMB_EPSILON, nesterov=optim.nesterov),
            decay,
            optax.masked(optax.scale_by_trust_ratio(), mask),
            rate,
        )
    elif optim.optimizer == "adamw":
        moments = optax.scale_by_adam(
            b1=optim.momentum, b2=optim.second_beta, eps=optim.epsilon, nesterov=optim.nesterov
        )
        rule = optax.chain(moments, decay, rate)
    else:
        rule = optax.chain(decay, optax.trace(decay=optim.momentum, nesterov=optim.nesterov), rate)
    if any(group.rate not in (0.0, 1.0) for group in optim.groups):
        rule = optax.chain(rule, _scale_groups(optim.groups))
    if optim.clip_norm:
        clip = optax.clip_by_global_norm(optim.clip_norm)
        if optim.clip_without:  # the same rule says which parameters have these names
            clip = optax.masked(clip, partial(decay_mask, no_decay=optim.clip_without))
        rule = optax.chain(clip, rule)
    return sparse(rule, optim.prune, ramp) if optim.prune.sparsity else rule


def _scale_groups(groups: Sequence[Group]) -> optax.GradientTransformation:
    def scale(updates: PyTree, params: PyTree) -> PyTree:
        numbers = group_of(updates, groups)
        return jax.tree.map(lambda update, i: update if i < 0 else update * groups[i].rate, updates, numbers)

    return optax.stateless(scale)


def decay_mask(params: PyTree, no_decay: tuple[str, ...]) -> PyTree[bool]:
    """True where a parameter is decayed: where no regular expression is found in its path, such as
    `layer1_0/bn1/scale`.
    """

    def decayed(path: tuple, _: object) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return not any(re.search(pattern, name) for pattern in no_decay)

    return jax.tree_util.tree_map_with_path(decayed, params)


def exact(epochs: float) -> Fraction:
    """The number that was meant. 1.1 as a float is a little more than 11/10, and 55 steps would become 56."""
    # The `or`: numbers below half of 1e-9 would become 0.
    return Fraction(epochs).limit_denominator(10**9) or Fraction(epochs)


def _passes(step: int, interval: Fraction) -> bool:
    """Whether a multiple of `interval` lies in (step - 1, step]."""
    return math.floor(step / interval) > math.floor((step - 1) / interval)
