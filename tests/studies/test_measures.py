"""Measures that studies have in common, against what a run does itself."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from resnet_jax.cost.forecast import forecast
from resnet_jax.display import plain_console
from resnet_jax.run import result
from resnet_jax.studies.measures import (
    depth_of,
    gradients_after_training,
    gradients_before_training,
    memory_of_a_step,
    trained_parameters,
)
from resnet_jax.studies.results import Finished
from resnet_jax.studies.runs import Job, Work, run_here
from resnet_jax.training.state import split_key

from .tiny import BASE, cells, study_of

pytestmark = pytest.mark.usefixtures("compile_quickly")
RATE = 0.5
ONE_STEP = {
    "epochs": 0.25,
    "optim.momentum": 0.0,
    "optim.nesterov": False,
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "optim.base_lr": RATE * 256 / 64,
}


@pytest.fixture(scope="module")
def after_one_step(tmp_path_factory):
    """A run of one step of plain gradient descent, in which parameters move by the rate times the gradient."""
    fields = {"settings": ONE_STEP, "axes": {"shortcut": {"A": {}, "C": {"model.shortcut": "projection_always"}}}}
    (_, cell), folder = cells(**fields), tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result, "plot_curves", lambda *_: None)
        run_here(Work(study_of(**fields), folder, (3,), plain_console(quiet=True)), [Job(cell, (3,))])
    return Finished(cell, 3, folder / "C" / "seed3")


def test_gradients_before_training_are_those_of_the_first_step(after_one_step):
    one = after_one_step
    before = one.task.init(split_key(jax.random.key(3))[0])["params"]
    moved = jax.tree.map(
        lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), before, one.run.state.params
    )
    assert "downsample_conv" in moved["layer1_0"]  # a shortcut's own, which does not count
    kernels = [moved["conv1"], moved["layer1_0"]["conv1"], moved["layer1_0"]["conv2"]]
    expected = [np.linalg.norm(kernel["kernel"]) / RATE for kernel in kernels]
    np.testing.assert_allclose(gradients_before_training(one), expected, rtol=1e-3)
    assert not np.allclose(gradients_after_training(one), expected, rtol=1e-2)  # after the step they are others


def test_kernels_are_in_the_order_of_the_layers():
    names = [
        "layer2_0/conv1/kernel",
        "layer1_10/conv1/kernel",
        "layer1_2/conv2/kernel",
        "layer1_2/conv1/kernel",
        "conv1/kernel",
    ]
    assert sorted(names, key=depth_of) == names[::-1]


def test_trained_parameters_and_memory(after_one_step):
    head = replace(after_one_step.cell, config=replace(BASE, optim=replace(BASE.optim, level="head")))
    one = replace(after_one_step, cell=head)
    params = jax.eval_shape(one.task.init, jax.random.key(0))["params"]
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert trained_parameters(one) == count(params["fc"])
    assert trained_parameters(after_one_step) == count(after_one_step.run.state.params)
    assert memory_of_a_step(one) == forecast(one.config, jax.local_devices()).peak_bytes > 4 * count(params)
