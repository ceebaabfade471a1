"""Parity of networks for segmentation, on small ones: it passes where both sides agree, and points at what differs."""

import copy
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cli import main
from resnet_jax.errors import WeightsError
from resnet_jax.models import create_model
from resnet_jax.models.segment import heads, network, unet
from resnet_jax.parity import OPTIMIZERS, compare_networks, make_reference, randomize, tolerances_for
from resnet_jax.parity.problem import SEGMENT, without_dropout
from resnet_jax.parity.reference import drop_nothing
from resnet_jax.weights import from_torchvision, to_torchvision

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("compile_quickly")
CLASSES = 5
SIZES = {"fcn": (33, 25), "deeplabv3": (33, 25), "unet": (29, 60)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


WIDTH, RATES, DECODER = 16, [2, 3, 4], (16, 8, 4)
NAMES = {"fcn": "fcn_resnet50", "deeplabv3": "deeplabv3_resnet50", "unet": "unet_resnet18"}


def narrowed(kind):
    """A class of torchvision's ResNets with a sixteenth of the channels behind the stem."""

    class Narrow(kind):
        def _make_layer(self, block, planes, *args, **options):
            return super()._make_layer(block, planes // 16, *args, **options)

    return Narrow


def make_module(torchvision, head):
    """Two stages of a block, with torchvision's own head over torchvision's own backbone; or a U-Net of smp's parts."""
    torch.manual_seed(0)
    models = torchvision.models
    if head == "unet":
        smp = pytest.importorskip("segmentation_models_pytorch")
        channels = (3, 64, 4, 8)
        module, kind = make_reference("unet_resnet18", CLASSES), smp.encoders.resnet.ResNetEncoder
        module.encoder = narrowed(kind)(channels, depth=3, block=models.resnet.BasicBlock, layers=[1] * 4)
        del module.encoder.layer3, module.encoder.layer4
        module.decoder = smp.decoders.unet.decoder.UnetDecoder(channels, DECODER, n_blocks=len(DECODER))
        module.segmentation_head = smp.base.SegmentationHead(DECODER[-1], CLASSES)
        return module
    backbone = narrowed(models.ResNet)(models.resnet.Bottleneck, [1] * 4)
    getter = models._utils.IntermediateLayerGetter(backbone, {"layer2": "out", "layer1": "aux"})
    fcn, deeplab = models.segmentation.fcn, models.segmentation.deeplabv3
    aux = fcn.FCNHead(16, CLASSES)
    if head == "fcn":
        return drop_nothing(fcn.FCN(getter, fcn.FCNHead(32, CLASSES), aux))
    # As DeepLabHead, which has no option for its width.
    last = (torch.nn.BatchNorm2d(WIDTH), torch.nn.ReLU(), torch.nn.Conv2d(WIDTH, CLASSES, 1))
    aspp = deeplab.ASPP(32, RATES, WIDTH)
    own = torch.nn.Sequential(aspp, torch.nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), *last)
    return drop_nothing(deeplab.DeepLabV3(getter, own, aux))


@pytest.fixture(scope="module", params=list(NAMES))
def pair(request, torchvision):
    """Both networks with the same random weights and statistics."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "WIDTH", WIDTH)
        patch.setattr(heads, "RATES", RATES)
        patch.setattr(unet, "CHANNELS", DECODER)
        module = make_module(torchvision, request.param).double()
        randomize(module, torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 64, 64))))
        state_dict = {key: value.numpy() for key, value in module.state_dict().items()}
        options = {"stage_sizes": (1, 1), "num_classes": CLASSES, "param_dtype": jnp.float64}
        model = create_model(NAMES[request.param], width=4, stem_width=64, **options)
        model = without_dropout(model)
        yield model, from_torchvision(state_dict, model), module


@pytest.fixture
def sides(pair):
    """The pair, and noise of odd sizes."""
    return pair, (4, *SIZES[head_of(pair[0])], 3)


def compare(sides, checks=("forward",), steps=1, **options):
    pair, shape = sides
    rng = np.random.default_rng(1)
    draw = lambda: rng.normal(size=shape)
    batches = [draw() for _ in range(steps)]
    tolerances = tolerances_for("float64")
    return compare_networks(
        *pair, images=[draw()], train_images=batches, checks=checks, tolerances=tolerances, **options
    )


def test_outputs_and_gradients(sides):
    module = sides[0][2]
    report = compare(sides, ("forward", "gradients"))
    assert report.passed, report
    forward, gradients = report.sections
    names = [row.name for row in forward.rows]
    root = "encoder" if "encoder" in dict(module.named_children()) else "backbone"
    assert {f"{root}.{name}" for name in ("conv1", "bn1", "relu", "layer1", "layer2.0.bn2")} < {*names}
    assert "out" in names
    assert ("aux" in names) == (root == "backbone")
    assert len(gradients.rows) == 1 + len(list(module.parameters()))


@pytest.mark.slow
def test_statistics(sides):
    report = compare(sides, ("statistics",), steps=3)
    assert report.passed, report
    norms = sum(isinstance(part, torch.nn.BatchNorm2d) for part in sides[0][2].modules())
    assert len(report.sections[0].rows) == 2 * norms


def test_names_are_those_of_the_module_both_ways(sides):
    _, variables, module = sides[0]
    exported = to_torchvision(variables)
    assert exported.keys() == module.state_dict().keys()
    for key, tensor in module.state_dict().items():
        np.testing.assert_array_equal(exported[key], tensor.numpy(), err_msg=key)


def head_of(model):
    return getattr(model, "head", "unet")


def of(head):
    """Tests with the networks of one head."""
    return pytest.mark.parametrize("pair", [head], indirect=True)


SLOW = [("fcn", name) for name in OPTIMIZERS if name != "last block"]
SLOW += [("deeplabv3", "all together"), ("unet", "all together")]


@pytest.mark.parametrize(
    ("pair", "optimizer"),
    [("fcn", "last block"), *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)],
    indirect=["pair"],
)
def test_ten_steps(sides, optimizer):
    report = compare(sides, ("trajectory",), steps=10, optimizers=[optimizer])
    assert report.passed, report
    assert {row.name for row in report.sections[0].rows} >= {f"loss {i}" for i in range(1, 11)}


@of("fcn")
def test_the_classes_of_pixels_are_compared(sides):
    pair, shape = sides
    report = compare(sides, (), argmax_images=[np.random.default_rng(2).normal(size=shape)])
    (section,) = report.sections
    assert section.ok
    assert section.title == "argmax, 4 images of 33 x 25 px"
    module = copy.deepcopy(pair[2])
    with torch.no_grad():
        module.classifier[4].bias[0] += 100
    report = compare(((*pair[:2], module), shape), (), argmax_images=[np.random.default_rng(2).normal(size=shape)])
    assert report.sections[0].rows[0].relative > 0.5


# Faults on purpose: the tool must fail, and name the layer


KERNEL = {
    "fcn": ("classifier.0", ("classifier", "0")),
    "deeplabv3": ("classifier.0.convs.2.0", ("classifier", "0", "convs_2_0")),
    "unet": ("decoder.blocks.1.conv2.0", ("decoder", "blocks_1", "conv2_0")),
}


def test_a_kernel_with_height_and_width_swapped_is_located(sides):
    (model, variables, module), shape = sides
    name, path = KERNEL[head_of(model)]
    broken = jax.tree.map(lambda leaf: leaf, variables)
    part = broken["params"]
    for key in path:
        part = part[key]
    part["kernel"] = part["kernel"].transpose(1, 0, 2, 3)
    report = compare(((model, broken, module), shape))
    assert not report.passed
    assert report.difference.startswith(f"first difference in {name}: ")
    assert "its input agrees" in report.difference


@of("fcn")
def test_another_enlargement_is_located(sides, monkeypatch):
    """As with `align_corners=True`."""

    def corners(x, height, width):
        old = jnp.meshgrid(*(jnp.linspace(0, n - 1, m) for n, m in zip(x.shape[1:3], (height, width), strict=True)))
        of_map = lambda a: jax.scipy.ndimage.map_coordinates(a, [old[0].T, old[1].T], order=1)
        return jax.vmap(jax.vmap(of_map, in_axes=-1, out_axes=-1))(x)

    monkeypatch.setattr(network, "bilinear", corners)
    report = compare(sides)
    assert report.difference.startswith("first difference in out: ")


@of("unet")
def test_a_doubling_upside_down_is_located(sides, monkeypatch):
    real = unet.nearest_doubled
    monkeypatch.setattr(unet, "nearest_doubled", lambda x: real(x)[:, ::-1])
    report = compare(sides)
    assert report.difference.startswith("first difference between encoder.layer2 and decoder.blocks.0.conv1.0: ")


@of("fcn")
def test_a_loss_of_ignored_pixels_is_noticed(sides, monkeypatch):
    """As if they were of class 0."""
    wrong = lambda outputs, masks, smoothing: SEGMENT.torch_loss(
        outputs, torch.where(masks == 255, 0, masks), smoothing
    )
    monkeypatch.setattr("resnet_jax.parity.training.problem_of", lambda model: replace(SEGMENT, torch_loss=wrong))
    report = compare(sides, ("gradients",))
    assert report.difference.startswith("first difference in gradients: loss, ")


# References


def test_references_are_named_or_refused(torchvision, monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(WeightsError, match="unknown encoder of segmentation_models_pytorch 'resnet35'. Did you mean"):
        make_reference("unet_resnet35")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(WeightsError, match="needed to compare unet_resnet34 with; install it with `pip install segm"):
        make_reference("unet_resnet34")
    with pytest.raises(WeightsError, match="unknown network of torchvision or timm 'fcn_resnet18'. Did you mean"):
        make_reference("fcn_resnet18")


@pytest.mark.slow
def test_the_command(torchvision, capsys):
    small = ["--image-sizes", "33", "--train-image-size", "33", "--batch-size", "2", "--steps", "2"]
    main(["parity", "unet_resnet18", *small, "--dtype", "float64"])
    out = capsys.readouterr().out
    assert "## unet_resnet18, float64: PASS" in out
    assert "decoder" in out
    main(["parity", "fcn_resnet50", *small, "--checks", "forward"])
    assert "## fcn_resnet50, float32: PASS" in capsys.readouterr().out


# Networks as they are published


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"),
        *("unet_resnet34", "unet_resnet50"),
    ],
)
def test_whole_networks(name, torchvision):
    """At 224 pixels and at an odd size; their gradients at the odd size."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    draw = lambda *sides: rng.normal(size=(2, *sides, 3))
    module = make_reference(name, 21).double()
    randomize(module, torch.from_numpy(draw(96, 96).transpose(0, 3, 1, 2).copy()))
    state_dict = {key: value.numpy() for key, value in module.state_dict().items()}
    model = without_dropout(create_model(name, param_dtype=jnp.float64))
    report = compare_networks(
        model,
        from_torchvision(state_dict, model),
        module,
        images=[draw(224, 224), draw(129, 97)],
        train_images=[draw(129, 97)],
        checks=("forward", "gradients", "statistics"),
        tolerances=tolerances_for("float64"),
    )
    assert report.passed, report
