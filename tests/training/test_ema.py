"""The moving average against torchvision's `ExponentialMovingAverage` as its reference script drives it."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import Config, OptimConfig
from resnet_jax.config_files import read_config_file
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.ema import make_average, scaled_decay
from resnet_jax.training.state import TrainState

DIGITS = read_config_file(Path(__file__).parents[2] / "configs" / "digits.py")


def test_decay_is_scaled_as_torchvision_does():
    """Its recipe: 8 x 128 images, 600 epochs, an update of the average every 32 steps, `--model-ema-decay 0.99998`."""
    config = Config(batch_size=1024, epochs=600.0, optim=OptimConfig(ema_decay=0.99998, ema_every_steps=32))
    assert scaled_decay(config) == pytest.approx(1 - min(1.0, (1 - 0.99998) * 8 * 128 * 32 / 600))
    assert scaled_decay(Config(batch_size=4096, epochs=1.0, optim=OptimConfig(ema_decay=0.9))) == 0


@pytest.mark.parametrize("warmup", [0, 1, 5, 6, 7])
def test_average_is_torchs(warmup):
    """Wherever the script touches its average, which is after batch 0 of the epoch (its `i`), `every`, and so on."""
    torch = pytest.importorskip("torch")
    every, decay = 3, 0.75
    module = torch.nn.Linear(1, 1)
    theirs = torch.optim.swa_utils.AveragedModel(
        module, avg_fn=lambda average, new, count: decay * average + (1 - decay) * new, use_buffers=True
    )
    rng = np.random.default_rng(0)
    ours = {"w": jnp.zeros(())}  # what it starts from never matters
    average = jax.jit(make_average(decay, every, warmup))
    for step in range(1, 20):
        value = rng.normal()
        ours = average(jnp.int32(step), ours, {"w": jnp.float32(value)})
        with torch.no_grad():
            module.weight.fill_(value)
        if (step - 1) % every == 0:
            theirs.update_parameters(module)
        if step <= warmup:
            theirs.n_averaged.fill_(0)  # as the script keeps copying through the warm-up epochs
            assert float(ours["w"]) == pytest.approx(value)  # it copies rarely; we promise a copy throughout
        else:
            assert float(ours["w"]) == pytest.approx(theirs.module.weight.item(), rel=1e-5) or step - every <= warmup


def test_the_average_is_what_is_evaluated():
    state = TrainState(step=0, params={"w": 1}, batch_stats={"m": 2}, opt_state=(), key=0)
    assert state.eval_variables == {"params": {"w": 1}, "batch_stats": {"m": 2}}
    average = {"params": {"w": 3}, "batch_stats": {"m": 4}}
    assert state.replace(ema=average).eval_variables == average


@pytest.mark.parametrize(("warmup", "copied"), [(0, 1), (4, 4), (9, 9)])
def test_a_run_shorter_than_the_interval_keeps_no_random_start(warmup, copied):
    average, ours = make_average(0.9, 32, warmup), {"w": jnp.float32(-1)}
    for step in range(1, 10):
        ours = average(jnp.int32(step), ours, {"w": jnp.float32(step)})
    assert float(ours["w"]) == copied


def test_an_average_that_never_moves_is_said_before_training(caplog):
    """1437 images and batches of 128: 11 steps an epoch."""

    def said(**optim):
        caplog.clear()
        config = replace(DIGITS, epochs=2.0, batch_size=128, optim=OptimConfig(ema_decay=0.9, **optim))
        assemble(config, classify(config, build_model(config)), make_mesh(), num_images=1437)
        return caplog.text

    assert "ema_every_steps = 32, and the run has 22 steps" in said(warmup_epochs=1.0)
    assert "stays as it is after step 11. Set it lower" in said(warmup_epochs=1.0)
    assert said(warmup_epochs=1.0, ema_every_steps=8) == ""
    assert "ema_every_steps" not in said(warmup_epochs=2.0)
