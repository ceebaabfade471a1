"""Videos as a task: the same result on any devices, recipes at full size, clips and videos counted, short videos."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import resnet_jax as rn
from resnet_jax import AugmentConfig, ClipConfig, Clips, Config, DataConfig, ModelConfig, OptimConfig, Start
from resnet_jax.config_files import save_config, saved_config
from resnet_jax.data import load_source
from resnet_jax.data.fills import Draws
from resnet_jax.data.sources import moving_digits
from resnet_jax.data.video import Clip
from resnet_jax.errors import ConfigError
from resnet_jax.files import open_folder
from resnet_jax.models import create_model, init
from resnet_jax.run import kept
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, init_state_of
from resnet_jax.tasks.clips.look import make_look, of_videos
from resnet_jax.tasks.clips.measure import make_measure, report
from resnet_jax.tasks.clips.task import clips
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import save_weights

from ..weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

K, SIDE, T, N = 8, 16, 4, 8
FRAMES = {"frames": "lstm", "hidden": 5}
SPACE_TIME = {"time": "3d"}


def make_config(task=None, **augment):
    return Config(
        model=ModelConfig(name="cifar_resnet20", num_classes=K, bn_group_size=2, zero_init_residual=False),
        data=DataConfig(
            name="moving_digits",
            channels=1,
            image_size=SIDE,
            eval_resize=SIDE,
            clip=ClipConfig(frames=T, eval_clips=2),
            augment=AugmentConfig(**{"random_resized_crop": False, "shift_pixels": 1, **augment}),
            mean=(0.3,),
            std=(0.3,),
        ),
        task=task or Clips(),
        optim=OptimConfig(warmup_epochs=0.0),
        batch_size=N,
        epochs=10,
    )


def tiny_model(options, group=2):
    dtype = jnp.zeros(0).dtype  # float64 under `enable_x64`
    fields = {"width": 4, "stage_sizes": (1,), "bn_group_size": group, "param_dtype": dtype, "num_classes": K}
    return create_model("cifar_resnet20", **fields, **options)


def random_batch(step):
    rng = np.random.default_rng(step)
    clips = rng.integers(0, 256, (N, T, SIDE, SIDE, 1), np.uint8)
    return {
        "clip": clips,
        "length": rng.integers(1, T + 1, N).astype(np.int32),
        "label": rng.integers(0, K, N).astype(np.int32),
    }


def train(options, devices, parts=1, **augment):
    config, mesh = make_config(**augment), make_mesh(jax.devices()[:devices])
    task = clips(config, tiny_model(options))
    training = assemble(replace(config, accumulate=parts), task, mesh, num_images=64)
    state = first_state(task)
    like = training.init_state.eval_shape(jax.random.key(0))
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, like))
    for step in range(2):
        state, metrics = training.train_step(state, put_batch(random_batch(step), split_batch(mesh)))
    del metrics["worst_layer"]
    return jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))


def first_state(task):
    init_state = init_state_of(make_config(), task, make_mesh(jax.devices()[:1]))
    return jax.device_get(init_state(jax.random.key(0)))


def assert_same(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("options", "augment"),
    [
        (FRAMES | {"dropout": 0.3}, {}),
        pytest.param(SPACE_TIME, {}, marks=pytest.mark.slow),
        pytest.param(
            SPACE_TIME, {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "mix_group_size": 2}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_any_number_of_devices(options, augment):
    """1, 2 and 4, to 1e-12, with flips and shifts, groups of two clips that share statistics, and dropout."""
    with jax.enable_x64():
        whole = train(options, 1, **augment)
        assert_same(train(options, 4, **augment), whole)
        assert_same(train(options, 2, **augment), whole)


@pytest.mark.parametrize(
    ("name", "classes", "seen"),
    [
        ("digits", 8, (8, 40, 40, 1)),
        ("kinetics400_r2plus1d_18", 400, (16, 112, 112, 3)),
        ("ucf101_r3d_18_finetune", 101, (16, 112, 112, 3)),
        ("ucf101_resnet50_lstm", 101, (16, 224, 224, 3)),
    ],
)
def test_the_step_of_a_recipe_is_traced(name, classes, seen):
    """At full size; the evaluation of several clips of each video too."""
    config = rn.load_config(f"configs/clips/{name}.py")
    task = task_of(config)
    training = assemble(config, task, make_mesh(), num_images=9_537)
    state = training.init_state.eval_shape(jax.random.key(0))
    assert training.batch["clip"].shape == (config.batch_size, *seen)
    new, metrics = jax.eval_shape(training.train_step, state, training.batch)
    assert {"loss", "top1"} <= metrics.keys()
    assert jax.tree.map(jnp.shape, new.params) == jax.tree.map(jnp.shape, state.params)
    rows = {key: jax.ShapeDtypeStruct((2, *shape), kind) for key, (shape, kind) in task.fills[1].leaves.items()}
    measured = jax.eval_shape(task.measure, state.eval_variables, rows, jax.ShapeDtypeStruct((2,), bool))
    assert {"top1", "clip_top1"} <= measured.sums.keys()
    said = jax.eval_shape(task.predict, state.eval_variables, rows)
    assert said["probability"].shape == (2, classes)


@cache
def tiny_task(frames=True):
    config = make_config(Clips(frames="lstm", hidden=5) if frames else None)
    model = tiny_model(FRAMES if frames else SPACE_TIME)
    task = clips(config, model)
    return task, model, init(model, jax.random.key(3), channels=1)


def test_a_video_counts_once_by_the_mean_of_its_clips():
    """Beside a plain reference of the probabilities, with a padded row that counts for nothing."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 3, 7)), rng.integers(0, 7, 9)
    real = np.arange(9) < 8
    measured = make_measure(lambda variables, batch: jnp.asarray(logits))({}, {"label": labels}, real)
    numbers = report({**measured.sums, "count": 8}, {})
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    video, labels = shares[:8].mean(axis=1), labels[:8]
    within = lambda scores, label, k: label in np.argsort(-scores)[:k]
    for k in (1, 5):
        right = [within(row, label, k) for row, label in zip(video, labels, strict=True)]
        assert numbers[f"top{k}"] == pytest.approx(np.mean(right))
        right = [within(row, label, k) for rows, label in zip(shares[:8], labels, strict=True) for row in rows]
        assert numbers[f"clip_top{k}"] == pytest.approx(np.mean(right))
    assert numbers["loss"] == pytest.approx(-np.log(video[np.arange(8), labels]).mean(), rel=1e-5)
    np.testing.assert_allclose(np.exp(of_videos(jnp.asarray(logits)))[:8], video, rtol=1e-5)


