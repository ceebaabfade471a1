"""Parity of networks for segmentation, on small ones: it passes where both sides agree, and points at what differs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import create_model
from resnet_jax.models.segment import heads, unet
from resnet_jax.parity import compare_networks, make_reference, randomize, tolerances_for
from resnet_jax.parity.problem import without_dropout
from resnet_jax.parity.reference import drop_nothing
from resnet_jax.weights import from_torchvision

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("compile_quickly")
CLASSES = 5
SIZES = {"fcn": (33, 25), "deeplabv3": (33, 25), "unet": (33, 41)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


WIDTH, DECODER = 16, (16, 8, 8, 4, 4)
NAMES = {"fcn": "fcn_resnet50", "deeplabv3": "deeplabv3_resnet50", "unet": "unet_resnet18"}


def narrowed(kind):
    """A class of torchvision's ResNets with a sixteenth of the channels behind the stem."""

    class Narrow(kind):
        def _make_layer(self, block, planes, *args, **options):
            return super()._make_layer(block, planes // 16, *args, **options)

    return Narrow


def make_module(torchvision, head):
    """A block in each stage, with torchvision's own head over torchvision's own backbone; or a U-Net of smp's parts."""
    torch.manual_seed(0)
    models = torchvision.models
    if head == "unet":
        smp = pytest.importorskip("segmentation_models_pytorch")
        channels = (3, 64, 4, 8, 16, 32)
        module, kind = make_reference("unet_resnet18", CLASSES), smp.encoders.resnet.ResNetEncoder
        module.encoder = narrowed(kind)(channels, block=models.resnet.BasicBlock, layers=[1, 1, 1, 1])
        module.decoder = smp.decoders.unet.decoder.UnetDecoder(channels, DECODER)
        module.segmentation_head = smp.base.SegmentationHead(DECODER[-1], CLASSES)
        return module
    dilate = [False, True, True]
    backbone = narrowed(models.ResNet)(models.resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=dilate)
    getter = models._utils.IntermediateLayerGetter(backbone, {"layer4": "out", "layer3": "aux"})
    fcn, deeplab = models.segmentation.fcn, models.segmentation.deeplabv3
    aux = fcn.FCNHead(64, CLASSES)
    if head == "fcn":
        return drop_nothing(fcn.FCN(getter, fcn.FCNHead(128, CLASSES), aux))
    # As DeepLabHead, which has no option for its width.
    last = (torch.nn.BatchNorm2d(WIDTH), torch.nn.ReLU(), torch.nn.Conv2d(WIDTH, CLASSES, 1))
    aspp = deeplab.ASPP(128, [12, 24, 36], WIDTH)
    own = torch.nn.Sequential(aspp, torch.nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), *last)
    return drop_nothing(deeplab.DeepLabV3(getter, own, aux))


@pytest.fixture(scope="module", params=list(NAMES))
def pair(request, torchvision):
    """Both networks with the same random weights and statistics."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "WIDTH", WIDTH)
        patch.setattr(unet, "CHANNELS", DECODER)
        module = make_module(torchvision, request.param).double()
        randomize(module, torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 64, 64))))
        state_dict = {key: value.numpy() for key, value in module.state_dict().items()}
        options = {"stage_sizes": (1, 1, 1, 1), "num_classes": CLASSES, "param_dtype": jnp.float64}
        model = create_model(NAMES[request.param], width=4, stem_width=64, **options)
        model = without_dropout(model)
        yield model, from_torchvision(state_dict, model), module


@pytest.fixture
def sides(pair):
    """The pair, and noise of odd sizes."""
    name = getattr(pair[0], "head", "unet")
    return pair, (4, *SIZES[name], 3)


def compare(sides, checks=("forward",), steps=1, **options):
    pair, shape = sides
    rng = np.random.default_rng(1)
    draw = lambda: rng.normal(size=shape)
    batches = [draw() for _ in range(steps)]
    tolerances = tolerances_for("float64")
    return compare_networks(
        *pair, images=[draw()], train_images=batches, checks=checks, tolerances=tolerances, **options
    )


def test_outputs_gradients_and_statistics(sides):
    module = sides[0][2]
    report = compare(sides, ("forward", "gradients", "statistics"), steps=2)
    assert report.passed, report
    forward, gradients, statistics = report.sections
    names = [row.name for row in forward.rows]
    root = "encoder" if "encoder" in dict(module.named_children()) else "backbone"
    assert {f"{root}.{name}" for name in ("conv1", "bn1", "relu", "layer1", "layer4.0.bn2")} < {*names}
    assert "out" in names
    assert ("aux" in names) == (root == "backbone")
    assert len(gradients.rows) == 1 + len(list(module.parameters()))
    assert len(statistics.rows) == 2 * sum(isinstance(m, torch.nn.BatchNorm2d) for m in module.modules())


def test_ten_steps_and_what_is_frozen(sides):
    report = compare(sides, ("trajectory",), steps=10, optimizers=["all together"])
    assert report.passed, report
    assert {row.name for row in report.sections[0].rows} >= {f"loss {i}" for i in range(1, 11)}


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
