"""The moving average against torchvision's `ExponentialMovingAverage` as its reference script drives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import Config, OptimConfig
from resnet_jax.training.ema import make_average, scaled_decay
from resnet_jax.training.state import TrainState


def test_decay_is_scaled_as_torchvision_does():
    """Its recipe: 8 x 128 images, 600 epochs, an update of the average every 32 steps, `--model-ema-decay 0.99998`."""
    config = Config(batch_size=1024, epochs=600.0, optim=OptimConfig(ema_decay=0.99998, ema_every_steps=32))
    assert scaled_decay(config) == pytest.approx(1 - min(1.0, (1 - 0.99998) * 8 * 128 * 32 / 600))
    assert scaled_decay(Config(batch_size=4096, epochs=1.0, optim=OptimConfig(ema_decay=0.9))) == 0


@pytest.mark.parametrize("warmup", [0, 5, 6])
def test_average_is_torchs(warmup):
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
        if step % every == 0:
            theirs.update_parameters(module)
            if step <= warmup:  # as the script keeps copying through the warm-up epochs
                theirs.n_averaged.fill_(0)
            assert float(ours["w"]) == pytest.approx(float(theirs.module.weight), rel=1e-5)


def test_the_average_is_what_is_evaluated():
    state = TrainState(step=0, params={"w": 1}, batch_stats={"m": 2}, opt_state=(), key=0)
    assert state.eval_variables == {"params": {"w": 1}, "batch_stats": {"m": 2}}
    average = {"params": {"w": 3}, "batch_stats": {"m": 4}}
    assert state.replace(ema=average).eval_variables == average
