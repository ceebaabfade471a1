"""Networks for segmentation: sizes as published, any backbone, enlargement as torch's, random numbers by place."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cost.count import count_macs_of, count_parameters, measure, usual_size
from resnet_jax.errors import ModelError
from resnet_jax.models import create_model, init, list_models, variable_shapes
from resnet_jax.models.segment import heads
from resnet_jax.models.segment.heads import Aspp, Tools
from resnet_jax.models.segment.network import head_tools
from resnet_jax.models.segment.resize import bilinear, nearest, nearest_doubled
from resnet_jax.parity import make_reference, randomize
from resnet_jax.weights import from_torchvision

from ..weights.networks import shapes_only

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("compile_quickly")
PUBLISHED = [name for name in list_models(task="segment") if name.startswith(("fcn_", "deeplabv3_"))]


# Enlargement


@pytest.mark.parametrize("seed", range(8))
def test_bilinear_is_that_of_torch(float64, seed):
    """Up, down and both, with its derivative; the last seeds begin or end with a side of 1 pixel."""
    rng = np.random.default_rng(seed)
    old, new = rng.integers(2, 40, 2), rng.integers(2, 40, 2)
    old[0] = 1 if seed > 5 else old[0]
    new[1] = 1 if seed > 6 else new[1]
    x, weights = rng.normal(size=(2, *old, 3)), rng.normal(size=(2, *new, 3))
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    out = torch.nn.functional.interpolate(theirs, (*map(int, new),), mode="bilinear", align_corners=False)
    (out * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy())).sum().backward()
    weighted = lambda x: (jnp.sum((ours := bilinear(x, *map(int, new))) * weights), ours)
    gradient, ours = jax.jit(jax.grad(weighted, has_aux=True))(x)
    np.testing.assert_allclose(ours, out.detach().permute(0, 2, 3, 1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, theirs.grad.permute(0, 2, 3, 1), rtol=1e-12, atol=1e-12)


def test_half_precision_is_enlarged_in_float32():
    assert bilinear(jnp.ones((1, 2, 2, 1), jnp.bfloat16), 5, 5).dtype == jnp.float32


def test_doubling_is_that_of_torch():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(x.transpose(0, 3, 1, 2)), scale_factor=2, mode="nearest")
    np.testing.assert_array_equal(nearest_doubled(x), theirs.permute(0, 2, 3, 1))


# Sizes and costs


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_costs_are_torchvisions(torchvision, name):
    """torchvision's count of operations leaves out the enlargement of the logits, which is a product of matrices
    here."""
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = create_model(name)
    cost = measure(model, image_size=usual_size(model))
    assert usual_size(model) == 520
    assert cost.parameters == meta["num_params"]
    small = jax.ShapeDtypeStruct((1, 65, 65, 21), jnp.float32)
    enlargement = 2 * count_macs_of(lambda x: bilinear(x, 520, 520), small)
    assert (cost.macs - enlargement) / 1e9 == pytest.approx(meta["_ops"], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unet_resnet18", 14_328_209),
        ("unet_resnet34", 24_436_369),
        ("unet_resnet50", 32_521_105),
        ("unet_resnet101", 51_513_233),
        ("unet_resnet152", 67_156_881),
    ],
)
def test_sizes_are_those_of_segmentation_models_pytorch(name, parameters):
    """Of version 0.6.0, with one class."""
    assert count_parameters(create_model(name, num_classes=1)) == parameters


@pytest.mark.parametrize("name", ["unet_resnet34", "unet_resnext50_32x4d"])
def test_shapes_are_those_of_segmentation_models_pytorch(torchvision, name):
    pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        theirs = shapes_only(make_reference(name, 7))
    from_torchvision(theirs, create_model(name, num_classes=7))


# Backbones


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fcn_resnet18d", {}),
        ("deeplabv3_seresnet50", {}),
        ("unet_resnext50_32x4d", {}),
        ("unet_seresnet50", {}),
        ("unet_resnet50t", {}),
        ("fcn_wide_resnet50_2", {"output_stride": 16}),
        ("deeplabv3_resnetv2_50", {}),
        ("unet_resnetv2_18", {}),
        ("unet_resnetblur18", {}),
        ("fcn_resnet50_gn", {}),
        ("fcn_cifar_resnet20", {}),
        ("fcn8s_resnet50", {"aux_loss": True}),
        ("fcn4s_resnetv2_50", {}),
        ("fcn2s_cifar_resnet20", {}),
        ("deeplabv3_cifar_wide_resnet16_8", {}),
        ("unet_cifar_resnet20", {}),
        ("unet_resnet50", {"output_stride": 8}),
        ("fcn_resnet18", {"stage_sizes": (2,), "aux_loss": False}),
    ],
)
def test_any_network_is_a_backbone(name, options):
    model = create_model(name, num_classes=7, **options)
    images = jax.ShapeDtypeStruct((2, 65, 43, 3), jnp.float32)
    out = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variable_shapes(model), images)
    aux = not name.startswith("unet") and model.aux_loss
    assert {key: x.shape for key, x in out.items()} == dict.fromkeys(["out", *["aux"] * aux], (2, 65, 43, 7))
    assert {x.dtype for x in out.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(("name", "finest"), [("fcn8s_resnet18", 8), ("fcn2s_resnet18", 2)])
def test_scores_of_finer_maps_are_added_as_in_the_paper(torchvision, float64, name, finest):
    """Long et al. 2015, section 4.2, written with torch's modules over torchvision's backbone."""
    parts, layers = {2: ("relu", 64), 4: ("layer1", 64), 8: ("layer2", 128), 16: ("layer3", 256)}, {"layer4": "32"}

    class Skips(torch.nn.Module):
        def __init__(self):
            super().__init__()
            names = layers | {layer: str(stride) for stride, (layer, _) in parts.items()}
            resnet = torchvision.models.resnet18()
            self.backbone = torchvision.models._utils.IntermediateLayerGetter(resnet, names)
            self.classifier = torchvision.models.segmentation.fcn.FCNHead(512, 5)
            self.scores = torch.nn.ModuleDict(
                {str(stride): torch.nn.Conv2d(size, 5, 1) for stride, (_, size) in parts.items() if stride >= finest}
            )

        def forward(self, images):
            maps = self.backbone(images)
            logits = self.classifier(maps["32"])
            enlarge = lambda like: torch.nn.functional.interpolate(logits, like.shape[-2:], mode="bilinear")
            for stride in sorted(map(int, self.scores), reverse=True):
                logits = enlarge(maps[str(stride)]) + self.scores[str(stride)](maps[str(stride)])
            return enlarge(images)

    torch.manual_seed(0)
    module = Skips().double()
    images = np.random.default_rng(0).normal(size=(2, 75, 93, 3))
    theirs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    randomize(module, theirs)
    with torch.no_grad():
        logits = module.eval()(theirs).permute(0, 2, 3, 1).numpy()
    model = create_model(name, num_classes=5, param_dtype=jnp.float64)
    state_dict = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
    ours = jax.jit(partial(model.apply, train=False))(from_torchvision(state_dict, model), images)["out"]
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-12 * np.abs(logits).max())


def test_finer_maps_score_nothing_at_first():
    params = init(small("fcn2s_resnet18"), jax.random.key(1))["params"]
    scores = {name: of for name, of in params.items() if name.startswith("score")}
    assert scores.keys() == {"scores_2", "scores_4"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(scores))


def test_cifar_networks_have_as_many_decoder_blocks_as_they_halve():
    params = variable_shapes(create_model("unet_cifar_resnet20"))["params"]
    assert params["decoder"].keys() == {"blocks_0", "blocks_1"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn_resnet51", {}, "unknown backbone of fcn 'resnet51'. Did you mean 'resnet5"),
        ("unet_resnet50", {"aux_loss": True}, "unknown option of unet_resnet50 'aux_loss'"),
        ("fcn_resnet50", {"dropout": 1.0}, "dropout = 1.0 must be at least 0 and less than 1"),
        ("fcn_resnet50", {"num_classes": 0}, "num_classes = 0 must be at least 1"),
        ("fcn_resnet18", {"stage_sizes": (2,)}, "has one stage, and aux_loss needs the last but one; pass aux_loss=Fa"),
        ("fcn8s_cifar_resnet20", {}, r"finest = 8: .* maps of strides \[2, 1\] before its last; choose one of these"),
        ("unet_cifar_resnet20", {"stage_sizes": (2,)}, "makes images 1 times smaller, .* a stride of 2 to 32"),
    ],
)
def test_what_cannot_work_is_refused_by_name(name, options, message):
    with pytest.raises(ModelError, match=message):
        create_model(name, **options)


# Training


def small(name, **options):
    return create_model(name, num_classes=3, stage_sizes=(1, 1), width=4, **options)


@pytest.mark.parametrize(
    ("name", "rate"), [("fcn_resnet18", None), pytest.param("deeplabv3_resnet18", 0.7, marks=pytest.mark.slow)]
)
def test_what_is_dropped_depends_on_the_place_alone(name, rate):
    """Two halves of a batch drop what the whole batch drops, and another key drops something else."""
    model = small(name, dropout=rate)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = init(model, jax.random.key(1))

    @jax.jit
    def run(images, positions, seed):
        options = {"train": True, "use_batch_stats": False, "update_stats": False}
        key = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, **options, positions=positions, rngs=key)["out"]

    whole = run(images, jnp.arange(4), 2)
    halves = [run(images[i : i + 2], jnp.arange(i, i + 2), 2) for i in (0, 2)]
    np.testing.assert_allclose(jnp.concatenate(halves), whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(run(images, jnp.arange(4), 3), whole)
    assert not np.allclose(jax.jit(partial(model.apply, train=False))(variables, images)["out"], whole)


def test_dropout_needs_a_key_unless_it_is_off():
    images = jnp.zeros((2, 16, 16, 3))
    model = small("fcn_resnet18")
    variables = variable_shapes(model)
    run = lambda model: jax.eval_shape(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables)
    with pytest.raises(ModelError, match=r"fcn drops numbers in training; pass rngs=.*, dropout=0 to create_model"):
        run(model)
    run(small("fcn_resnet18", dropout=0.0))


@pytest.mark.parametrize(("images", "group"), [(1, 0), (4, 1)])
def test_deeplab_has_no_statistics_of_one_image(images, group):
    model = small("deeplabv3_resnet18", dropout=0.0, bn_group_size=group)
    variables, x = variable_shapes(model), jnp.zeros((images, 16, 16, 3))
    run = lambda **how: jax.eval_shape(lambda v: model.apply(v, x, **how, mutable=["batch_stats"]), variables)
    with pytest.raises(ModelError, match="statistics of 1 image do not exist; train with at least 2 images in a b"):
        run(train=True)
    run(train=True, use_batch_stats=False, update_stats=False)
    run(train=False)


def test_deeplab_has_statistics_of_one_image_on_each_of_two_devices():
    model = small("deeplabv3_resnet18", dropout=0.0)
    run = lambda variables, x: model.on_axis("data").apply(variables, x, train=True, mutable=["batch_stats"])
    parts = jax.vmap(run, in_axes=(None, 0), axis_name="data")
    out, _ = jax.eval_shape(parts, variable_shapes(model), jnp.zeros((2, 1, 16, 16, 3)))
    assert out["out"].shape == (2, 1, 16, 16, 3)


def test_the_pyramid_has_torchvisions_rates(torchvision, float64, monkeypatch):
    """On maps that are larger than the largest of them."""
    monkeypatch.setattr(heads, "WIDTH", 5)
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3.ASPP(4, [12, 24, 36], 5).double().eval()
    net = create_model("resnet18", num_classes=0, param_dtype=jnp.float64)
    tools: Tools = head_tools(net, train=False, use_batch_stats=None, update_stats=None, positions=None)
    pyramid = Aspp(tools, 0.5)
    x = np.random.default_rng(0).normal(size=(1, 41, 39, 4))
    ours = jax.eval_shape(lambda key: pyramid.init(key, x), jax.random.key(0))
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

    def array(path, leaf):
        module, name = path[-2].key.replace("_", "."), path[-1].key
        found = state[f"{module}.{names[name]}"]
        return found.transpose(2, 3, 1, 0) if name == "kernel" else found

    variables = jax.tree_util.tree_map_with_path(array, ours)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).permute(0, 2, 3, 1)
    np.testing.assert_allclose(pyramid.apply(variables, x), expected, rtol=1e-11, atol=1e-12)


def test_enlarged_by_the_nearest_pixel_as_torch_takes_it():
    """Its pixels are not those of `jax.image.resize`, nor those of float64."""
    enlarge = jax.jit(nearest, static_argnums=(1, 2))
    for size in (1, 3, 7, 19, 25, 84):
        for new in (size, 2 * size - 1, 2 * size, 2 * size + 1, 3 * size + 2):
            x = np.arange(size * 2.0).reshape(1, size, 2, 1)
            theirs = torch.nn.functional.interpolate(torch.tensor(x).movedim(-1, 1), (new, 3), mode="nearest")
            np.testing.assert_array_equal(enlarge(x.astype(np.float32), new, 3), theirs.movedim(1, -1))
