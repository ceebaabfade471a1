"""Networks in space and time against torchvision's, and against Hara et al. 2018 as its authors' code has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cost.count import count_macs, count_parameters
from resnet_jax.cost.facts import stored_facts
from resnet_jax.errors import ModelError
from resnet_jax.models import create_model, list_models
from resnet_jax.models.temporal import middle_channels
from resnet_jax.parity import compare_networks, randomize, tolerances_for
from resnet_jax.weights import from_torchvision, identify, to_tensors, to_torchvision, translate

from ..weights.networks import random_variables, shapes_only

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


@pytest.mark.parametrize("name", TORCHVISION)
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


def hara(depths, width, expansion):
    """github.com/kenshohara/3D-ResNets-PyTorch, `models/resnet.py`, without its options: conv1 of 7x7x7, a max-pool,
    and shortcut A (`expansion` 1) or B."""
    from torch import nn

    norm = nn.BatchNorm3d

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.stride, self.missing = stride, width * expansion - inputs
            if expansion == 1:
                self.conv1, self.bn1 = nn.Conv3d(inputs, width, 3, stride, 1, bias=False), norm(width)
                self.conv2, self.bn2 = nn.Conv3d(width, width, 3, 1, 1, bias=False), norm(width)
            else:
                self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), norm(width)
                self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, 1, bias=False), norm(width)
                self.conv3, self.bn3 = nn.Conv3d(width, width * 4, 1, bias=False), norm(width * 4)
            if expansion > 1 and (stride > 1 or self.missing):
                conv = nn.Conv3d(inputs, width * 4, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, norm(width * 4))

        def shortcut(self, x):
            if hasattr(self, "downsample"):
                return self.downsample(x)
            if self.stride == 1 and not self.missing:
                return x
            kept = nn.functional.avg_pool3d(x, 1, self.stride)
            return torch.cat([kept, kept.new_zeros(len(x), self.missing, *kept.shape[2:])], 1)

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            y = y if expansion == 1 else self.bn3(self.conv3(torch.relu(y)))
            return torch.relu(y + self.shortcut(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False), norm(width)
            self.maxpool, channels = nn.MaxPool3d(3, 2, 1), width
            for i, depth in enumerate(depths):
                blocks = []
                for j in range(depth):
                    blocks.append(Block(channels, width * 2**i, 2 if i and not j else 1))
                    channels = width * 2**i * expansion
                self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.avgpool, self.fc = nn.AdaptiveAvgPool3d(1), nn.Linear(channels, 5)

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            for i in range(len(depths)):
                x = getattr(self, f"layer{i + 1}")(x)
            return self.fc(self.avgpool(x).flatten(1))

    return Net()


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
