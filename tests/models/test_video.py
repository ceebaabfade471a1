"""Networks in space and time against torchvision's, and against Hara et al. 2018 as its authors' code has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.compress.fold import fold
from resnet_jax.compress.prune.spaces import spaces_of
from resnet_jax.compress.quantize.calibrate import quantize
from resnet_jax.config.quantize import QuantizeConfig
from resnet_jax.cost.count import count_macs, count_parameters
from resnet_jax.cost.facts import stored_facts
from resnet_jax.errors import ModelError
from resnet_jax.models import create_model, list_models
from resnet_jax.models.temporal import middle_channels
from resnet_jax.parity import compare_networks, randomize, tolerances_for
from resnet_jax.weights import from_torchvision, identify, to_tensors, to_torchvision, translate

from ..weights.networks import random_variables, shapes_only
from .hara import hara

torch = pytest.importorskip("torch")
STORED = {name: fact.cost for name, fact in stored_facts().items()}
TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18")


def parts_of(torchvision, name):
    video = torchvision.models.video.resnet
    simple, mixed, factored = video.Conv3DSimple, video.Conv3DNoTemporal, video.Conv2Plus1D
    makers = {"r3d_18": [simple] * 4, "mc3_18": [simple] + [mixed] * 3, "r2plus1d_18": [factored] * 4}[name]
    return video, makers, video.R2Plus1dStem if name == "r2plus1d_18" else video.BasicStem


def shallow(torchvision, name):
    """torchvision's network with a block in each of its four stages."""
    video, makers, stem = parts_of(torchvision, name)
    return video.VideoResNet(video.BasicBlock, makers, [1, 1, 1, 1], stem, num_classes=5)


def compare_with(module, model, *, sides, train_sides, steps, checks=("forward", "gradients", "statistics")):
    with jax.enable_x64(True):
        rng, module = np.random.default_rng(0), module.double()
        draw = lambda axes: rng.normal(size=(2, *axes, 3))
        randomize(module, torch.tensor(np.moveaxis(draw(train_sides), -1, 1).copy()))
        variables = from_torchvision({key: value.numpy() for key, value in module.state_dict().items()}, model)
        report = compare_networks(
            *(model, variables, module),
            images=[draw(sides)],
            train_images=[draw(train_sides) for _ in range(steps)],
            tolerances=tolerances_for("float64"),
            checks=checks,
        )
    assert report.passed, report.markdown()
    return {row.name for section in report.sections for row in section.rows}


