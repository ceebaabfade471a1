"""Exports in int8, beside the quantised networks that they were written from."""

import functools
import json

import jax
import numpy as np
import pytest

from resnet_jax.compress.quantize import quantize
from resnet_jax.config import QuantizeConfig
from resnet_jax.export.job import Job
from resnet_jax.export.onnx_file import job_model, write_onnx
from resnet_jax.export.stablehlo import write_stablehlo

from .conftest import images_of, network_of

pytestmark = pytest.mark.usefixtures("compile_quickly")
SMALL = {"width_multiplier": 0.25}
CASES = {  # the network, its options, how it is quantised
    "zero-padded shortcuts": ("cifar_resnet20", {"stage_sizes": (1, 1)}, {}),
    "few bits": ("cifar_resnet20", {"stage_sizes": (1, 1)}, {"weight_bits": 4, "activation_bits": 4}),
    "a bias where there was none": ("cifar_resnetv2_20", {"stage_sizes": (1, 1)}, {"bias_correction": True}),
    "floating point": ("cifar_resnet20", {"stage_sizes": (1, 1)}, {"keep_float": ("layer2_0", "conv1")}),
    "projections of pre-activations": (
        "resnetv2_50",
        SMALL | {"stage_sizes": (1, 1), "shortcut": "projection_always"},
        {},
    ),
    "pooled shortcuts and gates": ("resnet26t", SMALL | {"stage_sizes": (1, 1), "se_ratio": 4, "pool": "max"}, {}),
    "blurs": ("resnetblur18", SMALL | {"stage_sizes": (1, 1), "stem": "space_to_depth", "pool": "catavgmax"}, {}),
    "fcn": ("fcn2s_resnet18", SMALL | {"stage_sizes": (1, 1)}, {}),
    "deeplabv3": ("deeplabv3_resnet18", SMALL | {"stage_sizes": (1, 1)}, {}),
    "unet": ("unet_resnetv2_18", SMALL | {"stage_sizes": (1, 1)}, {}),
}
FAST = "zero-padded shortcuts"
CLOSE = 0.005  # of the largest logit: another order of sums in floating point may round a number to the next integer


@functools.cache
def quantised(name, size=(33, 47)):
    network, options, how = CASES[name]
    job = Job(network_of(network, **options), size=size)
    _, images = images_of(job, 16)
    how = QuantizeConfig(method="minmax", **how)
    done = quantize(job.network.model, job.network.variables, lambda: [images], how)
    out = jax.jit(lambda v, x: done.model.apply(v, x))(done.variables, images)
    return (
        Job(job.network, size=size, quantized=done, quantization={"images": 16}),
        images,
        np.asarray(out["out"] if isinstance(out, dict) else out),
    )


def distance(given, expected):
    given = given.transpose(0, 2, 3, 1) if given.ndim == 4 else given
    return float(np.abs(given - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != FAST)) for name in CASES])
def test_onnxruntime_computes_the_same(name):
    """As it is written, and as onnxruntime changes it to operators on integers."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    job, images, expected = quantised(name)
    model = job_model(job, job.quantized.float)
    options = onnxruntime.SessionOptions()
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        (given,) = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
        assert distance(given, expected) <= (1e-6 if name == FAST else CLOSE), level
    check_file(model, job.quantized.scales)


def check_file(model, scales):
    """Standard operators; every kernel is int8, and read by way of its scales; a pair of operators at each place."""
    assert {node.domain for node in model.graph.node} == {""}
    arrays = {array.name: array for array in model.graph.initializer}
    readers = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    int8 = 0
    for node in layers:
        name = node.name.rpartition("/")[0]
        if name not in scales.kernels:
            continue
        kernel, tensor = readers[node.input[1]], readers[node.input[0]]
        assert (kernel.op_type, tensor.op_type) == ("DequantizeLinear", "DequantizeLinear"), name
        assert arrays[kernel.input[0]].data_type == 3, "INT8"
        for bias in node.input[2:]:  # one of zeros is left out
            assert arrays[readers[bias].input[0]].data_type == 6, "INT32"
        int8 += 1
    aux = sum(name.startswith("aux_classifier") for name in scales.kernels)  # only training needs that head
    assert int8 == len(scales.kernels) - aux
    written = {node.name.removesuffix("/QuantizeLinear") for node in model.graph.node if node.op_type[:2] == "Qu"}
    assert {place for place in scales.tensors if not place.startswith("aux_classifier")} <= written


def test_stablehlo_computes_the_same(tmp_path):
    import jax.export
    from safetensors.numpy import load_file

    pytest.importorskip("flatbuffers")
    job, images, expected = quantised(FAST)
    write_stablehlo(job, tmp_path / "out")
    program = jax.export.deserialize((tmp_path / "out" / "program.stablehlo").read_bytes())
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    assert weights["params/layer1_0/conv1/kernel"].dtype == np.int8
    assert weights["params/layer1_0/conv1/bias"].dtype == np.int32
    assert distance(np.asarray(program.call(weights, images)["logits"]), expected) <= 1e-6


def test_the_folder_says_how_it_was_quantised(tmp_path):
    pytest.importorskip("onnx")
    job, _, _ = quantised(FAST)
    write_onnx(job, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["quantization"] == {"images": 16}
