"""Weights that become zero while a network trains. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Fraction, NotNegative, Pattern
from resnet_jax.errors import ConfigError

FIRST_CONV = r"^(?:backbone/|encoder/)?conv1(?:_0)?/kernel$"


@dataclass(frozen=True, kw_only=True)
class Prune(Checked):
    """Weights of small magnitude become zero, and stay zero (Zhu & Gupta 2017, arXiv:1710.01878). Norms and biases keep
    theirs."""

    sparsity: Annotated[float, Fraction] = 0.0
    """The share of the weights that are zero at the end; 0 = none."""
    first_sparsity: Annotated[float, Fraction] = 0.0
    """The share after `begin_epoch`. From there it rises as a cubic, fast at first."""
    begin_epoch: Annotated[float, NotNegative] = 0.0
    end_epoch: Annotated[float, NotNegative] = 0.0
    """When `sparsity` is reached. As `begin_epoch` = all at once; of 0, after the first update."""
    every_steps: Annotated[int, AtLeastOne] = 100
    """Weights are chosen after every `every_steps` updates between the two epochs, and at `end_epoch`."""
    scope: Literal["layer", "global"] = "layer"
    """`layer`: this share of each kernel. `global`: the smallest of all kernels."""
    pattern: Literal["any", "2:4"] = "any"
    """`2:4`: two of each four consecutive input channels, which NVIDIA's GPUs since Ampere can skip; all at
    `end_epoch`. Kernels whose input channels are no multiple of four keep theirs."""
    keep: tuple[Annotated[str, Pattern()], ...] = (FIRST_CONV,)
    """Regular expressions, searched in parameter paths such as `layer1_0/conv1/kernel`: kernels that keep all of their
    weights. By default the first convolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch < self.begin_epoch:
            raise ConfigError(
                f"Prune.end_epoch = {self.end_epoch:g} lies before begin_epoch = {self.begin_epoch:g}; it must be the "
                "same, for all at once, or later"
            )
        if self.first_sparsity > self.sparsity:
            raise ConfigError(
                f"Prune.first_sparsity = {self.first_sparsity:g} is more than sparsity = {self.sparsity:g}, and "
                "weights that are zero stay zero; set it lower"
            )
        if self.pattern == "2:4" and self.sparsity not in (0, 0.5):
            raise ConfigError(
                f"Prune.pattern = '2:4' makes one weight of two zero, and sparsity = {self.sparsity:g}; set it to 0.5"
            )
