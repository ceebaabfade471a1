"""Heat maps beside the package grad-cam, formulas and plain loops."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.analysis.attention.deletion import deletion, hottest
from resnet_jax.analysis.attention.gradcam import cams, grad_cam, gradient_and_maps, predicted
from resnet_jax.analysis.attention.integrated import integrated_gradients
from resnet_jax.analysis.attention.methods import class_number
from resnet_jax.analysis.attention.occlusion import occlusion
from resnet_jax.analysis.attention.overlay import overlay
from resnet_jax.analysis.features import stages_of
from resnet_jax.config import Preset
from resnet_jax.data import normalize
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.models import create_model
from resnet_jax.parity import randomize
from resnet_jax.run.network import Network
from resnet_jax.weights import from_torchvision

from ..weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIDE = 37
CLASSES = np.array([0, 3, 6, 2, 1])


def noise(side=SIDE, count=5, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def tiny(name="cifar_resnet20", channels=3, **options):
    model = create_model(name, num_classes=7, **{"stage_sizes": (1, 1, 1), "width": 4, **options})
    preset = Preset(resize=SIDE, crop=SIDE, mean=(0.3,) * channels, std=(0.4,) * channels)
    return Network("tiny", model, random_variables(model, channels, (SIDE, SIDE)), preset, tuple("abcdefg"))


@pytest.fixture(scope="module")
def pair(torchvision):
    """torchvision's network with random statistics, and ours with the same weights."""
    import torch

    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)
    randomize(theirs, torch.randn(8, 3, SIDE, SIDE))
    theirs.eval()
    model = create_model("resnet18", num_classes=7, stage_sizes=(1, 1, 1, 1))
    found = from_torchvision({key: tensor.numpy() for key, tensor in theirs.state_dict().items()}, model)
    variables = {name: found[name] for name in ("params", "batch_stats")}
    return theirs, Network("pair", model, variables, Preset(resize=SIDE, crop=SIDE), tuple("abcdefg"))


FAST = [("stem", True), ("stage4", False)]
EVERY = [(stage, plus) for stage in ("stem", "stage1", "stage2", "stage3", "stage4") for plus in (False, True)]


@pytest.mark.parametrize(
    ("stage", "plus"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in EVERY if case not in FAST)]
)
def test_maps_are_those_of_the_package_grad_cam(pair, stage, plus):
    import torch
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    theirs, network = pair
    images = noise()
    x = np.asarray(normalize(jnp.asarray(images), network.preset)).transpose(0, 3, 1, 2)
    layer = theirs.relu if stage == "stem" else getattr(theirs, stage.replace("stage", "layer"))[-1]
    with (GradCAMPlusPlus if plus else GradCAM)(model=theirs, target_layers=[layer]) as cam:
        scaled = cam(torch.tensor(x), [ClassifierOutputTarget(int(label)) for label in CLASSES])
        kept = cam.activations_and_grads
        activations, gradients = (np.asarray(kept.activations[0]), np.asarray(kept.gradients[0]))
        small = cam.get_cam_image(None, None, None, activations, gradients)
    ours = cams(network, images, CLASSES, stage=stage, plus=plus)
    small = np.maximum(small, 0)
    np.testing.assert_allclose(ours, small, atol=1e-5 * small.max(), rtol=0)
    assert small.max() > 0
    found = grad_cam(network, images, CLASSES, stage=stage, plus=plus)
    np.testing.assert_allclose(found, scaled, atol=1e-5, rtol=0)
    if stage != "stage4":  # two pixels by two there
        assert scaled.std() > 0.1


@pytest.mark.parametrize("name", ["cifar", pytest.param("pair", marks=pytest.mark.slow)])
def test_at_the_last_stage_it_is_the_cam_of_the_last_layer(request, name):
    """Zhou et al. 2016: the map weighted with the class's column of `fc`, up to one factor for all images."""
    network = request.getfixturevalue("pair")[1] if name == "pair" else tiny()
    stage = "stage4" if name == "pair" else "stage3"
    images = noise()
    out = apply(network, images)
    kernel = np.asarray(network.variables["params"]["fc"]["kernel"], np.float64)
    plain = np.maximum(np.einsum("nhwd,dn->nhw", np.asarray(out[stage], np.float64), kernel[:, CLASSES]), 0)
    ours = np.asarray(cams(network, images, CLASSES, stage=stage, plus=False))
    area = plain.shape[1] * plain.shape[2]
    np.testing.assert_allclose(ours * area, plain, atol=1e-5 * plain.max(), rtol=0)
    assert np.median(plain.max(axis=(1, 2))) > 0


