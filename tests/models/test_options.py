"""Options that every network has. The nets are small: two stages of one block unless a test needs more."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.models import ResNet, create_model, init
from resnet_jax.models.layers import ACTIVATIONS, POOLS, Conv, squeezed, stochastic_depth
from resnet_jax.models.pooling import blur_pool, halving_average_pool, max_pool, smoothing_average_pool
from resnet_jax.weights import from_torchvision

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = {"block": "basic", "stage_sizes": (1, 1), "width": 8, "num_classes": 3, "stem": "cifar"}
TINY = SMALL | {"stage_sizes": (1,), "width": 4}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw(model, channels=3, dtype=np.float32):
    """Random variables in no time: nothing is compiled. Scales and variances are positive."""
    x = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    rng = np.random.default_rng(0)

    def value(path, leaf):
        positive = path[-1].key in ("scale", "var")
        x = rng.normal(size=leaf.shape) * (2 / max(1, leaf.size // leaf.shape[-1])) ** 0.5
        return (np.abs(x) + 0.5 if positive else x).astype(dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def apply(model, variables, x, **options):
    return jax.jit(lambda variables, x: model.apply(variables, x, train=False, **options))(variables, x)


def shapes_of(model, side=32):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False, features=True), x)


def test_without_classes_the_pooled_features_come_out():
    model = ResNet(**TINY | {"num_classes": 0})
    variables = draw(model)
    x = noise(2, 8, 9, 3)
    out = apply(model, variables, x, features=True)
    assert "fc" not in variables["params"]
    assert out.keys() == {"stem", "stage1", "pooled"}
    np.testing.assert_array_equal(apply(model, variables, x), out["pooled"])
    assert out["pooled"].shape == (2, 4)


@pytest.mark.parametrize("multiplier", [0.25, 1.5])
@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "cifar_wide_resnet16_8"])
def test_width_multiplier_scales_every_channel(name, multiplier):
    normal, _ = shapes_of(create_model(name))
    scaled, _ = shapes_of(create_model(name, width_multiplier=multiplier))
    for feature in normal.keys() - {"logits"}:
        assert scaled[feature].shape == (*normal[feature].shape[:-1], normal[feature].shape[-1] * multiplier)


@pytest.mark.parametrize(
    ("output_stride", "sides"), [(None, (8, 4, 2)), (32, (8, 4, 2)), (16, (8, 4, 4)), (8, (8, 8, 8))]
)
def test_output_stride_is_the_stride(output_stride, sides):
    out, _ = shapes_of(create_model("resnet50", output_stride=output_stride, num_classes=0), side=64)
    assert tuple(out[f"stage{i}"].shape[1] for i in (2, 3, 4)) == sides


@pytest.mark.parametrize("pool", sorted(POOLS))
def test_pools_are_timms(pool, oracle):
    from timm.layers import SelectAdaptivePool2d

    x = noise(2, 5, 7, 6)
    select = SelectAdaptivePool2d(pool_type=pool, flatten=True)
    expected = select(oracle.torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(POOLS[pool](x), expected, rtol=1e-5, atol=1e-6)
    out, variables = shapes_of(ResNet(**TINY, pool=pool))
    assert out["pooled"].shape[1] == variables["params"]["fc"]["kernel"].shape[0] == expected.shape[1] // 6 * 4


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "silu", "gelu"])
def test_named_activations_are_torchs(act, oracle):
    x = noise(100)
    functional = oracle.torch.nn.functional
    expected = getattr(functional, act)(oracle.torch.from_numpy(x))
    np.testing.assert_allclose(ACTIVATIONS[act](x), expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("stem_width", "before", "after"), [(3, 2, 3), (4, 2, 2), (8, 0, 0)])
def test_centred_zeros_lie_on_both_sides(stem_width, before, after):
    """A branch that is zero leaves the shortcut of the stem's output, to 8 channels."""
    model = ResNet(**SMALL | {"stage_sizes": (1,), "shortcut": "zero_pad_centred", "stem_width": stem_width})
    variables = draw(model)
    variables["params"]["layer1_0"]["bn2"] = jax.tree.map(np.zeros_like, variables["params"]["layer1_0"]["bn2"])
    variables["batch_stats"]["layer1_0"]["bn2"]["mean"][:] = 0
    out = apply(model, variables, noise(2, 7, 9, 3), features=True)
    np.testing.assert_array_equal(out["stage1"], np.pad(out["stem"], [(0, 0)] * 3 + [(before, after)]))


