"""The optimizer against torch.optim.SGD, the schedules against torch's schedulers, and the plan of a run."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import CheckpointConfig, Config, Group, OptimConfig
from resnet_jax.config_files import read_config_file
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.optim import decay_mask, make_optimizer, plan_steps
from resnet_jax.training.schedule import make_schedule

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("no_decay", [(), ("bn", "bias$")])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.875, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_sgd_is_torchs(momentum, nesterov, weight_decay, no_decay):
    rng = np.random.default_rng(0)
    start = {
        "layer": {"kernel": rng.normal(size=(3, 4))},
        "bn1": {"scale": rng.normal(size=4)},
        "bias": rng.normal(size=2),
    }
    rates = [0.1, 0.3, 0.02, 0.5, 0.1]  # a changing rate shows whether it lies inside the momentum buffer
    optim = OptimConfig(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, no_decay=no_decay)
    optimizer = make_optimizer(optim, lambda step: jnp.asarray(rates)[step])
    params = {
        key: {k: jnp.asarray(v) for k, v in x.items()} if isinstance(x, dict) else jnp.asarray(x)
        for key, x in start.items()
    }
    state = optimizer.init(params)

    tensors = [
        torch.tensor(x, dtype=torch.float32, requires_grad=True)
        for x in (start["layer"]["kernel"], start["bn1"]["scale"], start["bias"])
    ]
    groups = [{"params": tensors[:1]}, {"params": tensors[1:], "weight_decay": 0.0 if no_decay else weight_decay}]
    sgd = torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    for rate in rates:
        grads = [rng.normal(size=x.shape).astype(np.float32) for x in tensors]
        updates, state = optimizer.update(
            {"layer": {"kernel": grads[0]}, "bn1": {"scale": grads[1]}, "bias": grads[2]}, state, params
        )
        params = optax.apply_updates(params, updates)
        for group in sgd.param_groups:
            group["lr"] = rate
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad)
        sgd.step()
    for ours, theirs in zip((params["layer"]["kernel"], params["bn1"]["scale"], params["bias"]), tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("no_decay", [(), ("bn",)])
def test_adamw_is_torchs(no_decay):
    rng = np.random.default_rng(1)
    rates = [0.1, 0.3, 0.02, 0.5, 0.1]
    optim = OptimConfig(
        optimizer="adamw", momentum=0.8, second_beta=0.95, epsilon=1e-6, weight_decay=0.05, no_decay=no_decay
    )
    start = {"kernel": rng.normal(size=(3, 4)), "bn1": rng.normal(size=4)}
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    kept = {"params": [tensors["bn1"]], "weight_decay": 0.0 if no_decay else 0.05}
    theirs = torch.optim.AdamW(
        [{"params": [tensors["kernel"]]}, kept], lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05
    )
    with jax.enable_x64(True):
        optimizer = make_optimizer(optim, lambda step: jnp.asarray(rates)[step])
        params = jax.tree.map(jnp.asarray, start)
        state = optimizer.init(params)
        for rate in rates:
            grads = {name: rng.normal(size=value.shape) for name, value in start.items()}
            updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = optax.apply_updates(params, updates)
            for group in theirs.param_groups:
                group["lr"] = rate
            for name, tensor in tensors.items():
                tensor.grad = torch.from_numpy(grads[name])
            theirs.step()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(params[name], tensor.detach().numpy(), rtol=1e-12)


def test_the_mask_goes_by_the_path():
    params = {"layer1_0": {"downsample_bn": {"scale": 0}, "conv1": {"kernel": 0}}, "fc": {"bias": 0, "kernel": 0}}
    assert decay_mask(params, (r"bn", r"^fc/bias$")) == {
        "layer1_0": {"downsample_bn": {"scale": False}, "conv1": {"kernel": True}},
        "fc": {"bias": False, "kernel": True},
    }


@pytest.mark.parametrize("power", [0.9, 2.0])
def test_the_polynomial_schedule_is_torchs(power):
    optim = OptimConfig(schedule="polynomial", power=power, base_lr=0.1, warmup_epochs=0.0)
    schedule = make_schedule(optim, 256, Fraction(3), 30)
    expected = torch_rates(lambda sgd: torch.optim.lr_scheduler.PolynomialLR(sgd, 30, power), 30, 0.1)
    np.testing.assert_allclose([schedule(step) for step in range(30)], expected, rtol=1e-5)
    warm = make_schedule(replace(optim, warmup_epochs=2.0), 256, Fraction(3), 30)
    np.testing.assert_allclose([warm(step) for step in range(6)], 0.1 * np.arange(1, 7) / 6, rtol=1e-5)
    assert warm(6) == pytest.approx(0.1)
    assert warm(30) == 0


def torch_rates(make_scheduler, steps, peak):
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=peak)
    scheduler, rates = make_scheduler(sgd), []
    for _ in range(steps):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return rates


def test_step_schedule_is_torchs():
    optim = OptimConfig(base_lr=0.1, schedule="step", warmup_epochs=0.0, drop_epochs=(3.0, 6.0, 8.0))
    schedule = make_schedule(optim, batch_size=512, steps_per_epoch=10, total=90)
    expected = torch_rates(lambda sgd: torch.optim.lr_scheduler.MultiStepLR(sgd, [30, 60, 80], 0.1), 90, 0.2)
    np.testing.assert_allclose([schedule(i) for i in range(90)], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("drop_epochs", "milestones"), [((1.0, 1.0, 2.0), [4, 4, 8]), ((1.0, 1.1, 2.0), [4, 4, 8]), ((2.0, 1.0), [4, 8])]
)
def test_drops_on_one_step_all_count(drop_epochs, milestones):
    optim = OptimConfig(base_lr=1.0, schedule="step", warmup_epochs=0.0, drop_epochs=drop_epochs)
    schedule = make_schedule(optim, batch_size=256, steps_per_epoch=Fraction(4), total=12)
    expected = torch_rates(lambda sgd: torch.optim.lr_scheduler.MultiStepLR(sgd, milestones, 0.1), 12, 1.0)
    np.testing.assert_allclose([schedule(i) for i in range(12)], expected, rtol=1e-5)


def test_cosine_schedule_is_torchs():
    optim = OptimConfig(base_lr=0.1, schedule="cosine", warmup_epochs=0.0)
    schedule = make_schedule(optim, batch_size=128, steps_per_epoch=10, total=70)
    expected = torch_rates(lambda sgd: torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 70), 70, 0.05)
    np.testing.assert_allclose([schedule(i) for i in range(70)], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["step", "cosine", "constant"])
def test_warm_up_is_linear_per_step_and_ends_at_the_peak(name):
    optim = OptimConfig(base_lr=0.1, schedule=name, warmup_epochs=2.0, drop_epochs=(5.0,))
    schedule = make_schedule(optim, batch_size=512, steps_per_epoch=4.5, total=45)
    np.testing.assert_allclose([schedule(i) for i in range(9)], 0.2 * np.arange(1, 10) / 9, rtol=1e-5)
    assert schedule(9) == pytest.approx(0.2)
    drop = round(5 * 4.5)  # counted from the start of the run, not from the end of the warm-up
    if name == "step":
        assert (schedule(drop - 1), schedule(drop)) == (pytest.approx(0.2), pytest.approx(0.02))


def test_plan_of_a_run_whose_epochs_are_not_whole_steps():
    config = Config(
        epochs=3,
        batch_size=64,
        eval_every_epochs=1.0,
        log_every_steps=20,
        checkpoint=CheckpointConfig(every_epochs=1.5),
    )
    plan = plan_steps(config, 1437)  # 22.45 steps per epoch
    due = {
        event: [step for step in range(1, plan.total + 1) if plan.is_due(event, step)]
        for event in ("log", "eval", "save")
    }
    assert plan.total == 67
    assert due == {"save": [34, 67], "eval": [23, 34, 45, 67], "log": [20, 23, 34, 40, 45, 60, 67]}


@pytest.mark.parametrize("tenths", [1, 3, 7, 11, 22, 33])
@pytest.mark.parametrize("steps_per_epoch", [50, 30, 100])
def test_intervals_in_decimal_epochs_come_on_the_very_step(tenths, steps_per_epoch):
    """Counted in whole numbers: every multiple of `tenths` tenths of an epoch."""
    every = tenths / 10
    config = Config(epochs=40, batch_size=10, eval_every_epochs=every, checkpoint=CheckpointConfig(every_epochs=every))
    plan = plan_steps(config, 10 * steps_per_epoch)
    expected = {*range(0, plan.total + 1, tenths * steps_per_epoch // 10), plan.total} - {0}
    for event in ("eval", "save"):
        assert {step for step in range(1, plan.total + 1) if plan.is_due(event, step)} == expected


@pytest.mark.parametrize(("epochs", "of", "steps"), [(1.15, 50, 58), (90 / 7, 7, 90), (0.29, 50, 14)])
def test_epochs_become_the_nearest_number_of_steps(epochs, of, steps):
    """1.15 * 50 is 57.5, but 57.49999999999999 as a product of floats; a half goes to the even number."""
    plan = plan_steps(Config(epochs=epochs, batch_size=1, optim=OptimConfig(warmup_epochs=2 * epochs)), of)
    assert (plan.total, plan.warmup) == (steps, steps)


def test_intervals_below_a_step_are_every_step():
    config = Config(epochs=1, batch_size=256, eval_every_epochs=0.01)
    plan = plan_steps(config, 1000)
    assert [plan.is_due("eval", step) for step in (1, 2, 3, 4)] == [True] * 4


def params_and_gradients():
    rng = np.random.default_rng(0)
    draw = lambda: {
        "conv1": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
        "bn1": {"scale": jnp.asarray(rng.normal(size=4), jnp.float32)},
    }
    return draw(), [draw() for _ in range(4)]


def as_tensors(tree):
    return [torch.tensor(np.asarray(x), requires_grad=True) for x in (tree["conv1"]["kernel"], tree["bn1"]["scale"])]


def trajectory(optimizer):
    params, gradients = params_and_gradients()
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_lars_is_the_papers_for_what_is_decayed_and_sgd_for_the_rest():
    """You et al. 2017 with the norm of the sum, as optax has it, in float64; the rate lies inside the momentum."""
    optim = OptimConfig(optimizer="lars", momentum=0.9, weight_decay=0.05, no_decay=("bn",), trust_coefficient=0.02)
    ours = trajectory(make_optimizer(optim, optax.constant_schedule(0.3)))
    params, gradients = params_and_gradients()
    for module, leaf, adapts in (("conv1", "kernel", True), ("bn1", "scale", False)):
        w, v = np.asarray(params[module][leaf], np.float64), 0.0
        for gradient in gradients:
            g = np.asarray(gradient[module][leaf], np.float64)
            if adapts:
                g = g + 0.05 * w
                g = g * 0.02 * np.linalg.norm(w) / np.linalg.norm(g)
            v = 0.9 * v + 0.3 * g
            w = w - v
        np.testing.assert_allclose(ours[module][leaf], w, rtol=1e-5)


def test_lamb_is_timms(torchvision):  # without whose operators timm cannot be imported
    timm_lamb = pytest.importorskip("timm.optim").Lamb
    optim = OptimConfig(optimizer="lamb", momentum=0.9, weight_decay=0.05, no_decay=("bn",))
    ours = trajectory(make_optimizer(optim, optax.constant_schedule(0.3)))
    params, gradients = params_and_gradients()
    tensors = as_tensors(params)
    groups = [{"params": tensors[:1], "weight_decay": 0.05}, {"params": tensors[1:], "weight_decay": 0.0}]
    theirs = timm_lamb(groups, lr=0.3, betas=(0.9, 0.999), eps=1e-6, max_grad_norm=None)
    for gradient in gradients:
        for tensor, grad in zip(tensors, (gradient["conv1"]["kernel"], gradient["bn1"]["scale"]), strict=True):
            tensor.grad = torch.tensor(np.asarray(grad))
        theirs.step()
    np.testing.assert_allclose(ours["conv1"]["kernel"], tensors[0].detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours["bn1"]["scale"], tensors[1].detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.5, 100.0])
def test_clipping_is_torchs(clip_norm):
    optim = OptimConfig(momentum=0.0, weight_decay=0.0, clip_norm=clip_norm)
    ours = trajectory(make_optimizer(optim, optax.constant_schedule(0.3)))
    params, gradients = params_and_gradients()
    tensors = as_tensors(params)
    sgd = torch.optim.SGD(tensors, lr=0.3)
    for gradient in gradients:
        for tensor, grad in zip(tensors, (gradient["conv1"]["kernel"], gradient["bn1"]["scale"]), strict=True):
            tensor.grad = torch.tensor(np.asarray(grad))
        torch.nn.utils.clip_grad_norm_(tensors, clip_norm)
        sgd.step()
    np.testing.assert_allclose(ours["conv1"]["kernel"], tensors[0].detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours["bn1"]["scale"], tensors[1].detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_warm_up_without_an_end_and_an_epoch_shorter_than_a_step_are_said(caplog):
    digits = read_config_file(Path(__file__).parents[2] / "configs" / "digits.py")

    def said(num_images=640, **changes):
        caplog.clear()
        config = replace(digits, **changes)
        assemble(config, classify(config, build_model(config)), make_mesh(), num_images=num_images)
        return caplog.text

    assert "warmup_epochs = 4, and the run has 3 epochs: the learning rate only rises" in said(epochs=3.0)
    assert "batch_size = 64, and the training set has 50 images" in said(num_images=50)
    assert said() == ""


def exactly(optim, rates, torch_step, shapes=None):
    """Ours and theirs after updates in float64, as pairs of arrays. Kernels are HWIO here and OIHW there."""
    rng = np.random.default_rng(3)
    shapes = shapes or {
        "conv1": {"kernel": (3, 3, 4, 5)},
        "bn1": {"scale": (5,)},
        "fc": {"kernel": (5, 7), "bias": (7,)},
    }
    draw = lambda scale: jax.tree.map(
        lambda shape: scale * rng.normal(size=shape), shapes, is_leaf=lambda x: type(x) is tuple
    )
    to_torch = lambda x: np.ascontiguousarray(np.moveaxis(x, (-1, -2), (0, 1)) if x.ndim > 1 else x)
    start, gradients = draw(1.0), [draw(10.0**-power) for power in range(len(rates))]
    tensors = [torch.tensor(to_torch(x), requires_grad=True) for x in jax.tree.leaves(start)]
    step = torch_step(tensors)
    with jax.enable_x64(True):
        optimizer = make_optimizer(optim, lambda count: jnp.asarray(rates)[count])
        params = jax.tree.map(jnp.asarray, start)
        state = optimizer.init(params)

        @jax.jit
        def update(params, state, gradient):
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        for gradient, rate in zip(gradients, rates, strict=True):
            params, state = update(params, state, gradient)
            for tensor, value in zip(tensors, jax.tree.leaves(gradient), strict=True):
                tensor.grad = torch.tensor(to_torch(value))
            step(rate)
        return [
            (to_torch(np.asarray(x)), t.detach().numpy()) for x, t in zip(jax.tree.leaves(params), tensors, strict=True)
        ]


def optimizing(make, before=lambda tensors: None):
    """A `torch_step` of `exactly`: an optimizer of torch, after clipping."""

    def begin(tensors):
        optimizer = make(tensors)

        def step(rate):
            before(tensors)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

        return step

    return begin


RATES = [0.1, 0.3, 0.02, 0.5]


def test_lamb_with_timms_clipping_is_timms_in_float64(torchvision):
    lamb = pytest.importorskip("timm.optim").Lamb
    optim = OptimConfig(optimizer="lamb", weight_decay=0.02, no_decay=("bn", "bias$"), clip_norm=1.0)

    def make(tensors):  # bn1/scale, conv1/kernel, fc/bias, fc/kernel
        decayed = {"params": [tensors[1], tensors[3]], "weight_decay": 0.02}
        return lamb([decayed, {"params": [tensors[0], tensors[2]], "weight_decay": 0.0}], lr=1.0, max_grad_norm=1.0)

    for one, other in exactly(optim, RATES, optimizing(make)):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(("options", "mode", "value"), [
    ({"clip_norm": 0.7}, "norm", 0.7), ({"clip_value": 0.05}, "value", 0.05), ({"clip_adaptive": 0.02}, "agc", 0.02),
])  # fmt: skip
def test_every_way_to_clip_is_timms_in_float64(torchvision, options, mode, value):
    from timm.utils.clip_grad import dispatch_clip_grad

    optim = OptimConfig(momentum=0.9, weight_decay=0.0, **options)
    sgd = optimizing(
        lambda tensors: torch.optim.SGD(tensors, lr=1.0, momentum=0.9),
        lambda tensors: dispatch_clip_grad(tensors, value, mode),
    )
    for one, other in exactly(optim, RATES, sgd):
        # torch adds 1e-6 to the norm that it divides by.
        np.testing.assert_allclose(one, other, rtol=1e-5 if mode == "norm" else 1e-12)


def test_parameters_may_be_left_out_of_adaptive_clipping(torchvision):
    """As timm leaves out the head."""
    from timm.utils.agc import adaptive_clip_grad

    optim = OptimConfig(momentum=0.9, weight_decay=0.0, clip_adaptive=0.02, clip_without=("^fc/",))
    clip = lambda tensors: adaptive_clip_grad(tensors[:2], 0.02)
    for one, other in exactly(
        optim, RATES, optimizing(lambda tensors: torch.optim.SGD(tensors, lr=1.0, momentum=0.9), clip)
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_lars_by_the_sum_of_norms_is_mlperfs_in_float64():
    """Its reference `LARSOptimizer`, with the rate inside the momentum; biases and norms keep their rate and decay."""
    optim = OptimConfig(
        optimizer="lars", lars_measure="sum_of_norms", momentum=0.9, weight_decay=0.05, no_decay=("bn", "bias$"),
        trust_coefficient=0.02,
    )  # fmt: skip

    def begin(tensors):
        momenta = [torch.zeros_like(tensor) for tensor in tensors]

        @torch.no_grad()
        def step(rate):
            for i, tensor in enumerate(tensors):
                g, scaled = tensor.grad, rate
                if i in (1, 3):
                    scaled = rate * 0.02 * tensor.norm() / (g.norm() + 0.05 * tensor.norm())
                    g = g + 0.05 * tensor
                momenta[i] = 0.9 * momenta[i] - scaled * g
                tensor += momenta[i]

        return step

    for one, other in exactly(optim, RATES, begin):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    rest = replace(optim, lars_measure="norm_of_sum")
    assert not np.allclose(*exactly(rest, RATES, begin)[1])


def test_lars_by_the_sum_of_norms_knows_the_decay_of_a_group_and_parameters_of_zero():
    optim = OptimConfig(
        optimizer="lars", lars_measure="sum_of_norms", momentum=0.0, weight_decay=0.05, trust_coefficient=0.02,
        groups=(Group(pattern="^fc/", decay=0.3),),
    )  # fmt: skip
    params = {"conv1": jnp.zeros(3), "fc": {"kernel": jnp.array([3.0, 4.0])}}
    gradient = {"conv1": jnp.ones(3), "fc": {"kernel": jnp.array([0.6, 0.8])}}
    optimizer = make_optimizer(optim, optax.constant_schedule(1.0))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["conv1"], -np.ones(3))
    expected = -(np.array([0.6, 0.8]) + 0.3 * np.array([3.0, 4.0])) * 0.02 * 5 / (1 + 0.3 * 5)
    np.testing.assert_allclose(updates["fc"]["kernel"], expected, rtol=1e-6)
