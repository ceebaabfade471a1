"""Whole quantised networks: where they are quantised, and that all forms compute the same integers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.compress.quantize import (
    Grid,
    QuantizedNetwork,
    Scales,
    fake_quantized,
    in_float32,
    integer_variables,
    placed,
    quantize,
)
from resnet_jax.compress.quantize import network as network_module
from resnet_jax.compress.quantize.bias import corrected
from resnet_jax.compress.quantize.calibrate import kernel_scales
from resnet_jax.compress.quantize.network import fake_kernels
from resnet_jax.compress.quantize.scales import grid_of, rounded
from resnet_jax.compress.quantize.store import FILE, load, save
from resnet_jax.config import QuantizeConfig
from resnet_jax.errors import ConfigError, DataError, ModelError, WeightsError
from resnet_jax.models import create_model, list_models
from resnet_jax.models.forms import forms_of

from ..weights.networks import calm, random_variables
from .test_fold import sides_of

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = {"width_multiplier": 0.25}
MINMAX = QuantizeConfig(method="minmax")


def build(name, **options):
    model = create_model(name, **options)
    return model, calm(random_variables(model, image=sides_of(model, (64, 64))))


def images_of(count=16, sides=(17, 23), channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *sides, channels)).astype(np.float32)


def quantised(name, config=MINMAX, images=None, **options):
    images = images_of() if images is None else images
    return quantize(*build(name, **options), lambda: [images], config)


def tree(*results):
    return zip(*map(jax.tree.leaves, results), strict=True)


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def tiny():
    """A quantised network with a projection among its shortcuts."""
    return quantised("cifar_resnet20", stage_sizes=(1, 1), shortcut="projection", images=images_of(sides=(9, 11)))


def reads_of(network, sides):
    """Which tensor each layer reads, found without computing anything."""
    reads, places = {}, {}

    def note(x, place):
        places[place] = Grid(jnp.float32(1), jnp.int32(0))
        return x

    def compute(layer, x, call):
        reads[layer.name] = layer.reads
        return call(x)

    def run(variables, images):
        with placed(note, compute):
            return network.model.apply(variables, images, train=False)

    with forms_of("cpu"):
        jax.eval_shape(run, network.variables, jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32))
    return reads, places


def int8_products(jaxpr):
    """How many products of two int8 arrays a program has."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            count += {variable.aval.dtype for variable in equation.invars} == {jnp.dtype("int8")}
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                count += int8_products(inner) if hasattr(inner, "eqns") else 0
    return count


def check_all_kernels_are_int8(name, sides=(65, 65), **options):
    """Every kernel is stored in int8 and multiplied as such. Gives how many there are."""
    network = in_float32(*build(name, **options))
    sides = sides_of(network.model, sides)
    reads, places = reads_of(network, sides)
    flat = dict(jax.tree_util.tree_leaves_with_path(network.variables["params"]))
    kernels = ["/".join(key.key for key in path[:-1]) for path in flat if path[-1].key == "kernel"]
    assert sorted(reads) == sorted(kernels)
    scales = {layer: jnp.ones(flat[path].shape[-1]) for path in flat for layer in ["/".join(k.key for k in path[:-1])]}
    scales = Scales(places, {layer: scales[layer] for layer in reads}, tuple(reads.items()), 8, 8)
    variables = jax.eval_shape(integer_variables, network.variables, scales)
    stored = [leaf.dtype for leaf in jax.tree.leaves(variables["params"])]
    images = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
    with forms_of("tpu"):
        jaxpr = jax.make_jaxpr(QuantizedNetwork(network.model).apply)(variables, images)
    multiplied = int8_products(jaxpr.jaxpr)
    assert stored.count(jnp.int8) == multiplied == len(kernels)
    return multiplied


def test_every_kernel_of_resnet50_is_int8():
    """53 convolutions, 36 of them 1x1, and fc."""
    assert check_all_kernels_are_int8("resnet50", width_multiplier=0.125) == 54


# Too deep; refused; refused.
LEFT_OUT = ("cifar_resnet1202", *list_models(task="detect"), *list_models(task="clips"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if name not in LEFT_OUT])
def test_every_kernel_of_every_network_is_int8(name):
    check_all_kernels_are_int8(name, **(SMALL if "_gn" not in name else {}))


