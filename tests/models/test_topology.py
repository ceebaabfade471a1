"""Networks against torchvision's and timm's: trees of every name; outputs, in float64, with random statistics."""

from functools import partial

import jax
import numpy as np
import pytest

from resnet_jax.models import create_model, list_models

from ..depth import deep_is_slow

TORCHVISION = list_models(task="classify")[:10]
OURS = ("cifar", "plain", "resnetv2")  # timm's resnetv2 has other names in its tree
TIMM = [
    name
    for name in list_models(task="classify")
    if name not in TORCHVISION and not name.startswith(OURS) and "_v1" not in name
]
# One of a kind; the slow tests take all of them.
QUICK = ["seresnext26d_32x4d"]
SLOWER = ["resnet26t", "resnet18", "resnet50", "resnetblur18"]
DILATED = [
    ("resnet18", 8),
    pytest.param("resnet26d", 8, marks=pytest.mark.slow),
    pytest.param("resnetblur18", 16, marks=pytest.mark.slow),
]
SHAPE = (33, 49)  # float64 convolutions take their time; `test_every_net_is_upstreams` has larger ones


def assert_agree(model, module, oracle, shape):
    """Every stage to 1e-10 of its largest value, with random weights and statistics."""
    oracle.randomize(module)
    x = np.random.default_rng(0).normal(size=(1, *shape, 3))
    theirs = oracle.outputs(module, x)
    ours = jax.jit(partial(model.apply, train=False, features=True))(oracle.variables(module), x)
    # timm has the last norm and activation of pre-activation networks in one module, which the pooled features follow.
    activated = ours.pop("activated", None)
    if activated is not None:
        np.testing.assert_allclose(activated.mean(axis=(1, 2)), ours["pooled"], rtol=1e-12)
    assert ours.keys() == theirs.keys()
    for feature, expected in theirs.items():
        assert ours[feature].shape == expected.shape
        assert ours[feature].dtype == np.float64
        error = np.abs(ours[feature] - expected).max() / np.abs(expected).max()
        assert error < 1e-10, f"{feature}: relative error {error:.1e}"


@pytest.mark.parametrize("name", deep_is_slow(TORCHVISION + TIMM))
def test_tree_is_upstreams(name, oracle):
    """Every name and shape; with the stages' outputs of one net of a kind this proves the others of that kind."""
    model = create_model(name)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    ours = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)
    theirs = oracle.shapes(oracle.build(name, device="meta"))
    shapes = lambda tree: {
        jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_stages_are_upstreams(name, oracle, float64):
    assert_agree(create_model(name), oracle.build(name), oracle, SHAPE)


@pytest.mark.parametrize(("name", "output_stride"), DILATED)
def test_dilated_stages_are_upstreams(name, output_stride, oracle, float64):
    model = create_model(name, output_stride=output_stride)
    assert_agree(model, oracle.build(name, output_stride=output_stride), oracle, (49, 65))


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnetv2_18", 16),
        *(pytest.param(f"resnetv2_{depth}", stride, marks=pytest.mark.slow) for depth, stride in [(18, 32), (34, 8)]),
        *(pytest.param(f"resnetv2_{depth}", stride, marks=pytest.mark.slow) for depth, stride in [(50, 16), (152, 32)]),
    ],
)
def test_preactivation_is_timms(name, output_stride, oracle, float64):
    module = oracle.timm.create_model(name, output_stride=output_stride)
    assert_agree(create_model(name, output_stride=output_stride), module, oracle, SHAPE)


