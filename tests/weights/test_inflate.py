"""Networks for images made into networks for clips: a clip of equal frames gives what the image gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import WeightsError
from resnet_jax.models import cifar, create_model, imagenet
from resnet_jax.models.blueprint import draw
from resnet_jax.models.layers import Conv
from resnet_jax.weights import inflate

from .networks import random_variables


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def small(name, **options):
    """A network of the kind of `name`, with a block per stage and few channels."""
    row = {**imagenet.VARIANTS, **cifar.VARIANTS}[name]
    width = 32 if row.get("norm") == "group" else 16 if row.get("se_ratio") else 4
    narrow = {"base_width": 64 * 2 // width} if row.get("groups", 1) > 1 else {}
    stages = (1,) * len(row["stage_sizes"])
    return create_model(
        name,
        **narrow,
        stage_sizes=stages,
        width=width,
        stem_width=None,
        num_classes=3,
        param_dtype=jnp.float64,
        **options,
    )


def kinds():
    """One name for each kind of network: the rows without depth and width, and with as many stages."""
    found = {}
    for name, row in {**imagenet.VARIANTS, **cifar.VARIANTS}.items():
        shape = {**row, "stage_sizes": len(row["stage_sizes"])}
        shape.pop("width", None), shape.pop("stem_width", None), shape.pop("base_width", None)
        found.setdefault(str(sorted(shape.items())), name)
    return list(found.values())


QUICK = ["cifar_resnet20"]


def assert_static_clip_is_image(name, how, frames=3, **options):
    still, moving = small(name, **options), small(name, time="3d", **options, **({} if how == "centred" else BORDER))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), random_variables(still))
    made = inflate(variables, moving, how)
    side = draw(still).stride
    images = np.random.default_rng(0).normal(size=(1, side + 5, side + 3, 3))
    clips = np.repeat(images[:, None], frames, axis=1)
    apply = jax.jit(lambda model, v, x: model.apply(v, x, train=False, features=True), static_argnums=0)
    expected = apply(still, variables, images)
    for stage, ours in apply(moving, made, clips).items():
        theirs = np.asarray(expected[stage])
        if ours.ndim == 5:
            theirs = np.repeat(theirs[:, None], ours.shape[1], axis=1)
        scale = np.max(np.abs(theirs))
        assert scale > 1e-3
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-12, err_msg=stage)


BORDER = {"time_padding": "border"}


@pytest.mark.parametrize("how", ["centred", "repeated"])
@pytest.mark.parametrize("name", QUICK)
def test_a_clip_of_equal_frames_is_the_image(name, how):
    assert_static_clip_is_image(name, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["centred", "repeated"])
@pytest.mark.parametrize("name", [name for name in kinds() if name not in QUICK])
def test_a_clip_of_equal_frames_is_the_image_in_every_kind_of_network(name, how):
    assert_static_clip_is_image(name, how, frames=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18d", "resnet50"])
@pytest.mark.parametrize("how", ["centred", "repeated"])
def test_a_clip_of_equal_frames_is_the_image_with_dilation(name, how):
    assert_static_clip_is_image(name, how, frames=5, output_stride=8)


def test_zeros_before_and_after_change_the_ends_alone():
    """A kernel of three frames, each a third: at the two ends one frame of three is missing."""
    rng = np.random.default_rng(1)
    kernel, image = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(1, 9, 8, 2))
    still = Conv(4, 3, param_dtype=jnp.float64).apply({"params": {"kernel": kernel}}, image)
    clip = np.repeat(image[:, None], 5, axis=1)
    inflated = {"params": {"kernel": np.repeat(kernel[None] / 3, 3, axis=0)}}
    shares = {False: [2 / 3, 1, 1, 1, 2 / 3], True: [1] * 5}
    for border, share in shares.items():
        y = Conv(4, 3, param_dtype=jnp.float64, border_in_time=border).apply(inflated, clip)
        expected = np.asarray(still)[:, None] * np.asarray(share)[None, :, None, None, None]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


def test_kernels_of_one_frame_and_counters_stay():
    still, moving = small("resnet18"), small("resnet18", time="mixed")
    variables = dict(random_variables(still))
    variables["num_batches_tracked"] = {"bn1": {"count": np.int64(7)}}
    made = rn.inflate(variables, moving)
    assert made["num_batches_tracked"]["bn1"]["count"] == 7
    kernel = variables["params"]["layer2_0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(made["params"]["layer2_0"]["conv1"]["kernel"], kernel[None])
    first = np.asarray(made["params"]["layer1_0"]["conv1"]["kernel"])
    np.testing.assert_array_equal(first[1], variables["params"]["layer1_0"]["conv1"]["kernel"])
    assert not first[[0, 2]].any()


def test_a_network_for_grey_images():
    still, moving = small("cifar_resnet20"), small("cifar_resnet20", time="3d")
    made = inflate(random_variables(still, channels=1), moving, "repeated")
    assert made["params"]["conv1"]["kernel"].shape == (3, 3, 3, 1, 4)


@pytest.mark.parametrize(
    ("name", "options", "how", "message"),
    [
        ("resnet18", {}, "centred", r"ResNet with time = None is none; pass create_model\(name, time='3d'\)"),
        ("resnet18", {"time": "2+1d"}, "centred", "'2\\+1d' has norms and convolutions in time .* choose time='3d'"),
        ("resnet18", {"time": "3d", "weight_standardization": True}, "centred", "pass weight_standardization=False"),
        ("resnet18", {"time": "3d"}, "copied", "unknown way to inflate 'copied'"),
        ("seresnet18", {"time": "3d"}, "centred", r"not those of this network for images.*se/.*: not in the weights"),
        ("resnet18d", {"time": "3d"}, "centred", r"12 arrays differ: batch_stats/conv1_1/mean: not in the weights"),
    ],
)
def test_what_cannot_be_inflated(name, options, how, message):
    with pytest.raises(WeightsError, match=message):
        inflate(random_variables(small("resnet18")), small(name, **options), how)