FORMS = {
    "cifar_resnet20": {"stage_sizes": (1, 1)},
    "cifar_resnetv2_20": {"stage_sizes": (1, 1)},
    "cifar_plain20": {"stage_sizes": (1, 1)},
    "resnet26t": SMALL | {"stage_sizes": (1, 1), "se_ratio": 4, "pool": "catavgmax"},
    "resnetblur18": SMALL | {"stage_sizes": (1, 1), "stem": "space_to_depth"},
    "resnext50_32x4d": {"stage_sizes": (1, 1), "width_multiplier": 0.5, "act": "silu"},
    "cifar_resnet29": {"stage_sizes": (1,), "norm": "group", "width_multiplier": 2},
    "fcn2s_resnet18": SMALL | {"stage_sizes": (1, 1)},
    "deeplabv3_resnet18": SMALL | {"stage_sizes": (1, 1)},
    "unet_resnetv2_18": SMALL | {"stage_sizes": (1, 1)},
}


def results(done, images):
    """In integers and in floating point."""
    integers = jax.jit(lambda v, x: done.model.apply(v, x))(done.variables, images)
    return integers, jax.jit(lambda v, x: done.float.model.apply(v, x, train=False))(done.float.variables, images)


def in_all_forms(done, images):
    """The results in int8 and in float32."""
    for platform in ("tpu", "cpu"):
        with forms_of(platform):
            yield jax.jit(lambda v, x: done.model.apply(v, x))(done.variables, images)


def test_both_forms_compute_the_same_integers(tiny):
    integers, simulated = in_all_forms(tiny, images_of(sides=(9, 11), seed=6))
    assert np.array_equal(integers, simulated)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_both_forms_of_each_layer_compute_the_same_integers(name):
    """In int8 and in float32 the logits are equal to the last bit, and near those of the network in floating point."""
    images = images_of(sides=(33, 39))
    done = quantised(name, images=images, **FORMS[name])
    _, exact = results(done, images)
    fake = jax.jit(lambda v, s, x: fake_quantized(done.float.model, v, s, x, train=False))(
        done.float.variables, done.scales, images
    )
    for integers, simulated, expected, fakes in tree(*in_all_forms(done, images), exact, fake):
        assert np.array_equal(integers, simulated)
        assert 0 < relative(integers, expected) < 0.02
        assert relative(integers, fakes) < 0.004


def torch_integers(torch, done, images):
    """The integers at each place of a `cifar_resnet20` of two blocks, by PyTorch's quantised operators, wired by hand
    as torchvision wires its quantised ResNet."""
    scales, params = done.scales, done.variables["params"]
    ends = lambda place: (float(scales.tensors[place].scale), int(scales.tensors[place].zero_point))
    found = {}

    def note(place, tensor):
        found[place] = tensor.int_repr().numpy()
        return tensor

    def conv(x, name, place, *, relu, stride=1, padding=1):
        *block, last = name.split("/")
        arrays = params[block[0]][last] if block else params[last]
        steps = np.asarray(scales.kernels[name], np.float64)
        weight = torch.from_numpy(np.asarray(arrays["kernel"]) * steps).permute(3, 2, 0, 1).float().contiguous()
        weight = torch.quantize_per_channel(
            weight, torch.from_numpy(steps), torch.zeros(len(steps), dtype=torch.int64), 0, torch.qint8
        )
        bias = torch.from_numpy(np.asarray(arrays["bias"]) * steps * x.q_scale()).float()
        packed = torch.ops.quantized.conv2d_prepack(weight, bias, [stride] * 2, [padding] * 2, [1, 1], 1)
        run = torch.ops.quantized.conv2d_relu if relu else torch.ops.quantized.conv2d
        return note(place, run(x, packed, *ends(place)))

    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    x = note("conv1", torch.quantize_per_tensor(x, *ends("conv1"), torch.quint8))
    x = conv(x, "conv1", "layer1_0/input", relu=True)
    for block, stride in (("layer1_0", 1), ("layer2_0", 2)):
        y = conv(x, f"{block}/conv1", f"{block}/conv2", relu=True, stride=stride)
        y = conv(y, f"{block}/conv2", f"{block}/branch", relu=False)
        if stride > 1:
            x = conv(x, f"{block}/downsample_conv", f"{block}/shortcut", relu=False, stride=2, padding=0)
        x = note(block, torch.ops.quantized.add_relu(y, x, *ends(block)))
    pooled = x.dequantize().mean((2, 3))
    note("fc", torch.quantize_per_tensor(pooled, *ends("fc"), torch.quint8))
    return found


