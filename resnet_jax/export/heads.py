"""Heads as ONNX operators: those of segmentation, U-Net's decoder, and that of embeddings. The steps are those of
`models/segment` and `models/embed`."""

import math

from resnet_jax.errors import ModelError
from resnet_jax.export.blocks import write_resnet
from resnet_jax.export.graph import Map
from resnet_jax.export.layers import Layers
from resnet_jax.models.embed.network import Embedder
from resnet_jax.models.segment.heads import RATES
from resnet_jax.models.segment.network import Segmenter, skips_of, stages_of, strides_of
from resnet_jax.models.segment.unet import UNet


def write_segmenter(layers: Layers, net: Segmenter, images: Map) -> Map:
    """The logits of each pixel. The auxiliary head, which only training needs, is left out."""
    maps = write_resnet(layers, net.backbone, images, "backbone/")
    x = maps.get("activated", maps[stages_of(net.backbone)[-1]])
    heads = {"fcn": _fcn, "deeplabv3": _deeplab}
    if net.head not in heads:
        raise ModelError(f"classifier: the head {net.head!r} is not known to the ONNX writer; use --format stablehlo")
    logits, strides = heads[net.head](layers, x, "classifier"), strides_of(net.backbone)
    for stride, name in skips_of(strides, layers.plan.stride, net.finest):
        scores = layers.conv(maps[name], f"scores_{stride}")
        larger = _enlarged(layers, logits, f"enlarged_{stride}", scores)
        logits = layers.graph.add(larger, scores, f"sum_{stride}")
    return _enlarged(layers, logits, "enlarged", images)


def write_unet(layers: Layers, net: UNet, images: Map) -> Map:
    """The logits of each pixel."""
    graph, stride = layers.graph, layers.plan.stride
    x = graph.padded(images, "padded", bottom=-images.height % stride, right=-images.width % stride)
    maps = write_resnet(layers, net.encoder, x, "encoder/")
    seen = {at: maps[name] for at, name in skips_of(strides_of(net.encoder), stride)}
    x = maps.get("activated", maps[stages_of(net.encoder)[-1]])
    for i in range(int(math.log2(stride))):
        name, stride = f"decoder/blocks_{i}", stride // 2
        doubled = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        x = graph.resized(x, name, 2 * x.height, 2 * x.width, **doubled)
        x = graph.join([x, seen[stride]], name) if stride in seen else x
        for n in (1, 2):
            x = layers.unit(x, f"{name}/conv{n}_0", f"{name}/conv{n}_1")
    return graph.cut(layers.conv(x, "segmentation_head_0"), "cut", images.sides)


def write_embedder(layers: Layers, net: Embedder, images: Map) -> str:
    """The embeddings, (N, E)."""
    if net.head == "flat" and (images.height, images.width) != net.sides:
        raise ModelError(
            f"fc: the head is made for images of {net.sides[0]}x{net.sides[1]} pixels, and --size asks for "
            f"{images.height}x{images.width}; leave --size out"
        )
    graph, arrays = layers.graph, layers.arrays
    maps = write_resnet(layers, net.trunk, images, "trunk/")
    x = maps.get("activated", maps[stages_of(net.trunk)[-1]])
    if net.head == "flat":
        flat = graph.op("Flatten", [layers.norm(x, "bn2").name], "flat")
    else:
        flat, _ = layers.pool(x, "pooled")
    y = graph.dense(flat, arrays["params/fc/kernel"], arrays["params/fc/bias"], "fc")
    return layers.norm(Map(y, net.embedding_size, (1, 1)), "features").name


def _enlarged(layers: Layers, x: Map, name: str, like: Map) -> Map:
    fields = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return layers.graph.resized(x, name, like.height, like.width, **fields)


def _fcn(layers: Layers, x: Map, name: str) -> Map:
    return layers.conv(layers.unit(x, f"{name}/0", f"{name}/1"), f"{name}/4")


def _deeplab(layers: Layers, x: Map, name: str) -> Map:
    graph, pyramid = layers.graph, f"{name}/0"
    branches = [layers.unit(x, f"{pyramid}/convs_0_0", f"{pyramid}/convs_0_1")]
    for i, rate in enumerate(RATES, start=1):
        branches.append(layers.unit(x, f"{pyramid}/convs_{i}_0", f"{pyramid}/convs_{i}_1", dilation=rate))
    mean = Map(graph.op("GlobalAveragePool", [x.name], f"{pyramid}/convs_4"), x.channels, (1, 1))
    mean = layers.unit(mean, f"{pyramid}/convs_4_1", f"{pyramid}/convs_4_2")
    branches.append(graph.resized(mean, f"{pyramid}/convs_4", x.height, x.width, mode="nearest"))
    y = layers.unit(graph.join(branches, pyramid), f"{pyramid}/project_0", f"{pyramid}/project_1")
    return layers.conv(layers.unit(y, f"{name}/1", f"{name}/2"), f"{name}/4")