KINDS = [
    ("resnetv2_50", {"stage_sizes": (1, 1)}),
    ("seresnet50", {"stage_sizes": (1, 1)}),
    ("resnext50_32x4d", {"stage_sizes": (1, 1), "groups": 2, "base_width": 64}),
    ("wide_resnet50_2", {"stage_sizes": (1, 1)}),
    ("cifar_resnetv2_20", {}),
    ("resnet50d", {"stage_sizes": (1, 1), "remat": (1,)}),
]
NOT_ALL = [case if i == 0 else pytest.param(*case, marks=pytest.mark.slow) for i, case in enumerate(KINDS)]


@pytest.mark.parametrize(("name", "options"), NOT_ALL)
def test_the_gradient_at_a_stage_is_that_of_differences(name, options):
    """For every kind of network: a small change of what a stage puts out changes the logits as the gradient says."""
    network = tiny(name, **options)
    images = noise(side=21, count=2)
    classes = np.array([4, 1])
    stages = [stage for stage, shape in stages_of(network).items() if len(shape) == 3]
    for stage in stages[1:3]:  # a max-pool after the stem has no derivative where the ReLU has left only zeros
        given = (network.model, network.preset, network.variables, images, classes)
        gradient, maps = map(np.asarray, gradient_and_maps(*given, stage=stage))
        np.testing.assert_allclose(maps, apply(network, images)[stage], rtol=1e-4, atol=1e-4)
        assert gradient.std(axis=(1, 2, 3)).min() > 0
        length = np.linalg.norm(gradient.astype(np.float64))
        with jax.enable_x64(True):
            step = 1e-7 * gradient.astype(np.float64) / length
            exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), network.variables)
            x = (images / 255.0 - 0.3) / 0.4
            run = jax.jit(lambda added: network.model.apply(exact | added, x, train=False, features=True)["logits"])
            ends = [np.asarray(run({"perturbations": {stage: sign * step}}))[[0, 1], classes] for sign in (1, -1)]
        assert (ends[0] - ends[1]).sum() / 2e-7 == pytest.approx(length, rel=1e-4)


@pytest.mark.slow
def test_networks_in_half_precision():
    network = tiny(dtype=jnp.bfloat16)
    heat, exact = grad_cam(network, noise(), CLASSES), grad_cam(tiny(), noise(), CLASSES)
    assert heat.dtype == np.float32
    assert np.abs(heat - exact).mean() < 0.05


def apply(network, images):
    x = normalize(jnp.asarray(images), network.preset)
    return run(network.model, network.variables, x)


@partial(jax.jit, static_argnums=0)
def run(model, variables, x):
    return model.apply(variables, x, train=False, features=True)


def test_batches_and_predicted_classes():
    network = tiny()
    images = noise(side=13)
    classes = np.argmax(apply(network, images)["logits"], axis=1)
    assert predicted(network, images).tolist() == classes.tolist()
    whole = grad_cam(network, images)
    turned = grad_cam(network, images[::-1], classes[::-1], batch_size=2)
    np.testing.assert_allclose(turned[::-1], whole, atol=1e-5)
    assert not np.allclose(grad_cam(network, images, (classes + 1) % 7), whole, atol=0.1)


def test_integrated_gradients_add_up_to_the_difference_of_logits():
    network = tiny()
    images = noise(side=9, count=3)
    classes = np.array([4, 1, 0])
    for baseline, pixel in (("black", 0), ("white", 255)):
        found = integrated_gradients(network, images, classes, baseline=baseline, steps=200)
        logits = apply(network, images)["logits"] - apply(network, np.full_like(images, pixel))["logits"]
        np.testing.assert_allclose(found.difference, logits[np.arange(3), classes], rtol=1e-4, atol=1e-4)
        assert found.gap.max() < 0.01
    coarse = integrated_gradients(network, images, classes, steps=2)
    assert coarse.gap.max() > 0.05, "completeness must be able to fail"
    assert found.heat.shape == (3, 9, 9)
    assert (found.heat.min(), found.heat.max()) == (0, pytest.approx(1, abs=1e-5))


