"""The optimizers, and every integer that is computed from a config."""

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Literal

import jax
import optax
from jaxtyping import PyTree

from resnet_jax.config import Config, OptimConfig
from resnet_jax.config.checked import exact
from resnet_jax.config.groups import Group
from resnet_jax.training.frozen import group_of
from resnet_jax.training.rules import OnWhole, adaptive_clip, lars_by_norms, orthogonal
from resnet_jax.training.schedule import make_schedule, warmup_steps
from resnet_jax.training.sparse import Ramp, ramp_of, sparse

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
        schedule=make_schedule(config.optim, config.batch_size, per_epoch, total, config.epochs),
        ramp=ramp_of(prune, *(min(round(exact(epoch) * per_epoch), total) for epoch in ramp)),
    )


def make_optimizer(
    optim: OptimConfig, schedule: optax.Schedule, ramp: Ramp = NEVER, on_whole: OnWhole = lambda rule: rule
) -> optax.GradientTransformation:
    """The rule that `optim.optimizer` names, after clipping; and zeros for the weights that `optim.prune` takes away.

    - `sgd` is `torch.optim.SGD`: the decay is added to the gradient, momentum accumulates both, and the rate stays
      outside the buffer.
      `g += weight_decay * p; buffer = momentum * buffer + g; p -= lr * (g + momentum * buffer if nesterov else buffer)`
    - `adamw` is `torch.optim.AdamW`: the decay, times the rate, is subtracted from the parameter itself.
    - `lars` is optax's, with the rate inside the buffer, as in the paper and in MLPerf; or `rules.lars_by_norms`.
    - `lamb` is optax's, except that parameters that are not decayed keep their rate, as in timm's.
    - `muon` is timm's with `adjust_lr_fn="match_rms_adamw"`, for kernels of convolutions, each a matrix of inputs and
      outputs. `adamw` is for the others.

    Where a group of `optim.groups` has a decay of its own, that decay replaces `weight_decay`, except for parameters
    that `no_decay` names. At the end, the updates of a group are multiplied by its rate. Frozen parameters are not
    given to the rule.

    Args:
      ramp: when weights are taken away, and how many; see `Plan`.
      on_whole: for rules that need whole arrays, where the state is split over the devices.
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
    if optim.optimizer == "lars" and optim.lars_measure == "sum_of_norms":

        def decay_of(params: PyTree) -> PyTree[float]:
            values = jax.tree.map(lambda i: own_decay.get(i, optim.weight_decay), group_of(params, optim.groups))
            return jax.tree.map(lambda decayed, value: decayed * value, mask(params), values)

        adapted = lars_by_norms(optim.trust_coefficient, decay_of, mask)
        rule = optax.chain(adapted, rate, optax.trace(decay=optim.momentum, nesterov=optim.nesterov))
    elif optim.optimizer == "lars":
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
    elif optim.optimizer in ("adamw", "muon"):
        moments = optax.scale_by_adam(
            b1=optim.momentum, b2=optim.second_beta, eps=optim.epsilon, nesterov=optim.nesterov
        )
        if optim.optimizer == "muon":
            is_muons = partial(kernels_mask, without=optim.muon_without)
            momentum = optax.trace(decay=optim.momentum, nesterov=optim.nesterov)
            moments = optax.chain(
                optax.masked(optax.chain(momentum, orthogonal(optim.muon_steps, on_whole)), is_muons),
                optax.masked(moments, lambda params: jax.tree.map(operator.not_, is_muons(params))),
            )
        rule = optax.chain(moments, decay, rate)
    else:
        rule = optax.chain(decay, optax.trace(decay=optim.momentum, nesterov=optim.nesterov), rate)
    if any(group.rate not in (0.0, 1.0) for group in optim.groups):
        rule = optax.chain(rule, _scale_groups(optim.groups))
    if clip := _clipping(optim):
        if optim.clip_without:  # the same rule says which parameters have these names
            clip = optax.masked(clip, partial(decay_mask, no_decay=optim.clip_without))
        rule = optax.chain(clip, rule)
    return sparse(rule, optim.prune, ramp) if optim.prune.sparsity else rule


def _clipping(optim: OptimConfig) -> optax.GradientTransformation | None:
    """`torch.nn.utils.clip_grad_norm_`, `clip_grad_value_`, or timm's adaptive clipping."""
    if optim.clip_norm:
        return optax.clip_by_global_norm(optim.clip_norm)
    if optim.clip_value:
        return optax.clip(optim.clip_value)
    return adaptive_clip(optim.clip_adaptive) if optim.clip_adaptive else None


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


def kernels_mask(params: PyTree, without: tuple[str, ...]) -> PyTree[bool]:
    """True where a parameter is the kernel of a convolution, and no regular expression is found in its path."""
    named = decay_mask(params, without)
    return jax.tree.map(lambda parameter, named: named and parameter.ndim > 2, params, named)


def _passes(step: int, interval: Fraction) -> bool:
    """Whether a multiple of `interval` lies in (step - 1, step]."""
    return math.floor(step / interval) > math.floor((step - 1) / interval)