@pytest.mark.parametrize("block", ["basic", "preact_basic"])
def test_the_activation_is_used_everywhere(block):
    calls = []
    model = ResNet(**SMALL | {"block": block}, se_ratio=2, act=lambda x: calls.append(x.shape) or nn.relu(x))
    out, _ = shapes_of(model)
    assert out["logits"].shape == (1, 3)
    # The stem (or after the last block), and in each block twice; inside the gate it is ReLU.
    assert len(calls) == 1 + 2 * 2


@pytest.mark.parametrize(
    "act", ["silu", *(pytest.param(act, marks=pytest.mark.slow) for act in ("gelu", "leaky_relu"))]
)
def test_other_activations_of_gated_nets_are_timms(act, oracle):
    """Random statistics, an odd size: all that `act` reaches, and what it does not."""
    from timm.layers import get_act_layer

    layer = get_act_layer(act)
    theirs = oracle.randomize(oracle.timm.create_model("seresnet18", act_layer=layer, num_classes=5)).float()
    model = create_model("seresnet18", act=act, num_classes=5)
    variables = from_torchvision({key: value.numpy() for key, value in theirs.state_dict().items()}, model)
    x = noise(2, 65, 49, 3)
    with oracle.torch.no_grad():
        expected = theirs.eval()(oracle.torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    out = apply(model, variables, x)
    assert np.abs(out - expected).max() <= 1e-4 * np.abs(expected).max()


def test_gates_are_as_wide_as_timms(oracle):
    from timm.layers import SEModule

    for channels in (4, 24, 64, 100, 256, 360, 2048):
        assert squeezed(channels, 16) == SEModule(channels).fc1.out_channels


def test_standardized_convolutions_are_timms(oracle):
    from timm.layers import StdConv2d

    x = noise(2, 7, 9, 8)
    kernel = 3 * noise(3, 3, 8, 12, seed=1) + 1
    module = StdConv2d(8, 12, 3, 2, padding=1, bias=False)
    module.weight.data = oracle.torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    expected = module(oracle.torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy().transpose(0, 2, 3, 1)
    got = Conv(12, 3, 2, standardize=True).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_group_norm_with_weight_standardization():
    """Neither the scale of a kernel nor the rest of the batch matters any more, in training as in evaluation."""
    model = ResNet(**TINY, norm=partial(nn.GroupNorm, num_groups=2), weight_standardization=True)
    variables = draw(model)
    assert not variables.get("batch_stats")
    is_conv = lambda path: any("conv" in part.key for part in path)
    scaled = jax.tree_util.tree_map_with_path(lambda path, x: 3 * x + 1 if is_conv(path) else x, variables)
    x = noise(2, 8, 8, 3)
    expected = apply(model, variables, x)
    np.testing.assert_allclose(apply(model, scaled, x), expected, rtol=1e-3, atol=1e-4)
    alone = jax.jit(lambda x: model.apply(variables, x, train=True))(x[:1])
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-4, atol=1e-5)


def test_a_frozen_norm_neither_uses_nor_moves_batch_statistics():
    model, frozen = ResNet(**TINY), ResNet(**TINY, norm="frozen")
    variables = draw(model)
    x = noise(4, 8, 8, 3)
    got, updates = jax.jit(lambda x: frozen.apply(variables, x, train=True, mutable=["batch_stats"]))(x)
    np.testing.assert_allclose(got, apply(model, variables, x), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize(
    ("block", "last"),
    [
        *(("basic", "bn2/scale"), ("bottleneck", "bn3/scale"), ("bottleneck_v1", "bn3/scale")),
        *(("preact_basic", "conv2/kernel"), ("preact_bottleneck", "conv3/kernel")),
    ],
)
def test_zero_init_starts_a_branch_at_zero_that_can_leave_it(block, last):
    """In a pre-activation block a zero scale would silence its convolution for ever: relu has no slope at zero."""
    model = ResNet(**TINY | {"block": block, "width": 2}, zero_init_residual=True)
    variables = init(model, jax.random.key(0))
    x = noise(2, 8, 8, 3)
    layer, leaf = last.split("/")
    assert not variables["params"]["layer1_0"][layer][leaf].any()
    loss = lambda params: jnp.sum(model.apply(variables | {"params": params}, x, train=False) ** 2)
    gradient = jax.jit(jax.grad(loss))(variables["params"])["layer1_0"]
    assert np.abs(gradient[layer][leaf]).max() > 0


def test_remat_is_of_the_stages_named_and_changes_no_number():
    net = SMALL | {"stage_sizes": (2, 3), "width": 4, "stochastic_depth": 0.5}
    model, again = ResNet(**net), ResNet(**net, remat=(2,))
    variables = draw(model)
    x = noise(4, 8, 8, 3)

    def loss(params, model):
        rngs = {"dropout": jax.random.key(1)}
        out, updates = model.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.sum(out**2), updates

    grad = lambda model: jax.grad(partial(loss, model=model), has_aux=True)
    kept, recomputed = (jax.jit(grad(net))(variables["params"]) for net in (model, again))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), recomputed, kept)
    trace = lambda net: str(jax.make_jaxpr(partial(loss, model=net))(variables["params"]))
    assert (trace(model).count("remat"), trace(again).count("= remat")) == (0, 3)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_pools_and_blur_are_torchs(size, oracle):
    from timm.layers import BlurPool2d
    from timm.layers.pool2d_same import AvgPool2dSame

    x = noise(2, *size, 5)
    tensor = oracle.torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for ours, theirs in [
        (partial(blur_pool, stride=2), BlurPool2d(5, stride=2)),
        (partial(blur_pool, stride=1), BlurPool2d(5, stride=1)),
        (halving_average_pool, oracle.torch.nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)),
        (smoothing_average_pool, AvgPool2dSame(2, 1, ceil_mode=True, count_include_pad=False)),
        (partial(max_pool, stride=1), oracle.torch.nn.MaxPool2d(3, 1, 1)),
    ]:
        np.testing.assert_allclose(ours(x), theirs(tensor).numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_branches():
    y = jnp.ones((20_000, 1, 2, 1))
    dropped = stochastic_depth(y, jax.random.key(0), 0.3)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}
    assert (dropped[:, 0, 0] == dropped[:, 0, 1]).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)


