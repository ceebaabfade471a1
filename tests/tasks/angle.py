"""A task of one's own: by how many degrees is a digit turned? Nothing in the package knows of it."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from PIL import Image

import resnet_jax as rn
from resnet_jax.logs.shown import Shown
from resnet_jax.tasks.task import Task
from resnet_jax.training.evaluate import Measured, real_sums
from resnet_jax.training.step import Losses

SIDE, LARGEST = 16, 45.0  # pixels, degrees


@dataclass(frozen=True)
class Turned:
    needs = ("image",)
    leaves: ClassVar = {"image": ((SIDE, SIDE, 1), np.uint8), "angle": ((), np.float32)}

    def __call__(self, example, draws, row):
        row["angle"][...] = angle = draws.stream(1).uniform(-LARGEST, LARGEST)
        large = Image.fromarray(example["image"][..., 0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        row["image"][..., 0] = large.rotate(angle, Image.Resampling.BILINEAR)


def prepare(key, batch):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 255 - 0.3}


def make_task(bn_group_size=0):
    model = rn.create_model("cifar_resnet20", num_classes=1, stage_sizes=(1,), bn_group_size=bn_group_size)

    def loss(params, batch_stats, batch, key, axis):
        net, variables = model.clone(bn_axis_name=axis), {"params": params, "batch_stats": batch_stats}
        out, updates = net.apply(variables, prepare(key, batch)["image"], train=True, mutable=["batch_stats"])
        wrong = out[:, 0] - batch["angle"] / LARGEST
        return Losses(wrong**2, {"error": jnp.abs(wrong) * LARGEST}, updates["batch_stats"])

    def predict(variables, batch):
        return {"angle": LARGEST * model.apply(variables, prepare(None, batch)["image"], train=False)[:, 0]}

    def measure(variables, batch, real):
        wrong = predict(variables, batch)["angle"] - batch["angle"]
        return Measured(real_sums({"loss": (wrong / LARGEST) ** 2}, real), {"wrong": wrong})

    def report(sums, rows):
        median = float(np.median(np.abs(rows["wrong"])))
        return {"loss": float(sums["loss"] / sums["count"]), "minus_error": -median}

    names = {"minus_error": Shown("minus the median error", "{:.1f} degrees")}
    init = partial(rn.init, model, channels=1)
    return Task((Turned(), Turned()), init, prepare, loss, measure, report, predict, "minus_error", names)
