"""He et al. 2016 (arXiv:1603.05027), Figure 2 and Table 1: what happens when a shortcut is not the identity.

    python -m resnet_jax study studies/shortcuts_2016.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/shortcuts_2016.py --scale digits --only '*/20'
    python -m resnet_jax study studies/shortcuts_2016.py --scale paper   # 110 layers on CIFAR-10; not run here

All of these blocks stand in this file, and none of them is in the package. The paper says "fail" of three of its
networks, for an error above 20 %: no shortcut, half of the shortcut, and a shortcut with dropout. By itself the study
is sized for a laptop: networks of half the width, on 4,000 images of Fashion-MNIST.
"""

from pathlib import Path
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import Config, Difference, Published, Scale, Study, load_config
from resnet_jax.models.blocks import BasicBlock
from resnet_jax.models.layers import dropout
from resnet_jax.studies.cells import Cell
from resnet_jax.tasks.assemble import build_model

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_1 = "He et al. 2016, Table 1: 110 layers on CIFAR-10, median of 5 runs"
Maps = Float[Array, "N H W C"]


class HalfShortcut(BasicBlock):
    """Figure 2(b), the shortcut alone."""

    def sum_of(self, y: Maps, shortcut: Maps) -> Maps:
        return y + 0.5 * shortcut


class HalfBoth(BasicBlock):
    """Figure 2(b)."""

    def sum_of(self, y: Maps, shortcut: Maps) -> Maps:
        return 0.5 * y + 0.5 * shortcut


class Gated(BasicBlock):
    """A gate of a 1x1 convolution and a sigmoid. It sees the shortcut, where that is the block's input or that with
    further channels of zeros."""

    bias: ClassVar[float] = 0.0

    def gate(self, shortcut: Maps) -> Maps:
        begin = nn.initializers.constant(self.bias)
        return nn.sigmoid(self.parts.conv(shortcut.shape[-1], 1, use_bias=True, bias_init=begin, name="gate")(shortcut))


class ExclusiveGate(Gated):
    """Figure 2(c), as in highway networks: what the branch gets, the shortcut loses."""

    def sum_of(self, y: Maps, shortcut: Maps) -> Maps:
        gate = self.gate(shortcut)
        return gate * y + (1 - gate) * shortcut


class ShortcutGate(Gated):
    """Figure 2(d): the gate is for the shortcut alone."""

    def sum_of(self, y: Maps, shortcut: Maps) -> Maps:
        return y + (1 - self.gate(shortcut)) * shortcut


class ExclusiveGate6(ExclusiveGate):
    bias = -6.0


class ExclusiveGate7(ExclusiveGate):
    bias = -7.0


class ShortcutGate6(ShortcutGate):
    bias = -6.0


class DropoutShortcut(BasicBlock):
    """Figure 2(f): half of the shortcut's numbers are dropped in training."""

    def sum_of(self, y: Maps, shortcut: Maps) -> Maps:
        if self.parts.train:
            shortcut = dropout(shortcut, self.make_rng("dropout"), 0.5, self.parts.positions)
        return y + shortcut


PARTS: dict[str, dict[str, Any]] = {
    "identity": {"block": BasicBlock},
    "none": {"block": BasicBlock, "shortcut": "none"},
    "half": {"block": HalfShortcut},
    "half_both": {"block": HalfBoth},
    "exclusive_gate_-6": {"block": ExclusiveGate6},
    "exclusive_gate_-7": {"block": ExclusiveGate7},
    "shortcut_gate_0": {"block": ShortcutGate},
    "shortcut_gate_-6": {"block": ShortcutGate6},
    "convolution": {"block": BasicBlock, "shortcut": "projection_always"},
    "dropout": {"block": DropoutShortcut},
}
ERRORS = {
    "identity": 6.61,
    "half_both": 12.35,
    "exclusive_gate_-6": 8.70,
    "exclusive_gate_-7": 9.81,
    "shortcut_gate_0": 12.86,
    "shortcut_gate_-6": 6.91,
    "convolution": 12.22,
}


def network(config: Config, cell: Cell) -> nn.Module:
    """The network of the config, with the parts of the cell."""
    return build_model(config).clone(**PARTS[cell.values["shortcut"]])


study = Study(
    title="Shortcuts that are not the identity",
    question="Does a network learn worse where its shortcuts scale, gate, convolve or drop what they carry?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "shortcut": {name: {} for name in PARTS},
        "depth": {"56": {"model.stage_sizes": (9, 9, 9)}, "20": {"model.stage_sizes": (3, 3, 3)}},
    },
    numbers=("error", "train/error"),
    compare=tuple(
        Difference(of=f"{name}/{depth}", minus=f"identity/{depth}", number=number)
        for number in ("train/error", "error")
        for depth in (20, 56, 110)
        for name in PARTS
        if name != "identity"
    ),
    paper={f"{name}/110": Published(error=error, source=TABLE_1) for name, error in ERRORS.items()},
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
            axes={"depth": {"110": {"model.stage_sizes": (18, 18, 18)}, "20": {"model.stage_sizes": (3, 3, 3)}}},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
