"""Segmentation as a task: the same result on any devices, exact evaluation on canvases, a run from end to end."""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, Segment
from resnet_jax.data import load_source
from resnet_jax.data.sources import digit_scenes
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.run import evaluate as evaluations
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, build_model, init_state_of
from resnet_jax.tasks.segment.task import parts_of, segment
from resnet_jax.tasks.table import task_of

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

K, SIDE, N = 5, 16, 8


def make_config(name="fcn_cifar_resnet8", **options):
    given = {
        "model": ModelConfig(name=name, num_classes=K, bn_group_size=2),
        "data": DataConfig(
            name="digit_scenes",
            image_size=SIDE,
            eval_resize=SIDE,
            augment=AugmentConfig(random_resized_crop=False, brightness=0.2, hue=0.1),
        ),
        "task": Segment(),
        "optim": OptimConfig(warmup_epochs=0.0),
        "batch_size": N,
        "epochs": 10,
        **options,
    }
    return Config(**given)


def tiny_model(name, group):
    dtype = jnp.zeros(0).dtype  # float64 under `enable_x64`
    return create_model(name, num_classes=K, width=4, stage_sizes=(1, 1), bn_group_size=group, param_dtype=dtype)


def random_batch(step):
    """Half of the images have hardly a pixel with a class, one has none at all."""
    rng = np.random.default_rng(step)
    masks = rng.integers(0, K, (N, SIDE, SIDE)).astype(np.uint8)
    masks[1::2, 1:] = 255
    masks[3] = 255
    return {"image": rng.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8), "mask": masks}


@cache
def first_state(config, name):
    model = tiny_model(name, config.model.bn_group_size)
    plain = replace(config, accumulate=1)
    return jax.device_get(init_state_of(plain, segment(plain, model), make_mesh(jax.devices()[:1]))(jax.random.key(0)))


def train(config, name, devices, steps=2):
    mesh = make_mesh(jax.devices()[:devices])
    model = tiny_model(name, config.model.bn_group_size)
    training = assemble(config, segment(config, model), mesh, num_images=64)
    like = training.init_state.eval_shape(jax.random.key(0))
    state = jax.device_put(first_state(config, name), jax.tree.map(lambda leaf: leaf.sharding, like))
    for step in range(steps):
        state, metrics = training.train_step(state, put_batch(random_batch(step), split_batch(mesh)))
    del metrics["worst_layer"]
    return jax.device_get((state.params, state.batch_stats, metrics))


def assert_same(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-12, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("name", "group", "settings"),
    [
        ("fcn_cifar_resnet20", 2, [(4, 1), (2, 2)]),
        pytest.param("fcn_cifar_resnet20", 2, [(2, 1), (1, 2)], marks=pytest.mark.slow),
        pytest.param("fcn_cifar_resnet20", 0, [(2, 1), (4, 1), (8, 1)], marks=pytest.mark.slow),
        pytest.param("deeplabv3_cifar_resnet20", 2, [(2, 1), (4, 1), (2, 2)], marks=pytest.mark.slow),
        pytest.param("fcn2s_cifar_resnet20", 2, [(2, 1), (4, 1), (2, 2)], marks=pytest.mark.slow),
        pytest.param("unet_cifar_resnet20", 2, [(2, 1), (4, 1), (2, 2)], marks=pytest.mark.slow),
    ],
)
def test_any_number_of_devices_and_parts(name, group, settings):
    """With dropout and colour jitter, which draw by the place in the batch."""
    config = make_config(name, model=ModelConfig(name=name, num_classes=K, bn_group_size=group))
    with jax.enable_x64():
        whole = train(config, name, 1)
        for devices, parts in settings:
            assert_same(train(replace(config, accumulate=parts), name, devices), whole)
    assert 0 < whole[2]["pixel_accuracy"] < 1


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_a_batch_without_any_class_changes_nothing(decay):
    """But for weight decay, which looks at no batch."""
    config, name = make_config(optim=OptimConfig(warmup_epochs=0.0, weight_decay=decay)), "fcn_cifar_resnet20"
    with jax.enable_x64():
        mesh = make_mesh(jax.devices()[:1])
        training = assemble(config, segment(config, tiny_model(name, 2)), mesh, num_images=64)
        before = first_state(config, name)
        batch = {**random_batch(0), "mask": np.full((N, SIDE, SIDE), 255, np.uint8)}
        state, metrics = training.train_step(jax.device_put(before), put_batch(batch, split_batch(mesh)))
        after = jax.device_get(state.params)
        _, others = training.train_step(state, put_batch(random_batch(0), split_batch(mesh)))
    assert metrics["loss"] == metrics["grad_norm"] == metrics["pixel_accuracy"] == 0
    assert (metrics["empty"], others["empty"]) == (1, 0)
    kept = 1 - training.plan.lr(1) * decay
    for x, y in zip(jax.tree.leaves(before.params), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(y, x * kept, rtol=1e-6 if decay else 0)


class OfManySizes:
    """Images of several sizes; masks partly not counted."""

    class_names = tuple("abcde")
    splits = ("test",)
    leaves = ("image", "mask")
    sizes = ((16, 16), (16, 40), (40, 16), (16, 17), (33, 16), (16, 16), (16, 70))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        mask = rng.integers(0, K, self.sizes[index]).astype(np.uint8)
        mask[rng.random(mask.shape) < 0.3] = 255
        return {"image": rng.integers(0, 256, (*self.sizes[index], 3), np.uint8), "mask": mask}


def test_images_of_all_sizes_count_once(monkeypatch):
    """Beside each image alone on its canvas, without passes, devices and batches."""
    source = OfManySizes()
    config = make_config(task=Segment(eval_canvases=3), eval_batch_size=3)
    monkeypatch.setattr(evaluations.data, "load_source", lambda *_: source)
    model = tiny_model("unet_cifar_resnet20", 2)
    task = segment(replace(config, model=replace(config.model, name="unet_cifar_resnet20")), model)
    task = replace(task, report=lambda sums, rows: {name: np.asarray(value) for name, value in sums.items()})
    variables = task.init(jax.random.key(1))
    found = evaluations.make_evaluations(config, task).passes[0](variables)
    parts = parts_of(config, config.task, source)
    assert sorted(fill.canvas for fill, _ in parts) == [(32, 32), (32, 96), (64, 32)]
    counted, loss = np.zeros((K, K), int), 0.0
    apply = jax.jit(lambda x: model.apply(variables, x, train=False)["out"])
    for fill, part in parts:
        for i in range(len(part)):
            row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in fill.leaves.items()}
            fill({"name": "x", **part[i]}, None, row)
            image = (row["image"] / np.float32(255) - np.float32(config.data.mean)) / np.float32(config.data.std)
            logits = np.asarray(apply(image[None].astype(np.float32)))[0].astype(np.float64)
            mask = row["mask"]
            shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            for y, x in zip(*np.nonzero(mask < K), strict=True):
                counted[mask[y, x], logits[y, x].argmax()] += 1
                loss -= shares[y, x, mask[y, x]]
    np.testing.assert_array_equal(found["confusion"], counted)
    assert counted.sum() == sum((source[i]["mask"] < K).sum() for i in range(len(source)))
    assert found["count"] == len(source)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, "LENGTHS", {"train": 32, "test": 12})
        config = rn.load_config(
            "configs/segment/digits.py",
            [
                *("--model.name", "unet_cifar_resnet8", "--model.width-multiplier", "0.25", "--epochs", "2"),
                *("--batch-size", "16", "--eval-batch-size", "8"),
                *("--data.image-size", "48", "--data.eval-resize", "48"),
            ],
        )
        state = rn.train(config, workdir)
        yield workdir, config, state


