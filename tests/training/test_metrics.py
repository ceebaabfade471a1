"""The run's log: true means, no gap and no duplicate after a resume, no torch, and something to look at."""

import io
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from resnet_jax.errors import NonFiniteLossError
from resnet_jax.logs import run_log as metrics
from resnet_jax.logs.run_log import RunLog, read_metrics
from resnet_jax.tasks.classify.measure import NAMES


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics.time, "perf_counter", clock)
    return clock


def quiet():
    return Console(file=io.StringIO())


def open_log(workdir, start_step=0, console=None, total_steps=1000, **options):
    return RunLog(
        workdir,
        total_steps=total_steps,
        start_step=start_step,
        images_per_step=32,
        steps_per_epoch=12.5,
        learning_rate=lambda step: 0.1 / step,
        console=console or quiet(),
        names=NAMES,
        **options,
    )


def step_metrics(loss, top1=0.5):
    return {"loss": jnp.float32(loss), "top1": jnp.float32(top1)}


def log_run(workdir, steps, start_step=0, every=5, **options):
    with open_log(workdir, start_step, **options) as log:
        for step in range(start_step + 1, steps + 1):
            log.collect(step, step_metrics(1 / step))
            if step % every == 0:
                log.write_train(step)
                log.write_eval(step, {"loss": 2 / step, "top1": step / 100, "top5": 0.9, "count": 360})


def test_train_records_are_means_since_the_last_write(tmp_path):
    losses, accuracies = np.random.default_rng(0).uniform(0, 3, (2, 7)).astype(np.float32)
    with open_log(tmp_path) as log:
        for step in range(1, 8):
            log.collect(step, step_metrics(losses[step - 1], accuracies[step - 1]))
            if step in (3, 7):
                log.write_train(step)
    first, second = read_metrics(tmp_path)
    for record, part in ((first, slice(0, 3)), (second, slice(3, 7))):
        assert record["kind"] == "train"
        assert record["loss"] == pytest.approx(losses[part].astype(np.float64).mean(), rel=1e-12)
        assert record["top1"] == pytest.approx(accuracies[part].astype(np.float64).mean(), rel=1e-12)
    assert (first["step"], first["epoch"], first["lr"]) == (3, 0.24, pytest.approx(0.1 / 3))
    assert (second["step"], second["epoch"], second["lr"]) == (7, 0.56, pytest.approx(0.1 / 7))


def test_eval_records_hold_the_report(tmp_path):
    with open_log(tmp_path) as log:
        log.write_eval(25, {"loss": np.float32(0.5), "top1": 0.75, "top5": float("nan"), "count": 360})
    (record,) = read_metrics(tmp_path)
    assert record.pop("seconds") >= 0
    assert record == {
        "kind": "eval",
        "step": 25,
        "epoch": 2.0,
        "loss": 0.5,
        "top1": 0.75,
        "top5": None,
        "count": 360,
    }


def test_every_line_is_on_disk_at_once_and_is_plain_json(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    with open_log(tmp_path) as log:
        log.collect(1, step_metrics(1.0, top1=float("nan")))
        log.write_train(1)
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["top1"] is None


def test_collecting_never_waits(tmp_path):
    class Untouchable:
        """Fails where the host would look at a number."""

        def __array__(self, *_, **__):
            raise AssertionError("the host looked at a device array")

        __float__ = block_until_ready = __array__

    with open_log(tmp_path) as log:
        for step in range(1, 4):
            log.collect(step, {"loss": Untouchable()})


def test_speed_is_that_of_training_alone(tmp_path, clock):
    with open_log(tmp_path) as log:
        clock.now += 60  # compilation of the first step
        for step in range(1, 6):
            log.collect(step, step_metrics(1.0))
            clock.now += 0.5
        log.write_train(5)
        clock.now += 30  # evaluation
        log.write_eval(5, {"top1": 0.5})
        for step in range(6, 16):
            clock.now += 0.5
            log.collect(step, step_metrics(1.0))
            if step == 10:
                clock.now += 30  # an evaluation between two training lines
                log.write_eval(10, {"top1": 0.5})
        log.write_train(15)
    records = read_metrics(tmp_path)
    assert [record.get("images_per_second") for record in records] == [
        pytest.approx(4 * 32 / 2.5),  # the first step's images are not counted; its computation may be
        None,
        None,
        pytest.approx(64),
    ]
    assert [record["seconds"] for record in records] == [62.5, 92.5, 125.0, 127.5]


def test_speed_is_left_out_where_no_step_was_timed(tmp_path):
    log_run(tmp_path, 2, every=1)
    first, _, second, _ = read_metrics(tmp_path)
    assert "images_per_second" not in first
    assert second["images_per_second"] > 0


def test_mfu_and_the_share_of_time_that_went_into_waiting_for_data(tmp_path, clock):
    """The clock begins after the first step: 3 of 13.5 seconds; 64 images in them where 64 a second were possible."""
    for name, at_peak in (("known", 64.0), ("unknown", None)):
        with open_log(tmp_path / name, images_per_second_at_peak=at_peak) as log:
            for step in (1, 2, 3):
                with log.waiting_for_data():
                    clock.now += 1.5
                log.collect(step, step_metrics(1.0))
                clock.now += 3.5
            log.write_train(3)
        (record,) = read_metrics(tmp_path / name)
        assert record["data_wait"] == pytest.approx(3 / 13.5)
        assert record["images_per_second"] == pytest.approx(64 / 13.5)
        assert record.get("mfu") == (pytest.approx(1 / 13.5) if at_peak else None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, bad):
    with open_log(tmp_path) as log:
        for step in range(1, 11):
            log.collect(step, step_metrics(1.0))
        log.write_train(10)
        for step in range(11, 21):
            log.collect(step, step_metrics(bad if step in (14, 17) else 1.0))
        message = rf"loss is {bad} at step 14 \(learning rate 0.00714\), the first of 2 .* in steps 11 to 20"
        with pytest.raises(NonFiniteLossError, match=message):
            log.write_train(20)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10]


