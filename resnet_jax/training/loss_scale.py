"""Dynamic loss scaling, which keeps small gradients in float16 (Micikevicius et al. 2017, arXiv:1710.03740)."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

# torch.amp.GradScaler's defaults.
FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000


class LossScale(struct.PyTreeNode):
    """The loss is multiplied by `scale` before the backward pass, and gradients are divided by it after the pass.

    Attributes:
      good_steps: number of finite steps since the scale last changed.
    """

    scale: Float[Array, ""]
    good_steps: Int[Array, ""]


def first_loss_scale() -> LossScale:
    return LossScale(scale=jnp.float32(FIRST_SCALE), good_steps=jnp.int32(0))


def next_loss_scale(now: LossScale, good: Bool[Array, ""]) -> LossScale:
    """Half the scale, but at least 1, after a step that was not finite. Twice the scale after `GROWTH_INTERVAL` good
    steps.
    """
    good_steps = jnp.where(good, now.good_steps + 1, 0)
    grows = good_steps == GROWTH_INTERVAL
    scale = jnp.where(good, jnp.where(grows, 2 * now.scale, now.scale), jnp.maximum(now.scale / 2, 1))
    return LossScale(scale=scale, good_steps=jnp.where(grows, 0, good_steps))


def overflowed(now: LossScale, good: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether a step was not finite, perhaps because of the scale. At a scale of 1, training itself has diverged."""
    return ~good & (now.scale > 1)
