"""Which channels of a network go together: every array, and the channels that lie along its axes.

What is added together has the same channels. So the convolutions that write into one residual stream (the stem or a
shortcut's projection, and the last of each branch) lose the same ones. A shortcut that pads with zeros copies channels
by their place, and ties those of two stages.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Int

from resnet_jax.compress.fold import check_known
from resnet_jax.errors import ModelError
from resnet_jax.models import BatchNorm, ResNet
from resnet_jax.models.blocks import BLOCKS
from resnet_jax.models.blueprint import BlockPlan, Blueprint, draw
from resnet_jax.models.headed import Headed, refuse_boxes, refuse_clips
from resnet_jax.models.layers import ACTIVATIONS, POOLS, squeezed
from resnet_jax.models.shortcuts import SHORTCUTS

Kind = Literal["inner", "shared", "gate"]
"""`inner`: inside the stem or a block. `shared`: what blocks add to. `gate`: inside squeeze-and-excitation."""


@dataclass(frozen=True, eq=False)
class Space:
    """The channels of one activation.

    Attributes:
      units: for each channel, what it is removed with: channels of one number go together.
      copied: the space whose channels a shortcut copies into this one.
      start: the place of the first of them.
      centred: whether half of the other channels lie before them.
    """

    units: Int[np.ndarray, " C"]
    copied: "Space | None" = None
    start: int = 0
    centred: bool = False

    def order(self, kept: Bool[np.ndarray, " U"]) -> Int[np.ndarray, " K"]:
        """The channels that are kept, in the order in which the smaller network has them: such that its shortcuts copy
        the right ones.

        Args:
          kept: for each unit of the network, whether it is kept.
        """
        mine = np.flatnonzero(kept[self.units])
        if self.copied is None:
            return mine
        copied = self.start + self.copied.order(kept)
        others = mine[(mine < self.start) | (mine >= self.start + len(self.copied.units))]
        before = len(others) // 2 if self.centred else 0
        return np.concatenate([others[:before], copied, others[before:]])


@dataclass(frozen=True)
class Pool:
    """Units among which some are chosen.

    Attributes:
      name: the module that makes them.
      units: their numbers.
    """

    name: str
    kind: Kind
    units: range


@dataclass(frozen=True)
class Axis:
    """The channels along an axis of an array; `times`: how often they lie there, one after the other."""

    number: int
    space: Space
    times: int = 1


@dataclass
class Spaces:
    """The channels of a network.

    Attributes:
      axes: name of an array -> what lies along its axes. An axis that is not there stays as it is.
      made: name of a convolution -> what it puts out.
      normed: name of a norm -> what it normalises.
      widths: what the convolutions of the stem and of the branches put out, as in `ResNet.widths`.
      differ: pairs, the larger one first, that must not have as many channels: a shortcut would be the identity then.
      gates: the inside of a squeeze-and-excitation, and what it scales.
    """

    pools: list[Pool] = field(default_factory=list)
    axes: dict[str, list[Axis]] = field(default_factory=dict)
    made: dict[str, Space] = field(default_factory=dict)
    normed: dict[str, Space] = field(default_factory=dict)
    widths: list[Space] = field(default_factory=list)
    differ: list[tuple[Space, Space]] = field(default_factory=list)
    gates: list[tuple[Pool, Space]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.pools[-1].units.stop if self.pools else 0

    def new(self, name: str, kind: Kind, size: int) -> Space:
        self.pools.append(Pool(name, kind, range(self.count, self.count + size)))
        return Space(np.array(self.pools[-1].units, dtype=int))

    def conv(self, name: str, x: Space | None, y: Space) -> None:
        self.made[name] = y
        self.axes[f"params/{name}/kernel"] = [Axis(-1, y), *([Axis(-2, x)] if x else [])]
        self.axes[f"params/{name}/bias"] = [Axis(0, y)]

    def norm(self, name: str, x: Space) -> None:
        self.normed[name] = x
        for leaf in ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var"):
            self.axes[leaf.format(name)] = [Axis(0, x)]

    def slopes(self, within: str, x: Space) -> None:
        """Of the activation in a module, if it has any."""
        self.axes[f"params/{within}prelu/slope"] = [Axis(0, x)]


def spaces_of(model: nn.Module) -> Spaces:
    """The channels of a network, and which of them go together.

    Raises:
      ModelError: a part of it mixes channels in a way that pruning does not know; names the layer.
    """
    refuse_clips(model, "prune")
    refuse_boxes(model, "prune")
    net = check_known(model)
    plan = draw(net)
    root = f"{model.root}/" if isinstance(model, Headed) else ""
    for problem in _unknown(net, plan, root):
        raise ModelError(problem)
    found = Spaces()
    x = _stem(found, plan, root)
    for i, stage in enumerate(plan.stages, start=1):
        for j, fields in enumerate(stage):
            x = _block(found, net, plan, fields, f"{root}layer{i}_{j}", x)
    if plan.block.preactivation:
        found.norm(f"{root}norm", x)
    if not root and net.num_classes:
        times = 2 if plan.pool is POOLS["catavgmax"] else 1
        found.axes["params/fc/kernel"] = [Axis(0, x, times)]
    return found


def _stem(found: Spaces, plan: Blueprint, root: str) -> Space:
    """What the stem puts out. A deep one has `conv1_0`, the norm `conv1_1`, `conv1_3` and so on."""
    x, deep, last = None, bool(plan.stem.shares), len(plan.stem_widths) - 1
    for place, width in enumerate(plan.stem_widths):
        name = f"{root}conv1_{3 * place}" if deep else f"{root}conv1"
        y = found.new(name, "shared" if place == last else "inner", width)
        found.conv(name, x, y)
        found.widths.append(y)
        if place < last:
            found.norm(f"{root}conv1_{3 * place + 1}", y)
        elif not plan.block.preactivation:
            found.norm(f"{root}bn1", y)
            found.slopes(root, y)
        x = y
    assert x is not None
    return x


def _block(found: Spaces, net: ResNet, plan: Blueprint, fields: BlockPlan, name: str, x: Space) -> Space:
    """What a block puts out that gets `x`."""
    normed_first = plan.block.preactivation or plan.block is BLOCKS["ir"]
    y = _sum(found, plan, fields, name, x)
    if normed_first:
        found.norm(f"{name}/bn1", x)
    within, last = x, len(fields.widths)
    for place, width in enumerate(fields.widths, start=1):
        conv = f"{name}/conv{place}"
        after = y if place == last else found.new(conv, "inner", width)
        found.conv(conv, within, after)
        found.widths.append(after)
        if not normed_first:
            found.norm(f"{name}/bn{place}", after)
        elif place < last or plan.block is BLOCKS["ir"]:
            found.norm(f"{name}/bn{place + 1}", after)
        if place == 1:
            found.slopes(f"{name}/", after)
        within = after
    if net.se_ratio:
        hidden = found.new(f"{name}/se/fc1", "gate", squeezed(len(y.units), net.se_ratio))
        found.gates.append((found.pools[-1], y))
        found.conv(f"{name}/se/fc1", y, hidden)
        found.conv(f"{name}/se/fc2", hidden, y)
    return y


def _sum(found: Spaces, plan: Blueprint, fields: BlockPlan, name: str, x: Space) -> Space:
    """The channels of the sum that ends a block, with the shortcut from `x`."""
    shortcut = next(kind for kind, own in SHORTCUTS.items() if own is plan.shortcut)
    width, last = fields.widths[-1], f"{name}/conv{len(fields.widths)}"
    if fields.stride == 1 and width == len(x.units) and shortcut not in ("none", "projection_always"):
        return x
    if shortcut in ("zero_pad", "zero_pad_centred"):
        missing, centred = width - len(x.units), shortcut == "zero_pad_centred"
        start = missing // 2 if centred else 0
        others = found.new(last, "shared", missing).units
        return Space(np.concatenate([others[:start], x.units, others[start:]]), x, start, centred)
    y = found.new(last, "shared", width)
    if shortcut == "none":
        return y
    found.conv(f"{name}/downsample_conv", x, y)
    if not plan.block.preactivation:
        found.norm(f"{name}/downsample_bn", y)
    if fields.stride == 1 and shortcut != "projection_always":
        found.differ.append((x, y) if len(x.units) > width else (y, x))
    return y


def _unknown(net: ResNet, plan: Blueprint, root: str) -> Iterator[str]:
    """What pruning does not know of a network, each with its layer."""
    inner = f"{root}layer1_0"
    if net.folded:
        yield (
            f"{root}bn1 is folded into the convolution before it, and such a network only predicts; prune the network "
            "as it was trained, and fold what comes out"
        )
    norm = plan.norm.func if isinstance(plan.norm, partial) else plan.norm
    if norm is not BatchNorm:
        yield (
            f"{root}{'layer1_0/bn1' if plan.block.preactivation else 'bn1'} is {getattr(norm, '__name__', norm)}, and "
            "pruning knows only batch normalisation, which treats each channel by itself; prune a network with "
            "norm='batch'"
        )
    if net.weight_standardization:
        yield (
            f"{inner}/conv1 is standardised over all channels that it sees, so it changes when some of them go; prune "
            "a network with weight_standardization=False"
        )
    if net.groups > 1:
        yield (
            f"{inner}/conv2 has {net.groups} groups, and pruning does not know which channels of them go together; "
            "prune a network with groups=1, such as resnet50 in the place of resnext50_32x4d"
        )
    if plan.block.preactivation and plan.shortcut is SHORTCUTS["projection_always"]:
        yield (
            f"{inner}/downsample_conv sees the sum or its activation, as the shapes are, and these change; prune a "
            "network with shortcut='projection'"
        )
    if plan.act not in ACTIVATIONS.values():
        yield (
            f"the activation after {inner}/bn1 is of your own, so nothing is known of a channel that is zero; choose "
            f"one by name: {', '.join(ACTIVATIONS)}"
        )
    if not root and plan.pool not in POOLS.values():
        yield f"the pool before fc is of your own; choose one by name: {', '.join(POOLS)}"
