"""The plan of a network: its parts looked up by name, and the channels, strides and dilations of every block.

The plan is drawn when a `ResNet` is constructed, so that an impossible combination is refused there. It is drawn again
when the network is called.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from flax import linen as nn

from resnet_jax.errors import ModelError, unknown_name
from resnet_jax.models.blocks import BLOCKS, Activation, Block
from resnet_jax.models.initial import WEIGHT_INITS
from resnet_jax.models.layers import ACTIVATIONS, POOLS
from resnet_jax.models.norms import NORMS, field_default
from resnet_jax.models.shortcuts import SHORTCUTS, Shortcut
from resnet_jax.models.stems import STEMS, Stem
from resnet_jax.models.temporal import misfits as misfits_in_time

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet


class BlockPlan(NamedTuple):
    """The fields of one `Block`."""

    width: int
    stride: int
    dilations: tuple[int, int]
    drop_rate: float
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Blueprint:
    """The parts and numbers from which `ResNet` builds a network.

    Attributes:
      stem_widths: channels of each convolution of the stem.
      stages: the blocks of each stage.
      stride: stride of the whole network, in pixels of the image.
    """

    stem: Stem
    stem_widths: tuple[int, ...]
    block: type[Block]
    stages: tuple[tuple[BlockPlan, ...], ...]
    stride: int
    shortcut: Shortcut
    norm: Callable[..., nn.Module]
    act: Activation
    pool: Activation
    kernel_init: nn.initializers.Initializer


def draw(net: "ResNet") -> Blueprint:
    """Looks up the parts of `net` and lays out its stages.

    Raises:
      ModelError: an unknown name, a number out of range, or parts that do not fit each other.
    """
    stem, block = _pick("stem", STEMS, net.stem), _pick("block", BLOCKS, net.block)
    _check_numbers(net)
    width = round(net.width * net.width_multiplier)
    stem_width = round((net.stem_width or net.width) * net.width_multiplier)
    usual = [stem.usual_widths(stem_width)]
    for i, size in enumerate(net.stage_sizes):
        usual += [block.usual_widths(width * 2**i, net.groups, net.base_width)] * size
    stem_widths, *branches = _as_given(net, block, usual)
    stages, stride = _lay_out(net, width, stem, iter(branches))
    blueprint = Blueprint(
        stem=stem,
        stem_widths=stem_widths,
        block=block,
        stages=stages,
        stride=stride,
        shortcut=_pick("shortcut", SHORTCUTS, net.shortcut),
        norm=_pick("norm", NORMS, net.norm),
        act=_pick("act", ACTIVATIONS, net.act),
        pool=_pick("pool", POOLS, net.pool),
        kernel_init=_pick("weight_init", WEIGHT_INITS, net.weight_init) or block.kernel_init,
    )
    for problem in _misfits(net, blueprint):
        raise ModelError(problem)
    return blueprint


def _pick(kind: str, table: Mapping[str, Any], choice: Any) -> Any:
    """The part that a name stands for. Anything but a string is the part itself."""
    if isinstance(choice, str) and choice not in table:
        raise ModelError(unknown_name(kind, choice, table))
    return table[choice] if isinstance(choice, str) else choice


def _as_given(net: "ResNet", block: type[Block], usual: Sequence[tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    """The channels of the stem and of each branch: `usual`, or the numbers of `widths` in the same order."""
    if not net.widths:
        return usual
    if "usual_widths" not in {name for cls in block.__mro__ if cls is not Block for name in vars(cls)}:
        raise ModelError(
            f"widths names the channels of each convolution, and {block.__name__} does not say which it has; define "
            "usual_widths in it (as in models/blocks.py), or leave widths empty"
        )
    count = sum(map(len, usual))
    if len(net.widths) != count or min(net.widths) < 1:
        raise ModelError(
            f"widths has {len(net.widths)} numbers, the least of them {min(net.widths)}; it must have one for each of "
            f"the {count} convolutions of the stem and the branches, and each at least 1. Take widths from the network "
            "that was pruned, or leave it empty"
        )
    given = iter(net.widths)
    return [tuple(itertools.islice(given, len(convolutions))) for convolutions in usual]


def _lay_out(
    net: "ResNet", width: int, stem: Stem, branches: Iterator[tuple[int, ...]]
) -> tuple[tuple[tuple[BlockPlan, ...], ...], int]:
    """Stages at twice the width and half the resolution each, and the stride of the whole network.

    A stage whose stride would exceed `output_stride` dilates instead. Its first block keeps the distance between pixels
    that its input has; the other blocks look twice as far (torchvision's `replace_stride_with_dilation`). Drop rates
    rise linearly from 0 in the first block to the given rate in the last (timm's form of Huang et al. 2016, section 3).
    """
    stages, total, dilation, done = [], stem.total_stride, 1, 0
    slope = net.stochastic_depth / max(1, sum(net.stage_sizes) - 1)
    for i, size in enumerate(net.stage_sizes):
        stride, entering = stem.stage_stride if i == 0 else 2, dilation
        if net.output_stride and total * stride > net.output_stride:
            dilation, stride = dilation * stride, 1
        total *= stride
        stages.append(
            tuple(
                BlockPlan(
                    width=width * 2**i,
                    stride=1 if j else stride,
                    dilations=(dilation if j else entering, dilation),
                    drop_rate=slope * (done + j),
                    widths=next(branches),
                )
                for j in range(size)
            )
        )
        done += size
    return tuple(stages), total


def _check_numbers(net: "ResNet") -> None:
    """Checks each number by itself."""
    for name, low in {
        "num_classes": 0,
        "width": 1,
        "groups": 1,
        "base_width": 1,
        "se_ratio": 0,
        "bn_group_size": 0,
    }.items():
        if getattr(net, name) < low:
            raise ModelError(f"{name} = {getattr(net, name)} must be at least {low}")
    if not net.stage_sizes or min(net.stage_sizes) < 1:
        raise ModelError(f"stage_sizes = {net.stage_sizes} must name at least one stage, each of at least one block")
    if net.output_stride not in (None, 8, 16, 32):
        raise ModelError(
            f"output_stride = {net.output_stride} must be 8, 16 or 32, or None for whatever the stages make it: "
            "dilation replaces strides of stages, and the stem and its pool alone make 4"
        )
    if not 0 <= net.stochastic_depth < 1:
        raise ModelError(
            f"stochastic_depth = {net.stochastic_depth} is the drop rate of the last block; it must be in [0, 1)"
        )
    if round(net.width * net.width_multiplier) < 1:
        raise ModelError(
            f"width_multiplier = {net.width_multiplier} leaves no channel of width = {net.width}; "
            f"it must be at least {1 / net.width:g}"
        )
    beyond = [stage for stage in net.remat if not 1 <= stage <= len(net.stage_sizes)]
    if beyond:
        raise ModelError(f"remat = {net.remat} names stage {beyond[0]}; the stages are 1 to {len(net.stage_sizes)}")


def _misfits(net: "ResNet", plan: Blueprint) -> Iterator[str]:
    """Parts that are right by themselves but do not fit together. Each message has what, value, rule and remedy."""
    block, name = plan.block, plan.block.__name__
    width, stem_width = plan.stages[0][0].width, plan.stem_widths[-1]
    branches = [fields.widths for stage in plan.stages for fields in stage]
    inner, outputs = [n for branch in branches for n in branch[:-1]], [branch[-1] for branch in branches]

    subsamples = net.shortcut in ("zero_pad", "zero_pad_centred", "average_pool")
    yield from misfits_in_time(
        net,
        of_images=plan.stem is STEMS["space_to_depth"],
        of_clips=plan.stem in (STEMS["i3d"], STEMS["r3d"], STEMS["r2plus1d"]),
        shrinks_everywhere=subsamples,
    )
    if net.antialias not in (False, True, "before"):
        yield f"antialias = {net.antialias!r} must be False, True or 'before'"
    if not block.widens and (net.groups, net.base_width) != (1, 64):
        yield (
            f"groups = {net.groups} and base_width = {net.base_width} shape the 3x3 convolution of a bottleneck, and "
            f"{name} is none; leave them at 1 and 64, or choose block='bottleneck'"
        )
    if min(inner, default=1) < 1:
        yield (
            f"base_width = {net.base_width} of 64 channels is less than one for each of {net.groups} groups at width "
            f"{width}; choose base_width >= {-(-64 // width)}, or a wider network"
        )
    if odd := [n for n in inner if n % net.groups]:
        yield f"groups = {net.groups} do not divide {odd[0]} channels inside a block; choose widths that they divide"
    if net.se_ratio > min(outputs):
        yield (
            f"se_ratio = {net.se_ratio} leaves no channel of the first stage's {min(outputs)}; it must be at most "
            f"{min(outputs)}, or the network wider"
        )
    if net.act == "prelu" and (not block.activates_once or plan.stem in (STEMS["deep"], STEMS["deep_tiered"])):
        yield (
            f"act = 'prelu' has parameters of its own wherever it is applied, and {name} or the stem {net.stem!r} "
            "applies its activation more than once; choose block='ir' and a stem of one convolution, or act='relu'"
        )
    if block.shortcuts is not None and net.shortcut not in block.shortcuts:
        yield f"shortcut = {net.shortcut!r} does not fit {name}; choose {' or '.join(map(repr, block.shortcuts))}"
    for before, after in itertools.pairwise([stem_width, *outputs]):
        if net.shortcut in ("zero_pad", "zero_pad_centred") and before > after:
            remedy = "widths that never fall" if net.widths else f"stem_width <= {after}"
            yield (
                f"shortcut = {net.shortcut!r} can add channels but not remove them: {before} come into a block, and "
                f"it puts out {after}; choose {remedy} or shortcut='projection'"
            )
    if net.shortcut == "none" and (net.zero_init_residual or net.stochastic_depth):
        yield (
            f"zero_init_residual = {net.zero_init_residual} and stochastic_depth = {net.stochastic_depth} with "
            "shortcut = 'none': a branch that is zero ends a network without shortcuts; "
            "pass zero_init_residual=False and stochastic_depth=0"
        )
    if net.weight_init is not None and plan.stem is STEMS["space_to_depth"]:
        yield (
            f"weight_init = {net.weight_init!r} does not reach the stem 'space_to_depth', whose kernel is a 7x7 in "
            "another layout and begins as 'he'; choose stem='imagenet', which computes the same"
        )
    if net.folded and field_default(plan.norm, "use_batch_stats") is None:
        yield (
            f"folded = True leaves out batch normalisation that a convolution does, and norm = {net.norm!r} is none; "
            "pass folded=False"
        )
    groups = field_default(plan.norm, "num_groups")
    for channels in [stem_width, *inner, *outputs] if groups else []:
        if channels % groups:
            yield (
                f"the norm's {groups} groups do not divide a width of {channels} channels; choose fewer, "
                "such as norm=functools.partial(flax.linen.GroupNorm, num_groups=8, epsilon=1e-5)"
            )