@pytest.mark.filterwarnings("ignore:torch.quantize_per")
def test_places_and_integers_are_those_of_pytorch(tiny, monkeypatch):
    """At every place of the network. The scales are any numbers, so an integer may differ by one where a number lies in
    the middle between two: PyTorch rounds the factor, and adds the bias, in float32."""
    torch = pytest.importorskip("torch")
    from .test_quantize_integers import torch_saturates

    if torch_saturates(torch):
        pytest.skip("this CPU has no VNNI, and torch's kernels add int8 products in 16 bits, which overflow")
    images, found = images_of(count=2, sides=(9, 11), seed=4), []
    to_integers = network_module.to_integers

    def note(x, grid, bits):
        found.append((grid, to_integers(x, grid, bits)))
        return found[-1][1]

    @jax.jit
    def integers(variables, images):
        tiny.model.apply(variables, images)
        tensors = variables["scales"].tensors.items()
        return {place: x for grid, x in found for place, other in tensors if other is grid}

    monkeypatch.setattr(network_module, "to_integers", note)
    ours = integers(tiny.variables, images)
    theirs = torch_integers(torch, tiny, images)
    assert sorted(theirs) == sorted(ours) == sorted(tiny.scales.tensors)
    for place, integers in theirs.items():
        integers = integers.transpose(0, 2, 3, 1) if integers.ndim == 4 else integers
        difference = np.abs(np.asarray(ours[place], int) - integers)
        assert difference.max() <= 1, place
        assert np.mean(difference > 0) < 0.002, place
        assert len(np.unique(integers)) > 20, place


def test_a_quantised_network_only_predicts(tiny):
    with pytest.raises(ModelError, match="a quantised network only predicts, .*train the network that it was quantis"):
        tiny.model.apply(tiny.variables, images_of(), train=True)


def test_a_file_gives_back_the_same(tiny, tmp_path):
    save(tmp_path / FILE, tiny, {"images": 16})
    again, how = load(tmp_path / FILE, tiny.float)
    assert how == {"images": 16}
    assert again.scales.reads == tiny.scales.reads
    before, after = (jax.tree_util.tree_leaves_with_path(one.variables) for one in (tiny, again))
    for (path, leaf), (other, same) in zip(before, after, strict=True):
        assert path == other
        assert leaf.dtype == same.dtype
        assert np.array_equal(leaf, same)
    kernels = sum(leaf.size for leaf in jax.tree.leaves(tiny.variables["params"]) if leaf.dtype == jnp.int8)
    assert (tmp_path / FILE).stat().st_size < 1.6 * kernels + 4000


def test_files_that_are_refused(tiny, tmp_path):
    path = tmp_path / FILE
    with pytest.raises(WeightsError, match="there is no .*quantized.safetensors; name the folder that quantize wrote"):
        load(path, tiny.float)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="quantized.safetensors cannot be read: .*Quantise the network again"):
        load(path, tiny.float)
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(WeightsError, match="is no quantised network; name the folder that quantize wrote"):
        load(path, tiny.float)
    save(path, tiny, {})
    other = tiny.float._replace(variables=jax.tree.map(lambda leaf: leaf + 1, tiny.float.variables))
    with pytest.raises(WeightsError, match="was made from another network, or from another checkpoint of it: its dig"):
        load(path, other)


