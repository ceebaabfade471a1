"""What a network says of clips, whether it is of three axes or looks at each frame."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from resnet_jax.models.frames.network import FrameNetwork
from resnet_jax.tasks.task import Prepare
from resnet_jax.training.accumulate import Batch

CLIP, LENGTH, FEATURES = "clip", "length", "features"
"""Leaves of a batch: the clips; how many frames of each are the video's; or features of the frames, computed before."""
Look = Callable[[PyTree[Array], Batch], Float[Array, "N V K"]]
"""`(variables, batch as the data gave it) -> logits of each clip of each video`."""


def seen_by(model: Any, batch: Batch) -> tuple[Array, ...]:
    """What the network is called with. A network of three axes sees the repeated last frames of a short video too, as
    published ones do; one that looks at each frame is told how many frames there are."""
    clips = batch[FEATURES if FEATURES in batch else CLIP]
    return (clips, batch[LENGTH]) if isinstance(model, FrameNetwork) else (clips,)


def make_look(model: Any, prepare: Prepare) -> Look:
    """Returns the function with which evaluation and prediction look at a batch: its clips are (N, V, T, H, W, C), V of
    each video; or (N, T, H, W, C), one of each."""

    def look(variables: PyTree[Array], batch: Batch) -> Float[Array, "N V K"]:
        lengths = batch[LENGTH]
        several = lengths.ndim == 2
        count = lengths.shape[1] if several else 1
        flat = {
            name: batch[name].reshape(-1, *batch[name].shape[1 + several :])
            for name in (CLIP, LENGTH, FEATURES)
            if name in batch
        }
        logits = model.apply(variables, *seen_by(model, prepare(None, flat)), train=False)
        return logits.reshape(len(lengths), count, -1)

    return look


def of_videos(logits: Float[Array, "N V K"]) -> Float[Array, "N K"]:
    """Logarithms of the probabilities of each video: the mean over its clips and crops."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - jnp.log(logits.shape[1])
