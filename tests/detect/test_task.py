"""Detection as a task: the same update on any devices and in any parts, what is frozen, a run from end to end."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import AugmentConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig
from resnet_jax.data import load_source
from resnet_jax.data.sources import digit_scenes
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.table import task_of

pytestmark = pytest.mark.usefixtures("compile_quickly")

NAMES = ("background", *"0123456789")
SMALL = {
    "levels": (2, 3),
    "extra_levels": 0,
    "pyramid_width": 8,
    "anchor_sizes": ((6.0,), (12.0,)),
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
            name=name, num_classes=11, stage_sizes=(1, 1, 1), width_multiplier=0.0625, zero_init_residual=False,
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


def in_float64(config, monkeypatch):
    """The task with a network whose parameters are float64."""
    from resnet_jax.models.headed import with_options

    model = with_options(build_model(replace(config, accumulate=1)), param_dtype=jnp.float64, dtype=jnp.float64)
    return task_of(config, model)


def batches(task, steps, size=8):
    """Batches of scenes, in the last of which half of the images show nothing."""
    source, fill = load_source(make_config().data, "train"), task.fills[0]
    for step in range(steps):
        rows = {name: np.zeros((size, *shape), dtype) for name, (shape, dtype) in fill.leaves.items()}
        from resnet_jax.data.fills import Draws

        for place in range(size):
            example = {"name": "scene", **source[step * size + place]}
            fill(example, Draws(0, place), {name: row[place] for name, row in rows.items()})
        if step:
            rows["classes"][::2], rows["boxes"][::2] = -1, 0
        yield rows


def trained(config, task, devices, steps=2):
    mesh = make_mesh(jax.devices()[:devices])
    training = assemble(config, task, mesh, num_images=64)
    state = training.init_state(jax.random.key(0))
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
            known[name] = trained(config, in_float64(config, None), 1)
        return known[name]

    return of


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "devices", "accumulate"),
    [
        ("maskrcnn_resnet18_fpn", 2, 2),
        *(pytest.param("maskrcnn_resnet18_fpn", *pair, marks=slow) for pair in [(2, 1), (4, 1), (1, 2), (4, 2)]),
        *(pytest.param("fcos_resnet18_fpn", *pair, marks=slow) for pair in [(4, 2)]),
        *(pytest.param("retinanet_resnet18_fpn", *pair, marks=slow) for pair in [(4, 2)]),
    ],
)
def test_any_devices_and_parts_give_the_same_update(alone, name, devices, accumulate):
    with jax.enable_x64(True):
        expected = alone(name)
        config = make_config(name, accumulate=accumulate)
        ours = trained(config, in_float64(config, None), devices)
    assert worst_error(ours, expected) < 1e-10
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected)), "images without objects, too"
