"""Embeddings as a task: the same result on any devices, recipes at full size, a run from end to end."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import resnet_jax as rn
from resnet_jax import AugmentConfig, Config, DataConfig, Embed, ModelConfig, OptimConfig
from resnet_jax.data import load_source, train_batches
from resnet_jax.data.identities import ClassOrder
from resnet_jax.errors import ConfigError, DataError, ModelError
from resnet_jax.models import create_model
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, init_state_of
from resnet_jax.tasks.embed.measure import report
from resnet_jax.tasks.embed.task import embed
from resnet_jax.tasks.table import task_of
from resnet_jax.training.optim import make_optimizer

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

K, SIDE, N = 300, 16, 16


def make_config(group=2, **options):
    task = Embed(embedding_size=6, **options)
    return Config(
        model=ModelConfig(name="embed_cifar_resnet20", num_classes=K, bn_group_size=group),
        data=DataConfig(
            name="digit_numbers",
            channels=1,
            image_size=SIDE,
            eval_resize=SIDE,
            augment=AugmentConfig(random_resized_crop=False, shift_pixels=1),
            mean=(0.3,),
            std=(0.3,),
            per_identity=0 if task.has_centres else 4,
        ),
        task=task,
        optim=OptimConfig(warmup_epochs=0.0, weight_decay=0.01, clip_norm=1.0, clip_without=("^centres$",)),
        batch_size=N,
        epochs=10,
    )


def tiny_model(group):
    dtype = jnp.zeros(0).dtype  # float64 under `enable_x64`
    return create_model(
        "embed_cifar_resnet20", width=4, stage_sizes=(1, 1), embedding_size=6, bn_group_size=group, param_dtype=dtype
    )


def random_batch(step):
    rng = np.random.default_rng(step)
    labels = rng.permutation(np.repeat(rng.permutation(K)[: N // 4], 4)).astype(np.int32)
    return {"image": rng.integers(0, 256, (N, SIDE, SIDE, 1), np.uint8), "label": labels}


@cache
def first_state(config):
    task = embed(config, tiny_model(config.model.bn_group_size))
    init_state = init_state_of(replace(config, accumulate=1), task, make_mesh(jax.devices()[:1]))
    return jax.device_get(init_state(jax.random.key(0)))


def train(config, devices, parts=1, steps=2):
    mesh = make_mesh(jax.devices()[:devices])
    task = embed(config, tiny_model(config.model.bn_group_size))
    training = assemble(replace(config, accumulate=parts), task, mesh, num_images=64)
    like = training.init_state.eval_shape(jax.random.key(0))
    state = jax.device_put(first_state(config), jax.tree.map(lambda leaf: leaf.sharding, like))
    for step in range(steps):
        state, metrics = training.train_step(state, put_batch(random_batch(step), split_batch(mesh)))
    del metrics["worst_layer"]
    return jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))


def assert_same(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"loss": "margin", "sub_centres": 2, "sampled_share": 0.5}, [(4, 1)]),
        pytest.param({"loss": "margin"}, [(2, 1), (8, 1), (2, 2), (1, 4)], marks=pytest.mark.slow),
        pytest.param({"loss": "margin", "group": 0}, [(2, 1), (8, 1)], marks=pytest.mark.slow),
        pytest.param({"loss": "adaface"}, [(2, 1), (4, 1)], marks=pytest.mark.slow),
        pytest.param({"loss": "softmax"}, [(4, 1)], marks=pytest.mark.slow),
        pytest.param({"loss": "triplet"}, [(2, 1), (4, 1)], marks=pytest.mark.slow),
        ({"loss": "contrastive"}, [(2, 1)]),
    ],
    ids=str,
)
def test_any_number_of_devices(options, settings):
    config = make_config(**options)
    with jax.enable_x64():
        whole = train(config, 1)
        for devices, parts in settings:
            if parts == 1:  # parts are gathered one by one: the loss is a mean over examples
                assert_same(train(config, devices), whole)
            else:
                assert_same(train(config, devices, parts)[0], whole[0])


def test_the_norm_of_embeddings_keeps_its_scale_of_one():
    """insightface's `features.weight` is fixed, also against weight decay."""
    config = make_config()
    with jax.enable_x64():
        params = train(config, 1)[0]
    np.testing.assert_array_equal(params["features"]["scale"], np.ones(6))
    assert np.any(params["features"]["bias"])


