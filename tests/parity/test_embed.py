"""Networks for embeddings: an iresnet beside the published structure in PyTorch, and a head on other networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import ModelError
from resnet_jax.models import variable_shapes
from resnet_jax.models.embed.table import IRESNETS
from resnet_jax.parity import compare, compare_networks, randomize, tolerances_for
from resnet_jax.parity.iresnet import make_iresnet
from resnet_jax.weights import candidates, from_torchvision, load_pretrained, save_weights, to_torchvision

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("compile_quickly")
# Insightface's networks, counted from its code; iresnet152 is older and has no twin there.
PARAMETERS = {
    "iresnet18": 24_025_600,
    "iresnet34": 34_139_328,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "iresnet152": 70_765_760,
    "iresnet200": 118_833_920,
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_outputs_gradients_statistics_and_steps_are_those_of_the_published_structure():
    """At 97 pixels, whose maps are odd in every stage: 49, 25, 13, 7."""
    torch.manual_seed(0)
    module = make_iresnet("iresnet18", 16, width=4).double()
    for stage in range(1, 5):  # one block of each stage strides and projects, and a second one has the identity
        if stage > 2:
            getattr(module, f"layer{stage}").__delitem__(1)
    options = {"stage_sizes": (2, 2, 1, 1), "width": 4, "embedding_size": 16, "param_dtype": jnp.float64}
    randomize(module, torch.from_numpy(noise(4, 3, 97, 97)))
    model = rn.create_model("iresnet18", **options)
    variables = from_torchvision({key: value.numpy() for key, value in module.state_dict().items()}, model)
    report = compare_networks(
        model,
        variables,
        module,
        images=[noise(2, 97, 97, 3)],
        train_images=[noise(4, 97, 97, 3, seed=seed) for seed in range(3)],
        tolerances=tolerances_for("float64"),
    )
    assert report.difference is None, report.difference
    names = {row.name for section in report.sections for row in section.rows}
    assert {"layer1.0.prelu", "layer2.0.downsample.1", "bn2", "fc", "features", "prelu"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("name", IRESNETS)
def test_a_whole_network_is_that_of_the_published_structure(name):
    report = compare(name, dtype="float64", batch_size=2, steps=2)
    assert report.difference is None, report.difference


@pytest.mark.parametrize("name", IRESNETS)
def test_as_many_parameters_as_published(name):
    shapes = variable_shapes(rn.create_model(name))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["iresnet18", "iresnet50"])
def test_names_and_shapes_are_insightfaces(name):
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in make_iresnet(name).state_dict().items()}
    shapes = variable_shapes(rn.create_model(name))
    ours = to_torchvision(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))
    assert {key: array.shape for key, array in ours.items()} == theirs
    assert candidates(ours) == [name]


def test_weights_return_from_a_file_with_the_size_of_images_and_embeddings(tmp_path):
    options = {"width_multiplier": 1 / 16, "sides": (32, 32), "embedding_size": 12}
    model = rn.create_model("iresnet18", **options)
    variables = jax.tree.map(lambda leaf: noise(*leaf.shape).astype(np.float32), variable_shapes(model))
    save_weights(tmp_path / "face.safetensors", variables)
    again, loaded = load_pretrained("iresnet18", tmp_path / "face.safetensors", width_multiplier=1 / 16)
    assert (again.sides, again.embedding_size) == ((32, 32), 12)
    jax.tree.map(np.testing.assert_array_equal, variables, {name: loaded[name] for name in variables})


def test_any_network_gets_a_head():
    """Its pool, a linear layer, and a norm over the images."""
    with jax.enable_x64(False):
        model = rn.create_model("embed_resnet50", stage_sizes=(1, 1), width=4, embedding_size=6)
        variables = rn.init(model, jax.random.key(0))
        images = noise(3, 33, 40, 3).astype(np.float32)
        out = jax.jit(partial(model.apply, train=False, features=True))(variables, images)
        trunk = {name: variables[name]["trunk"] for name in ("params", "batch_stats")}
        pooled = jax.jit(partial(model.trunk.apply, train=False))(trunk, images)
        fc = variables["params"]["fc"]
        expected = (np.asarray(pooled) @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"])) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(out["embedding"], expected, rtol=1e-5, atol=1e-6)
    assert out["embedding"].dtype == np.float32
    assert set(out) >= {"stem", "stage1", "stage2", "pooled"}


def test_the_norm_of_the_embedding_sees_the_whole_batch():
    model = rn.create_model("embed_resnet18", stage_sizes=(1,), width=4, embedding_size=6)
    variables = rn.init(model, jax.random.key(0))
    train = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    x, _ = train(variables, noise(8, 32, 32, 3))
    np.testing.assert_allclose(x.mean(axis=0), np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0), np.ones(6), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("iresnet18", {"embedding_size": 0}, "embedding_size = 0 must be at least 1"),
        ("iresnet18", {"dropout": 1.0}, "dropout = 1.0 must be at least 0 and less than 1"),
        ("iresnet18", {"num_classes": 10}, "option of iresnet18 'num_classes'"),
        ("embed_resnet51", {}, "backbone of embed 'resnet51'"),
        ("iresnet51", {}, "model 'iresnet51'"),
        (
            "resnet18",
            {"act": "prelu"},
            "act = 'prelu' has parameters of its own .* BasicBlock",
        ),
        ("iresnet18", {"stem": "deep"}, "the stem 'deep' applies its activation more than once"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, options, text):
    with pytest.raises(ModelError, match=text):
        rn.create_model(name, **options)


def test_images_of_another_size_are_refused_where_the_head_fixes_it():
    model = rn.create_model("iresnet18", stage_sizes=(1, 1, 1, 1), width=4)
    variables = variable_shapes(model)
    with pytest.raises(ModelError, match="made for images of 112x112 pixels, and these have 64x70; resize them"):
        jax.eval_shape(partial(model.apply, train=False), variables, noise(1, 64, 70, 3))
    with pytest.raises(ModelError, match="pass rngs="):
        jax.eval_shape(partial(model.clone(dropout=0.5).apply, train=True), variables, noise(1, 112, 112, 3))
