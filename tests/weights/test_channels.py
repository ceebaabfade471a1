"""A first convolution for other channels than RGB, beside timm's networks that load the same file in timm's own way."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import WeightsError
from resnet_jax.models import ResNet, space_to_depth_kernel
from resnet_jax.parity import randomize
from resnet_jax.weights import adapt_input_conv

from .networks import random_variables

torch = pytest.importorskip("torch")

CASES = [("resnet18", 1), ("resnet18", 4), ("resnet26t", 5)]
SLOWER = [("resnet18", 3), ("resnet18", 7), ("resnet26t", 1), ("resnet26d", 4), ("resnet50", 2), ("resnet50c", 1)]


def sound_variables(model, channels=3):
    """Random, with variances that a network can have."""
    drawn = random_variables(model, channels)
    return {**drawn, "batch_stats": jax.tree.map(lambda x: np.abs(x) + 30, drawn["batch_stats"])}


@pytest.fixture
def timm(torchvision):
    """After torchvision, whose operators may have to be defined first."""
    return pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "channels"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOWER)]
)
def test_logits_are_timms(name, channels, timm, tmp_path):
    """Stems of 7x7 and of three 3x3. With random statistics, an odd size, in float64."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = timm.create_model(name, num_classes=7)
    randomize(module, torch.from_numpy(rng.normal(size=(2, 3, 65, 65)).astype(np.float32)))
    path = tmp_path / "rgb.pth"
    torch.save(module.state_dict(), path)
    theirs = timm.create_model(
        name, pretrained=True, in_chans=channels, num_classes=7, pretrained_cfg_overlay={"file": path, "num_classes": 7}
    )
    x = rng.normal(size=(2, 65, 49, channels))
    with torch.no_grad():
        expected = theirs.double().eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    with jax.enable_x64(True):
        model, variables = rn.load_pretrained(name, path, channels=channels, param_dtype=jnp.float64)
        ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)
    assert ours.dtype == np.float64
    assert np.abs(np.asarray(ours) - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 13])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_kernels_are_timms(channels, dtype, timm):
    """In bits. A CIFAR network's 3x3 has no counterpart in timm but this function."""
    from timm.models._manipulate import adapt_input_conv as theirs

    kernel = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(dtype)
    expected = theirs(channels, torch.from_numpy(kernel.copy())).numpy()
    ours = adapt_input_conv(kernel.transpose(2, 3, 1, 0), channels)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, expected.transpose(2, 3, 1, 0))


def test_a_grey_image_is_three_equal_channels(tmp_path):
    model = rn.create_model("cifar_resnet20", num_classes=3)
    path = tmp_path / "rgb.safetensors"
    rn.save_weights(path, sound_variables(model))
    _, rgb = rn.load_pretrained("cifar_resnet20", path)
    _, grey = rn.load_pretrained("cifar_resnet20", path, channels=1)
    x = np.random.default_rng(0).normal(size=(2, 13, 9, 1)).astype(np.float32)
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    expected = np.asarray(apply(rgb, np.repeat(x, 3, axis=-1)))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(apply(grey, x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    same = rn.load_pretrained("cifar_resnet20", path, channels=3)[1]
    jax.tree.map(np.testing.assert_array_equal, same, rgb)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_space_to_depth_stem_folds_the_adapted_kernel(channels):
    options = {"block": "basic", "stage_sizes": (1,), "width": 4, "num_classes": 2}
    model = ResNet(**options)
    variables = sound_variables(model)
    kernel = jnp.asarray(adapt_input_conv(variables["params"]["conv1"]["kernel"], channels))
    x = np.random.default_rng(0).normal(size=(2, 17, 22, channels)).astype(np.float32)
    with_kernel = lambda kernel: variables | {"params": variables["params"] | {"conv1": {"kernel": kernel}}}
    expected = jax.jit(partial(model.apply, train=False))(with_kernel(kernel), x)
    folded = ResNet(**options, stem="space_to_depth")
    assert np.isfinite(expected).all()
    found = jax.jit(partial(folded.apply, train=False))(with_kernel(space_to_depth_kernel(kernel)), x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_only_rgb_becomes_something_else(tmp_path):
    model = rn.create_model("cifar_resnet20", num_classes=3)
    path = tmp_path / "grey.safetensors"
    rn.save_weights(path, sound_variables(model, 1))
    assert rn.load_pretrained("cifar_resnet20", path, channels=1)[1]["params"]["conv1"]["kernel"].shape == (3, 3, 1, 16)
    with pytest.raises(
        WeightsError, match=r"is for images of 1 channels, and 3 are asked .*\(data.channels\) to 1, or"
    ):
        rn.load_pretrained("cifar_resnet20", path, channels=3)
