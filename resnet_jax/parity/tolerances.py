"""How close is close enough, by arithmetic: relative to the largest magnitude in each tensor."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Largest relative errors.

    Attributes:
      forward: of every module's output, in evaluation mode.
      logits: likewise.
      gradients: of the loss by every parameter, in training mode.
      statistics: of running mean and variance after passes in training mode.
      trajectory: of the loss of every step of SGD, and of how far the steps moved every parameter.
      cosine: the least, between our gradient or movement of a parameter and theirs.
      reason: why not less.
    """

    forward: float
    logits: float
    gradients: float
    statistics: float
    trajectory: float
    cosine: float
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
    reason="rounding of 1e-16 in another order of summation, through up to 152 layers; every step of SGD multiplies it",
)
_FLOAT32 = Tolerances(
    forward=1e-4,
    logits=1e-5,
    gradients=0.5,
    statistics=1e-4,
    trajectory=0.5,
    cosine=0.99,
    reason="rounding of 6e-8; where an activation lies that close to 0 one side's ReLU passes it and the other's does "
    "not, so entries of a gradient differ by percents (as PyTorch's own float32 and float64 do), its direction hardly",
)
_TF32 = Tolerances(
    forward=2e-2,
    logits=1e-2,
    gradients=1.0,
    statistics=1e-2,
    trajectory=1.0,
    cosine=0.9,
    reason="TF32 rounds the inputs of products and convolutions to 10 bits of mantissa (5e-4)",
)
_BFLOAT16 = Tolerances(
    forward=0.2,
    logits=0.1,
    gradients=2.0,
    statistics=0.1,
    trajectory=2.0,
    cosine=0.5,
    reason="activations have 7 bits of mantissa (4e-3), rounded in every layer",
)

TOLERANCES: dict[str, Tolerances] = {
    "cpu float64": _FLOAT64,
    "cpu float32": _FLOAT32,
    "gpu float64": _like(_FLOAT64, "as on a CPU"),
    "gpu float32 highest": _like(_FLOAT32, "as on a CPU: TF32 is off"),
    "gpu float32 default": _TF32,
    "tpu float32 highest": _like(_FLOAT32, "as on a CPU: six passes in bfloat16 make up float32"),
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
