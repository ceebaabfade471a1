"""A run with a teacher: its checkpoints, and all that is made of them, are the student's alone; and it goes on with the
same teacher only."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.config import PresetChange
from resnet_jax.errors import CheckpointError, ConfigError, Preempted, WeightsError
from resnet_jax.models import create_model
from resnet_jax.run.teacher import load_teacher
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks.assemble import init_state_of
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import save_weights

from .weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("short_runs", "compile_quickly")

ROOT = Path(__file__).parent.parent
DIGITS = tuple("0123456789")
GREY = PresetChange(mean=(0.305,), std=(0.376,))
SMALL = ("--epochs", "1", "--batch-size", "128", "--model.bn-group-size", "16", "--model.name", "cifar_resnet8")
SMALLER = (
    "--model.width-multiplier",
    "0.5",
    "--optim.ema-decay",
    "0.99",
    "--optim.warmup-epochs",
    "0",
    "--optim.base-lr",
    "0.02",
)


def config_of(*arguments, **distil):
    config = rn.load_config(ROOT / "configs" / "digits.py", [*SMALL, *arguments])
    return replace(config, distil=rn.Distil(**distil))


@pytest.fixture(scope="module")
def taught(short_runs, tmp_path_factory):
    """A complete run of the narrower network, whose teacher, a file, is gone."""
    path = Path(weight_file(tmp_path_factory.mktemp("away") / "teacher.safetensors"))
    workdir = tmp_path_factory.mktemp("taught") / "run"
    config = config_of(*SMALLER, teacher=str(path), preset=GREY, attention=(1, 3))
    state = rn.train(config, workdir)
    path.unlink()
    return config, workdir, state


def weight_file(path, classes=10, channels=1, seed=1, name="cifar_resnet8"):
    model = create_model(name, num_classes=classes)
    save_weights(path, random_variables(model, channels=channels, image=(32, 32), seed=seed))
    return str(path)


def test_a_checkpoint_holds_the_student_alone(taught):
    """The arrays of a run without a teacher."""
    config, workdir, state = taught
    records = sorted((workdir / "checkpoints").glob("*/record/metadata"))
    alone = replace(config, distil=rn.Distil())
    like = init_state_of(alone, task_of(alone), make_mesh()).eval_shape(jax.random.key(0))
    assert json.loads(records[-1].read_text())["arrays"].keys() == by_name(like).keys()
    assert state.fixed is None


def test_it_logs_whom_it_learns_from(taught):
    lines = [json.loads(line) for line in (taught[1] / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "from_teacher" in line]
    assert trained
    for line in trained:
        parts = 0.1 * line["from_labels"] + 0.9 * line["from_teacher"] + 1000 * line["from_attention"]
        np.testing.assert_allclose(line["loss"], parts, rtol=1e-4)
    session = json.loads((taught[1] / "environment.json").read_text())[0]
    assert len(session["teacher"]) == 64


def test_all_that_is_made_of_it_needs_no_teacher(taught, tmp_path, capsys):
    config, workdir, state = taught
    run = rn.load_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, run.state, state)
    report = rn.evaluate(config, state)
    assert rn.evaluate(run.config, run.state) == report
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    assert rn.predict(run, images)["probability"].shape == (2, 10)
    assert jax.tree.structure(rn.train(config, workdir)) == jax.tree.structure(state)  # complete: nothing to train
    cli.main(["evaluate", str(workdir)])
    assert f"{report['top1']:.2%}".replace("%", " %") in capsys.readouterr().out
    cli.main(["convert", str(workdir), str(tmp_path / "student.safetensors")])
    again = rn.load_weights(tmp_path / "student.safetensors", run.model, channels=1)
    jax.tree.map(np.testing.assert_array_equal, again["params"], dict(state.eval_variables["params"]))


def test_it_goes_on_with_the_same_teacher_alone(taught, tmp_path, monkeypatch):
    """From where it was stopped, to the same bits; not with a network that has taken the teacher's place."""
    config, _, whole = taught
    path = Path(config.distil.teacher)
    weight_file(path, seed=1)
    asked = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "asked", lambda self: next(asked) == 5)
        with pytest.raises(Preempted, match="after step 5"):
            rn.train(config, tmp_path / "run")
    path.unlink()
    weight_file(path, seed=2)
    with pytest.raises(
        CheckpointError, match=r"begun with distil.teacher = .*not the same network any more.*start ane"
    ):
        rn.train(config, tmp_path / "run")
    path.unlink()
    with pytest.raises(ConfigError, match=r"distil.teacher = '.*': there is no .*; name the folder of a run"):
        rn.train(config, tmp_path / "run")
    weight_file(path, seed=1)
    jax.tree.map(np.testing.assert_array_equal, rn.train(config, tmp_path / "run"), whole)
    path.unlink()


