"""Changes of numerics since earlier versions. A run that an earlier version began says them when it is continued.

`environment.json` holds the revision with which a session was made. A session without a revision is of revision 1.
`CHANGELOG.md` lists the same changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from resnet_jax.config import Config
from resnet_jax.training.optim import Plan
from resnet_jax.training.schedule import drop_steps

REVISION = 2

Applies = Callable[[Config, Plan], bool]


def _drops_moved(config: Config, plan: Plan) -> bool:
    if config.optim.schedule != "step":
        return False
    before = {round(epoch * plan.steps_per_epoch) for epoch in config.optim.drop_epochs}
    return sorted(before) != drop_steps(config.optim, plan.steps_per_epoch)


def _length_moved(config: Config, plan: Plan) -> bool:
    total = max(1, round(config.epochs * plan.steps_per_epoch))
    return (total, min(round(config.optim.warmup_epochs * plan.steps_per_epoch), total)) != (plan.total, plan.warmup)


# Revision -> its changes, each with a function that says whether a config is affected.
CHANGES: dict[int, tuple[tuple[Applies, str], ...]] = {
    2: (
        (
            lambda config, plan: bool(config.optim.ema_decay),
            "the moving average is a copy of the weights all through the warm-up, and then moves after the first of "
            "every optim.ema_every_steps steps, as torchvision's; before, after the last",
        ),
        (
            _drops_moved,
            "two of optim.drop_epochs that fall on one step lower the rate twice, as torch's MultiStepLR; before, once",
        ),
        (
            _length_moved,
            "epochs are turned into steps without rounding errors; the run or its warm-up is a step longer",
        ),
    )
}


def changes_since(sessions: Sequence[dict[str, Any]], config: Config, plan: Plan) -> list[str]:
    """The changes since the last session of a run that affect this config. Empty for a run without a session.

    Args:
      sessions: as `environment.read_sessions` gives them.
    """
    before = sessions[-1].get("revision", 1) if sessions else REVISION
    return [
        text
        for number in range(before + 1, REVISION + 1)
        for applies, text in CHANGES.get(number, ())
        if applies(config, plan)
    ]
