"""The published recipes: every step at full size, what their headers say, and the numbers of their sources."""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.data.fills import TrainImage
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.table import task_of
from resnet_jax.training.optim import plan_steps

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.py"))
IMAGENET = 1_281_167


def recipe(name):
    return rn.load_config(ROOT / "configs" / "recipes" / f"{name}.py")


def rates(name, epochs, images=IMAGENET):
    config = recipe(name)
    plan = plan_steps(config, images)
    return [plan.lr(int(epoch * plan.steps_per_epoch) + 1) for epoch in epochs]


@pytest.mark.parametrize(
    "name",
    [pytest.param(path.stem, marks=() if path.stem == "rsb_a3_resnet50" else pytest.mark.slow) for path in RECIPES],
)
def test_every_step_is_traced_at_full_size(name):
    """On 8 devices, for each size of image."""
    config = recipe(name)
    task = task_of(config)
    training = assemble(config, task, make_mesh(), num_images=IMAGENET)
    state = training.init_state.eval_shape(jax.random.key(0))
    of = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert training.batch["image"].shape[1] == max(config.data.train_sizes)
    for size in config.data.train_sizes:
        image = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)
        new, metrics = jax.eval_shape(training.train_step, state, {**training.batch, "image": image})
        assert of(new) == of(state)
        assert {"loss", "top1"} <= metrics.keys()
    evaluated = TrainImage(config.data).leaves["label"]
    assert evaluated == ((), np.int32)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_says_source_command_expectation_and_hours(path):
    text = path.read_text().split('"""')[1]
    assert f"python train.py configs/recipes/{path.name} --workdir runs/" in text
    parts = [re.search(rf"^{part}: \S", text, re.MULTILINE) for part in ("Source", "Expected", "Hours", "Differs")]
    assert all(parts), text
    assert [part.start() for part in parts] == sorted(part.start() for part in parts)
    assert re.search(r"Not\srun\shere", text), "no recipe of this folder was run to its end by this project"
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert f"`{path.stem}`" in page, "docs/recipes.md should name it"


def test_rates_are_those_of_the_sources():
    np.testing.assert_allclose(
        rates("goyal2017_resnet50", (0, 2.5, 5.1, 29.9, 30.1, 60.1, 80.1)),
        [0.1, 1.65, 3.2, 3.2, 0.32, 0.032, 0.0032],
        rtol=5e-3,
    )
    np.testing.assert_allclose(
        rates("torchvision_v1_resnet50", (0, 29.9, 30.1, 60.1)), [0.1, 0.1, 0.01, 0.001], rtol=1e-5
    )
    cosine = lambda epoch, epochs: 0.5 * (1 + np.cos(np.pi * epoch / epochs))
    np.testing.assert_allclose(
        rates("rsb_a3_resnet50", (0.5, 1.5, 4.5, 5.5, 50.5, 99.5)),
        [1e-4, 1e-4 + 7.9e-3 / 5, 1e-4 + 7.9e-3 * 4 / 5, *(1e-6 + 7.999e-3 * cosine(e, 100) for e in (5, 50, 99))],
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        rates("nvidia_resnet50", (0.5, 7.5, 8.5, 49.5)),
        [2.048 / 8, 2.048, 2.048, 2.048 * cosine(41, 82)],
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        rates("ffcv_resnet50_16", (1, 2, 9)), np.interp([1, 2, 9], [0, 2, 16], [1.7e-4, 1.7, 0]), rtol=5e-3
    )
    np.testing.assert_allclose(rates("mlperf_lars_resnet50", (1, 2, 19.5)), [5.25, 10.5, 10.5 / 4], rtol=5e-3)
    np.testing.assert_allclose(rates("he2015_resnet50", (0, 30.1, 119)), [0.1, 0.01, 1e-4], rtol=1e-5)


def get_lr(step, supports, base_lr=0.003):
    """BiT's, written out (google-research/big_transfer, bit_hyperrule.py); None ends the training."""
    if step < supports[0]:
        return base_lr * step / supports[0]
    if step >= supports[-1]:
        return None
    return base_lr / 10 ** sum(support < step for support in supports[1:])


