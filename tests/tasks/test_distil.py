"""The loss of a student: torch's formulas in float64, the same images for both, the same update on any devices."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import AugmentConfig, Config, DataConfig, Distil, ModelConfig, OptimConfig, Segment
from resnet_jax.data import normalize
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import make_mesh, put_batch, replicated, split_batch
from resnet_jax.tasks.assemble import assemble, init_state_of
from resnet_jax.tasks.classify.task import classify
from resnet_jax.tasks.distil import TEACHER, as_prepared, distilled
from resnet_jax.tasks.segment.task import segment
from resnet_jax.training.losses import attention_distance, divergence

from ..weights.networks import random_variables
from .angle import make_task

pytestmark = pytest.mark.usefixtures("compile_quickly")

K, N, SIDE = 5, 16, 8
MIXED = AugmentConfig(random_resized_crop=False, shift_pixels=1, mixup_alpha=0.5, cutmix_alpha=1.0, mix_group_size=4)
BOTH = Distil(teacher="a network", alpha=0.7, temperature=3.0, attention=(1,), attention_weight=10.0)


def make_config(**options):
    given = {
        "model": ModelConfig(name="cifar_resnet20", num_classes=K, bn_group_size=4),
        "data": DataConfig(image_size=SIDE, eval_resize=SIDE, channels=1, mean=(0.3,), std=(0.4,), augment=MIXED),
        "optim": OptimConfig(warmup_epochs=0.0, ema_decay=0.9, ema_every_steps=2),
        "batch_size": N,
        "epochs": 10,
    }
    return Config(**{**given, **options})


def stages_of(name):
    return (1, 1) if name.startswith("fcn") else (1,)  # an auxiliary head needs two stages


def student_of(config):
    dtype = jnp.zeros(0).dtype  # float64 under `enable_x64`
    options = {
        "width": 4,
        "stage_sizes": stages_of(config.model.name),
        "bn_group_size": config.model.bn_group_size,
        "param_dtype": dtype,
    }
    return create_model(config.model.name, num_classes=K, **options)


@cache
def teacher_of(name="cifar_resnet20", channels=3):
    """A wider network for RGB images, with random statistics, in float64."""
    options = {"num_classes": K, "width": 6, "stage_sizes": stages_of(name)}
    variables = random_variables(create_model(name, **options), channels=channels, image=(SIDE, SIDE))
    return create_model(name, param_dtype=jnp.float64, **options), jax.tree.map(np.float64, variables)


THEIRS = DataConfig().preset  # of ImageNet


def task_of(config, options=BOTH, name="cifar_resnet20", make=classify):
    return distilled(make(config, student_of(config)), options, teacher_of(name)[0], config.data.preset, THEIRS)


def batch_of(step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (N, SIDE, SIDE, 1), np.uint8)
    return {"image": images, "label": rng.integers(0, K, N).astype(np.int32)}


def random_logits(*shape):
    a, b = np.random.default_rng(0).normal(0, 3, (2, *shape))
    return a, b


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_torchs(temperature):
    torch = pytest.importorskip("torch")
    ours, theirs = random_logits(7, K)
    logits = torch.tensor(ours, requires_grad=True)
    soft = (torch.log_softmax(logits / temperature, 1), torch.softmax(torch.tensor(theirs) / temperature, 1))
    expected = temperature**2 * torch.nn.functional.kl_div(*soft, reduction="batchmean")
    expected.backward()
    with jax.enable_x64():
        value, gradient = jax.value_and_grad(lambda x: divergence(x, theirs, temperature).mean())(ours)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-12, atol=1e-15)


def test_the_attention_is_torchs():
    """`at_loss` of the authors: normalised means of squares, whatever the numbers of channels."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(3, 5, 4, 6)), rng.normal(size=(3, 5, 4, 2))
    at = lambda x: torch.nn.functional.normalize(x.pow(2).mean(1).flatten(1))
    maps = torch.tensor(ours, requires_grad=True)
    expected = (at(maps.permute(0, 3, 1, 2)) - at(torch.tensor(theirs).permute(0, 3, 1, 2))).pow(2).mean()
    expected.backward()
    with jax.enable_x64():
        value, gradient = jax.value_and_grad(lambda x: attention_distance(x, theirs).mean())(ours)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(gradient, maps.grad, rtol=1e-11, atol=1e-15)


