"""MixUp and CutMix inside the jitted step: two images become one, and so do their targets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.special import betaincinv

from resnet_jax.config import AugmentConfig

BETA_QUANTILES = 2**14


def mix(
    key: Key[Array, ""],
    images: Float[Array, "N *T H W C"],
    targets: Float[Array, "N K"],
    config: AugmentConfig,
    positions: Int[Array, " N"] | None = None,
) -> tuple[Float[Array, "N *T H W C"], Float[Array, "N K"]]:
    """Mixes each image with a partner of its group of `config.mix_group_size` (0: the batch), by one draw per group.

    The draw decides whether to mix at all, by MixUp (Zhang et al. 2017, arXiv:1710.09412) or by CutMix (Yun et al.
    2019, arXiv:1905.04899), and with which weight. The law is that of torchvision's `RandomChoice([MixUp, CutMix])`, or
    of timm's `Mixup` in its batch mode. Where each group lies whole on one device, devices exchange nothing.

    Args:
      positions: places of the images in the global batch, which give the groups their numbers; None = from 0.
    Returns:
      The mixed images, and targets with the weights that the two images really have. For CutMix these are the areas,
      after the box was clipped to the image.
    """
    size = config.mix_group_size or len(images)
    groups = len(images) // size
    numbers = jnp.arange(groups) if positions is None else positions[::size] // size
    keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
    in_groups = [x.reshape(groups, size, *x.shape[1:]) for x in (images, targets)]
    mixed = jax.vmap(partial(_mix_group, config=config))(keys, *in_groups)
    return mixed[0].reshape(images.shape), mixed[1].reshape(targets.shape)


def box_mask(
    height: int, width: int, top: Int[Array, ""], bottom: Int[Array, ""], left: Int[Array, ""], right: Int[Array, ""]
) -> Bool[Array, "H W"]:
    """True in the rows top to bottom - 1 and the columns left to right - 1. Parts outside the image are ignored."""
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def _mix_group(
    key: Array, images: Float[Array, "G *T H W C"], targets: Float[Array, "G K"], config: AugmentConfig
) -> tuple[Float[Array, "G *T H W C"], Float[Array, "G K"]]:
    whether_key, which_key, weight_key, box_key = jax.random.split(key, 4)
    if config.mixup_alpha and config.cutmix_alpha:
        cut = jax.random.bernoulli(which_key, config.cutmix_share)
    else:
        cut = jnp.array(bool(config.cutmix_alpha))
    weight = jnp.where(cut, _draw_beta(weight_key, config.cutmix_alpha), _draw_beta(weight_key, config.mixup_alpha))

    # Which of the two it is, is known only on the device: so both are computed, and one is chosen.
    height, width = images.shape[-3:-1]
    outside = ~_cutmix_box(box_key, weight, height, width, config)
    weight = jnp.where(cut, jnp.mean(outside), weight)
    # How much of each pixel is the image's own: all or nothing (CutMix), or the same share everywhere (MixUp).
    own = jnp.where(cut, outside, weight)
    mixes = jax.random.bernoulli(whether_key, config.mix_probability)
    weight, own = jnp.where(mixes, weight, 1.0), jnp.where(mixes, own, 1.0)
    own = own.reshape(*[1] * (images.ndim - 3), height, width, 1)
    partner = (lambda x: x[::-1]) if config.mix_law == "timm" else partial(jnp.roll, shift=1, axis=0)
    return own * images + (1 - own) * partner(images), weight * targets + (1 - weight) * partner(targets)


def _draw_beta(key: Array, alpha: float) -> Float[Array, ""]:
    """A number from Beta(alpha, alpha), drawn from a table of equally likely values.

    `jax.random.beta` draws again in a loop until a draw is accepted. For groups on several devices, each round of that
    loop would be an all-reduce.
    """
    places = (np.arange(BETA_QUANTILES) + 0.5) / BETA_QUANTILES
    table = betaincinv(alpha, alpha, places) if alpha else places  # with alpha = 0 the result is never used
    return jnp.asarray(table, jnp.float32)[jax.random.randint(key, (), 0, BETA_QUANTILES)]


def _cutmix_box(
    key: Array, weight: Float[Array, ""], height: int, width: int, config: AugmentConfig
) -> Bool[Array, "H W"]:
    """A box of about (1 - weight) of the area, around a random pixel. Its part outside the image is lost."""
    side = jnp.sqrt(1 - weight)
    limits = jnp.array([height, width])
    centre = jax.random.randint(key, (2,), 0, limits)
    if config.mix_law == "timm":
        lengths = (side * limits).astype(jnp.int32)
        before, after = lengths // 2, (lengths + 1) // 2
    else:
        before = after = (side / 2 * limits).astype(jnp.int32)
    (top, left), (bottom, right) = centre - before, centre + after
    return box_mask(height, width, top, bottom, left, right)