@pytest.mark.slow
def test_integrated_gradients_of_a_linear_network_are_its_weights():
    """Of a linear function they are exactly weight times distance, with any number of steps."""
    network = tiny(act=lambda x: x)
    images = noise(side=11, count=2)
    classes = np.array([4, 1])
    found = integrated_gradients(network, images, classes, steps=1, baseline="mean")
    slope = jax.grad(lambda x: run(network.model, network.variables, x)["logits"][jnp.arange(2), classes].sum())
    x = normalize(jnp.asarray(images), network.preset)
    np.testing.assert_allclose(found.attributions, slope(0 * x) * x, rtol=1e-3, atol=1e-4)


def test_occlusion_is_a_plain_loop():
    network = tiny()
    images = noise(side=13, count=3)
    classes = np.array([4, 1, 0])
    found = occlusion(network, images, classes, window=5, stride=3, batch_size=2)
    x = np.asarray(normalize(jnp.asarray(images), network.preset))
    total, covered = np.zeros((3, 13, 13)), np.zeros((13, 13))

    def sure(of):
        logits = np.asarray(run(network.model, network.variables, of)["logits"], np.float64)
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(3), classes]

    for top in (0, 3, 6, 8):
        for left in (0, 3, 6, 8):
            hidden = x.copy()
            hidden[:, top : top + 5, left : left + 5] = 0
            total[:, top : top + 5, left : left + 5] += (sure(x) - sure(hidden))[:, None, None]
            covered[top : top + 5, left : left + 5] += 1
    np.testing.assert_allclose(found, total / covered, atol=1e-4)
    assert found.std() > 0.1


def test_the_hottest_pixels():
    heat = np.zeros((2, 5, 5))
    heat[0, 1, 2] = 1
    heat[0, 4, 4] = 0.5
    masks = hottest(heat, 0.2, np.random.default_rng(0))
    assert masks.sum(axis=(1, 2)).tolist() == [5, 5]
    assert masks[0, 1, 2]
    assert masks[0, 4, 4]
    assert not np.array_equal(np.flatnonzero(masks[1]), np.arange(5)), "equal pixels are taken at random"


def test_deletion_misses_what_the_class_is_seen_by():
    network = tiny()
    images = noise(side=13, count=4)
    truth = predicted(network, images)
    good = occlusion(network, images, truth, window=3, stride=2)
    told, bad = deletion(network, images, good, truth), deletion(network, images, -good, truth)
    np.testing.assert_allclose(told.before, jax.nn.softmax(apply(network, images)["logits"]).max(axis=1), atol=1e-5)
    covered = np.where(hottest(good, 0.2, np.random.default_rng(0))[..., None], np.uint8(76), images)
    without = jax.nn.softmax(apply(network, covered)["logits"])[np.arange(4), truth]
    np.testing.assert_allclose(told.without, without, atol=1e-5)
    assert told.without.mean() < told.elsewhere.mean() - 0.1
    assert told.without.mean() < bad.without.mean() - 0.1


def test_overlays():
    images = np.array([[[[0], [255]], [[0], [255]]]], np.uint8)
    found = overlay(images, np.array([[[0.0, 0.0], [1.0, 1.0]]]))
    assert found.dtype == np.uint8
    assert found.shape == (1, 2, 2, 3)
    from matplotlib import colormaps

    cold, hot = (np.array(colormaps["viridis"](x)[:3]) for x in (0.0, 1.0))
    np.testing.assert_allclose(found[0, 0, 0], 255 * 0.7 * cold, atol=0.51)
    np.testing.assert_allclose(found[0, 1, 1], 255 * (0.7 * hot + 0.3), atol=0.51)
    assert overlay(np.zeros((2, 3, 3, 3), np.uint8), np.zeros((2, 3, 3))).shape == (2, 3, 3, 3)


