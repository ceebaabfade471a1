"""FFCV's blur before strided convolutions, beside its `BlurPoolConv2d` around torchvision's networks, in float64."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.errors import ModelError
from resnet_jax.models import create_model, init

SHAPE = (33, 49)


def blurred(torch, module):
    """`apply_blurpool` of libffcv/ffcv-imagenet, train_imagenet.py: the convolutions that it changes, changed."""

    class BlurPoolConv2d(torch.nn.Module):
        def __init__(self, conv):
            super().__init__()
            filt = torch.tensor([[[[1, 2, 1], [2, 4, 2], [1, 2, 1]]]]).double() / 16
            self.conv, self.filter = conv, filt.repeat(conv.in_channels, 1, 1, 1)

        def forward(self, x):
            return self.conv(torch.nn.functional.conv2d(x, self.filter, padding=(1, 1), groups=self.conv.in_channels))

    changed = 0
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= 16:
            setattr(module, name, BlurPoolConv2d(child))
            changed += 1
        else:
            changed += blurred(torch, child)
    return changed


@pytest.mark.parametrize(
    ("name", "block", "width"),
    [pytest.param("resnet18", "BasicBlock", 128, marks=pytest.mark.slow), ("resnet50", "Bottleneck", 512)],
)
def test_blur_before_is_ffcvs(name, block, width, oracle, float64):
    """In the first two stages: the later ones are like the second."""
    nn, resnet = oracle.torch.nn, oracle.torchvision.models.resnet
    module = resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1])
    module.layer3, module.layer4, module.fc = nn.Identity(), nn.Identity(), nn.Linear(width, 3)
    variables = oracle.variables(oracle.randomize(module))
    assert blurred(oracle.torch, module) == 2, "a convolution and a shortcut"
    images = np.random.default_rng(0).normal(size=(1, *SHAPE, 3))
    theirs = oracle.outputs(module, images)

    def ours(antialias):
        model = create_model(name, antialias=antialias, stage_sizes=(1, 1), num_classes=3)
        return jax.jit(lambda x: model.apply(variables, x, train=False, features=True))(images)

    found = ours("before")
    for feature in ("stem", "stage1", "stage2", "logits"):
        expected = theirs[feature]
        np.testing.assert_allclose(found[feature], expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    assert not np.allclose(ours(False)["logits"], theirs["logits"], rtol=1e-3)


@pytest.mark.parametrize(
    "block",
    [
        *("bottleneck_v1", "preact_basic"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("basic", "preact_bottleneck", "ir")),
    ],
)
def test_each_block_blurs_its_strided_convolution(block, compile_quickly):
    """A checkerboard is nothing to a stride of two, and grey to one that is blurred."""
    options = {"block": block, "stage_sizes": (1, 1), "width": 16, "stem": "cifar", "num_classes": 3}
    shortcut = {"shortcut": "projection", "antialias": "before"}
    model = create_model("cifar_resnet20", **options, **shortcut)
    seen = []

    def note(next_function, args, kwargs, context):
        name = context.module.name
        called = context.method_name == "__call__" and name in ("conv1", "conv2", "downsample_conv")
        if called and context.module.stride == 2:
            seen.append(args[0])
        return next_function(*args, **kwargs)

    images = np.random.default_rng(0).normal(size=(1, 9, 11, 3)).astype(np.float32)
    variables = init(model, jax.random.key(0))
    rough, smooth = [], []
    for net, kept in ((model, smooth), (model.clone(antialias=False), rough)):
        seen.clear()
        with nn.intercept_methods(note):
            net.apply(variables, images, train=False)
        kept.extend(seen)
    assert len(smooth) == len(rough) == 2
    for soft, hard in zip(smooth, rough, strict=True):
        padded = np.pad(hard, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
        height, width = hard.shape[1:3]
        windows = [padded[:, i : i + height, j : j + width] * taps[i, j] for i in range(3) for j in range(3)]
        np.testing.assert_allclose(soft, sum(windows), rtol=1e-4, atol=1e-5)


def test_what_it_is_not_for():
    with pytest.raises(ModelError, match="antialias = 'after' must be False, True or 'before'"):
        create_model("resnet18", antialias="after")
    with pytest.raises(ModelError, match="antialias = 'before' is FFCV's, for images, and time is for clips; choose"):
        create_model("resnet18", antialias="before", time="3d")