def test_v1_strides_in_the_first_1x1(oracle, float64):
    module = oracle.build("resnet26")
    for layer in (module.layer2, module.layer3, module.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    assert_agree(create_model("resnet26", block="bottleneck_v1"), module, oracle, SHAPE)


@pytest.mark.parametrize("shortcut", ["zero_pad", "zero_pad_centred", "projection_always", "none"])
def test_shortcuts_are_the_papers(shortcut, oracle, float64):
    """torchvision's blocks around He et al. 2015's options: A pads, C projects everywhere, a plain network has none."""
    nn = oracle.torch.nn

    class Pad(nn.Module):
        def __init__(self, stride, before, after):
            super().__init__()
            self.stride, self.missing = stride, (before, after)

        def forward(self, x):
            return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.missing))

    class Nothing(nn.Module):
        def forward(self, x):
            return 0.0

    module = oracle.build("resnet18")
    for layer in (module.layer1, module.layer2, module.layer3, module.layer4):
        for block in layer:
            before, after, stride = block.conv1.in_channels, block.conv1.out_channels, block.conv1.stride[0]
            block.downsample = {
                "zero_pad": lambda b=before, a=after, s=stride: Pad(s, 0, a - b),
                "zero_pad_centred": lambda b=before, a=after, s=stride: Pad(s, (a - b) // 2, (a - b) // 2),
                "projection_always": lambda b=before, a=after, s=stride: nn.Sequential(
                    nn.Conv2d(b, a, 1, s, bias=False), nn.BatchNorm2d(a)
                ),
                "none": Nothing,
            }[shortcut]()
    assert_agree(create_model("resnet18", shortcut=shortcut), module, oracle, SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "output_stride"), [((65, 97), 32), ((65, 97), 16), ((65, 97), 8), ((224, 224), 32)])
@pytest.mark.parametrize("name", TORCHVISION + TIMM)
def test_every_net_is_upstreams(name, size, output_stride, oracle, float64):
    model = create_model(name, output_stride=output_stride)
    assert_agree(model, oracle.build(name, output_stride=output_stride), oracle, size)


def cifar_reference(oracle, bottleneck, n):
    """He et al. 2015, section 4.2, out of torchvision's blocks: 3x3 stem, three stages, option A for basic blocks."""
    nn, blocks = oracle.torch.nn, oracle.torchvision.models.resnet
    block = blocks.Bottleneck if bottleneck else blocks.BasicBlock

    class Pad(nn.Module):
        def forward(self, x):
            return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.maxpool = (
                nn.Conv2d(3, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.Identity(),
            )
            channels = 16
            for i in range(3):
                width, stride = 16 * 2**i, 2 if i else 1
                out = width * block.expansion
                project = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                first = block(channels, width, stride, project if bottleneck else Pad() if i else None)
                setattr(self, f"layer{i + 1}", nn.Sequential(first, *(block(out, width) for _ in range(n - 1))))
                channels = out
            self.fc = nn.Linear(channels, 10)

        def forward(self, x):
            x = self.maxpool(self.bn1(self.conv1(x)).relu())
            return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    return Net()


@pytest.mark.parametrize(("name", "bottleneck", "n"), [("cifar_resnet20", False, 3), ("cifar_resnet29", True, 3)])
def test_small_nets_are_the_papers(name, bottleneck, n, oracle, float64):
    assert_agree(create_model(name), cifar_reference(oracle, bottleneck, n), oracle, (32, 17))


@pytest.mark.parametrize(
    ("name", "blocks", "channels", "basic"),
    [
        ("cifar_resnetv2_29", 3, (64, 128, 256), False),
        ("cifar_wide_resnet16_8", 2, (128, 256, 512), True),
    ],
)
def test_small_preactivation_nets_are_timms_blocks(name, blocks, channels, basic, oracle, float64):
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    nn = oracle.torch.nn
    module = ResNetV2(
        layers=[blocks] * 3,
        channels=channels,
        basic=basic,
        bottle_ratio=1.0 if basic else 0.25,
        stem_chs=16,
        num_classes=10,
        conv_layer=create_conv2d,
        norm_layer=BatchNormAct2d,
    )
    module.stem = nn.Sequential()
    module.stem.add_module("conv", nn.Conv2d(3, 16, 3, padding=1, bias=False))
    module.stem.add_module("pool", nn.Identity())
    assert_agree(create_model(name), module, oracle, (15, 20))
