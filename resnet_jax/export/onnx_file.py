"""Networks as ONNX: standard operators, (N, C, H, W), batch normalisation folded into the convolutions."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.compress import Folded
from resnet_jax.compress.quantize.network import SCALES
from resnet_jax.export.blocks import write_resnet
from resnet_jax.export.frames import write_frames
from resnet_jax.export.graph import Graph, Map
from resnet_jax.export.heads import write_embedder, write_segmenter, write_unet
from resnet_jax.export.job import DESCRIPTION, PIXELS, Job, check_packages, new_folder
from resnet_jax.export.layers import Layers
from resnet_jax.export.quantized_graph import QuantizedGraph
from resnet_jax.models import ResNet
from resnet_jax.models.blueprint import draw
from resnet_jax.models.embed.network import Embedder
from resnet_jax.models.frames.network import FrameNetwork
from resnet_jax.models.headed import resnet_in
from resnet_jax.models.layers import standardized
from resnet_jax.models.segment.network import Segmenter

FILE = "model.onnx"


def write_onnx(job: Job, out: Path) -> Folded:
    """Writes `model.onnx` and `export.json` into the new folder `out`.

    Returns:
      how many norms were folded and kept, as `compress.Folded`.

    Raises:
      ConfigError: onnx is not installed, or `out` holds something.
      ModelError: names the first layer that ONNX has no operators for here.
    """
    check_packages("onnx")
    import onnx

    folded = job.folded()
    with new_folder(out) as folder:
        model = job_model(job, folded)
        onnx.save(model, folder / FILE)
        batch = "N" if job.batch is None else job.batch
        (folder / DESCRIPTION).write_text(job.description("onnx", _input_shape(job, batch), [FILE], folded))
    return folded


def job_model(job: Job, folded: Folded) -> Any:
    """The network of a job as a `ModelProto`, in integers if the job says so.

    Args:
      folded: of `job.folded()`.
    """
    if not job.quantized:
        return onnx_model(job, folded.model, folded.variables, Graph())
    integers = {name: leaf for name, leaf in job.quantized.variables.items() if name != SCALES}
    return onnx_model(job, folded.model, integers, QuantizedGraph(job.quantized))


def onnx_model(job: Job, model: Any, variables: Any, graph: Graph) -> Any:
    """A network as a `ModelProto`.

    Args:
      job: says how the network is to be called. Its own network is not looked at.
      model, variables: a network, folded or not.
      graph: where the layers go, empty.

    Raises:
      ModelError: names the first layer that ONNX has no operators for here.
    """
    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    backbone = resnet_in(model)
    if backbone.weight_standardization:
        arrays |= {name: np.asarray(standardized(jnp.asarray(a))) for name, a in arrays.items() if a.ndim > 2}
    layers = Layers(graph, arrays, draw(backbone), backbone.time_padding == "border")
    _, *sides, channels = job.shape(None)
    x = Map(job.input, channels, tuple(sides))
    if job.with_preprocessing:
        x = x._replace(name=_scaled(job, graph))
    batch = "N" if job.batch is None else job.batch
    if isinstance(model, ResNet):
        maps = write_resnet(layers, model, x)
        last = maps.get("activated", maps[f"stage{len(model.stage_sizes)}"])
        pooled, _ = layers.pool(last, "pooled")
        result = graph.dense(pooled, arrays["params/fc/kernel"], arrays["params/fc/bias"], "fc")
        shape: tuple[Any, ...] = (batch, model.num_classes)
    elif isinstance(model, FrameNetwork):
        result, shape = write_frames(layers, model, x), (batch, model.num_classes)
    elif isinstance(model, Embedder):
        result, shape = write_embedder(layers, model, x), (batch, model.embedding_size)
    else:
        write: Any = write_segmenter if isinstance(model, Segmenter) else write_unet
        result, shape = write(layers, model, x).name, (batch, model.num_classes, *sides)
    kind = np.uint8 if job.with_preprocessing else np.float32
    return graph.model(
        {job.input: (kind, _input_shape(job, batch))},
        {job.output: (result, shape)},
        {
            "network": job.network.title,
            "preparation outside": job.outside,
            "preparation inside": job.inside,
            "classes": json.dumps(list(job.network.class_names)),
        },
    )


def _input_shape(job: Job, batch: Any) -> tuple[Any, ...]:
    n, *sides, channels = job.shape(batch)
    return (n, *sides, channels) if job.with_preprocessing else (n, channels, *sides)


def _scaled(job: Job, graph: Graph) -> str:
    """From bytes with the channels last to scaled numbers with the channels first, by the steps of `data.normalize`."""
    axes = len(job.shape(None))
    x = graph.op("Transpose", [PIXELS], "preparation", perm=(0, axes - 1, *range(1, axes - 1)))
    x = graph.op("Cast", [x], "preparation", to=1)  # FLOAT
    of_channels = lambda values: np.reshape(values, (-1, *[1] * (axes - 2)))
    for kind, name, values in (
        ("Div", "preparation/255", 255),
        ("Sub", "preparation/mean", of_channels(job.preset.mean)),
        ("Div", "preparation/std", of_channels(job.preset.std)),
    ):
        x = graph.op(kind, [x, graph.constant(name, values)], name)
    return x
