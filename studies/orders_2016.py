"""He et al. 2016 (arXiv:1603.05027), Figure 4 and Table 2: where normalisation and activation stand in a block.

    python -m resnet_jax study studies/orders_2016.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/orders_2016.py --scale digits --only '*/20'
    python -m resnet_jax study studies/orders_2016.py --scale paper      # 110 layers on CIFAR-10; not run here

The package has two of the five blocks, the original one and full pre-activation. The other three stand in this file: a
study may bring networks of its own. By itself it is sized for a laptop: networks of half the width, on 4,000 images of
Fashion-MNIST.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import Config, Difference, Published, Scale, Study, load_config
from resnet_jax.models.blocks import BasicBlock, PreactBasicBlock, TwoConvolutions
from resnet_jax.studies.cells import Cell
from resnet_jax.tasks.assemble import build_model

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_2 = "He et al. 2016, Table 2: 110 layers on CIFAR-10, median of 5 runs"


class NormAfterSum(TwoConvolutions):
    """Figure 4(b): the last norm sees the sum, so it changes what the shortcut brings."""

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 D"]:
        parts = self.parts
        y = self.strided_conv(self.widths[0], 3, name="conv1")(x)
        y = parts.act(parts.norm(name="bn1")(y))
        y = self.last_conv(self.widths[1], 3, name="conv2")(y)
        return parts.act(parts.norm_of_sum(name="bn2")(self.add(x, y)))


class ActivationBeforeSum(TwoConvolutions):
    """Figure 4(c): the branch ends with the activation, so it can only add."""

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 D"]:
        parts = self.parts
        y = self.strided_conv(self.widths[0], 3, name="conv1")(x)
        y = parts.act(parts.norm(name="bn1")(y))
        y = parts.conv(self.widths[1], 3, name="conv2")(y)
        return self.add(x, parts.act(self.last_norm(name="bn2")(y)))


class ActivationAlone(TwoConvolutions):
    """Figure 4(d): pre-activation without a norm before it. Where shapes change, the shortcut starts after the
    activation, as in the package's own pre-activation blocks."""

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 D"]:
        parts = self.parts
        z = parts.act(x)
        y = self.strided_conv(self.widths[0], 3, name="conv1")(z)
        y = parts.act(parts.norm(name="bn1")(y))
        y = parts.conv(self.widths[1], 3, name="conv2")(y)
        y = self.last_norm(name="bn2")(y)
        return self.add(x if x.shape[1:] == y.shape[1:] else z, y)


def activated_mean(x: Float[Array, "N H W C"]) -> Float[Array, "N C"]:
    """The pool of a network whose last block ends with a sum: an activation comes before it (section 4.1)."""
    return jnp.mean(nn.relu(x), axis=(1, 2))


PARTS: dict[str, dict[str, Any]] = {
    "original": {"block": BasicBlock},
    "norm_after_sum": {"block": NormAfterSum},
    "relu_before_sum": {"block": ActivationBeforeSum},
    "relu_alone": {"block": ActivationAlone, "pool": activated_mean},
    "full_preactivation": {"block": PreactBasicBlock},
}
ERRORS = {
    "original": 6.61,
    "norm_after_sum": 8.17,
    "relu_before_sum": 7.84,
    "relu_alone": 6.71,
    "full_preactivation": 6.37,
}


def network(config: Config, cell: Cell) -> nn.Module:
    """The network of the config, with the parts of the cell."""
    return build_model(config).clone(**PARTS[cell.values["order"]])


study = Study(
    title="Five orders of norm, activation and sum",
    question="Where should normalisation and activation stand in a residual block?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "order": {name: {} for name in PARTS},
        "depth": {str(depth): {"model.stage_sizes": ((depth - 2) // 6,) * 3} for depth in (20, 56)},
    },
    numbers=("error", "train/error"),
    compare=tuple(
        Difference(of=f"{name}/{depth}", minus=f"original/{depth}", number=number)
        for number in ("train/error", "error")
        for depth in (20, 56, 110)
        for name in PARTS
        if name != "original"
    ),
    paper={f"{name}/110": Published(error=error, source=TABLE_2) for name, error in ERRORS.items()},
    network=network,
    scales={
        "digits": Scale(
            settings={
                "data": load_config(CONFIGS / "digits.py").data,
                "epochs": 10.0,
                "eval_batch_size": 360,
                "eval_every_epochs": 5.0,
                "checkpoint.every_epochs": 10.0,
            },
        ),
        "paper": Scale(
            settings={**vars(load_config(CONFIGS / "cifar10.py")), "optim.warmup_epochs": 1.0},
            axes={"depth": {str(depth): {"model.stage_sizes": ((depth - 2) // 6,) * 3} for depth in (20, 110)}},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
