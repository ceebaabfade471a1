"""What is counted in a split: hits of videos and of single clips, and on request the probabilities of each video."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from resnet_jax.logs.shown import Shown
from resnet_jax.tasks.clips.look import Look, of_videos
from resnet_jax.training.accumulate import Batch
from resnet_jax.training.evaluate import Measure, Measured, Rows, Sums, real_sums
from resnet_jax.training.losses import cross_entropy, in_top_k, one_hot

MEANS = ("loss", "top1", "top5", "clip_top1", "clip_top5")
BEST = "top1"
NAMES = {
    "top1": Shown("top-1", "{:.2%}", "top-1 accuracy of videos"),
    "top5": Shown("top-5", "{:.2%}", "top-5 accuracy of videos"),
    "clip_top1": Shown("clip top-1", "{:.2%}", "top-1 accuracy of clips"),
    "clip_top5": Shown("clip top-5", "{:.2%}", "top-5 accuracy of clips"),
}


def make_measure(look: Look) -> Measure:
    """Returns the function that counts hits and adds up losses. Every video counts once; its clips count as their
    mean."""

    def measure(variables: PyTree[Array], batch: Batch, real: Bool[Array, " N"]) -> Measured:
        logits, labels = look(variables, batch), batch["label"]
        videos = of_videos(logits)
        each = jax.vmap(in_top_k, (1, None, None), 1)
        sums: dict[str, Float[Array, " N"]] = {
            "loss": cross_entropy(videos, one_hot(labels, videos.shape[-1])),
            **{f"top{k}": in_top_k(videos, labels, k) for k in (1, 5)},
            **{f"clip_top{k}": jnp.mean(each(logits, labels, k), axis=1) for k in (1, 5)},
        }
        return Measured(real_sums(sums, real), {})

    return measure


def report(sums: Sums, rows: Rows) -> dict[str, float]:
    """`loss`, `top1` and `top5` of videos, `clip_top1` and `clip_top5`: means over all videos, accuracies as
    fractions."""
    return {name: float(sums[name]) / int(sums["count"]) for name in MEANS}