def test_the_clips_of_a_video_are_looked_at_one_by_one():
    """And the frames behind the end of a short one change nothing, wherever they lie in the row."""
    task, model, variables = tiny_task()
    rng = np.random.default_rng(0)
    pixels, lengths = rng.integers(0, 256, (2, 3, T, SIDE, SIDE, 1), np.uint8), np.array([[4, 2, 1], [3, 4, 4]])
    look = jax.jit(make_look(model, task.prepare))
    ours = look(variables, {"clip": pixels, "length": lengths})
    one = look(variables, {"clip": pixels[:, 1], "length": lengths[:, 1]})  # as a training batch has it
    np.testing.assert_allclose(one[:, 0], ours[:, 1], rtol=1e-5, atol=1e-5)
    behind = (np.arange(T) >= lengths[..., None])[..., None, None, None]
    changed = look(variables, {"clip": np.where(behind, 255 - pixels, pixels), "length": lengths})
    np.testing.assert_allclose(changed, ours, rtol=1e-5, atol=1e-5)
    said = task.predict(variables, {"clip": pixels, "length": lengths})
    np.testing.assert_allclose(said["probability"].sum(axis=1), 1, rtol=1e-5)


def test_frames_of_a_clip_are_augmented_alike():
    """Equal frames stay equal under every change of the device."""
    config = make_config(brightness=0.4, contrast=0.4, erase_probability=1.0, mixup_alpha=1.0)
    task = clips(config, tiny_model(SPACE_TIME))
    batch = random_batch(0)
    batch = {**batch, "clip": np.repeat(batch["clip"][:, :1], T, axis=1), "position": np.arange(N)}
    seen = jax.jit(task.prepare)(jax.random.key(0), batch)
    np.testing.assert_array_equal(seen["clip"], np.repeat(seen["clip"][:, :1], T, axis=1))
    plain = task.prepare(None, batch)["clip"]
    assert np.abs(seen["clip"] - plain).max() > 0.1


