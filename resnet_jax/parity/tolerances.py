"""How far our numbers may lie from PyTorch's, relative to the largest magnitude in each tensor."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """The largest relative errors that pass, and the least cosines.

    Attributes:
      forward: error of every module's output, in evaluation mode.
      logits: error of the logits, in evaluation mode.
      gradients: error of the gradient with respect to every parameter, in training mode.
      statistics: error of running mean and variance, after passes in training mode.
      trajectory: error of the loss of every step of SGD, and of how far the steps moved every parameter.
      cosine: the least cosine between our gradient and PyTorch's, parameter by parameter.
      trajectory_cosine: the least cosine between our movement of a parameter and PyTorch's.
      reason: why the tolerances are not smaller.
    """

    forward: float
    logits: float
    gradients: float
    statistics: float
    trajectory: float
    cosine: float
    trajectory_cosine: float
    reason: str


def _like(tolerances: Tolerances, reason: str) -> Tolerances:
    return Tolerances(**{**tolerances.__dict__, "reason": reason})


_FLOAT64 = Tolerances(
    forward=1e-12,
    logits=1e-12,
    gradients=1e-10,
    statistics=1e-12,
    trajectory=1e-9,
    cosine=1 - 1e-12,
    trajectory_cosine=1 - 1e-12,
    reason="the order of summation differs, which rounds by 1e-16 in up to 152 layers; every step of SGD multiplies "
    "the rounding",
)
_FLOAT32 = Tolerances(
    forward=1e-4,
    logits=1e-5,
    gradients=0.5,
    statistics=1e-4,
    trajectory=1.0,
    cosine=0.99,
    trajectory_cosine=0.9,
    reason="rounding of 6e-8. Where an activation lies that close to 0, the ReLU of one side passes it and the ReLU of "
    "the other does not. So entries of a gradient differ by percents (as PyTorch's own float32 and float64 do); its "
    "direction hardly differs",
)
_TF32 = Tolerances(
    forward=2e-2,
    logits=1e-2,
    gradients=1.0,
    statistics=1e-2,
    trajectory=1.0,
    cosine=0.9,
    trajectory_cosine=0.5,
    reason="TF32 rounds the inputs of products and convolutions to 10 bits of mantissa (5e-4)",
)
_BFLOAT16 = Tolerances(
    forward=0.2,
    logits=0.1,
    gradients=2.0,
    statistics=0.1,
    trajectory=2.0,
    cosine=0.5,
    trajectory_cosine=0.0,
    reason="activations have 7 bits of mantissa (4e-3), rounded in every layer",
)

TOLERANCES: dict[str, Tolerances] = {
    "cpu float64": _FLOAT64,
    "cpu float32": _FLOAT32,
    "gpu float64": _like(_FLOAT64, "as on a CPU"),
    "gpu float32 highest": _like(_FLOAT32, "as on a CPU: TF32 is off"),
    "gpu float32 default": _TF32,
    "tpu float32 highest": _like(_FLOAT32, "as on a CPU: six passes in bfloat16 are as exact as float32"),
    "tpu float32 default": _like(
        _BFLOAT16, "one pass in bfloat16: the inputs of products have 7 bits of mantissa (4e-3)"
    ),
    "bfloat16": _BFLOAT16,
}


def tolerances_for(dtype: str) -> Tolerances:
    """The tolerances for networks of `dtype` on this process's default backend, at its precision of products."""
    backend = jax.default_backend()
    if dtype == "bfloat16":
        return TOLERANCES["bfloat16"]
    if dtype == "float64" or backend == "cpu":
        return TOLERANCES[f"{'cpu' if backend == 'cpu' else 'gpu'} {dtype}"]
    precision = "highest" if jax.config.values["jax_default_matmul_precision"] in ("highest", "float32") else "default"
    return TOLERANCES[f"{backend} float32 {precision}"]
