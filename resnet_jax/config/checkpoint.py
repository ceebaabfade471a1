"""What is kept of a run. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """What is kept in the workdir."""

    every_epochs: Annotated[float, Positive] = 1.0
    keep_last: Annotated[int, AtLeastOne] = 2
    keep_best: Annotated[int, NotNegative] = 1
    """By what is best on the evaluation split: top-1 accuracy, unless a task says otherwise."""
    on_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint or the log cannot be written (disk full, read-only): stop, or say so and train on. The last
    checkpoint of a run must succeed, and with several processes all stop."""