@pytest.mark.parametrize("name", ["ms1mv3_arcface_iresnet100", "glint360k_partialfc_iresnet100", "digits"])
def test_the_step_of_a_recipe_is_traced(name):
    """On 8 devices: each holds an eighth of the centres, and of what the optimizer keeps for them."""
    config = rn.load_config(f"configs/embed/{name}.py")
    training = assemble(config, task_of(config), make_mesh(), num_images=5_179_510)
    state = training.init_state.eval_shape(jax.random.key(0))
    new, metrics = jax.eval_shape(training.train_step, state, training.batch)
    assert {"loss", "top1", "norm"} <= metrics.keys()
    rows = state.params["centres"].shape[0]
    assert config.model.num_classes <= rows < config.model.num_classes + 128
    kept = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == state.params["centres"].shape]
    assert [leaf.sharding.shard_shape(leaf.shape)[0] for leaf in kept] == [rows // 8] * 2
    assert new.params["centres"].shape == state.params["centres"].shape


def test_every_digit_is_in_both_places_of_the_numbers_that_training_shows():
    known, unseen = (load_source(DataConfig(name="digit_numbers"), split) for split in ("known", "unseen"))
    assert (len(known.class_names), len(unseen.class_names)) == (80, 20)
    assert not {*known.class_names} & {*unseen.class_names}
    for names in (known.class_names, unseen.class_names):
        assert {name[0] for name in names} == {name[1] for name in names} == {*"0123456789"}
    assert [unseen[i]["label"] for i in (0, 19, 20)] == [0, 19, 0]
    test = load_source(DataConfig(name="digit_numbers"), "test")
    assert test.class_names[37] == "37"


def test_a_batch_holds_several_images_of_each_identity():
    config = replace(make_config(loss="triplet").data, train_split="known", image_size=32, eval_resize=32)
    source = load_source(config, "known")
    stream = train_batches(source, config, batch_size=40, seed=3)
    labels = [next(stream)["label"] for _ in range(10)]
    for batch in labels:
        assert sorted(np.unique(batch, return_counts=True)[1]) == [4] * 10
    seen = np.concatenate([batch[::4] for batch in labels[:8]])
    assert sorted(seen) == list(range(80))  # a round shows every identity once
    again = train_batches(source, config, batch_size=40, seed=3)
    again.set_state({"position": 5 * 40})
    np.testing.assert_array_equal(next(again)["label"], labels[5])
    for one in (stream, again):
        one.close()


@pytest.mark.parametrize(
    ("labels", "batch", "text"),
    [
        ([0, 0, 1, 2, 2], 4, "1 classes have fewer than two images, the first is b"),
        ([0, 0, 1, 1, 2, 2], 8, "has 4 classes, and the data set has 3; set batch_size to at most 6"),
        ([0, 0, 1, 1, 2, 2], 5, "does not hold data.per_identity = 2 images each of at least two classes"),
    ],
)
def test_batches_of_identities_that_cannot_be_are_refused(labels, batch, text):
    with pytest.raises(DataError, match=text):
        ClassOrder(np.array(labels), ("a", "b", "c"), batch_size=batch, per_class=2, seed=0, max_broken_fraction=0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"task": Embed(loss="triplet")}, "task.loss = 'triplet' compares images of one identity in a batch"),
        ({"model": ModelConfig(name="cifar_resnet20", num_classes=80)}, "option of cifar_resnet20 'dropout'"),
        ({"model": ModelConfig(name="embed_cifar_resnet20", num_classes=79)}, "has 80 identities to train on; set"),
        ({"data.augment": AugmentConfig(random_resized_crop=False, mixup_alpha=0.2)}, "a mixture has no identity"),
    ],
)
def test_what_cannot_be_is_refused(change, text, tmp_path):
    config = rn.load_config("configs/embed/digits.py")
    if augment := change.pop("data.augment", None):
        change["data"] = replace(config.data, augment=augment)
    with pytest.raises((ConfigError, ModelError), match=text):
        rn.train(replace(config, **change), tmp_path / "run")


def test_margins_are_three_numbers():
    with pytest.raises(ConfigError, match=r"has 2 numbers; it must have three, m1, m2 and m3"):
        Embed(margins=(1.0, 0.5))
    with pytest.raises(ConfigError, match="are for losses with class centres, and loss = 'triplet' has none"):
        Embed(loss="triplet", sub_centres=3)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="1 of 3 embeddings are not finite"):
        report({}, {"embedding": np.array([[1.0], [np.nan], [1.0]]), "label": np.arange(3)})


def test_a_run_comes_back(tmp_path):
    short = ["--epochs", "0.1", "--optim.warmup-epochs", "0", "--model.width-multiplier", "0.25"]
    config = rn.load_config("configs/embed/digits.py", short)
    rn.train(config, tmp_path / "run")
    run = rn.load_run(tmp_path / "run")
    found = rn.evaluate(run.config, run.state)
    assert 0.4 < found["accuracy"] < 1
    assert {"rank1", "map", "loss", "deviation", "tar_0.1"} <= found.keys()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    embeddings = rn.predict(run, images)["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_embedded_recipe_tells_numbers_apart_that_it_has_not_seen(tmp_path):
    config = rn.load_config("configs/embed/digits.py")
    rn.train(config, tmp_path / "run")
    found = rn.evaluate(config, rn.load_run(tmp_path / "run").state)
    assert found["accuracy"] > 0.97, found


def test_a_clipped_norm_may_leave_parameters_out():
    """insightface clips the gradients of the backbone alone."""
    optim = OptimConfig(clip_norm=1.0, clip_without=("^centres$",), weight_decay=0.0, momentum=0.0)
    grads = {"centres": jnp.full(3, 100.0), "fc": {"kernel": jnp.array([3.0, 4.0])}}
    rule = make_optimizer(optim, optax.constant_schedule(1.0))
    updates, _ = rule.update(grads, rule.init(grads), grads)
    np.testing.assert_allclose(updates["centres"], -100.0)
    np.testing.assert_allclose(updates["fc"]["kernel"], [-0.6, -0.8], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"OptimConfig.clip_without\[0\] = '\(' is no regular expression"):
        OptimConfig(clip_without=("(",))


def test_the_memory_of_the_centres_falls_with_the_devices():
    """Of 360,232 identities, as the compiled step says: parameters and momentum of a device."""
    config = make_config(sampled_share=0.1)
    config = replace(
        config, model=replace(config.model, num_classes=360_232), task=replace(config.task, embedding_size=512)
    )
    model = tiny_model(2).clone(embedding_size=512)
    held = {}
    for devices in (1, 8):
        training = assemble(config, embed(config, model), make_mesh(jax.devices()[:devices]), num_images=1000)
        compiled = training.lower_step().compile()
        held[devices] = compiled.memory_analysis().argument_size_in_bytes
    centres = 2 * 4 * 360_320 * 512  # rows up to a multiple of 128
    assert centres < held[1] < 1.01 * centres
    assert centres / 8 < held[8] < 1.05 * centres / 8