def test_a_stage_that_puts_out_zeros_has_a_finite_gradient():
    gradient = jax.grad(lambda x: attention_distance(x, jnp.ones((2, 3, 3, 4))).sum())(jnp.zeros((2, 3, 3, 4)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("alpha", [0.7, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_loss_is_made_of_labels_teacher_and_attention(alpha):
    """Every part is computed again from the images that the student sees, mixed and shifted."""
    config, options = make_config(), replace(BOTH, alpha=alpha)
    with jax.enable_x64():
        student, (teacher, knowledge) = student_of(config), teacher_of()
        plain = classify(config, student)
        variables = random_variables(student, channels=1, image=(SIDE, SIDE))
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        batch, key = {**batch_of(0), "position": jnp.arange(N)}, jax.random.key(3)
        params = {**variables["params"], TEACHER: knowledge}
        found = jax.jit(task_of(config, options).loss, static_argnums=4)(
            params, variables["batch_stats"], batch, key, None
        )
        seen = jax.jit(plain.prepare)(key, batch)
        look = jax.jit(partial(student.apply, train=True, features=True, mutable=["batch_stats"]))
        ours, updates = look(variables, seen["image"])
        pixels = np.asarray(seen["image"], np.float64) * config.data.std + np.array(config.data.mean)
        shown = (np.repeat(pixels, 3, axis=-1) - THEIRS.mean) / THEIRS.std
        theirs = jax.jit(partial(teacher.apply, train=False, features=True))(knowledge, shown)
        labels = jax.jit(plain.loss, static_argnums=4)(
            variables["params"], variables["batch_stats"], batch, key, None
        ).loss
        looks = attention_distance(ours["stage1"], theirs["stage1"])
        apart = divergence(ours["logits"], theirs["logits"], 3.0)
    assert sorted(np.unique(np.asarray(seen["target"]) > 0).tolist()) == [False, True]
    assert (np.count_nonzero(seen["target"], axis=1) > 1).any()  # mixtures
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)  # images are in float32
    close(found.loss, (1 - alpha) * labels + alpha * apart + 10 * looks)
    close(found.metrics["from_labels"], labels)
    close(found.metrics["from_teacher"], apart)
    close(found.metrics["from_attention"], looks)
    jax.tree.map(close, found.batch_stats, updates["batch_stats"])
    assert found.metrics.keys() == {"top1", "from_labels", "from_teacher", "from_attention"}


def test_labels_do_not_count_in_function_matching():
    """Not even where their loss is no number."""
    config = make_config()
    plain, (teacher, knowledge) = classify(config, student_of(config)), teacher_of()
    broken = replace(plain, loss=lambda *given: plain.loss(*given)._replace(loss=jnp.full(N, jnp.inf)))
    task = distilled(broken, Distil(teacher="a network", alpha=1.0), teacher, config.data.preset, THEIRS)
    with jax.enable_x64():
        variables = jax.tree.map(np.float64, random_variables(student_of(config), channels=1, image=(SIDE, SIDE)))
        batch = {**batch_of(0), "position": jnp.arange(N)}

        @jax.jit
        @jax.grad
        def gradient_of(own):
            given = ({**own, TEACHER: knowledge}, variables["batch_stats"], batch, jax.random.key(0), None)
            return task.loss(*given).loss.sum()

        gradient = gradient_of(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["fc"]["kernel"]).max() > 0


@pytest.mark.parametrize(("channels", "mean", "std"), [(1, (0.2,), (0.7,)), (3, (0.1, 0.2, 0.3), (0.3, 0.2, 0.5))])
def test_images_are_normalised_as_the_teacher_wants_them(channels, mean, std):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 3, channels), np.uint8)
    ours = replace(THEIRS, mean=mean, std=std)
    expected = normalize(np.broadcast_to(images, (2, 5, 3, 3)), THEIRS)
    np.testing.assert_allclose(as_prepared(normalize(images, ours), ours, THEIRS), expected, atol=2e-6)
    same = normalize(images, ours)
    assert as_prepared(same, ours, ours) is same


def train(config, task, knowledge, batches, devices):
    """Parameters, statistics, averages, the teacher and the metrics of the last step, after two updates."""
    mesh = make_mesh(jax.devices()[:devices])
    training = assemble(config, task, mesh, num_images=64)
    plain = replace(config, accumulate=1)
    state = jax.device_get(init_state_of(plain, task, make_mesh(jax.devices()[:1]))(jax.random.key(0)))
    like = training.init_state.eval_shape(jax.random.key(0))
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, like))
    state = state.replace(fixed=jax.device_put({TEACHER: knowledge}, replicated(mesh)))
    for batch in batches:
        state, metrics = training.train_step(state, put_batch(batch, split_batch(mesh)))
    del metrics["worst_layer"]  # an index; the norm next to it says as much
    return jax.device_get((state.params, state.batch_stats, state.ema, state.fixed, metrics))


def assert_same(ours, expected):
    def compare(path, a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * max(1, np.abs(b).max()), err_msg=str(path))

    jax.tree_util.tree_map_with_path(compare, ours, expected)


