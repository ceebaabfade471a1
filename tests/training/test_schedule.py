"""The schedules of published recipes: torch's and timm's schedulers, and the formulas of FFCV, NVIDIA, MLPerf, fastai
and BiT, in float64."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from resnet_jax import OptimConfig
from resnet_jax.errors import ConfigError
from resnet_jax.training.schedule import make_schedule

torch = pytest.importorskip("torch")


def ours(total, steps_per_epoch=Fraction(1), batch_size=256, epochs=None, **options):
    with jax.enable_x64(True):
        schedule = make_schedule(OptimConfig(**options), batch_size, steps_per_epoch, total, epochs)
        return np.array([float(schedule(step)) for step in range(total)])


def spread(of_epochs, steps_per_epoch, total):
    """The rate of each update, from the rates of epochs."""
    return np.array([of_epochs[math.floor(step / steps_per_epoch)] for step in range(total)])


def test_rates_that_move_once_an_epoch_are_torchvisions():
    """References' `train.py`: LinearLR from a hundredth, then CosineAnnealingLR, stepped after each epoch."""
    epochs, per_epoch = 30, Fraction(7)
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    warmup = torch.optim.lr_scheduler.LinearLR(sgd, start_factor=0.01, total_iters=5)
    main = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=epochs - 5)
    scheduler = torch.optim.lr_scheduler.SequentialLR(sgd, [warmup, main], milestones=[5])
    rates = []
    for _ in range(epochs):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    found = ours(210, per_epoch, batch_size=1024, base_lr=0.125, rate_moves="epoch", warmup_start=0.01, warmup_first=0)
    np.testing.assert_allclose(found, spread(rates, per_epoch, 210), rtol=1e-12)


@pytest.mark.parametrize("per_epoch", [Fraction(7), Fraction(1437, 256)])
def test_an_epoch_begins_with_the_first_update_after_its_images(per_epoch):
    total = round(12 * per_epoch)
    found = ours(total, per_epoch, epochs=12, base_lr=1.0, rate_moves="epoch", warmup_epochs=0.0)
    of_epochs = [0.5 * (1 + math.cos(math.pi * epoch / 12)) for epoch in range(13)]
    np.testing.assert_allclose(found, spread(of_epochs, per_epoch, total), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
@pytest.mark.parametrize("prefix", [False, True])
def test_rates_are_timms(torchvision, name, prefix):
    from timm.scheduler import CosineLRScheduler, PolyLRScheduler

    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    common = {"t_initial": 60, "lr_min": 1e-6, "warmup_t": 5, "warmup_lr_init": 1e-4, "warmup_prefix": prefix}
    kinds = {
        "cosine": lambda: CosineLRScheduler(sgd, **common),
        "polynomial": lambda: PolyLRScheduler(sgd, power=2.0, **common),
    }
    theirs = [kinds[name]()._get_lr(epoch)[0] for epoch in range(60)]
    length = 65 if prefix else 60  # with the prefix timm's run is longer by the warm-up
    found = ours(
        length, base_lr=5e-3, schedule=name, power=2.0, end_factor=2e-4, warmup_start=0.02, warmup_first=0,
        schedule_from="warmup" if prefix else "start",
    )  # fmt: skip
    np.testing.assert_allclose(found[:60], theirs, rtol=1e-12)


@pytest.mark.parametrize("epochs", [16, 88])
def test_rates_are_ffcvs(epochs):
    """`get_cyclic_lr` at the ends of an epoch, and a line between them (libffcv/ffcv-imagenet, train_imagenet.py)."""
    iterations, peak = 11, 1.7
    of_epoch = lambda epoch: np.interp([epoch], [0, 2, epochs], [1e-4 * peak, peak, 0])[0]
    theirs = [
        np.interp(np.arange(iterations), [0, iterations], [of_epoch(epoch), of_epoch(epoch + 1)])
        for epoch in range(epochs)
    ]
    found = ours(
        epochs * iterations, Fraction(iterations), base_lr=peak, schedule="polynomial", power=1.0, warmup_epochs=2.0,
        warmup_start=1e-4, warmup_first=0,
    )  # fmt: skip
    np.testing.assert_allclose(found, np.concatenate(theirs), rtol=1e-10)


def test_rates_are_nvidias():
    """`lr_cosine_policy` of DeepLearningExamples, `optimizers.py`: once an epoch, and the warm-up reaches the peak."""

    def policy(epoch, base=2.048, warmup=8, epochs=50, end=0.0):
        if epoch < warmup:
            return base * (epoch + 1) / warmup
        return end + (0.5 * (1 + np.cos(np.pi * (epoch - warmup) / (epochs - warmup))) * (base - end))

    found = ours(150, Fraction(3), batch_size=2048, base_lr=0.256, rate_moves="epoch", warmup_epochs=8.0)
    np.testing.assert_allclose(found, spread([policy(epoch) for epoch in range(50)], 3, 150), rtol=1e-12)


def test_rates_are_mlperfs():
    """Its reference warms up from 0 and then decays as Keras' PolynomialDecay with power 2."""
    base, end, warmup, total = 11.0, 1e-4, 20, 370
    decayed = lambda step: (base - end) * (1 - step / (total - warmup)) ** 2 + end
    theirs = [base * step / warmup if step <= warmup else decayed(step - warmup) for step in range(total)]
    found = ours(
        total, Fraction(10), base_lr=base, schedule="polynomial", power=2.0, end_factor=end / base, warmup_epochs=2.0,
        warmup_first=0,
    )  # fmt: skip
    np.testing.assert_allclose(found, theirs, rtol=1e-12)


def test_a_flat_part_is_fastais():
    """`combined_cos(pct, lr, lr, lr / div_final)` of fastai's `fit_flat_cos`."""
    share, total = 0.72, 101
    cosine = lambda pos: 0.1 + (1e-5 - 0.1) * (1 - math.cos(math.pi * pos)) / 2
    theirs = [0.1 if step / total < share else cosine((step / total - share) / (1 - share)) for step in range(total)]
    found = ours(total, base_lr=0.1, warmup_epochs=0.0, flat_share=share, end_factor=1e-4)
    # cos(1 - d) has no relative precision close to its end.
    np.testing.assert_allclose(found, theirs, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"schedule": "step", "end_factor": 0.1},
            "are for the schedules 'cosine' and 'polynomial', and schedule = 'step'",
        ),
        ({"schedule": "constant", "flat_share": 0.5}, "flat_share = 0.5 are for the schedules"),
        ({"rate_moves": "epoch", "warmup_epochs": 2.5}, "warmup_epochs = 2.5 must be whole where rate_moves = 'epoch'"),
        (
            {"clip_norm": 1.0, "clip_adaptive": 0.01},
            "clip_norm = 1.0 and clip_adaptive = 0.01 both say .* set the other",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        OptimConfig(**options)
