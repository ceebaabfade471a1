"""How close is close enough, by arithmetic: relative to the largest magnitude in each tensor."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Tolerances:
    """Largest relative errors.

    Attributes:
      forward: of every module's output and the logits, in evaluation mode.
      gradients: of the loss by every parameter, in training mode.
      statistics: of running mean and variance after passes in training mode.
      trajectory: of every loss and final parameter after steps of SGD.
      reason: why not less.
      measured: on which machine these hold by measurement; None = by the arithmetic's rounding alone.
    """

    forward: float
    gradients: float
    statistics: float
    trajectory: float
    reason: str
    measured: str | None = None


TOLERANCES: dict[str, Tolerances] = {
    "cpu float64": Tolerances(
        1e-12, 1e-10, 1e-12, 1e-9, "rounding of 1e-16, in another order of summation, through up to 152 layers", "x86 CPU"
    ),
    "cpu float32": Tolerances(
        1e-5, 1e-3, 1e-5, 1e-2, "rounding of 6e-8; BatchNorm's backward pass subtracts nearly equal numbers", "x86 CPU"
    ),
    "gpu float64": Tolerances(1e-12, 1e-10, 1e-12, 1e-9, "as on a CPU"),
    "gpu float32 highest": Tolerances(1e-5, 1e-3, 1e-5, 1e-2, "as on a CPU; TF32 is off"),
    "gpu float32 default": Tolerances(
        1e-2, 1e-1, 1e-2, 5e-1, "TF32: convolutions and products round their inputs to 10 bits of mantissa (5e-4)"
    ),
    "tpu float32 highest": Tolerances(1e-5, 1e-3, 1e-5, 1e-2, "six bfloat16 passes make up float32"),
    "tpu float32 default": Tolerances(
        5e-2, 5e-1, 5e-2, 1.0, "one bfloat16 pass: inputs of products are rounded to 7 bits (4e-3)"
    ),
    "bfloat16": Tolerances(1e-1, 1.0, 1e-1, 1.0, "activations too have 7 bits of mantissa (4e-3), rounded in every layer"),
}


def tolerances_for(dtype: str) -> Tolerances:
    """The tolerances for networks of `dtype` on this process's default backend and precision of products."""
    backend = jax.default_backend()
    if dtype == "bfloat16":
        return TOLERANCES["bfloat16"]
    if dtype == "float64" or backend == "cpu":
        return TOLERANCES[f"{'cpu' if backend == 'cpu' else 'gpu'} {dtype}"]
    precision = "highest" if jax.config.jax_default_matmul_precision in ("highest", "float32") else "default"
    return TOLERANCES[f"{backend} float32 {precision}"]
