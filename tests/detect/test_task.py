"""Detection as a task: the same update on any devices and in any parts, what is frozen, a run from end to end."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import AugmentConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig, Start
from resnet_jax.data import load_source
from resnet_jax.data.fills import Draws
from resnet_jax.data.sources import digit_scenes
from resnet_jax.errors import ConfigError
from resnet_jax.models.headed import with_options
from resnet_jax.run.start import load_beginning
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, build_model, init_state_of
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import save_weights

from ..weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly")

NAMES = ("background", *"0123456789")
SMALL = {
    "levels": (2,),
    "extra_levels": 0,
    "pyramid_width": 8,
    "anchor_sizes": ((6.0, 12.0),),
    "anchor_ratios": (1.0,),
}
TWO_STAGE = {
    "head_width": 8,
    "mask_width": 4,
    "canonical_scale": 10,
    "canonical_level": 3,
    "rpn_pre_nms_top_n_train": 20,
    "rpn_post_nms_top_n_train": 12,
    "rpn_pre_nms_top_n_test": 20,
    "rpn_post_nms_top_n_test": 8,
    "rpn_batch_size_per_image": 16,
    "box_batch_size_per_image": 8,
    "box_detections_per_img": 4,
    "box_score_thresh": 0.0,
}
ONE_STAGE = {"head_convs": 1, "topk_candidates": 8, "detections_per_img": 4, "score_thresh": 0.0}


def make_config(name="maskrcnn_resnet18_fpn", **options):
    own = TWO_STAGE if "rcnn" in name else ONE_STAGE
    detect = {"min_size": (32,), "max_size": 32, "max_boxes": 6, "mask_size": 56, **SMALL, **own}
    given = {
        "model": ModelConfig(
            name=name, num_classes=11, stage_sizes=(1, 1), width_multiplier=0.0625, zero_init_residual=False,
            bn_group_size=1,
        ),
        "data": DataConfig(
            name="digit_scenes", image_size=96, eval_resize=96,
            augment=AugmentConfig(random_resized_crop=False, flip=False, brightness=0.2),
        ),
        "task": Detect(**detect),
        "optim": OptimConfig(warmup_epochs=0.0, base_lr=0.1, weight_decay=0.0),
        "batch_size": 8,
        "eval_batch_size": 4,
        "epochs": 1,
        **options,
    }  # fmt: skip
    return Config(**given)


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, "LENGTHS", {"train": 16, "test": 8})
        yield


def in_float64(config):
    """The task with a network whose parameters are float64."""
    model = with_options(build_model(replace(config, accumulate=1)), param_dtype=jnp.float64, dtype=jnp.float64)
    return task_of(config, model)


def batches(task, steps, size=8):
    """Batches of scenes, in the last of which half of the images show nothing."""
    source, fill = load_source(make_config().data, "train"), task.fills[0]
    for step in range(steps):
        rows = {name: np.zeros((size, *shape), dtype) for name, (shape, dtype) in fill.leaves.items()}
        for place in range(size):
            example = {"name": "scene", **source[step * size + place]}
            fill(example, Draws(0, place), {name: row[place] for name, row in rows.items()})
        if step:
            rows["classes"][::2], rows["boxes"][::2] = -1, 0
        yield rows


@cache
def first_state(name):
    config = make_config(name)
    return random_state(config, in_float64(config))


def random_state(config, task):
    """A state before the first update. To draw it with JAX takes longer to compile than the update."""
    rng = np.random.default_rng(0)
    like = init_state_of(config, task, make_mesh(jax.devices()[:1])).eval_shape(jax.random.key(0))
    draw = lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), like.batch_stats)
    return nothing.replace(params=jax.tree.map(draw, like.params), batch_stats=ones)


def trained(config, task, devices, steps=2):
    mesh = make_mesh(jax.devices()[:devices])
    training = assemble(config, task, mesh, num_images=64)
    like = training.init_state.eval_shape(jax.random.key(0))
    state = jax.device_put(first_state(config.model.name), jax.tree.map(lambda leaf: leaf.sharding, like))
    for batch in batches(task, steps):
        state, metrics = training.train_step(state, put_batch(batch, split_batch(mesh)))
    return jax.device_get((state.params, state.batch_stats, metrics))


def worst_error(ours, expected):
    errors = jax.tree.map(lambda a, b: np.abs(a - b).max() / max(1, np.abs(b).max()), ours, expected)
    return max(jax.tree.leaves(errors))


@pytest.fixture(scope="module")
def alone():
    """Updates on one device, by network."""
    known = {}

    def of(name):
        if name not in known:
            config = make_config(name)
            known[name] = trained(config, in_float64(config), 1)
        return known[name]

    return of


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "devices", "accumulate"),
    [
        ("fasterrcnn_resnet18_fpn", 2, 2),
        *(
            pytest.param("maskrcnn_resnet18_fpn", *pair, marks=slow)
            for pair in [(2, 1), (4, 1), (1, 2), (2, 2), (4, 2)]
        ),
        *(pytest.param("fcos_resnet18_fpn", *pair, marks=slow) for pair in [(4, 2)]),
        *(pytest.param("retinanet_resnet18_fpn", *pair, marks=slow) for pair in [(4, 2)]),
    ],
)
def test_any_devices_and_parts_give_the_same_update(alone, name, devices, accumulate):
    with jax.enable_x64(True):
        expected = alone(name)
        config = make_config(name, accumulate=accumulate)
        ours = trained(config, in_float64(config), devices)
    assert worst_error(ours, expected) < 1e-10
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected)), "images without objects, too"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": DataConfig(name="digits", image_size=32, eval_resize=32)},
            "data.name = digits gives no boxes and no classes",
        ),
        (
            {"model": ModelConfig(name="retinanet_resnet18_fpn", num_classes=10, stage_sizes=(1, 1))},
            "model.num_classes = 10, but digit_scenes has 11 classes, the background among them; set model.num_classes",
        ),
        (
            {"task": Detect(min_size=(32,), max_size=32, max_boxes=3, **SMALL)},
            r"images of digit_scenes have more than task.max_boxes = 3 objects: .*Set task.max_boxes to at least 6",
        ),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(change, message):
    config = make_config("retinanet_resnet18_fpn", **change)
    with pytest.raises(ConfigError, match=message):
        task_of(config).check_source(load_source(config.data, "train"))


def test_more_objects_may_be_evaluated_than_trained_on():
    config = make_config("retinanet_resnet18_fpn", task=Detect(min_size=(32,), max_size=32, max_boxes=3, **SMALL))
    task_of(config).check_eval_source(load_source(config.data, "test"))


def test_networks_that_find_nothing_are_refused():
    with pytest.raises(ConfigError, match="names no objects in an image, .* choose a detector, such as"):
        task_of(make_config("retinanet_resnet18_fpn"), rn.create_model("resnet18")).loss  # noqa: B018


def test_a_backbone_comes_from_weights_for_classification(tmp_path):
    written = random_variables(rn.create_model("resnet18"))
    save_weights(tmp_path / "a.safetensors", written)
    config = rn.Config(
        model=ModelConfig(name="retinanet_resnet18_fpn", num_classes=11, norm="frozen"),
        task=Detect(),
        start=Start(weights=str(tmp_path / "a.safetensors")),
    )
    begun = load_beginning(config, task_of(config), NAMES)
    np.testing.assert_array_equal(
        begun.arrays["params/backbone/layer2_0/conv1/kernel"], written["params"]["layer2_0"]["conv1"]["kernel"]
    )
    assert all(name.split("/")[1] in ("fpn", "head") for name in begun.new)
    assert "params/backbone/layer1_0/conv1/kernel" in frozen_in(begun)
    assert "params/backbone/layer4_0/bn1/scale" in frozen_in(begun)
    assert "params/backbone/layer2_0/conv1/kernel" not in frozen_in(begun)


def frozen_in(begun):
    import re

    fixed = [group.pattern for group in begun.groups if not group.rate]
    return [name for name in begun.arrays if any(re.search(one, name.partition("/")[2]) for one in fixed)]


def test_zeros_lie_beside_an_image():
    """Exactly, whatever the mean colour is, and whatever colours are changed."""
    config = make_config("retinanet_resnet18_fpn")
    task = task_of(config)
    images = np.full((2, 6, 8, 3), 77, np.uint8)
    batch = {"image": images, "size": np.array([[6, 8], [4, 5]], np.int32), "position": np.arange(2)}
    for key in (None, jax.random.key(0)):
        seen = np.asarray(jax.jit(task.prepare)(key, batch)["image"])
        assert (seen[1, 4:] == 0).all()
        assert (seen[1, :, 5:] == 0).all()
        assert (seen[1, :4, :5] != 0).all()
        assert (seen[0] != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn_resnet18_fpn", "retinanet_resnet18_fpn", "yolof_resnet18_c5"])
def test_a_run_from_end_to_end(tmp_path, name):
    """Trained, evaluated and read back."""
    config = make_config(name, checkpoint=rn.CheckpointConfig(every_epochs=1.0), log_every_steps=1)
    if name.startswith("yolof"):
        task = Detect(min_size=(64,), max_size=64, max_boxes=6, anchor_sizes=((12.0, 24.0),), **ONE_STAGE)
        config = replace(config, task=task, model=ModelConfig(name=name, num_classes=11, width_multiplier=0.0625))
    rn.train(config, tmp_path / "run")
    rn.train(config, tmp_path / "run")  # complete: nothing happens
    run = rn.load_run(tmp_path / "run")
    assert run.state.step == 2
    numbers = rn.evaluate(run.config, run.state)
    assert 0 <= numbers["box_ap"] <= numbers["box_ap50"] <= 1
    assert ("mask_ap" in numbers) == name.startswith("mask")
    assert numbers["count"] == 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = set().union(*lines)
    own = {"loss_objectness", "loss_mask"} if name.startswith("mask") else {"classification", "bbox_regression"}
    assert {"loss", "box_ap", *own} <= logged
