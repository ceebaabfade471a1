"""The moving average against torchvision's `ExponentialMovingAverage` as its reference script drives it."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import Config, OptimConfig
from resnet_jax.config_files import read_config_file
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.ema import Average, scaled_decay
from resnet_jax.training.state import TrainState, make_init_state, new_state
from resnet_jax.training.step import Losses, make_train_step

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
    average = jax.jit(Average(decay, every, warmup))
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
    average, ours = Average(0.9, 32, warmup), {"w": jnp.float32(-1)}
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


@pytest.mark.parametrize("scale_loss", [False, True])
@pytest.mark.parametrize(
    ("warmup", "bad", "copied"),
    [
        (0, {1}, {2}),  # the first copy is after the first step that is taken
        (0, {1, 2, 3}, {4}),
        (2, {1, 2}, {3, 5}),
        (2, {5}, {1, 2, 6}),  # the one that follows the warm-up
        (2, {5, 6}, {1, 2, 7}),
        (0, {5}, {1}),  # a move that is no copy is left out
    ],
)
def test_a_copy_whose_step_was_skipped_follows_the_next_step_that_is_taken(warmup, bad, copied, scale_loss):
    """The oracle counts in Python: parameters after each step, by gradients of 1, and the rule by hand."""
    every, decay, steps = 4, 0.75, 11
    optimizer, mesh = optax.sgd(1.0), make_mesh(jax.devices()[:1])

    def loss(params, batch_stats, batch, key, axis):
        return Losses(params["w"] * batch["x"], {}, batch_stats)

    init = make_init_state(
        lambda key: {"params": {"w": jnp.float32(0)}, "batch_stats": {}},
        *(optimizer, mesh),
        keep_ema=True,
        scale_loss=scale_loss,
    )
    step = make_train_step(
        *(loss, optimizer, mesh), skip_non_finite=not scale_loss, average=Average(decay, every, warmup)
    )
    state, w, average = init(jax.random.key(0)), 0.0, None
    for number in range(1, steps + 1):
        x = np.full(2, np.inf if number in bad else number, np.float32)
        state, metrics = step(state, {"x": x})
        assert float(metrics["skipped"]) == (number in bad)
        if number not in bad:
            w -= number
            if number in copied:
                average = w
            elif (number - 1) % every == 0:
                average = decay * average + (1 - decay) * w
        if average is not None:
            assert float(state.ema["params"]["w"]) == pytest.approx(average), number
    assert float(state.params["w"]) == pytest.approx(w)


def test_a_checkpoint_from_before_copies_were_made_up_for_is_read(tmp_path):
    variables = {"params": {"w": jnp.float32(1)}, "batch_stats": {}}
    state = new_state(variables, optax.sgd(1.0), jax.random.key(0), keep_ema=True)
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(3, state.replace(ema_due=None), {}, {})
        checkpoints.wait()
        found = checkpoints.restore_newest(state.replace(ema_due=jnp.float32(7))).state
    assert float(found.ema_due) == 0
    assert float(found.ema["params"]["w"]) == 1