def test_a_run_from_end_to_end(run):
    workdir, config, state = run
    result = json.loads((workdir / "result.json").read_text())
    assert 0 <= result["miou"] <= 1
    assert result["best_miou"] >= result["miou"]
    report = rn.evaluate(config, state)
    assert report["count"] == 12
    assert report["miou"] == pytest.approx(result["miou"], abs=1e-6)
    assert any(name.startswith("iou/") for name in report)
    again = rn.load_run(workdir)
    images = np.random.default_rng(0).integers(0, 256, (2, 37, 50, 3), np.uint8)
    said = rn.predict(again, images)
    assert said["mask"].shape == said["probability"].shape == (2, 37, 50)
    prepared = again.task.prepare(None, {"image": jnp.asarray(images)})["image"]
    logits = jax.jit(partial(again.model.apply, train=False))(again.state.eval_variables, prepared)["out"]
    np.testing.assert_array_equal(said["mask"], np.argmax(logits, axis=-1))
    kinds = {record["kind"] for record in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())}
    assert {"train", "eval"} <= kinds


@pytest.mark.parametrize("name", ["voc_deeplabv3_resnet50", pytest.param("coco_fcn_resnet101", marks=pytest.mark.slow)])
def test_the_step_of_a_recipe_is_traced(name):
    config = rn.load_config(f"configs/segment/{name}.py")
    training = assemble(config, task_of(config), make_mesh(jax.devices()[:1]), num_images=1464)
    state = training.init_state.eval_shape(jax.random.key(0))
    _, metrics = jax.eval_shape(training.train_step, state, training.batch)
    assert {"loss", "pixel_accuracy"} <= metrics.keys()
    assert training.batch["mask"].shape == (config.batch_size, 480, 480)
    assert [group.rate for group in training.groups] == [10.0]


@pytest.mark.parametrize(("name", "stages"), [("digits", (1, 1, 1)), ("nuclei", (2, 2, 2))])
def test_a_config_shapes_the_network(name, stages):
    config = rn.load_config(f"configs/segment/{name}.py")
    model = build_model(config)
    assert (model.backbone.stage_sizes, model.backbone.output_stride, model.finest) == (stages, 8, 2)
    as_named = replace(config.model, stage_sizes=(), output_stride=None)
    model = build_model(replace(config, model=as_named))
    assert (model.backbone.stage_sizes, model.backbone.output_stride) == ((2, 2, 2, 2), None)


def test_what_cannot_be_meant():
    for config, text in (
        (make_config("resnet18"), "'resnet18' names one class for a whole image.* choose fcn_resnet18, deeplabv3_resn"),
        (
            make_config(task=Segment(class_weights=(1.0, 2.0))),
            "task.class_weights has 2 numbers, and the network has 5 classes; give one for each class",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            task_of(config)
    config = make_config()
    with pytest.raises(ConfigError, match=r"num_classes = 5, but digit_scenes has 11 classes.* set .* = 11"):
        task_of(config).check_source(digit_scenes.DigitScenes(config.data, "test"))
    digits = replace(config, data=replace(config.data, name="digits"))
    with pytest.raises(ConfigError, match="digits gives no mask.* segmentation needs image and mask"):
        task_of(digits).check_source(load_source(digits.data, "test"))
