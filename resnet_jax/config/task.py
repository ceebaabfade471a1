"""What a network is trained for: a dataclass for each task. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import Checked, Fraction


@dataclass(frozen=True, kw_only=True)
class Classify(Checked):
    """Classification: each image has one class of `model.num_classes`."""

    kind: Literal["classify"] = "classify"
    """The name by which `config.json` tells the tasks apart."""
    label_smoothing: Annotated[float, Fraction] = 0.0
    """A target t becomes (1 - e) * t + e / K (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
