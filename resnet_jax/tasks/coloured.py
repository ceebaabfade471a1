"""What the device does to the images of tasks that move images and their targets on the host."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from resnet_jax.config import Config
from resnet_jax.data import normalize
from resnet_jax.data.colour import jitter
from resnet_jax.data.device import standardize
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch


def make_prepare(config: Config) -> Prepare:
    """Returns a function that turns `image` uint8 (N, H, W, C) into float32. With a key it also changes colours as
    `data.augment` says. The host has moved images and targets already, since both must move alike."""
    augment, preset = config.data.augment, config.data.preset
    changes = (augment.brightness, augment.contrast, augment.saturation, augment.hue)

    def coloured(key: Key[Array, ""], image: Array) -> Array:
        return jitter(key, image.astype(jnp.float32) / 255, *changes)

    def prepare(key: Key[Array, ""] | None, batch: Batch) -> Batch:
        images = batch["image"]
        if key is None or not any(changes):
            return {**batch, "image": normalize(images, preset)}
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["position"])
        return {**batch, "image": standardize(jax.vmap(coloured)(keys, images), preset)}

    return prepare
