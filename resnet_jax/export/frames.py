"""Networks for the frames of a clip as ONNX operators: the network for images on each frame, and the head over time.
The steps are those of `models/frames`."""

import math
from collections.abc import Sequence

import numpy as np

from resnet_jax.export.blocks import write_resnet
from resnet_jax.export.graph import Map
from resnet_jax.export.layers import Layers, gelu
from resnet_jax.models.frames.network import FrameNetwork
from resnet_jax.models.frames.recurrent import CELLS

_OPERATORS = {"lstm": ("LSTM", (0, 3, 1, 2), {}), "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1})}
"""For each kind of cell: the operator, its gates by their places in ours, and that the reset gate comes after the
product."""


def write_frames(layers: Layers, net: FrameNetwork, clips: Map) -> str:
    """The logits of each clip, (N, K).

    Raises:
      ModelError: more frames than a Transformer has positions for.
    """
    graph, (frames, *sides) = layers.graph, clips.sides
    net.check_frames(frames)
    x = graph.op("Transpose", [clips.name], "frames", perm=(0, 2, 1, 3, 4))
    images = Map(_shaped(layers, x, "frames", (-1, clips.channels, *sides)), clips.channels, tuple(sides))
    maps = write_resnet(layers, net.cnn, images, "cnn/")
    pooled, width = layers.pool(maps.get("activated", maps[f"stage{len(net.cnn.stage_sizes)}"]), "pooled")
    x = _shaped(layers, pooled, "features", (-1, frames, width))
    if net.frames == "transformer":
        x = _transformer(layers, net, x, frames)
    else:
        x = graph.op("Transpose", [x], "features", perm=(1, 0, 2))  # (T, N, D), as recurrent operators want it
        if net.frames in CELLS:
            for i in range(net.layers):
                x = _recurrent(layers, net, x, i)
        x = graph.op("ReduceMean", [x, graph.constant("mean/axes", [0], np.int64)], "mean", keepdims=0)
    return graph.dense(x, *_arrays(layers, "classifier"), "classifier")


def _recurrent(layers: Layers, net: FrameNetwork, x: str, layer: int) -> str:
    """(T, N, C) -> (T, N, hidden)."""
    graph, name = layers.graph, f"{net.frames}/l{layer}"
    kind, gates, fields = _OPERATORS[net.frames]

    def ordered(array: np.ndarray) -> np.ndarray:
        """The gates, which lie side by side in the last axis, as the operator wants them."""
        parts = np.split(array, len(gates), axis=-1)
        return np.concatenate([parts[gate] for gate in gates], axis=-1)

    given, own = ([ordered(array) for array in _arrays(layers, f"{net.frames}/{of}_l{layer}")] for of in ("ih", "hh"))
    kernels = [graph.constant(f"{name}/{of}", kernel.T[None]) for of, (kernel, _) in (("given", given), ("own", own))]
    bias = graph.constant(f"{name}/bias", np.concatenate([given[1], own[1]])[None])
    y = graph.op(kind, [x, *kernels, bias], name, hidden_size=net.hidden, **fields)
    return graph.op("Squeeze", [y, graph.constant(f"{name}/axes", [1], np.int64)], name)  # its one direction


def _transformer(layers: Layers, net: FrameNetwork, x: str, frames: int) -> str:
    """(N, T, D) -> (N, hidden)."""
    graph = layers.graph
    x = _linear(layers, x, "project")
    places = layers.arrays["params/positions/embedding"][: frames + 1].copy()
    places[0] += layers.arrays["params/token/embedding"][0]
    first = graph.constant("token/pads", [0, 1, 0, 0, 0, 0], np.int64)  # zeros, to which the token is added
    x = graph.op("Add", [graph.op("Pad", [x, first], "token"), graph.constant("positions", places)], "positions")
    for i in range(net.layers):
        name = f"transformer/layers_{i}"
        x = graph.op("Add", [x, _attention(layers, net, _norm(layers, x, f"{name}/norm1"), f"{name}/self_attn")], name)
        y = _linear(layers, _norm(layers, x, f"{name}/norm2"), f"{name}/linear1")
        y = _linear(layers, gelu(graph, y, f"{name}/act"), f"{name}/linear2")
        x = graph.op("Add", [x, y], f"{name}/sum")
    return _taken(layers, _norm(layers, x, "transformer/norm"), "token", 0, axis=1)


def _attention(layers: Layers, net: FrameNetwork, x: str, name: str) -> str:
    graph, each = layers.graph, net.hidden // net.heads
    x = _shaped(layers, _linear(layers, x, f"{name}/in_proj"), f"{name}/heads", (0, 0, 3, net.heads, each))
    x = graph.op("Transpose", [x], f"{name}/heads", perm=(2, 0, 3, 1, 4))
    query, key, value = (
        _taken(layers, x, f"{name}/{what}", i, axis=0) for i, what in enumerate(("query", "key", "value"))
    )
    key = graph.op("Transpose", [key], f"{name}/key", perm=(0, 1, 3, 2))
    scale = graph.constant(f"{name}/scale", 1 / math.sqrt(each))
    scores = graph.op("Mul", [graph.op("MatMul", [query, key], f"{name}/scores"), scale], f"{name}/scores")
    shares = graph.op("Softmax", [scores], name, axis=-1)
    seen = graph.op("Transpose", [graph.op("MatMul", [shares, value], name)], name, perm=(0, 2, 1, 3))
    return _linear(layers, _shaped(layers, seen, name, (0, 0, net.hidden)), f"{name}/out_proj")


def _norm(layers: Layers, x: str, name: str) -> str:
    leaves = ("scale", "bias")
    given = [layers.graph.constant(f"{name}/{leaf}", layers.arrays[f"params/{name}/{leaf}"]) for leaf in leaves]
    return layers.graph.op("LayerNormalization", [x, *given], name, axis=-1, epsilon=1e-5)


def _linear(layers: Layers, x: str, name: str) -> str:
    """A linear layer of the last of three axes."""
    kernel, bias = _arrays(layers, name)
    product = layers.graph.op("MatMul", [x, layers.graph.constant(f"{name}/weight", kernel)], name)
    return layers.graph.op("Add", [product, layers.graph.constant(f"{name}/bias", bias)], name)


def _arrays(layers: Layers, name: str) -> tuple[np.ndarray, np.ndarray]:
    return layers.arrays[f"params/{name}/kernel"], layers.arrays[f"params/{name}/bias"]


def _shaped(layers: Layers, x: str, name: str, shape: Sequence[int]) -> str:
    """0 = as it is, -1 = what is left."""
    return layers.graph.op("Reshape", [x, layers.graph.constant(f"{name}/shape", shape, np.int64)], name)


def _taken(layers: Layers, x: str, name: str, place: int, axis: int) -> str:
    """What is at one place of an axis, without this axis."""
    return layers.graph.op("Gather", [x, layers.graph.constant(f"{name}/place", place, np.int64)], name, axis=axis)