def test_fixed_clips_are_those_of_the_evaluation():
    config = make_config(Clips(frames="mean", fixed_clips=True), flip=False, shift_pixels=0)
    fill = clips(config, tiny_model({"frames": "mean"})).fills[0]
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 1), np.uint8)
    row = {name: np.zeros(shape, kind) for name, (shape, kind) in fill.leaves.items()}
    fill({"video": Clip(frames), "label": 5, "name": "x"}, Draws(0, 0), row)
    assert (row["label"], row["length"]) == (5, T)
    first = row["clip"].copy()
    fill({"video": Clip(frames), "label": 5, "name": "x"}, Draws(1, 7), row)
    np.testing.assert_array_equal(row["clip"], first)


def test_the_config_is_saved_and_read(tmp_path):
    config = make_config(Clips(frames="transformer", hidden=64, heads=4))
    save_config(config, open_folder(tmp_path))
    assert saved_config(tmp_path) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "'cifar_resnet20' is a network for images, and the task is to classify clips; set model.time = '3d'"),
        ({"task": Clips(frames="mean", fixed_clips=True)}, r"changes it at random \(flip, shift_pixels\); set these"),
    ],
)
def test_configs_that_cannot_be_are_refused(change, said):
    config = replace(make_config(), **change)
    with pytest.raises(ConfigError, match=said):
        task_of(config)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="hidden = 10 must be a multiple of heads = 8"):
        Clips(frames="transformer", hidden=10)
    with pytest.raises(ConfigError, match="fixed_clips = True is for a head over the features of frames"):
        Clips(fixed_clips=True)


def test_data_without_videos_or_with_other_classes_are_refused():
    task = clips(make_config(), tiny_model(SPACE_TIME))
    with pytest.raises(ConfigError, match="gives no video.*Choose a data set that has them, such as moving_digits"):
        task.check_source(load_source(DataConfig(name="digits"), "test"))
    other = make_config()
    other = replace(other, model=replace(other.model, num_classes=5))
    with pytest.raises(ConfigError, match=r"has 8 classes; set model\.num_classes = 8"):
        clips(other, tiny_model(SPACE_TIME)).check_source(load_source(DataConfig(name="moving_digits"), "test"))


@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_kept_features_give_the_run_that_looks_anew(more, tmp_path, monkeypatch):
    """Computed once, for training and evaluation; other weights are other features."""
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(moving_digits, "LENGTHS", {"train": 24, "test": 10})
    below = rn.create_model("cifar_resnet8", num_classes=3, width=16)
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        save_weights(path, random_variables(below, channels=1, seed=seed))
    config = make_config(Clips(frames="gru", hidden=5, fixed_clips=True), flip=False, shift_pixels=0)
    config = replace(
        config,
        model=replace(config.model, name="cifar_resnet8", bn_group_size=0),
        optim=replace(config.optim, level="head"),
        start=Start(weights=str(paths[0])),
        epochs=2.0,
        eval_batch_size=8,
    )
    looked = []
    compute = kept.Kept._write
    monkeypatch.setattr(kept.Kept, "_write", lambda self, *args: (looked.append(args), compute(self, *args)))
    train = lambda config, name: rn.train(config, tmp_path / name, console=Console(quiet=True))
    first = train(config, "first")
    assert len(looked) == 2
    with monkeypatch.context() as patch:
        patch.setattr("resnet_jax.run.session.kept_of", lambda *args: None)
        anew = train(config, "anew")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), anew.params, first.params)
    logged = [(tmp_path / name / "result.json").read_text() for name in ("first", "anew")]
    ours, theirs = (json.loads(text) for text in logged)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert rn.evaluate(config, first)["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    if not more:
        return
    again = train(config, "again")
    assert len(looked) == 2
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    train(replace(config, start=Start(weights=str(paths[1]))), "other")
    assert len(looked) == 4
    train(replace(config, optim=replace(config.optim, level="all")), "trained")
    assert len(looked) == 4
