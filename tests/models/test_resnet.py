"""Facts about the networks: parameters, shapes, names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cost.count import count_macs, count_parameters
from resnet_jax.models import create_model, init, list_models

pytestmark = pytest.mark.usefixtures("compile_quickly")

FIVE = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


@pytest.mark.parametrize("name", FIVE)
def test_parameters_and_macs_are_torchvisions(name, torchvision):
    meta = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    model = create_model(name)
    assert count_parameters(model) == meta["num_params"]
    assert count_macs(model) / 1e9 == pytest.approx(meta["_ops"], rel=0.005)


@pytest.mark.parametrize("name", FIVE)
def test_the_tree_is_torchvisions(name, torchvision):
    """Every parameter and buffer has its counterpart, by name and by size."""
    model = create_model(name)
    variables = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False), jax.random.key(0))
    ours = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x.size
        for tree in variables.values()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    leaves = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    theirs = {}
    for key, tensor in torchvision.models.get_model(name).state_dict().items():
        *path, leaf = key.split(".")
        if leaf == "num_batches_tracked":
            continue
        if path[0].startswith("layer"):
            path = [f"{path[0]}_{path[1]}", *path[2:]]
        if "downsample" in path:
            path = [*path[:-2], "downsample_" + ("conv", "bn")[int(path[-1])]]
        norm = path[-1].startswith("bn") or path[-1].endswith("_bn")
        theirs["/".join([*path, leaves.get(leaf) or ("scale" if norm else "kernel")])] = tensor.numel()
    assert ours == theirs


@pytest.mark.parametrize(("name", "widths"), [("resnet18", (64, 128, 256, 512)), ("resnet152", (256, 512, 1024, 2048))])
@pytest.mark.parametrize(("size", "sides"), [(224, (112, 56, 28, 14, 7)), (65, (33, 17, 9, 5, 3))])
def test_stage_shapes(name, widths, size, sides):
    model = create_model(name, num_classes=37)
    images = jnp.zeros((2, size, size, 3))
    out, _ = jax.eval_shape(
        lambda key: model.init_with_output(key, images, train=False, features=True), jax.random.key(0)
    )
    assert {key: value.shape for key, value in out.items()} == {
        "stem": (2, sides[0], sides[0], 64),
        **{f"stage{i + 1}": (2, side, side, widths[i]) for i, side in enumerate(sides[1:])},
        "pooled": (2, widths[-1]),
        "logits": (2, 37),
    }


def test_cifar_bottleneck_depth_counts_layers():
    """9n+2 layers with weights, and 1.7 M parameters at 164 (He et al. 2016, table 1)."""
    model = create_model("cifar_resnet164")
    variables = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0))
    paths = [jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(variables["params"])]
    assert sum("kernel" in path and "downsample" not in path for path in paths) == 164
    assert round(count_parameters(model) / 1e6, 1) == 1.7


def test_logits_are_float32_whatever_the_dtype():
    model = create_model("cifar_resnet29", dtype=jnp.bfloat16)
    images = jnp.zeros((2, 8, 8, 3), jnp.bfloat16)
    out, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, images, train=False, features=True), jax.random.key(0)
    )
    assert (out["stage1"].dtype, out["logits"].dtype) == (jnp.bfloat16, jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_zero_init_residual_starts_as_the_identity():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    model = create_model("cifar_resnet29", zero_init_residual=True, stage_sizes=(2, 1, 1), width=4)
    look = lambda net: jax.jit(partial(net.apply, train=False, features=True))(init(net, jax.random.key(0)), images)
    out = look(model)
    # All blocks of stage 1 but the first, whose shortcut projects, pass on what they get.
    first = model.clone(stage_sizes=(1, 1, 1))
    expected = look(first)
    np.testing.assert_array_equal(out["stage1"], expected["stage1"])


def test_frozen_batch_norm_in_training():
    """`train=True` with frozen statistics is evaluation: the daily need of fine-tuning."""
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    model = create_model("cifar_resnet29", stage_sizes=(1, 1), width=4)
    variables = init(model, jax.random.key(0))
    look = lambda **options: jax.jit(partial(model.apply, **options))(variables, images)
    frozen = look(train=True, use_batch_stats=False, update_stats=False)
    np.testing.assert_array_equal(frozen, look(train=False))
    _, updates = look(train=False, update_stats=True, mutable=["batch_stats"])
    assert not np.array_equal(updates["batch_stats"]["bn1"]["mean"], variables["batch_stats"]["bn1"]["mean"])


def test_unknown_names_suggest_the_near_ones():
    with pytest.raises(ValueError, match=r"unknown model 'resnet_50'. Did you mean .*'resnet50'"):
        create_model("resnet_50")
    with pytest.raises(ValueError, match=r"unknown option of resnet50 'num_class'. Did you mean 'num_classes'"):
        create_model("resnet50", num_class=3)
    with pytest.raises(ValueError, match="num_classes = -1"):
        create_model("resnet50", num_classes=-1)
    assert list_models("resnet1*")[:3] == ["resnet18", "resnet101", "resnet152"]
    assert all(name.startswith("resnet1") for name in list_models("resnet1*"))


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_images_that_are_not_normalised_or_batched_are_refused(images):
    with pytest.raises(
        ValueError, match=r"images are (uint8|float32) of shape .*must be floating point \(N, H, W, C\)"
    ):
        create_model("cifar_resnet29").init(jax.random.key(0), images, train=False)
