"""Evaluations in a run. Standard library only."""

from dataclasses import dataclass
from typing import Annotated

from resnet_jax.config.checked import Checked, Positive


@dataclass(frozen=True, kw_only=True)
class Eval(Checked):
    """One of several evaluations in a run. Its numbers are logged as `NAME/top1` and so on."""

    name: str
    data: str = ""
    """A data set, named as in `DataConfig.name`; empty = that of training. Images are prepared as `data` says for
    evaluation."""
    split: str = "test"
    every_epochs: Annotated[float, Positive] = 1.0
    """The first evaluation is also made before every checkpoint, and all are made after the last step."""
