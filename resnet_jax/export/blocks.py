"""ResNet as ONNX operators: stem, blocks, shortcuts, head. The steps are those of `models/` of the same names."""

from collections.abc import Callable, Mapping
from typing import Any

from resnet_jax.export.graph import Map, Sides
from resnet_jax.export.layers import Layers, unknown
from resnet_jax.models import ResNet
from resnet_jax.models.blocks import BLOCKS, LEAST_BLURRED
from resnet_jax.models.blueprint import BlockPlan
from resnet_jax.models.shortcuts import SHORTCUTS
from resnet_jax.models.stems import STEMS


def write_resnet(layers: Layers, net: ResNet, images: Map, root: str = "") -> dict[str, Map]:
    """The stem and the stages, as `ResNet.__call__` with `features=True` names them.

    Args:
      root: what the names of the modules begin with, such as `backbone/`.

    Raises:
      ModelError: names the first layer that ONNX has no operators for.
    """
    plan = layers.plan
    steps = {BLOCKS[name]: step for name, step in _BLOCKS.items()}
    x, out = _stem(layers, net, images, root), {}
    if not plan.block.preactivation:
        norm = f"{root}{plan.stem.norm}"
        x = layers.act(layers.norm(x, norm), norm, within=root)
    out["stem"] = x
    if plan.stem.pool:
        blurs = net.antialias is True
        x = layers.max_pool(x, f"{root}maxpool", 1 if blurs else 2)
        x = layers.blur(x, f"{root}blurpool", 2) if blurs else x
    for i, stage in enumerate(plan.stages, start=1):
        flat = net.time == "mixed" and i > 1
        for j, fields in enumerate(stage):
            name = f"{root}layer{i}_{j}"
            if plan.block not in steps:
                raise unknown(name, "block", plan.block)
            x = layers.graph.at(x, f"{name}/input")
            x = layers.graph.at(steps[plan.block](_BlockWriter(layers, net, fields, name, flat), x), name)
        out[f"stage{i}"] = x
    if plan.block.preactivation:
        out["activated"] = layers.act(layers.norm(x, f"{root}norm"), f"{root}norm")
    return out


