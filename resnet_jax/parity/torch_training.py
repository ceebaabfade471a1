"""PyTorch's side of a trajectory: its own optimizers and schedulers, with nothing of ours but the settings."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.config import OptimConfig
from resnet_jax.parity.problem import Images, Targets, by_name
from resnet_jax.parity.settings import Setting, group_of
from resnet_jax.parity.trace import to_torch


class Trained(NamedTuple):
    """What training has done to a module.

    Attributes:
      moved: how far every parameter has moved, by PyTorch's name.
      statistics: all running means and variances afterwards.
      losses: of every step, before its update.
    """

    moved: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    losses: list[float]


def train(
    module: Any,
    batches: Sequence[tuple[Images, Targets]],
    setting: Setting,
    paths: Mapping[str, str],
    loss_of: Callable[[Mapping[str, Any], Any, float], Any],
) -> Trained:
    """Trains `module` in place, a step for each batch. A step is an epoch of the schedule.

    Frozen parameters have `requires_grad = False`, and norms whose parameters are all frozen are in evaluation mode.

    Args:
      paths: from PyTorch's name of a parameter to the path that the patterns of the setting are searched in.
      loss_of: as `Problem.torch_loss`.
    """
    import torch

    optim, groups = setting.optim, setting.optim.groups
    module.train()
    settings: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in module.named_parameters():
        group, spared = group_of(paths[name], groups), any(re.search(p, paths[name]) for p in optim.no_decay)
        own = group.decay if group and group.decay is not None else optim.weight_decay
        parameter.requires_grad_(group is None or group.rate > 0)
        if parameter.requires_grad:
            rate = optim.base_lr * (group.rate if group else 1.0)
            settings.setdefault((rate, 0.0 if spared else own), []).append(parameter)
    for norm in (part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.train(any(parameter.requires_grad for parameter in norm.parameters()))
    optimizer = _optimizer(optim, [{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in settings.items()])
    scheduler = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(
            optimizer, [round(epoch) for epoch in optim.drop_epochs], optim.drop_factor
        ),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches)),
    }[optim.schedule]()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    losses = []
    for images, targets in batches:
        optimizer.zero_grad()
        outputs = by_name(module(to_torch(images)))
        loss = loss_of(outputs, torch.from_numpy(targets).long(), setting.label_smoothing)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    moved = {name: (parameter.detach() - before[name]).numpy() for name, parameter in module.named_parameters()}
    statistics = {name: buffer.numpy() for name, buffer in module.named_buffers() if "num_batches" not in name}
    return Trained(moved, statistics, losses)


def _optimizer(optim: OptimConfig, groups: list[dict[str, Any]]) -> Any:
    import torch

    if optim.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=optim.base_lr, betas=(optim.momentum, optim.second_beta), eps=optim.epsilon)
    return torch.optim.SGD(groups, lr=optim.base_lr, momentum=optim.momentum, nesterov=optim.nesterov)