def test_a_bias_beside_which_weights_are_nothing():
    """Such channels are common in trained networks. The integer of their bias must not overflow."""
    rng = np.random.default_rng(0)
    size = np.array([1.0, 1e-12, 3e-7, 0.0], np.float32)
    kernel, bias = rng.normal(size=(3, 3, 8, 4)).astype(np.float32) * size, np.float32([0.1, 5.0, -2.0, 1.0])
    variables, tensors = {"params": {"conv1": {"kernel": kernel, "bias": bias}}}, {"conv1": grid_of(0, 5, 8)}
    scales = kernel_scales(variables, tensors, {"conv1": "conv1"}, 8)
    done = integer_variables(variables, Scales(tensors, scales, (("conv1", "conv1"),), 8, 8))["params"]["conv1"]
    assert np.abs(done["bias"]).max() <= 2**30
    assert np.abs(done["kernel"][..., 0]).max() == 127
    np.testing.assert_allclose(done["bias"] * scales["conv1"] * tensors["conv1"].scale, bias, rtol=0.02)
    lost = np.abs(np.asarray(done["kernel"]) * np.asarray(scales["conv1"]) - kernel).sum(axis=(0, 1, 2)) * 5
    assert (lost[1:] < 1e-3 * np.abs(bias[1:])).all()


def test_layers_stay_in_floating_point_where_asked():
    images = images_of(sides=(9, 11))
    config = QuantizeConfig(method="minmax", keep_float=("layer1_0", "fc"))
    done = quantised("cifar_resnet20", config, images, stage_sizes=(1, 1))
    kernels = {layer for layer, _ in done.scales.reads}
    assert kernels == {"conv1", "layer2_0/conv1", "layer2_0/conv2"}
    assert sorted(done.scales.tensors) == ["conv1", "layer2_0", "layer2_0/branch", "layer2_0/conv2", "layer2_0/input"]
    assert done.variables["params"]["fc"]["kernel"].dtype == jnp.float32


def test_bias_correction_takes_off_the_mean_error():
    """With few bits the error is large. Afterwards each channel of the first layer has the mean that it had."""
    images = images_of(sides=(9, 11)) + np.float32(0.5)
    config = QuantizeConfig(method="minmax", weight_bits=3, activation_bits=3, bias_correction=True)
    done = quantised("cifar_resnet20", config, images, stage_sizes=(1,))
    network, scales = done.float, done.scales
    mended = corrected(network, scales, [images[:10], images[10:]])

    @functools.partial(jax.jit, static_argnums=1)
    def first_means(variables, quantised):
        outputs = {}

        def compute(layer, x, call):
            outputs[layer.name] = call(x)
            return outputs[layer.name]

        with placed(lambda x, place: rounded(x, scales.tensors[place], 3) if quantised else None, compute):
            network.model.apply(variables, images, train=False)
        return jnp.mean(outputs["conv1"], axis=(0, 1, 2))

    exact = first_means(network.variables, False)
    before, after = (first_means(fake_kernels(v, scales), True) for v in (network.variables, mended))
    assert np.abs(before - exact).max() > 0.01
    assert np.abs(after - exact).max() < 1e-5
    expected, found = (
        tree["params"]["layer1_0"]["conv2"]["bias"]
        for tree in (integer_variables(corrected(network, scales, [images]), scales), done.variables)
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (images_of(15), "calibration saw 15 images, and needs at least 16 .*; give more"),
        (np.full((16, 9, 9, 3), np.nan, np.float32), "batch 1 makes numbers in conv1 that are not finite, .*mend them"),
        (np.full((16, 9, 9, 3), 3e38, np.float32), "batch 1 makes numbers in .* not finite, .*look at its images"),
    ],
)
def test_batches_that_are_refused(images, text):
    with pytest.raises(DataError, match=text):
        quantised("cifar_resnet20", images=images, stage_sizes=(1,))


def test_a_layer_that_is_not_there():
    config = QuantizeConfig(keep_float=("layer1_0/conv3",))
    with pytest.raises(ConfigError, match="unknown layer to keep in floating point .*layer1_0/conv2"):
        quantised("cifar_resnet20", config, stage_sizes=(1,))


def test_bias_correction_of_a_layer_without_a_bias():
    config = QuantizeConfig(method="minmax", bias_correction=True)
    norm = functools.partial(nn.GroupNorm, num_groups=4)
    with pytest.raises(ModelError, match="needs a bias in each layer, and conv1 has none, .*leave bias correction out"):
        quantised("cifar_resnet20", config, images_of(sides=(9, 9)), stage_sizes=(1,), norm=norm)