def _stem(layers: Layers, net: ResNet, x: Map, root: str) -> Map:
    plan = layers.plan
    kind = next((name for name, stem in STEMS.items() if stem is plan.stem), None)
    step = lambda stride: stride if net.time is None else (1, stride, stride)  # no stem strides in time
    match kind:
        case "imagenet" | "cifar" | "face" | "i3d":
            return layers.conv(x, f"{root}conv1", stride=step(plan.stem.stride))
        case "deep" | "deep_tiered":
            for place, stride in ((0, 2), (3, 1)):
                x = layers.norm(layers.conv(x, f"{root}conv1_{place}", stride=step(stride)), f"{root}conv1_{place + 1}")
                x = layers.act(x, f"{root}conv1_{place + 1}")
            return layers.conv(x, f"{root}conv1_6")
        case "space_to_depth":
            x = layers.graph.padded(x, f"{root}even", bottom=x.height % 2, right=x.width % 2)
            folded = layers.graph.op("SpaceToDepth", [x.name], f"{root}conv1", blocksize=2)
            x = Map(folded, 4 * x.channels, (x.height // 2, x.width // 2))
            return layers.conv(x, f"{root}conv1", padding=[(2, 1)] * 2)
        case "r3d":
            return layers.conv(x, f"{root}stem_0", stride=step(2))
        case "r2plus1d":
            x = layers.norm(layers.conv(x, f"{root}stem_0", stride=step(2)), f"{root}stem_1")
            return layers.conv(layers.act(x, f"{root}stem_1"), f"{root}stem_3")
    raise unknown(f"{root}conv1", "stem", plan.stem)


class _BlockWriter:
    """The steps that blocks share, as `models.blocks.Block` has them."""

    def __init__(self, layers: Layers, net: ResNet, fields: BlockPlan, name: str, flat: bool) -> None:
        self.layers, self.net, self.fields, self.name = layers, net, fields, name
        self.stride = (1, fields.stride, fields.stride) if flat else fields.stride
        self.dilations, self.groups = fields.dilations, net.groups
        subsamples = fields.stride > 1 or fields.dilations[0] != fields.dilations[1]
        self.blurs = net.antialias is True and subsamples

    def conv(self, x: Map, n: int, **fields: Any) -> Map:
        return self.layers.conv(x, f"{self.name}/conv{n}", **fields)

    def strided(self, x: Map, n: int, **fields: int) -> Map:
        return self.conv(self.smooth(x, f"conv{n}"), n, stride=1 if self.blurs else self.stride, **fields)

    def smooth(self, x: Map, before: str) -> Map:
        smooths = self.net.antialias == "before" and self.fields.stride > 1 and x.channels >= LEAST_BLURRED
        return self.layers.blur(x, f"{self.name}/{before}/blur", 1, border="constant") if smooths else x

    def norm(self, x: Map, n: int) -> Map:
        return self.layers.norm(x, f"{self.name}/bn{n}")

    def act(self, x: Map, n: int) -> Map:
        """The norm `n`, and the activation."""
        return self.layers.act(self.norm(x, n), f"{self.name}/bn{n}", within=f"{self.name}/")

    def blur(self, x: Map) -> Map:
        return self.layers.blur(x, f"{self.name}/blur", self.fields.stride) if self.blurs else x

    def add(self, x: Map, y: Map) -> Map:
        if self.net.se_ratio:
            y = self.layers.squeeze_excite(y, f"{self.name}/se")
        shortcut = self._shortcut(x, y.channels)
        return y if shortcut is None else self.layers.graph.add(y, shortcut, self.name)

    def output(self, y: Map) -> Map:
        return self.layers.act(y, self.name)

    def _shortcut(self, x: Map, features: int) -> Map | None:
        stride, graph = self.fields.stride, self.layers.graph
        name = f"{self.name}/shortcut"
        fits = stride == 1 and x.channels == features
        match next((kind for kind, own in SHORTCUTS.items() if own is self.layers.plan.shortcut), None):
            case "none":
                return None
            case "zero_pad" | "zero_pad_centred" as kind:
                missing = features - x.channels
                before = missing // 2 if kind == "zero_pad_centred" else 0
                x = graph.cut(x, name, x.sides, stride)
                return graph.padded(x, name, channels=(before, missing - before))
            case "projection":
                return x if fits else self._project(x, self.stride)
            case "projection_always":
                return self._project(x, self.stride)
            case "average_pool":
                if fits:
                    return x
                if stride > 1:
                    x = graph.halved(x, name)
                elif self.dilations[1] > 1:
                    sizes = (*[1] * (len(x.sides) - 2), 2, 2)  # of a clip each frame by itself
                    x = graph.pooled(x, "AveragePool", name, size=sizes, stride=1, ends=(0, 1), count_include_pad=1)
                return self._project(x, 1)
        raise unknown(name, "shortcut", self.layers.plan.shortcut)

    def _project(self, x: Map, stride: int | Sides) -> Map:
        x = self.smooth(x, "downsample_conv") if stride != 1 else x
        y = self.layers.conv(x, f"{self.name}/downsample_conv", stride=stride)
        return self.layers.norm(y, f"{self.name}/downsample_bn")


def _basic(block: _BlockWriter, x: Map) -> Map:
    y = block.blur(block.act(block.strided(x, 1, dilation=block.dilations[0]), 1))
    y = block.norm(block.conv(y, 2, dilation=block.dilations[1]), 2)
    return block.output(block.add(x, y))


def _bottleneck(block: _BlockWriter, x: Map) -> Map:
    y = block.act(block.conv(x, 1), 1)
    y = block.strided(y, 2, dilation=block.dilations[0], groups=block.groups)
    y = block.norm(block.conv(block.blur(block.act(y, 2)), 3), 3)
    return block.output(block.add(x, y))


def _bottleneck_v1(block: _BlockWriter, x: Map) -> Map:
    y = block.blur(block.act(block.strided(x, 1), 1))
    y = block.act(block.conv(y, 2, dilation=block.dilations[0], groups=block.groups), 2)
    return block.output(block.add(x, block.norm(block.conv(y, 3), 3)))


def _preact_basic(block: _BlockWriter, x: Map) -> Map:
    z = block.act(x, 1)
    y = block.blur(block.act(block.strided(z, 1, dilation=block.dilations[0]), 2))
    y = block.conv(y, 2, dilation=block.dilations[1])
    return block.add(x if x[1:] == y[1:] else z, y)


def _preact_bottleneck(block: _BlockWriter, x: Map) -> Map:
    z = block.act(x, 1)
    y = block.act(block.conv(z, 1), 2)
    y = block.strided(y, 2, dilation=block.dilations[0], groups=block.groups)
    y = block.conv(block.blur(block.act(y, 3)), 3)
    return block.add(x if x[1:] == y[1:] else z, y)


def _ir(block: _BlockWriter, x: Map) -> Map:
    y = block.conv(block.norm(x, 1), 1, dilation=block.dilations[0])
    y = block.strided(block.act(y, 2), 2, dilation=block.dilations[1])
    return block.add(x, block.blur(block.norm(y, 3)))


_BLOCKS: Mapping[str, Callable[[_BlockWriter, Map], Map]] = {
    "basic": _basic,
    "bottleneck": _bottleneck,
    "bottleneck_v1": _bottleneck_v1,
    "preact_basic": _preact_basic,
    "preact_bottleneck": _preact_bottleneck,
    "ir": _ir,
}
