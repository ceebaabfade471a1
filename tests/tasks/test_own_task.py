"""A task that the package does not know trains, is killed, goes on, is evaluated and predicts (`angle.py`)."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.data import load_source
from resnet_jax.data.fills import Draws
from resnet_jax.errors import CheckpointError
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.tasks.task import Task
from resnet_jax.training.frozen import check_groups, trained_of

from . import angle

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "tasks.md").read_text()
CONFIG = rn.load_config(
    ROOT / "configs" / "digits.py",
    [
        *("--epochs", "3", "--batch-size", "64", "--model.bn-group-size", "8", "--checkpoint.every-epochs", "0.5"),
        *("--optim.base-lr", "0.2", "--optim.warmup-epochs", "0.5", "--eval-every-epochs", "1"),
    ],
)
KILLED = """
import os, signal, sys
from resnet_jax.run import train as run
from resnet_jax.training import loop
from tests.tasks import angle, test_own_task
put_batch, calls = loop.put_batch, iter(range(1000))
def put_or_die(*arguments):
    if next(calls) == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return put_batch(*arguments)
loop.put_batch = put_or_die
run.train(test_own_task.CONFIG, sys.argv[1], task=angle.make_task(8))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("angle") / "run"
    rn.train(CONFIG, workdir, task=angle.make_task(8))
    return workdir


def test_it_is_short():
    lines = len(Path(angle.__file__).read_text().splitlines())
    assert lines < 60
    assert f"is a whole task in {lines} lines" in PAGE


def test_the_page_tells_of_every_field():
    rows = re.findall(r"^\| (`.*?`) \|", PAGE, re.M)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == [field.name for field in dataclasses.fields(Task)]


def test_the_groups_of_the_page_can_be_meant():
    (snippet,) = (text for text in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "Group(" in text)
    names = {"rn": rn}
    exec(compile(snippet, "docs/tasks.md", "exec"), names)
    params = jax.eval_shape(lambda: rn.init(rn.create_model("resnet50"), jax.random.key(0)))["params"]
    check_groups(params, names["config"].optim.groups)
    trained = trained_of(params, names["config"].optim.groups)
    assert not any(jax.tree.leaves([trained["conv1"], trained["layer1_2"]]))
    assert all(jax.tree.leaves([trained["layer2_0"], trained["fc"]]))


def test_what_is_best_must_be_shown():
    message = r"Task.best = 'map' is not among Task.names = \['minus_error'\]; say there how it is shown"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(angle.make_task(), best="map")


@pytest.mark.parametrize("given", [{"report": None}, {"report_of": lambda source: None}])
def test_a_task_has_one_report(given):
    with pytest.raises(ValueError, match="a Task needs either report or report_of; give one of them, and None for the"):
        dataclasses.replace(angle.make_task(), **given)


def test_it_learns_and_reports_by_its_own_name(trained, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert result["minus_error"] > -12, "the median of a guess is 22.5 degrees"
    assert result["best_minus_error"] >= result["minus_error"]
    assert (result["count"], "top1" in result) == (360, False)
    records = read_metrics(trained)
    assert {"loss", "error", "grad_norm"} < records[-2].keys()
    rn.train(CONFIG, trained, task=angle.make_task(8))
    assert "nothing to train: minus the median error -" in capsys.readouterr().out.replace("\n", " ")


def test_evaluate_says_what_training_said(trained):
    run = rn.load_run(trained, "best", task=angle.make_task())
    report = rn.evaluate(CONFIG, run.state, task=run.task)
    result = json.loads((trained / "result.json").read_text())
    assert (report["minus_error"], report["count"]) == (pytest.approx(result["best_minus_error"], rel=1e-4), 360)


def test_predict_gives_angles(trained):
    run = rn.load_run(trained, task=angle.make_task())
    source, rows = load_source(CONFIG.data, "test"), []
    for index in range(40):
        row = {"image": np.empty((angle.SIDE, angle.SIDE, 1), np.uint8), "angle": np.empty((), np.float32)}
        angle.Turned()(source[index], Draws(0, index), row)
        rows.append(row)
    found = rn.predict(run, np.stack([row["image"] for row in rows]))
    assert found.keys() == {"angle"}
    truth = np.array([row["angle"] for row in rows])
    assert np.median(np.abs(found["angle"] - truth)) < 12
    assert np.corrcoef(found["angle"], truth)[0, 1] > 0.7


def test_killed_and_resumed_is_the_same_run(trained, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, cwd=ROOT)
    assert done.returncode == -9, done.stderr.decode()
    assert not (tmp_path / "result.json").exists()
    assert len(list((tmp_path / "checkpoints").iterdir())) > 0
    state = rn.train(CONFIG, tmp_path, task=angle.make_task(8))
    expected = rn.load_run(trained, task=angle.make_task()).state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    plain = lambda folder: [{k: r[k] for k in ("kind", "step", "loss")} for r in read_metrics(folder)]
    assert plain(tmp_path) == plain(trained)


def test_another_task_cannot_read_the_run(trained):
    with pytest.raises(CheckpointError, match="was saved with another model or optimiser"):
        rn.load_run(trained)
