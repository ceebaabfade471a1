"""The whole program: train.py as a person runs it, killed and resumed, and the commands on what it leaves."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.compress import fold
from resnet_jax.errors import CheckpointError, ConfigError, NonFiniteLossError
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.run.evaluate import evaluate_in_detail
from resnet_jax.runtime import xla_flags
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.tasks import assemble

ROOT = Path(__file__).parent.parent
# With the network of `CONFIG`, which `short_runs` makes known in this process.
SMALL = [
    "--model.name",
    "cifar_resnet8",
    "--epochs",
    "3",
    "--batch-size",
    "128",
    "--checkpoint.every-epochs",
    "0.5",
    "--optim.warmup-epochs",
    "1",
]
CONFIG = ROOT / "tests" / "small_digits.py"
DIGIT = ROOT / "examples" / "images" / "digit_3.png"
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "COLUMNS": "120"}


def python(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=3000
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def train(workdir, *arguments, check=True):
    return python("train.py", CONFIG, *SMALL, *arguments, "--workdir", workdir, check=check)


@pytest.fixture
def command(capsys, monkeypatch):
    """A command of `resnet_jax` in this process, which has imported JAX already; what it prints."""
    monkeypatch.setenv("COLUMNS", "120")

    def command(*arguments):
        capsys.readouterr()
        main(list(map(str, arguments)))
        return capsys.readouterr().out

    return command


def parameters(workdir):
    return jax.device_get(rn.load_run(workdir).state.replace(opt_state=None))


def records_without_timings(workdir):
    timings = ("seconds", "images_per_second", "data_wait")
    return [{k: v for k, v in record.items() if k not in timings} for record in read_metrics(workdir)]


pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that nothing disturbed. Tests that change it take a copy."""
    workdir = tmp_path_factory.mktemp("run") / "straight"
    train(workdir)
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def newest(workdir):
    return max(path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def test_a_run_leaves_what_it_promises(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("config.json", "class_names.json", "environment.json", "metrics.jsonl", "result.json", "curves.png"),
        *("tensorboard", "checkpoints"),
    }
    (session,) = json.loads((trained / "environment.json").read_text())
    assert all(value in session["flags"]["XLA_FLAGS"] for value in xla_flags.FLAGS.values())
    result = json.loads((trained / "result.json").read_text())
    assert (result["count"], result["steps"], result["broken_images"]) == (360, 34, 0)
    assert 0.1 < result["top1"] <= result["best_top1"] <= result["top5"] <= 1
    assert result["seconds"] > 0
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    records = read_metrics(trained)
    assert records[-1]["top1"] == result["top1"]
    assert records[-1]["kind"] == "eval"
    assert [record["step"] for record in records if record["kind"] == "eval"] == [6, 12, 17, 23, 29, 34]


def test_a_complete_run_trains_nothing(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert "holds a complete run, nothing to train: top-1" in train(trained).stdout.replace("\n", " ")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_run(trained, tmp_path):
    """Bit for bit, with neither gap nor duplicate in the log."""
    workdir = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "train.py", str(CONFIG), *SMALL, "--workdir", str(workdir)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 3000
    while not any((workdir / "checkpoints").glob("0000001?")):  # step 12 or 17 of 34
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "result.json").exists()
    output = train(workdir).stdout
    assert "Resuming" in output
    assert "after step 1" in output
    jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(trained))
    assert records_without_timings(workdir) == records_without_timings(trained)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back(trained, copy):
    (copy / "result.json").unlink()
    for path in (newest(copy) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = train(copy)
    assert "checkpoint of step 34 is damaged" in done.stderr
    assert "after step 29 of 34" in done.stdout
    jax.tree.map(np.testing.assert_array_equal, parameters(copy), parameters(trained))


def test_another_config_is_refused_and_touches_nothing(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    done = train(copy, "--optim.base-lr", "0.2", "--model.name", "resnet18", check=False)
    assert done.returncode == 1
    assert "model.name: 'cifar_resnet8' (saved) != 'resnet18' (asked)" in done.stderr
    assert "optim.base_lr: 0.4 (saved) != 0.2 (asked)" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_evaluate_says_what_training_said(trained, command):
    result = json.loads((trained / "result.json").read_text())
    table = command("evaluate", trained)
    assert f"{100 * result['top1']:.2f} %" in table
    assert "360" in table
    best = json.loads(command("evaluate", trained, "--checkpoint", "best", "--as-json"))
    assert (best["top1"], best["count"]) == (pytest.approx(result["best_top1"]), 360)


def test_evaluate_in_detail(trained, tmp_path, command):
    result = json.loads((trained / "result.json").read_text())
    picture = tmp_path / "confusion.png"
    arguments = ("evaluate", trained, "--per-class", "--confusion", picture)
    report = json.loads(command(*arguments, "--as-json"))
    assert report["top1"] == pytest.approx(result["top1"])
    run = rn.load_run(trained)
    detail = evaluate_in_detail(run.config, run.state)
    assert report["calibration_error"] == pytest.approx(detail.calibration_error, abs=1e-4)
    assert 0 < detail.calibration_error < 1
    assert detail.confusion.sum() == detail.calibration[0].sum() == 360
    accuracies = dict(zip("0123456789", detail.per_class, strict=True))
    assert report["per_class"] == pytest.approx(accuracies)
    assert picture.stat().st_size > 20_000
    output = command(*arguments)
    assert f"The confusion matrix is in {picture}" in output
    rows = re.findall(r"│ (\d) +│ +([\d.]+) % │ +\d+ │ +\d+ │", output)
    assert [float(accuracy) for _, accuracy in rows] == sorted(round(100 * x, 2) for x in accuracies.values())


def test_evaluate_a_folded_network(trained, command, monkeypatch):
    plain, folded = (json.loads(command("evaluate", trained, "--as-json", *words)) for words in ([], ["--fold"]))
    assert folded["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert "norms: 7 folded into convolutions, 0 kept" in command("evaluate", trained, "--fold")

    def zeros(model, variables):
        found = fold(model, variables)
        return found._replace(variables=jax.tree.map(np.zeros_like, found.variables))

    monkeypatch.setattr("resnet_jax.compress.fold", zeros)
    nothing = json.loads(command("evaluate", trained, "--as-json", "--fold"))
    assert nothing["loss"] == pytest.approx(np.log(10)), "what was folded is evaluated"


def test_predict_gives_probabilities_in_order(trained, command):
    lines = command("predict", trained, DIGIT, "--top", "10", "--as-json").splitlines()
    report = json.loads(lines[0])
    assert report.pop("image") == str(DIGIT)
    assert set(report) == set("0123456789")
    assert sum(report.values()) == pytest.approx(1, abs=1e-4)
    assert list(report.values()) == sorted(report.values(), reverse=True)
    table = command("predict", trained, DIGIT, DIGIT)
    assert table.count(f"{100 * max(report.values()):.2f} %") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "RUN", "absent.png"], "cannot read absent.png: there is no such file"),
        (["predict", "RUN", "README.md"], "cannot read README.md"),
        (["predict", "RUN"], "no images given"),
        (["evaluate", "tests"], "tests holds no run"),
        (["models", "--pattern", "x*"], "no model matches 'x*'"),
    ],
)
def test_commands_explain_what_they_cannot_do(trained, command, arguments, message, monkeypatch):
    """A text as the exit status: Python prints it and ends with 1."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=re.escape(message)):
        command(*[trained if word == "RUN" else word for word in arguments])


def test_runs_without_checkpoints_or_with_damaged_ones_only(copy):
    for path in (copy / "checkpoints").iterdir():
        shutil.rmtree(path / "state")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints .* can be restored"):
        rn.load_run(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        rn.load_run(copy)


def small_config(**changes):
    arguments = [
        *SMALL,
        *(word for key, value in changes.items() for word in (f"--{key.replace('__', '.').replace('_', '-')}", value)),
    ]
    return rn.load_config(ROOT / "configs" / "digits.py", arguments)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    make_train_step = assemble.make_train_step

    def make_diverging_step(*args, **options):
        step = make_train_step(*args, **options)

        def diverging(state, batch):
            state, metrics = step(state, batch)
            return state, {**metrics, "loss": metrics["loss"] * np.where(state.step == 9, np.nan, 1)}

        return diverging

    monkeypatch.setattr(assemble, "make_train_step", make_diverging_step)
    config = small_config(model__bn_group_size="16")  # of all the devices; without groups they talk at every BatchNorm
    message = r"the loss is nan and the norm of the gradient .* at step 9 \(learning rate 0.1.*\), .* in steps 7 to 12"
    with pytest.raises(NonFiniteLossError, match=message):
        rn.train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000006"]
    assert int(rn.load_run(tmp_path).state.step) == 6


def test_devices_that_do_not_divide_the_batch(tmp_path):
    config = small_config(batch_size="100")  # the tests have 8 virtual devices
    with pytest.raises(ConfigError, match=r"batch_size = 100 is not divisible by 8 = 8 device\(s\)"):
        rn.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_does_not_depend_on_its_batch_size(trained):
    reports = []
    for size in ("360", "64", "7"):
        run = rn.load_run(trained)
        config = rn.load_config(ROOT / "configs" / "digits.py", [*SMALL, "--eval-batch-size", size])
        reports.append(rn.evaluate(config, run.state))
    assert [report["count"] for report in reports] == [360] * 3
    assert [report["top1"] for report in reports] == [reports[0]["top1"]] * 3
    np.testing.assert_allclose([report["loss"] for report in reports], reports[0]["loss"], rtol=1e-5)


def test_checkpoints_hold_the_data_position(trained):
    run = rn.load_run(trained)
    with Checkpoints(trained / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
        restored = checkpoints.restore_newest(run.state)
    assert restored.memory["data"]["batches"] == {"position": 34 * 128}


@pytest.mark.slow
def test_two_processes_train_as_one(trained, tmp_path):
    """`--distributed` joins the processes of a Slurm job; only the first writes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workdir = tmp_path / "run"
    command = [sys.executable, "train.py", str(CONFIG), *SMALL, "--workdir", str(workdir), "--distributed"]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0"}
    hosts = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **ENVIRONMENT,
                **slurm,
                "SLURM_PROCID": str(rank),
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [host.communicate(timeout=3000) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert "Curves, metrics and checkpoints are in" in outputs[0][0]
    assert "step" not in outputs[1][0]
    alone, both = (json.loads((path / "result.json").read_text()) for path in (trained, workdir))
    assert both["devices"].startswith("2 x")
    assert both["count"] == 360
    np.testing.assert_allclose(both["loss"], alone["loss"], rtol=0.2)
    first = lambda path: next(record for record in read_metrics(path) if record["kind"] == "train")
    np.testing.assert_allclose(first(workdir)["loss"], first(trained)["loss"], rtol=1e-3)
