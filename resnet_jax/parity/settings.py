"""What the trajectories of a comparison train with: a table of optimizers, and of what they train."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from resnet_jax.config import Group, OptimConfig
from resnet_jax.errors import ConfigError, unknown_name
from resnet_jax.models.headed import resnet_in


@dataclass(frozen=True)
class Setting:
    """How a network is trained.

    Attributes:
      optim: a pattern of its groups may say LAST_BLOCK, which stands for the network's own.
    """

    optim: OptimConfig
    label_smoothing: float = 0.0


# The small rate keeps a network of random weights and labels from chaos, which would multiply rounding errors by 10 and
# more in every step. An epoch is one step. In the step schedule the rate drops after the third and the seventh.
_PLAIN = OptimConfig(base_lr=1e-4, warmup_epochs=0.0, schedule="constant", momentum=0.0, weight_decay=0.0)
_MOMENTUM = replace(_PLAIN, momentum=0.9)
_DECAY = replace(_MOMENTUM, weight_decay=1e-3)
_SPARED = replace(_DECAY, no_decay=(r"bn", r"bias"))
_RECIPE = replace(_SPARED, nesterov=True, schedule="cosine")
_ADAMW = replace(_DECAY, optimizer="adamw", weight_decay=0.05)

_LAST_BLOCK = "LAST_BLOCK"
# The last layers, and where the stages lie, in networks for classification and in those for segmentation.
_HEAD = r"(fc|(aux_)?classifier/4|segmentation_head_0|scores_\d+)/"
_ROOT = r"(backbone/|encoder/|trunk/)?"
_HEAD_ALONE = (Group(pattern=rf"^(?!{_HEAD})", rate=0.0),)
_LAST_BLOCK_AND_HEAD = (Group(pattern=rf"^(?!{_HEAD}|{_ROOT}{_LAST_BLOCK}/)", rate=0.0),)
_FAST_HEAD = Group(pattern=rf"^{_HEAD}", rate=10.0, decay=0.0)
_SLOW_BEGINNING = Group(pattern=rf"^{_ROOT}(conv1|bn1|layer[12]_)", rate=0.1, decay=5e-3)
_FROZEN_BEGINNING = Group(pattern=rf"^{_ROOT}(conv1|bn1|layer1_)", rate=0.0)
_SLOW_MIDDLE = Group(pattern=rf"^{_ROOT}layer[23]_", rate=0.3, decay=0.2)

OPTIMIZERS: dict[str, Setting] = {
    "plain": Setting(_PLAIN),
    "momentum": Setting(_MOMENTUM),
    "nesterov": Setting(replace(_MOMENTUM, nesterov=True)),
    "weight decay": Setting(_DECAY),
    "weight decay, not of norms and biases": Setting(_SPARED),
    "step schedule": Setting(replace(_DECAY, schedule="step", drop_epochs=(3.0, 7.0))),
    "cosine schedule": Setting(replace(_DECAY, schedule="cosine")),
    "label smoothing": Setting(_DECAY, label_smoothing=0.1),
    "all together": Setting(_RECIPE, label_smoothing=0.1),
    # Fine-tuning. The norms of what is frozen are in evaluation mode.
    "probe": Setting(replace(_DECAY, groups=_HEAD_ALONE)),
    "last block": Setting(replace(_RECIPE, groups=_LAST_BLOCK_AND_HEAD), label_smoothing=0.1),
    "two groups": Setting(replace(_SPARED, groups=(_FAST_HEAD, _SLOW_BEGINNING), schedule="cosine")),
    "adamw": Setting(_ADAMW),
    "adamw groups": Setting(replace(_ADAMW, groups=(_FAST_HEAD, _FROZEN_BEGINNING, _SLOW_MIDDLE), schedule="cosine")),
}
"""The settings of the trajectories. `all together` is what a recipe would use."""

SEVERAL: dict[str, tuple[str, ...]] = {
    "all": tuple(OPTIMIZERS),
    "fine-tuning": ("probe", "last block", "two groups", "adamw", "adamw groups"),
}
"""Names that stand for several settings."""


def names_of(optimizers: Sequence[str]) -> tuple[str, ...]:
    """The names of settings, with those of `SEVERAL` spelled out.

    Raises:
      ConfigError: an unknown name.
    """
    names = tuple(dict.fromkeys(name for asked in optimizers for name in SEVERAL.get(asked, (asked,))))
    for name in names:
        if name not in OPTIMIZERS:
            raise ConfigError(unknown_name("setting of the optimizer", name, [*OPTIMIZERS, *SEVERAL]))
    return names


def setting_of(name: str, model: Any) -> Setting:
    """The setting of that name for a network."""
    setting = OPTIMIZERS[name]
    sizes = resnet_in(model).stage_sizes
    block = f"layer{len(sizes)}_{sizes[-1] - 1}"
    groups = tuple(replace(group, pattern=group.pattern.replace(_LAST_BLOCK, block)) for group in setting.optim.groups)
    return replace(setting, optim=replace(setting.optim, groups=groups))


def group_of(path: str, groups: Sequence[Group]) -> Group | None:
    """The group that a parameter belongs to, read off the config with nothing of the optimizer's."""
    return next((group for group in groups if re.search(group.pattern, path)), None)