@pytest.mark.parametrize(
    "name", ["r2plus1d_18", *(pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION[:2])]
)
def test_the_forward_pass_is_torchvisions(torchvision, name):
    """Of odd clips, at every stage and every layer."""
    model = create_model(name, stage_sizes=(1, 1, 1, 1), num_classes=5, param_dtype=jnp.float64)
    seen = compare_with(
        shallow(torchvision, name), model, sides=(7, 33, 21), train_sides=(3, 17, 19), steps=1, checks=("forward",)
    )
    assert {"stem", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"} <= seen
    assert name != "r2plus1d_18" or {"stem.0", "stem.4", "layer2.0.conv1.0.0", "layer2.0.conv1.0.3"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_training_is_torchvisions(torchvision, name):
    model = create_model(name, stage_sizes=(1, 1, 1, 1), num_classes=5, param_dtype=jnp.float64)
    compare_with(
        *(shallow(torchvision, name), model),
        sides=(7, 97, 65),
        train_sides=(7, 33, 21),
        steps=10,
        checks=("forward", "gradients", "statistics", "trajectory"),
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_sizes_and_costs_are_torchvisions(torchvision, name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    meta, model = torchvision.models.get_model_weights(name).DEFAULT.meta, create_model(name)
    assert count_parameters(model) == STORED[name].parameters == meta["num_params"]
    assert STORED[name].macs / 1e9 == pytest.approx(meta["_ops"], abs=1e-3)
    arrays = shapes_only(theirs)
    assert translate(arrays, model).keys() == arrays.keys()
    assert identify(arrays) == name


def test_variables_load_into_torchvision(torchvision):
    module = shallow(torchvision, "r2plus1d_18")
    model = create_model("r2plus1d_18", stage_sizes=(1, 1, 1, 1), num_classes=5)
    variables = random_variables(model, image=model.sides)
    module.load_state_dict(to_tensors(to_torchvision(variables)), strict=True)
    back = from_torchvision({key: value.numpy() for key, value in module.state_dict().items()}, model)
    jax.tree.map(np.testing.assert_array_equal, {part: back[part] for part in variables}, variables)


def test_middle_channels_are_torchvisions():
    """Once for each block: the second convolution of layer2.0 has 230 and not 288."""
    assert [middle_channels(64, 64), middle_channels(64, 128), middle_channels(128, 128)] == [144, 230, 288]
    params = jax.eval_shape(
        lambda: create_model("r2plus1d_18").init(jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)), train=False)
    )["params"]
    middle = lambda block, conv: params[block][conv]["spatial"]["kernel"].shape[-1]
    assert [middle("layer2_0", "conv1"), middle("layer2_0", "conv2"), middle("layer2_1", "conv1")] == [230, 230, 288]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expansion"), [("r3d_34", 1), ("r3d_50", 4)])
def test_the_deeper_networks_are_haras(name, expansion):
    model = create_model(name, stage_sizes=(2, 1, 1, 1), width=8, num_classes=5, param_dtype=jnp.float64)
    checks = ("forward", "gradients", "statistics")
    compare_with(
        hara((2, 1, 1, 1), 8, expansion), model, sides=(9, 49, 37), train_sides=(5, 33, 35), steps=1, checks=checks
    )


@pytest.mark.parametrize(
    ("name", "depths", "expansion"),
    [
        ("r3d_34", (3, 4, 6, 3), 1),
        ("r3d_50", (3, 4, 6, 3), 4),
        ("r3d_101", (3, 4, 23, 3), 4),
        ("r3d_152", (3, 8, 36, 3), 4),
    ],
)
def test_parameters_of_the_deeper_networks_are_haras(name, depths, expansion):
    with torch.device("meta"):
        module = hara(depths, 64, expansion)
    of_five = sum(parameter.numel() for parameter in module.parameters())
    assert STORED[name].parameters == of_five + 395 * (512 * expansion + 1)


def test_what_clips_cost():
    """A convolution in the first stage sees all frames; 8 frames cost half of 16, but for `fc`."""
    model = create_model("mc3_18", num_classes=0)
    assert 2 * count_macs(model, frames=8, image_size=32) == count_macs(model, frames=16, image_size=32)


def test_names_of_clips():
    assert list_models(task="clips") == [*TORCHVISION, "r3d_34", "r3d_50", "r3d_101", "r3d_152"]
    assert not {*list_models(task="clips")} & {*list_models(task="classify")}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"time": "4d"}, "time = '4d' must be one of '3d', 'mixed', '2\\+1d', or None for images"),
        ("resnet18", {"time": "3d", "time_padding": "mirror"}, "time_padding = 'mirror' must be 'zeros' or 'border'"),
        ("resnet18", {"time_padding": "border"}, "time_padding = 'border' is for clips.*set time='3d'"),
        ("resnet18", {"stem": "r3d"}, "stem = 'r3d' sees clips, and time = None is for images; set time='3d'"),
        ("resnet18", {"stem": "space_to_depth", "time": "3d"}, "folds the pixels of images.*choose stem='imagenet'"),
        ("resnet18d", {"time": "mixed"}, "time = 'mixed' keeps all frames.*shortcut = 'average_pool'.*or time='3d'"),
        ("resnext50_32x4d", {"time": "2+1d"}, "'2\\+1d' cuts convolutions in two, and groups = 32.*choose time='3d'"),
        ("unet_r3d_18", {}, "UNet: the network below it has time = '3d' and sees clips.*choose a network without time"),
        ("embed_resnet18", {"time": "3d"}, "Embedder: the network below it has time = '3d'"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ModelError, match=message):
        create_model(name, **options)


def test_images_are_no_clips():
    model = create_model("r3d_18", stage_sizes=(1,), width=4)
    with pytest.raises(
        ModelError, match=r"clips are float32 of shape \(1, 8, 8, 3\); they must be .*\(N, T, H, W, C\)"
    ):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


@pytest.mark.parametrize(("name", "time"), [("resnet18", "3d"), ("resnet26", "2+1d")])
def test_a_folded_network_gives_the_same(name, time):
    options = {"stage_sizes": (1, 1), "width": 8, "num_classes": 5, "param_dtype": jnp.float64}
    model = create_model(name, time=time, **options)
    with jax.enable_x64(True):
        variables = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), random_variables(model, image=model.sides)
        )
        clips = np.random.default_rng(0).normal(size=(1, 3, 17, 15, 3))
        folded = fold(model, variables)
        assert folded.kept == 0
        apply = lambda model, v: np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(v, clips))
        expected = apply(model, variables)
        np.testing.assert_allclose(apply(folded.model, folded.variables), expected, rtol=1e-9)


@pytest.mark.parametrize("what", ["quantize", "prune"])
def test_what_knows_images_alone_refuses_clips(what):
    model = create_model("resnet18", time="3d", stage_sizes=(1,), width=4)
    call = {
        "quantize": lambda: quantize(model, {}, list, QuantizeConfig()),
        "prune": lambda: spaces_of(model),
    }[what]
    with pytest.raises(ModelError, match=f"{what} is for networks that see images, and ResNet sees clips"):
        call()