@pytest.mark.slow
def test_a_rollback_goes_on_with_the_teacher(taught, tmp_path, monkeypatch):
    """The step donates its state, and with it the teacher's arrays."""
    from resnet_jax.tasks import assemble

    make_train_step = assemble.make_train_step

    def make(*args, **options):
        step, count = make_train_step(*args, **options), iter(range(1, 100))

        def train_step(state, batch):
            state, metrics = step(state, batch)
            return state, {**metrics, "loss": metrics["loss"] * (np.nan if next(count) == 8 else 1)}

        return train_step

    monkeypatch.setattr(assemble, "make_train_step", make)
    arguments = ("--checkpoint.every-epochs", "0.25", "--on-non-finite", "rollback")
    state = rn.train(config_of(*SMALLER, *arguments, teacher=str(taught[1])), tmp_path / "run")
    assert int(state.step) == 11


def test_a_run_is_a_teacher_in_bfloat16(taught):
    config = config_of(teacher=str(taught[1]), dtype="bfloat16")
    found = load_teacher(config, DIGITS)
    plain = load_teacher(config_of(teacher=str(taught[1])), DIGITS)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    low, high = (
        jax.jit(one.model.apply, static_argnames="train")(one.variables, images, train=False) for one in (found, plain)
    )
    assert low.dtype == high.dtype == np.float32
    assert 0 < np.abs(low - high).max() < 0.05 * np.abs(high).max()
    assert found.digest == plain.digest
    assert plain.remarks == ()


def test_what_is_said_of_a_file(tmp_path):
    """It names no classes, and was made for images of another size."""
    path = weight_file(tmp_path / "teacher.safetensors")
    found = load_teacher(config_of(teacher=path, preset=GREY), tuple("abcdefghij"))
    assert found.remarks == (
        "nothing names its 10 classes; they are taken for those of the data set, in this order",
        "it was made for images of 32 pixels, and sees those that are trained on, of 8",
    )


def test_teachers_with_other_classes_are_refused(taught, tmp_path):
    path = weight_file(tmp_path / "seven.safetensors", classes=7)
    with pytest.raises(
        ConfigError, match=r"has 7 classes, and the data set has 10 \(0, 1, 2 and 7 more\); a teacher must"
    ):
        load_teacher(config_of(teacher=path, preset=GREY), DIGITS)
    named = tmp_path / "named"
    shutil.copytree(taught[1], named)
    letters = tuple("abcdefghij")
    (named / "class_names.json").write_text(json.dumps(letters))
    assert not load_teacher(config_of(teacher=str(named)), letters).remarks
    with pytest.raises(ConfigError, match=r"has other classes .*: k is a there; name a teacher that was trained for"):
        load_teacher(config_of(teacher=str(named)), ("k", *letters[1:]))
    with pytest.raises(ConfigError, match=r"has 10 classes \(a, b, c and 7 more\), and the data set has 2 \(a, b\)"):
        load_teacher(config_of(teacher=str(named)), letters[:2])


@pytest.mark.parametrize(
    ("arguments", "distil", "file", "message"),
    [
        (
            ("--data.channels", "3", "--data.mean", *"000", "--data.std", *"111"),
            {},
            {},
            "sees images of 1 channel, and da",
        ),
        (
            (),
            {},
            {"name": "fcn_cifar_resnet8", "channels": 3},
            "names a class for each pixel, and the network that is trained names one",
        ),
        (
            (),
            {},
            {"name": "resnet18", "channels": 3},
            "images of 8x8 pixels are smaller than the network's stride of 32",
        ),
        ((), {"attention": (4,)}, {}, "distil.attention: the student has no stage 4; name a stage that both"),
    ],
    ids=["channels", "purpose", "size", "stage"],
)
def test_what_does_not_fit_is_refused_before_work(arguments, distil, file, message, tmp_path):
    path = weight_file(tmp_path / "teacher.safetensors", **file)
    preset = PresetChange() if "name" in file else GREY
    config = config_of(*arguments, teacher=path, model=file.get("name", ""), preset=preset, **distil)
    with pytest.raises(ConfigError, match=message):
        rn.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_for_grey_images_needs_a_normalisation(tmp_path):
    path = weight_file(tmp_path / "teacher.safetensors")
    with pytest.raises(
        WeightsError, match=r"distil.teacher = .*say them \(--distil.preset.mean, --distil.preset.std\)"
    ):
        load_teacher(config_of(teacher=path), DIGITS)


def test_attention_needs_maps_of_one_size(tmp_path):
    """This student halves its maps before the first stage, and the teacher does not."""
    path = weight_file(tmp_path / "teacher.safetensors")
    config = config_of(
        "--model.name",
        "resnet18",
        "--data.image-size",
        "32",
        "--data.eval-resize",
        "32",
        teacher=path,
        preset=GREY,
        attention=(1,),
    )
    with pytest.raises(
        ConfigError, match="stage 1 have 8x8 places in the student and 32x32 in the teacher; name stages"
    ):
        rn.train(config, tmp_path / "run")
