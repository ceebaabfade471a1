"""Runs that earlier versions left are read, evaluated and continued by this one (`make_runs.py` made them)."""

import json
import shutil
from pathlib import Path

import pytest

import resnet_jax as rn
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.models import create

from . import make_runs

pytestmark = pytest.mark.usefixtures("compile_quickly")

RUNS = sorted(path.parent for path in make_runs.RUNS.rglob("config.json"))
ALIKE = {"rel": 2e-3, "abs": 2e-3}  # on any CPU and number of devices: 5 steps in float32


@pytest.fixture(params=RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
def saved(request, tmp_path, monkeypatch):
    """A copy of the run, and the records of its log."""
    monkeypatch.setitem(create.VARIANTS, make_runs.VARIANT, make_runs.ROW)
    workdir = Path(shutil.copytree(request.param, tmp_path / "run"))
    return workdir, read_metrics(workdir)


def test_there_are_runs_of_before():
    assert {path.name for path in RUNS} == set(make_runs.CONFIGS)


def test_a_saved_run_is_evaluated_and_continued(saved):
    workdir, log = saved
    run = rn.load_run(workdir)
    step = int(run.state.step)
    evaluations = {record["step"]: record for record in log if record["kind"] == "eval"}
    report = rn.evaluate(run.config, run.state)
    assert report == pytest.approx({name: evaluations[step][name] for name in report}, rel=1e-4)

    rn.train(run.config, workdir)
    assert [(record["kind"], record["step"]) for record in read_metrics(workdir)] == [
        (record["kind"], record["step"]) for record in log
    ]
    for ours, theirs in zip(read_metrics(workdir), log, strict=True):
        for name in ("loss", "top1", "lr"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], **ALIKE), (ours["step"], name)
    result = json.loads((workdir / "result.json").read_text())
    assert step < result["steps"] == log[-1]["step"]
    assert result["top1"] == read_metrics(workdir)[-1]["top1"]
