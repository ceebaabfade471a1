"""Several evaluations in one run: which numbers there are, when, and which decides."""

import json
from pathlib import Path

import pytest

import resnet_jax as rn
from resnet_jax.config_files import check_same_run, saved_config
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.training.optim import plan_steps

ROOT = Path(__file__).parent.parent
EVALS = (
    rn.Eval(name="val", split="test", every_epochs=1.0),
    rn.Eval(name="seen", data="digits", split="train", every_epochs=0.5),
)


def config_of(evals, **options):
    small = ("--epochs", "1.5", "--batch-size", "128", "--optim.warmup-epochs", "0", "--model.bn-group-size", "16")
    small += ("--model.name", "cifar_resnet8")
    return rn.Config(**{**vars(rn.load_config(ROOT / "configs" / "digits.py", small)), "evals": evals, **options})


pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def run(short_runs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evals") / "run"
    state = rn.train(config_of(EVALS), workdir)
    return workdir, state


def test_each_is_logged_under_its_name_and_the_first_decides(run):
    workdir, state = run
    lines = [line for line in read_metrics(workdir) if line["kind"] == "eval"]
    steps = {name: [line["step"] for line in lines if f"{name}/top1" in line] for name in ("val", "seen")}
    assert steps == {"val": [12, 17], "seen": [6, 12, 17]}
    assert "top1" not in lines[-1]
    assert [lines[-1][name] for name in ("val/count", "seen/count")] == [360, 1437]
    result = json.loads((workdir / "result.json").read_text())
    assert result["best_val/top1"] == max(line["val/top1"] for line in lines if "val/top1" in line)
    assert rn.load_run(workdir, "best").state.step == result["best_step"]
    report = rn.evaluate(config_of(EVALS), state)
    assert report == {name: lines[-1][name] for name in report}
    plain = rn.evaluate(config_of(()), state)
    assert plain == {name.removeprefix("val/"): value for name, value in report.items() if name.startswith("val/")}


def test_it_is_read_back_and_is_complete(run, capsys):
    workdir, _ = run
    assert saved_config(workdir) == config_of(EVALS)
    rn.train(config_of(EVALS), workdir)
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing to train: val top-1" in said
    assert "of 360 test images" in said
    with pytest.raises(ConfigError, match="another config"):
        check_same_run(config_of(EVALS[:1]), workdir)


def test_the_first_precedes_every_checkpoint():
    often = rn.CheckpointConfig(every_epochs=0.25)
    plan = plan_steps(config_of(EVALS, checkpoint=often), 1280)
    assert [plan.evaluations_due(step) for step in (1, 3, 5, 10, plan.total)] == [[], [0], [0, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val", "val"), "the name 'val' is used twice.*rename one"),
        (("",), "the name '' stands before a slash"),
        (("a/b",), "the name 'a/b' stands before a slash"),
    ],
)
def test_names_that_cannot_be(names, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tuple(rn.Eval(name=name) for name in names))


def test_a_split_that_does_not_exist_is_refused_before_training(tmp_path):
    with pytest.raises(DataError, match="nosuch"):
        rn.train(config_of((rn.Eval(name="val", split="nosuch"),)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
