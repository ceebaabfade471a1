"""ONNX files, run by onnxruntime, beside the networks that they were written from."""

import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.compress import fold
from resnet_jax.errors import ConfigError, ModelError
from resnet_jax.export.graph import Graph
from resnet_jax.export.job import Job
from resnet_jax.export.onnx_file import onnx_model, write_onnx
from resnet_jax.models import list_models

from .conftest import images_of, network_of, outputs_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("compile_quickly")

EXACT = 1e-5  # of the largest logit
SMALL = {"width_multiplier": 0.25}
GN = partial(nn.GroupNorm, num_groups=4, epsilon=1e-3)
CASES = {
    "resnet18": SMALL | {"stage_sizes": (1, 2)},
    "resnet26": SMALL | {"stage_sizes": (1, 1), "act": "leaky_relu", "pool": "avgmax"},
    "resnet34": SMALL | {"stage_sizes": (1, 1), "antialias": "before"},
    "resnet26t": SMALL | {"stage_sizes": (1, 1, 1), "output_stride": 8, "se_ratio": 4, "pool": "max"},
    "resnetblur18": SMALL | {"stage_sizes": (1, 1), "stem": "space_to_depth", "pool": "catavgmax"},
    "resnet50_v1": SMALL | {"stage_sizes": (1, 1), "act": "gelu"},
    "resnext50_32x4d": {"stage_sizes": (1, 1), "width_multiplier": 0.5},
    "resnetv2_50": SMALL | {"stage_sizes": (1, 1), "shortcut": "projection_always"},
    "cifar_resnet20_centred": {"stage_sizes": (1, 1), "act": "silu"},
    "cifar_resnet20": {"stage_sizes": (1, 1), "weight_standardization": True, "norm": "frozen"},
    "cifar_resnetv2_20": {"stage_sizes": (1, 1)},
    "cifar_plain20": {"stage_sizes": (1, 1)},
    "cifar_resnet29": {"stage_sizes": (1,), "weight_standardization": True, "norm": GN},
    "fcn_resnet18": SMALL | {"stage_sizes": (1, 1, 1)},
    "fcn2s_resnet18": SMALL | {"stage_sizes": (1, 1)},
    "deeplabv3_resnet18": SMALL | {"stage_sizes": (1, 1)},
    "unet_resnetv2_18": SMALL | {"stage_sizes": (1,)},
    "iresnet18": SMALL | {"stage_sizes": (2, 1), "sides": (33, 47), "embedding_size": 6},
    "embed_resnetv2_18": SMALL | {"stage_sizes": (1,), "pool": "avgmax"},
}


def relative_error(job, images, given):
    expected = outputs_of(job, images)
    given = given.transpose(0, 2, 3, 1) if given.ndim == 4 else given
    assert given.shape == expected.shape
    return np.abs(given - expected).max() / np.abs(expected).max()


def written(job):
    folded = fold(job.network.model, job.network.variables)
    return onnx_model(job, folded.model, folded.variables, Graph())


def check(job, count=3):
    model = written(job)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    pixels, images = images_of(job, count)
    given = {"pixels": pixels} if job.with_preprocessing else {"images": images.transpose(0, 3, 1, 2)}
    (logits,) = session.run([job.output], given)
    assert relative_error(job, images, logits) <= EXACT
    return model


# Those whose layers the others have too.
SLOW = ("resnet18", "resnet26", "resnet50_v1", "resnext50_32x4d", "cifar_resnetv2_20", "cifar_plain20", "fcn_resnet18")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_the_file_computes_the_same(name):
    model = check(Job(network_of(name, **CASES[name]), size=(33, 47)))
    assert {node.domain for node in model.graph.node} == {""}, "standard operators only"
    kinds = [node.op_type for node in model.graph.node]
    assert ("BatchNormalization" in kinds) == ("v2" in name or "iresnet" in name)
    assert kinds.count("PRelu") == (4 if "iresnet" in name else 0)


# Too deep; refused; see test_clips.py.
LEFT_OUT = ("cifar_resnet1202", *list_models(task="detect"), *list_models(task="clips"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if name not in LEFT_OUT])
def test_every_file_computes_the_same(name):
    options = {"sides": (65, 47)} if name in list_models(task="embed") else {}
    check(Job(network_of(name, **options, **(SMALL if "_gn" not in name else {})), size=(65, 47)), count=1)


def test_any_number_of_images_or_one(tiny):
    job = Job(tiny)
    model = check(job, count=5)
    (named,) = model.graph.input
    assert named.type.tensor_type.shape.dim[0].dim_param == "N"
    model = check(Job(tiny, batch=2), count=2)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_bytes_are_scaled_inside(tiny):
    model = check(Job(tiny, with_preprocessing=True))
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_layers_are_named_as_modules(tiny):
    """A later step, such as quantisation, finds them so."""
    model = written(Job(tiny))
    named = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    blocks = {f"layer{i}_0/conv{n}/Conv" for i in (1, 2) for n in (1, 2)}
    assert named == {"conv1/Conv", *blocks, "fc/Gemm"}
    weight = next(array for array in model.graph.initializer if array.name == "layer1_0/conv1/weight")
    assert list(weight.dims) == [16, 16, 3, 3]


def test_the_folder_says_what_it_holds(tiny, tmp_path):
    import json

    folded = write_onnx(Job(tiny, with_preprocessing=True), tmp_path / "out")
    assert (folded.folded, folded.kept) == (5, 0)
    said = json.loads((tmp_path / "out" / "export.json").read_text())
    assert said["input"] == {"name": "pixels", "dtype": "uint8", "shape": ["N", 33, 33, 3]}
    assert said["norms"] == {"folded": 5, "kept": 0}
    assert said["classes"] == list("abcdefg")
    assert said["preparation"]["inside"].startswith("(value / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.25, 0.3)")
    assert onnx.load(tmp_path / "out" / "model.onnx").producer_name == "resnet_jax"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"act": jnp.tanh},
            "bn1/act: the activation .*tanh.* is not known to the ONNX writer; choose the activation by name",
        ),
        ({"pool": lambda x: x[:, 0, 0]}, "pooled: the pool <lambda> is not known to the ONNX writer"),
        ({"norm": partial(nn.LayerNorm, epsilon=1e-5)}, "bn1: the norm LayerNorm is not known to the ONNX writer"),
    ],
)
def test_a_layer_without_operators_is_named(options, text):
    with pytest.raises(ModelError, match=text):
        written(Job(network_of("cifar_resnet20", stage_sizes=(1,), **options)))


def test_without_onnx(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match="--format onnx needs the package onnx; install it with: pip install onnx"):
        write_onnx(Job(tiny), tmp_path / "out")
    assert not (tmp_path / "out").exists()