def test_fine_tuning_has_bits_rate_at_every_update():
    config, supports = recipe("bit_finetune"), (500, 3000, 6000, 9000, 10_000)
    plan = plan_steps(config, 50_000)
    assert plan.total == 10_000
    assert get_lr(plan.total, supports) is None
    steps = [0, 1, 250, 499, 500, 501, 2999, 3000, 3001, 6000, 6001, 9000, 9001, 9999]
    expected = [get_lr(step, supports) for step in steps]
    np.testing.assert_allclose([plan.lr(step + 1) for step in steps], expected, rtol=1e-4)  # a line in float32


@pytest.mark.parametrize(
    ("images", "side", "expected"),
    [
        (19_999, 32, (160, 128, (100, 200, 300, 400, 500), 0.0)),
        (20_000, 95, (160, 128, (500, 3000, 6000, 9000, 10_000), 0.1)),
        (499_999, 96, (512, 480, (500, 3000, 6000, 9000, 10_000), 0.1)),
        (500_000, 224, (512, 480, (500, 6000, 12_000, 18_000, 20_000), 0.1)),
    ],
)
def test_bits_rule(images, side, expected):
    rule = runpy.run_path(str(ROOT / "configs" / "recipes" / "bit_finetune.py"))["rule"]
    assert rule(images, side, side) == expected


def test_fine_tuning_follows_the_size_of_the_data():
    data = recipe("bit_finetune").data
    assert (data.image_size, data.eval_side, data.augment.train_resize, data.augment.mixup_alpha) == (
        128,
        128,
        (160, 160),
        0.1,
    )


def test_ffcvs_sizes_begin_where_theirs_do():
    for name, epoch, epochs in (("ffcv_resnet50_16", 12, 16), ("ffcv_resnet50_88", 71, 88)):
        config = recipe(name)
        assert config.epochs == epochs
        assert config.data.augment.resizes == (rn.Resize(epoch=float(epoch), size=192),)
        assert (config.data.train_sizes, config.data.image_size) == ((160, 192), 256)


def test_the_procedures_of_strikes_back_differ_as_their_table_says():
    one, two, three = (recipe(f"rsb_a{number}_resnet50") for number in (1, 2, 3))
    table = lambda config: (
        config.epochs, config.data.train_size, config.optim.weight_decay, config.data.repeats,
        config.data.augment.rand_magnitude, config.data.augment.mixup_alpha, config.model.stochastic_depth,
        config.task.label_smoothing, round(config.optim.base_lr * 8, 9),
    )  # fmt: skip
    assert table(one) == (600, 224, 0.01, 3, 7, 0.2, 0.05, 0.1, 0.005)
    assert table(two) == (300, 224, 0.02, 3, 7, 0.1, 0.05, 0.0, 0.005)
    assert table(three) == (100, 160, 0.02, 1, 6, 0.1, 0.0, 0.0, 0.008)
    assert replace(one, task=two.task, epochs=1, optim=two.optim, data=two.data) == replace(two, epochs=1)


@pytest.mark.slow
def test_a_small_run_of_a_whole_recipe(tmp_path, short_runs):
    """A3's loss, optimizer, policy, mixing and schedule, and FFCV's sizes, blur and mirrored evaluation, on digits."""
    small = rn.load_config(ROOT / "tests" / "small_digits.py")
    for name in ("rsb_a3_resnet50", "ffcv_resnet50_16"):
        full = recipe(name)
        augment = replace(
            full.data.augment, train_size=6, shift_pixels=0, flip=False, mix_group_size=0, train_resize=(),
            resizes=(rn.Resize(epoch=1.0, size=8),),
        )  # fmt: skip
        data = replace(small.data, augment=augment)
        optim = replace(full.optim, warmup_epochs=1.0)
        model = replace(small.model, antialias=full.model.antialias)
        config = replace(small, data=data, task=full.task, optim=optim, model=model, epochs=3.0, batch_size=128)
        rn.train(config, tmp_path / name)
        assert rn.load_run(tmp_path / name).state.step == 34
