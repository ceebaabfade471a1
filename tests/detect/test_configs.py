"""The recipes for COCO: traced at full size, what they freeze, and their rates."""

from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.table import task_of
from resnet_jax.training.frozen import frozen_names
from resnet_jax.training.optim import plan_steps

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "detect").glob("coco_*.py"))
IMAGES = 118_287  # of COCO's training set
LOSSES = {
    "fasterrcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"},
    "maskrcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"},
    "retinanet": {"classification", "bbox_regression"},
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if "retinanet" in path.stem else pytest.mark.slow) for path in CONFIGS],
)
def test_every_step_is_traced_at_full_size(path):
    """On 8 devices, for square canvases and for oblong ones."""
    config = rn.load_config(path)
    task = task_of(config)
    training = assemble(config, task, make_mesh(), num_images=IMAGES)
    state = training.init_state.eval_shape(jax.random.key(0))
    of = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    side = config.task.train_side
    assert training.batch["image"].shape == (config.batch_size, side, side, 3)
    shapes = [(side, side)] if config.task.train_canvases == 1 else [(side, side), (800, 1344)]
    for height, width in shapes:
        image = jax.ShapeDtypeStruct((config.batch_size, height, width, 3), np.uint8)
        new, metrics = jax.eval_shape(training.train_step, state, {**training.batch, "image": image})
        assert of(new) == of(state)
        assert LOSSES[config.model.name.partition("_")[0]] | {"loss"} <= metrics.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_trained(path):
    """torchvision's: with frozen norms conv1 and layer1 stay as they are, and so do all norms of the backbone."""
    config = rn.load_config(path)
    task = task_of(config)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    frozen = frozen_names(params, [rn.Group(pattern=pattern, rate=0.0) for pattern in task.fixed])
    if config.model.norm is None:
        assert not frozen
        return
    assert {"backbone/conv1/kernel", "backbone/layer1_2/conv3/kernel", "backbone/layer4_2/bn3/scale"} <= frozen
    assert not {"backbone/layer2_0/conv1/kernel", "backbone/layer4_2/conv3/kernel"} & frozen
    assert all(name.startswith("backbone/") for name in frozen)


def test_the_rates_are_torchvisions():
    config = rn.load_config(CONFIGS[0])
    plan = plan_steps(config, IMAGES)
    steps = float(plan.steps_per_epoch)
    rates = [plan.lr(step) for step in (0, 500, 1000, int(15.9 * steps), int(16.1 * steps), int(25.9 * steps))]
    np.testing.assert_allclose(rates, [0.02 * 1e-3, 0.02 * 0.5005, 0.02, 0.02, 2e-3, 2e-4], rtol=2e-3)


@pytest.fixture(scope="module")
def params():
    """Shapes of a RetinaNet, whatever is trained."""
    config = rn.Config(model=rn.ModelConfig(name="retinanet_resnet18_fpn", num_classes=3), task=rn.Detect())
    return jax.eval_shape(task_of(config).init, jax.random.key(0))["params"]


@pytest.mark.parametrize(
    ("layers", "first"),
    [(None, ""), (5, ""), (4, "conv1"), (3, "layer1_0"), (1, "layer3_0"), (0, "layer4_0")],
)
def test_parts_of_the_backbone(params, layers, first):
    """How many of conv1, layer1, ..., layer4 are trained, from the last on; all, where nothing is known before."""
    config = rn.Config(
        model=rn.ModelConfig(name="retinanet_resnet18_fpn", num_classes=3),
        task=rn.Detect(trainable_backbone_layers=layers),
    )
    frozen = frozen_names(params, [rn.Group(pattern=pattern, rate=0.0) for pattern in task_of(config).fixed])
    parts = ["conv1", "layer1_0", "layer2_0", "layer3_0", "layer4_0"]
    expected = parts[: parts.index(first) + 1] if first else []
    assert {part for part in parts if any(f"backbone/{part}/" in name for name in frozen)} == set(expected)
    assert ("backbone/bn1/scale" in frozen) == bool(expected)
