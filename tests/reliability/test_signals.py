"""SIGTERM and SIGINT: the run is saved at the next step and goes on as if nothing had happened; a second is final."""

import json
import os
import signal

import pytest

import resnet_jax as rn
from resnet_jax.errors import Preempted
from resnet_jax.run import evaluate as evaluate_module
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks import assemble

from .conftest import assert_same_run, config, finish, records


def during_a_step(patch, number):
    """The signal comes while step 10 is computed: two steps after a line of the log, one after a checkpoint."""
    make_train_step = assemble.make_train_step

    def make(*args, **options):
        step, count = make_train_step(*args, **options), iter(range(1, 100))

        def train_step(state, batch):
            result = step(state, batch)
            if next(count) == 10:
                os.kill(os.getpid(), number)
            return result

        return train_step

    patch.setattr(assemble, "make_train_step", make)
    return 10


def during_an_evaluation(patch, number):
    make_evaluate = evaluate_module.make_evaluate

    def make(*args, **options):
        evaluate, count = make_evaluate(*args, **options), iter(range(1, 100))

        def signalled(variables):
            if next(count) == 2:
                os.kill(os.getpid(), number)
            return evaluate(variables)

        return signalled

    patch.setattr(evaluate_module, "make_evaluate", make)
    return 6


def during_an_asynchronous_save(patch, number):
    save = Checkpoints.save

    def signalled(self, step, *args):
        save(self, step, *args)
        if step == 3:
            os.kill(os.getpid(), number)

    patch.setattr(Checkpoints, "save", signalled)
    return 3


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (during_a_step, signal.SIGTERM),
        (during_an_evaluation, signal.SIGTERM),
        (during_an_asynchronous_save, signal.SIGINT),
    ],
)
def test_stopped_by_a_signal_and_continued_is_the_same_run(tiny, straight, tmp_path, moment, number, capsys, caplog):
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        step = moment(patch, number)
        with pytest.raises(Preempted, match=r"stopped after step \d+ of 11; run the same command again"):
            rn.train(config(), tmp_path)
    assert signal.getsignal(number) == before
    assert f"{number.name}: saving a checkpoint" in caplog.text
    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert newest == step
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert not (tmp_path / "result.json").exists()
    rn.train(config(), tmp_path)
    assert f"after step {newest} of 11" in capsys.readouterr().out
    assert_same_run(tmp_path, straight)


@pytest.mark.slow
def test_the_log_keeps_what_was_collected_since_its_last_line(tiny, straight, tmp_path, monkeypatch):
    """Stopped again and again, each line's means are still those over all of its steps."""
    answers = iter([False, True, True, False, False, True] + 20 * [False])
    monkeypatch.setattr(StopRequest, "asked", lambda self: next(answers))
    for step in (2, 3, 6):
        with pytest.raises(Preempted, match=f"stopped after step {step} of 11"):
            rn.train(config(), tmp_path)
    rn.train(config(), tmp_path)
    assert_same_run(tmp_path, straight)


SIGNALLED = """
import os, signal, time
from resnet_jax.survival.checkpoint import Checkpoints
save = Checkpoints.save
def signalled(self, step, *args):
    save(self, step, *args)
    if step == {step}:
        for _ in range({times}):
            os.kill(os.getpid(), signal.{name})
            time.sleep(0.2)
Checkpoints.save = signalled
"""


@pytest.mark.slow
def test_the_exit_statuses_and_a_second_signal(tiny, start, straight_process, tmp_path):
    """The first ends with 75 and the second at once, during an asynchronous save, without hurting what was saved."""
    twice = SIGNALLED.format(step=6, times=2, name="SIGINT")
    assert "SIGINT: saving a checkpoint" in finish(start(tmp_path, extra=twice), 128 + signal.SIGINT)
    assert 3 in [record["step"] for record in records(tmp_path)]
    once = SIGNALLED.format(step=9, times=1, name="SIGTERM")
    output = finish(start(tmp_path, extra=once), 75)
    assert "Resuming" in output
    assert "stopped after step 9 of 11; run the same command again" in output
    assert "damaged" not in output
    finish(start(tmp_path))
    assert_same_run(tmp_path, straight_process)