def test_stochastic_depth_rises_linearly_and_leaves_evaluation_alone(monkeypatch):
    rates = []
    spy = lambda y, key, rate, places: rates.append(rate) or stochastic_depth(y, key, rate, places)
    monkeypatch.setattr("resnet_jax.models.blocks.stochastic_depth", spy)
    model = create_model("resnet18", stochastic_depth=0.7)
    variables = draw(model)
    x = noise(2, 32, 32, 3)
    jax.eval_shape(lambda x: model.apply(variables, x, train=False), x)
    assert rates == []
    rngs = {"dropout": jax.random.key(1)}
    jax.eval_shape(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs), x)
    np.testing.assert_allclose(rates, np.linspace(0, 0.7, 8)[1:])


def test_stochastic_depth_does_not_depend_on_the_number_of_devices():
    model = ResNet(**TINY | {"stage_sizes": (2,)}, stochastic_depth=0.5, bn_group_size=1)
    variables = draw(model)
    x = noise(8, 8, 8, 3)

    @jax.jit
    def forward(x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)})[0]

    sharded = jax.device_put(x, NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec("batch")))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(forward(sharded), forward(x), rtol=1e-5, atol=1e-5)
    kept = apply(model, variables, x, use_batch_stats=True)
    changed = np.abs(forward(x) - kept).max(axis=1) > 1e-3
    assert 0 < changed.sum() <= 8


@pytest.mark.parametrize("name", ["resnet18", "seresnext26d_32x4d", "resnetv2_50", "resnetblur18", "resnet50_gn"])
def test_low_precision_is_a_policy(name):
    """Activations in bfloat16; parameters, what is pooled and logits in float32."""
    out, variables = shapes_of(create_model(name, dtype=jnp.bfloat16))
    assert {out[f"stage{i}"].dtype for i in range(1, 5)} | {out["stem"].dtype} == {jnp.dtype("bfloat16")}
    assert out["pooled"].dtype == out["logits"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["seresnext26d_32x4d", "resnetv2_50", "resnetblur18", "resnet50_gn"])
def test_float64_stays_float64(name, float64):
    model = create_model(name, param_dtype=jnp.float64, stochastic_depth=0.2)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float64)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda x: model.init(key, x, train=False), x)
    train = lambda variables, x: model.apply(
        variables, x, train=True, features=True, mutable=["batch_stats"], rngs={"dropout": key}
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(train, variables, x))} == {jnp.dtype("float64")}