def without_times(records):
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_second", "data_wait")}
        for record in records
    ]


def test_a_resumed_log_is_the_log_of_a_run_that_was_not_stopped(tmp_path):
    log_run(tmp_path / "straight", 30)
    log_run(tmp_path / "resumed", 23)  # the last checkpoint was that of step 10
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 25, "lo')
    assert len(read_metrics(tmp_path / "resumed")) == 8
    log_run(tmp_path / "resumed", 30, start_step=10)
    straight, resumed = read_metrics(tmp_path / "straight"), read_metrics(tmp_path / "resumed")
    assert without_times(resumed) == without_times(straight)
    assert [record["seconds"] for record in resumed] == sorted(record["seconds"] for record in resumed)
    assert sorted(path.name for path in (tmp_path / "resumed").iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_seconds_go_on_where_the_kept_log_ended(tmp_path, clock):
    with open_log(tmp_path) as log:
        clock.now += 40
        log.write_eval(10, {"top1": 0.5})
        clock.now += 40
        log.write_eval(20, {"top1": 0.5})
    with open_log(tmp_path, start_step=10) as log:
        clock.now += 7
        log.write_eval(20, {"top1": 0.5})
    assert [record["seconds"] for record in read_metrics(tmp_path)] == [40, 47]


def test_a_run_from_step_zero_starts_a_new_log(tmp_path):
    log_run(tmp_path, 10)
    log_run(tmp_path, 5)
    assert [record["step"] for record in read_metrics(tmp_path)] == [5, 5]


def test_reading_a_log_that_is_not_there(tmp_path):
    assert read_metrics(tmp_path) == []


def test_writing_without_anything_collected_writes_nothing(tmp_path):
    with open_log(tmp_path) as log:
        log.write_train(5)
    assert read_metrics(tmp_path) == []


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    text = io.StringIO()
    log_run(tmp_path, 10, console=Console(file=text, width=40))
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("step    5/1000  epoch 0.40  loss 0.4567  top-1 50.00%  lr 0.02  ")
    assert lines[0].endswith(" left")
    assert " images/s  " in lines[0]
    assert lines[3] == "step   10/1000  epoch 0.80  evaluation:  loss 0.2000  top-1 10.00%  top-5 90.00%"


def test_time_left(tmp_path, clock):
    text = io.StringIO()
    with open_log(tmp_path, start_step=500, console=Console(file=text)) as log:
        clock.now += 1000  # compilation
        for step in range(501, 602):
            log.collect(step, step_metrics(1.0))
            clock.now += 2
        log.write_train(601)
    assert text.getvalue().strip().endswith("0:13:26 left")  # (101 x 2 s) / 100 steps x 399 steps


def test_progress_bar_on_a_terminal(tmp_path):
    text = io.StringIO()
    log_run(tmp_path, 10, console=Console(file=text, force_terminal=True, width=120, color_system=None), total_steps=20)
    last = [line for line in text.getvalue().replace("\r", "\n").splitlines() if "/20 " in line][-1]
    for part in ("10/20", "loss 0.1291", "top-1 10.00%", "images/s", " left"):
        assert part in last, text.getvalue()
    assert text.getvalue().count("evaluation:") == 2


def test_batches_in_which_nothing_counts(tmp_path):
    """They are counted, also by a log that goes on, and left out of the means where there are others."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    empty = lambda number: step_metrics(0.0, 0.0) | {"empty": jnp.float32(number)}
    with open_log(tmp_path) as log:
        for step, metrics in enumerate([step_metrics(2.0) | {"empty": 0.0}, step_metrics(4.0) | {"empty": 0.0}], 1):
            log.collect(step, metrics)
        log.write_train(2)
        log.collect(3, empty(1))
        log.collect(4, step_metrics(3.0) | {"empty": 0.0})
        log.write_train(4)
    with open_log(tmp_path, 4, console) as log:
        log.collect(5, empty(1))
        log.write_train(5)
        log.collect(6, step_metrics(2.0) | {"empty": 0.0})
        log.write_train(6)
    lines = read_metrics(tmp_path)
    assert [line.get("empty") for line in lines] == [None, 1, 2, 2]
    assert [line["loss"] for line in lines] == [3, 3, 0, 2]
    assert "2 empty batches" in text.getvalue()


def test_torch_stays_out_of_the_process(tmp_path):
    program = (
        "import sys\n"
        "import resnet_jax.logs.run_log as metrics\n"
        "assert not {'rich', 'tensorboardX', 'torch'} & set(sys.modules), 'imported too early'\n"
        "sizes = {'total_steps': 5, 'start_step': 0, 'images_per_step': 2, 'steps_per_epoch': 1}\n"
        "sizes['learning_rate'] = float\n"
        f"with metrics.RunLog({str(tmp_path)!r}, **sizes) as log:\n"
        "    log.write_eval(1, {'top1': 0.5})\n"
        "assert 'tensorboardX' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('torch')], 'tensorboardX imported torch'\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('torch') is not None, 'torch is still hidden'\n"
    )
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=3000)
