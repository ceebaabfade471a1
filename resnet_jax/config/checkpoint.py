"""Which checkpoints of a run are kept. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """Which checkpoints are kept in the workdir."""

    every_epochs: Annotated[float, Positive] = 1.0
    keep_last: Annotated[int, AtLeastOne] = 2
    keep_best: Annotated[int, NotNegative] = 1
    """The best are those with the largest top-1 accuracy on the evaluation split, unless a task says otherwise."""
    on_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint or the log cannot be written (disk full, read-only): stop, or warn and train on. The last
    checkpoint of a run must succeed. With several processes all stop in any case."""
