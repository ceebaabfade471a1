"""A task is a value: the functions with which the one loop trains any network for any purpose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Array, Float, Key, PyTree

from resnet_jax.logs.shown import Names
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Report
from resnet_jax.training.state import Init
from resnet_jax.training.step import Loss

if TYPE_CHECKING:  # a loss alone needs none of the data's libraries
    from resnet_jax.data import Source
    from resnet_jax.data.fills import Fill

Prepare = Callable[[Key[Array, ""] | None, Batch], Batch]
Predict = Callable[[PyTree[Array], Batch], dict[str, Array]]
Distance = Callable[[Any, Any, Batch, float], Float[Array, " N"]]
"""`(outputs of the network, outputs of a teacher, a part of a batch, temperature) -> a sum for each example`."""


@dataclass(frozen=True)
class Frozen:
    """What a part of the network gives for an example, where training shows each example always alike.

    Attributes:
      module: the part, a module of the network.
      network: what the part is, in words that tell it from all others.
      leaf: the leaf of a batch that may stand in the place of `Task.sees`.
      compute: `(variables of the part, a batch as the data gave it) -> rows of this leaf`.
    """

    module: str
    network: str
    leaf: str
    compute: Callable[[PyTree[Array], Batch], Array]


@dataclass(frozen=True)
class Task:
    """The functions of a task that `training` and `data` get. They never see the task itself. No task sees another.

    Attributes:
      fills: how the host turns an example into a row of a batch, for training and for evaluation.
      init: makes the variables of the network.
      prepare: changes a batch on the device before the network sees it. With a key, that of the step, it augments at
        random; the batch then holds `position`. With None it only normalises.
      loss: the loss of a part of a batch as the data gave it. It calls `prepare` itself.
      measure: what evaluation keeps of a batch. It calls `prepare` itself, without a key.
      report: the results for a whole split, from everything measured: numbers by name, among them `loss`. None where
        `report_of` makes it.
      predict: what users ask of a trained network, by name, for each example of a batch as `fills[1]` gives it: class
        probabilities, boxes. It calls `prepare` itself, without a key, and needs no targets.
      best: the name of the number of the report by which checkpoints are compared; larger is better.
      names: the numbers of the report and of the loss's metrics that people are shown, in this order.
      head: the modules that are made new, with random parameters, where those of the weights that a run starts from do
        not fit.
      split: regular expressions of parameters whose rows are split over the devices. `loss` gets the device's rows and
        exchanges what it needs, see `training/split.py`. `measure` and `predict` see the parameters whole.
      parts: for an evaluation, parts of a split whose examples fill rows of one shape, each with its fill: images of
        all sizes lie on a few canvases. None = the whole split by `fills[1]`.
      distance: how far the outputs of the network are from those of a teacher, for each example of a part of a batch as
        the data gave it. Where `loss` gives weights, it is a sum that the same weights divide. None = the task cannot
        have a teacher.
      report_of: gives the report of a split, in the place of `report`, where the results need more of the split than
        rows of one shape can hold, such as all its annotations.
      check_source: refuses, by a ConfigError, a data set that the network was not made for, such as one with other
        classes.
      check_eval_source: the same for a split that is evaluated; None = `check_source`. Its identities may be others
        than those that embeddings are trained on.
      group_size: consecutive examples of a batch whose losses depend on one another; 0 = all.
      fixed: regular expressions of parameters that are never trained.
      sees: the leaf of a batch that the network looks at.
      frozen: a part of the network whose outputs are computed once and kept, where that part is frozen.
    """

    fills: "tuple[Fill, Fill]"
    init: Init
    prepare: Prepare
    loss: Loss
    measure: Measure
    report: Report | None
    predict: Predict
    best: str
    names: Names
    head: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    parts: "Callable[[Source], Sequence[tuple[Fill, Source]]] | None" = None
    distance: Distance | None = None
    report_of: "Callable[[Source], Report] | None" = None
    check_source: "Callable[[Source], None]" = lambda source: None
    check_eval_source: "Callable[[Source], None] | None" = None
    group_size: int = 1
    fixed: tuple[str, ...] = ()
    sees: str = "image"
    frozen: Frozen | None = None

    def __post_init__(self) -> None:
        if (self.report is None) == (self.report_of is None):
            raise ValueError("a Task needs either report or report_of; give one of them, and None for the other")
        if self.best not in self.names:
            raise ValueError(
                f"Task.best = {self.best!r} is not among Task.names = {sorted(self.names)}; say there how it is shown"
            )