@pytest.mark.parametrize(
    "settings", [[(2, 2)], pytest.param([(2, 1), (4, 1), (1, 2), (1, 4)], marks=pytest.mark.slow)], ids=str
)
def test_any_number_of_devices_and_parts_and_the_teacher_stays(settings):
    """Images are mixed in float32, whose rounding differs."""
    with jax.enable_x64():
        config, (_, knowledge) = make_config(), teacher_of()
        batches = [batch_of(step) for step in range(2)]
        whole = train(config, task_of(config), knowledge, batches, 1)
        assert np.abs(whole[4]["from_attention"]) > 0
        jax.tree.map(np.testing.assert_array_equal, whole[3], {TEACHER: knowledge})
        assert TEACHER not in {*whole[0], *whole[1], *whole[2]["params"]}
        for devices, parts in settings:
            changed = replace(config, accumulate=parts)
            assert_same(train(changed, task_of(changed), knowledge, batches, devices), whole)


def scenes_config(**options):
    data = DataConfig(image_size=SIDE, eval_resize=SIDE, augment=AugmentConfig(random_resized_crop=False))
    return make_config(
        model=ModelConfig(name="fcn_cifar_resnet20", num_classes=K, bn_group_size=4), data=data, **options
    )


def masks_of(step):
    rng = np.random.default_rng(step)
    masks = rng.integers(0, K, (N, SIDE, SIDE)).astype(np.uint8)
    masks[1::2, 1:] = 255
    masks[3] = 255
    return {"image": rng.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8), "mask": masks}


def test_pixels_without_a_class_are_not_taught():
    """The mean over all pixels that have one, with class weights; images have very different numbers of them."""
    weights = (1.0, 2.0, 0.5, 1.0, 3.0)
    config = scenes_config(task=Segment(class_weights=weights))
    apart = segment(config, student_of(config)).distance
    batch = masks_of(0)
    (ours, theirs), pixels = random_logits(N, SIDE, SIDE, K), batch["mask"] < K
    with jax.enable_x64():
        found = apart({"out": ours, "aux": None}, {"out": theirs}, batch, 2.0)
        of_pixels = np.asarray(divergence(ours, theirs, 2.0))
    counted = np.where(pixels, np.array(weights)[np.where(pixels, batch["mask"], 0)], 0)
    np.testing.assert_allclose(found, (of_pixels * counted).sum((1, 2)), rtol=1e-6)


@pytest.mark.slow
def test_a_network_for_masks_has_a_teacher_on_any_devices():
    name = "fcn_cifar_resnet20"
    options = replace(BOTH, attention=(1, 2))
    with jax.enable_x64():
        config, (_, knowledge) = scenes_config(task=Segment()), teacher_of(name)
        batches = [masks_of(step) for step in range(2)]
        make = lambda config: task_of(config, options, name, segment)
        whole = train(config, make(config), knowledge, batches, 1)
        for devices, parts in [(4, 1), (2, 2)]:
            changed = replace(config, accumulate=parts)
            assert_same(train(changed, make(changed), knowledge, batches, devices), whole)
    assert whole[4]["from_teacher"] > 0
    assert whole[4]["from_attention"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"Distil.alpha = 1.5 is out of range; it must be >= 0 and <= 1"),
        ({"temperature": 0.0}, r"Distil.temperature = 0.0 is out of range; it must be > 0"),
        ({"teacher": "t", "alpha": 0.0}, r"the teacher would say nothing; set alpha above 0, name stages"),
        ({"attention": (2, 2)}, r"distil.attention = \(2, 2\) names a stage twice"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(ConfigError, match=message):
        Distil(**options)


def test_tasks_that_cannot_have_a_teacher():
    """One that does not say how to compare, one without a whole output, one with two networks."""
    config = make_config()
    preset, (teacher, knowledge), plain = config.data.preset, teacher_of(), classify(config, student_of(config))
    with pytest.raises(
        ConfigError, match=r"does not say how far the outputs of two networks are apart; give it Task.d"
    ):
        distilled(make_task(), BOTH, teacher, preset, THEIRS)
    with pytest.raises(ConfigError, match="the task splits 'fc' over the devices"):
        distilled(replace(plain, split=("fc",)), BOTH, teacher, preset, THEIRS)
    twice = replace(plain, loss=lambda *given: (plain.loss(*given), plain.loss(*given))[0])
    variables = random_variables(student_of(config), channels=1, image=(SIDE, SIDE))
    given = (
        {**variables["params"], TEACHER: knowledge},
        variables["batch_stats"],
        {**batch_of(0), "position": np.arange(N)},
    )
    with pytest.raises(
        ConfigError, match="the loss of the task applies 2 networks, and a teacher is compared with one"
    ):
        jax.eval_shape(
            lambda *given: distilled(twice, BOTH, teacher, preset, THEIRS).loss(*given, jax.random.key(0), None).loss,
            *given,
        )