def test_classes_by_name():
    names = ["tabby, tabby cat", "crane", "crane", "10", "Egyptian cat"]
    for word, number in (("tabby", 0), ("tabby, tabby cat", 0), ("10", 3), ("4", 4), ("1", 1)):
        assert class_number(word, names, "net") == number
    for word, text in (
        ("crane", "--class crane is the name of 2 classes, 1 and 2; give the number"),
        ("5", "--class 5 is none of the classes of net; their numbers are 0 to 4"),
        ("-1", "--class -1 is none of the classes of net"),
        ("taby", "net has no class 'taby'. Did you mean 'tabby'"),
        ("zebra", "net has no class 'zebra'. Give a name, or a number from 0 to 4"),
    ):
        with pytest.raises(ConfigError, match=text):
            class_number(word, names, "net")


def test_what_cannot_be_looked_at():
    network = tiny()
    images = noise(count=2)
    for text, error, call in (
        ("tiny has no class 7; it has 7 classes, 0 to 6", ConfigError, lambda: grad_cam(network, images, [0, 7])),
        ("tiny has no class -1", ConfigError, lambda: occlusion(network, images, [0, -1])),
        (r"classes of shape \(1,\) for 2 images", ConfigError, lambda: grad_cam(network, images, [0])),
        (
            "has no stage 'stage9'; did you mean 'stage3'",
            ConfigError,
            lambda: grad_cam(network, images, stage="stage9"),
        ),
        (
            "pooled of tiny is no map; choose one of stem, st",
            ConfigError,
            lambda: grad_cam(network, images, stage="pooled"),
        ),
        (r"shape \(0, 37, 37, 3\) are none to look at", DataError, lambda: grad_cam(network, images[:0])),
        ("images are uint8 of 1 channels; tiny sees uint8 im", DataError, lambda: grad_cam(network, images[..., :1])),
        ("images are float64 of 3 channels", DataError, lambda: grad_cam(network, images / 255)),
        ("gradients of 0 steps are none", ConfigError, lambda: integrated_gradients(network, images, steps=0)),
        (
            "unknown baseline 'grey'; choose black, wh",
            ConfigError,
            lambda: integrated_gradients(network, images, baseline="grey"),
        ),
        (
            "a window of 38 pixels that moves by 19 does not fit images of 37",
            ConfigError,
            lambda: occlusion(network, images, window=38),
        ),
        (
            "a window of 5 pixels that moves by 0 does not",
            ConfigError,
            lambda: occlusion(network, images, window=5, stride=0),
        ),
        ("by 6 leaves pixels out", ConfigError, lambda: occlusion(network, images, window=5, stride=6)),
    ):
        with pytest.raises(error, match=text):
            call()
    headless = replace(network, model=network.model.clone(num_classes=0))
    with pytest.raises(ConfigError, match="tiny has no last layer, so there is no class to look for"):
        predicted(headless, images)


@pytest.mark.slow
def test_the_whole_resnet50_at_224(torchvision):
    """Far below the logits, float32 decides: there, ours is as near to float64 as torch's float32 is."""
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    theirs = torchvision.models.resnet50()
    randomize(theirs, torch.randn(4, 3, 224, 224))
    theirs.eval()
    model = create_model("resnet50")
    found = from_torchvision({key: tensor.numpy() for key, tensor in theirs.state_dict().items()}, model)
    network = Network("whole", model, {name: found[name] for name in ("params", "batch_stats")}, Preset(), ())
    images = noise(side=224, count=2)
    x = torch.tensor(np.asarray(normalize(jnp.asarray(images), network.preset)).transpose(0, 3, 1, 2))
    targets = [ClassifierOutputTarget(label) for label in (0, 3)]

    def torchs(stage, dtype):
        module = theirs.to(dtype)
        with GradCAM(model=module, target_layers=[getattr(module, stage.replace("stage", "layer"))[-1]]) as cam:
            return cam(x.to(dtype), targets)

    for stage, limit in (("stage4", 1e-5), ("stage3", 1e-5), ("stage1", 5e-3)):
        ours, single, double = (
            grad_cam(network, images, [0, 3], stage=stage),
            *(torchs(stage, dtype) for dtype in (torch.float32, torch.float64)),
        )
        apart, rounding, own = (np.abs(a - b).max() for a, b in ((ours, single), (single, double), (ours, double)))
        print(f"{stage}: {apart:.1e} from torch, which is {rounding:.1e} from itself in float64, and ours {own:.1e}")
        assert apart < limit
        assert own < 3 * rounding
