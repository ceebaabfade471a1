"""A family of networks is a table of names: here torchvision's video networks, which the package does not have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.errors import WeightsError
from resnet_jax.models.layers import Conv
from resnet_jax.models.norms import BatchNorm as AnyBatchNorm
from resnet_jax.weights import Family, from_torchvision, to_tensors, to_torchvision, translate

from .networks import random_state_dict, random_variables, shapes_only

torch = pytest.importorskip("torch")


BatchNorm = functools.partial(AnyBatchNorm, use_batch_stats=False, update_stats=False)


class Block(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y = Conv(self.width, kernel_size=3, stride=self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y))
        y = BatchNorm(name="bn2")(Conv(self.width, kernel_size=3, name="conv2")(y))
        if self.stride > 1:
            x = Conv(self.width, kernel_size=1, stride=self.stride, name="downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x)
        return nn.relu(x + y)


class Video18(nn.Module):
    """torchvision.models.video.r3d_18."""

    num_classes: int
    sides = (4, 16, 16)  # axes of a small clip

    @nn.compact
    def __call__(self, clips, *, train=False):
        x = Conv(64, kernel_size=(3, 7, 7), stride=(1, 2, 2), name="conv1")(clips)
        x = nn.relu(BatchNorm(name="bn1")(x))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage and not block else 1
                x = Block(64 * 2**stage, stride, name=f"layer{stage + 1}_{block}")(x)
        return nn.Dense(self.num_classes, name="fc")(x.mean((1, 2, 3)))


BLOCK = "layer{stage}.{block}"
VIDEO = Family(
    modules=(
        ("conv1", "stem.0"),
        ("bn1", "stem.1"),
        (f"{BLOCK}.conv{{n}}", f"{BLOCK}.conv{{n}}.0"),
        (f"{BLOCK}.bn{{n}}", f"{BLOCK}.conv{{n}}.1"),
        (f"{BLOCK}.downsample_conv", f"{BLOCK}.downsample.0"),
        (f"{BLOCK}.downsample_bn", f"{BLOCK}.downsample.1"),
    ),
    layouts={"torchvision": ()},
    head=("fc",),
    stem=("conv1",),
    block=r"layer(\d+)\.(\d+)\.",
)


@pytest.fixture(scope="module")
def r3d(torchvision):
    return torchvision.models.video.r3d_18(num_classes=5).eval()


def test_the_names_of_another_family_are_rows(r3d):
    theirs, model = shapes_only(r3d), Video18(5)
    assert translate(theirs, model, family=VIDEO).keys() == theirs.keys()
    exported = to_torchvision(random_variables(model, image=(4, 16, 16)), family=VIDEO)
    r3d.load_state_dict(to_tensors(exported), strict=True)
    assert torch.equal(r3d.stem[0].weight, torch.tensor(exported["stem.0.weight"]))


def test_the_converted_network_computes_the_same(r3d):
    with jax.enable_x64(True):
        rng, model = np.random.default_rng(0), Video18(5)
        theirs = {
            key: np.abs(array) + 0.5 if "running_var" in key else array * np.float32(0.1)
            for key, array in random_state_dict(r3d).items()
            if not key.endswith("num_batches_tracked")
        }
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), from_torchvision(theirs, model, family=VIDEO))
        clips = rng.normal(size=(1, 3, 17, 15, 3))
        ours = jax.jit(model.apply)(variables, clips)
    r3d.load_state_dict(to_tensors(theirs), strict=False)
    with torch.no_grad():
        expected = r3d.double()(torch.tensor(clips.transpose(0, 4, 1, 2, 3)))
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_what_does_not_fit_is_said_in_its_own_names(r3d):
    theirs = shapes_only(r3d)
    with pytest.raises(WeightsError, match=r"pass num_classes=5 .*\n.*fc\.weight \(5, 512\) != \(7, 512\)"):
        from_torchvision(theirs, Video18(7), family=VIDEO)
    with pytest.raises(WeightsError, match=r"1 missing: layer2\.0\.downsample\.1\.bias"):
        from_torchvision(
            {key: a for key, a in theirs.items() if key != "layer2.0.downsample.1.bias"}, Video18(5), family=VIDEO
        )
