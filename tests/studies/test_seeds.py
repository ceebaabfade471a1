"""Seeds side by side: one program for several runs, and each is the run that it would be alone."""

import json
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.display import plain_console
from resnet_jax.errors import Preempted
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.run import result
from resnet_jax.studies import runs, timing
from resnet_jax.studies.cells import cells_of
from resnet_jax.studies.results import gather
from resnet_jax.studies.runs import Job, Work
from resnet_jax.studies.seeds import Meeting
from resnet_jax.studies.table import markdown
from resnet_jax.tasks.assemble import build_model

from .tiny import study_of

pytestmark = pytest.mark.usefixtures("compile_quickly")
SEEDS = (0, 1, 2)
FILES = {"config.json", "class_names.json", "environment.json", "metrics.jsonl", "result.json", "checkpoints"}


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(result, "plot_curves", lambda *_: None)


@pytest.fixture
def exact():
    """float64, in all threads."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def in_float64(config, cell):
    return build_model(config).clone(param_dtype=jnp.float64, dtype=jnp.float64)


def study(**fields):
    phases = (rn.Unfreeze(epoch=0.5, level="all"),)  # two programs: the head alone, then all
    gradual = {"optim.level": "head", "optim.unfreeze": phases}
    return study_of(axes={"trained": {"all": {}, "gradual": gradual}}, seeds=SEEDS, **fields)


def work_in(folder, of):
    return Work(of, folder, SEEDS, plain_console(quiet=True))


def leaves(folder, task):
    return jax.tree.leaves(rn.load_run(folder, task=task).state)


@pytest.mark.parametrize("name", ["all", pytest.param("gradual", marks=pytest.mark.slow)])
def test_each_seed_is_the_run_that_it_is_alone(exact, tmp_path, name):
    of = study(network=in_float64)
    (cell,) = (cell for cell in cells_of(of) if cell.name == name)
    runs.run_here(work_in(tmp_path / "beside", of), [Job(cell, SEEDS, "always")])
    different = []
    for seed in SEEDS[:2]:
        runs.run_here(work_in(tmp_path / "alone", of), [Job(cell, (seed,))])
        ours, theirs = (tmp_path / which / name / f"seed{seed}" for which in ("beside", "alone"))
        assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} >= FILES
        assert (ours / "config.json").read_bytes() == (theirs / "config.json").read_bytes()
        pairs = [*zip(leaves(ours, cell.task()), leaves(theirs, cell.task()), strict=True)]
        assert any(leaf.dtype == np.float64 and leaf.size > 10 for leaf, _ in pairs)
        for leaf, other in pairs:
            np.testing.assert_allclose(leaf, other, rtol=1e-9, atol=1e-9)
        for line, other in zip(read_metrics(ours), read_metrics(theirs), strict=True):
            assert line["kind"] == other["kind"]
            numbers = ("step", "loss", "top1", *(("lr", "grad_norm") if line["kind"] == "train" else ()))
            assert [line[n] for n in numbers] == pytest.approx([other[n] for n in numbers], rel=1e-9, abs=1e-9)
        different.append(pairs[-1][0])
    assert not np.array_equal(*different)  # two seeds are two runs
    results = gather(of, [cell], SEEDS, tmp_path / "beside")
    assert [outcome.beside for outcome in results.rows[0].outcomes] == [3, 3, 3]
    assert "†" in markdown(results)
    facts = json.loads((tmp_path / "beside" / name / "seed0" / "result.json").read_text())
    assert facts["side_by_side"] == 3
    assert results.rows[0].outcomes[0].numbers["seconds"] == pytest.approx(facts["seconds"] / 3)


@pytest.mark.slow
def test_a_seed_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    """It diverges after two steps; the others go on without it, and are the runs that they would be."""
    of = study()
    (cell, _) = cells_of(of)
    original = runs.train

    def train(config, folder, **options):
        if config.seed == 1:
            beside = options["beside"]
            options["beside"] = replace(beside, step=lambda phase, step: spoil(beside.step(phase, step)))
        return original(config, folder, **options)

    def spoil(step):
        def spoiled(state, batch):
            state, metrics = step(state, batch)
            return state, {**metrics, "loss": metrics["loss"] * np.nan}

        return spoiled

    monkeypatch.setattr(runs, "train", train)
    runs.run_here(work_in(tmp_path, of), [Job(cell, SEEDS, "always")])
    (row,) = gather(of, [cell], SEEDS, tmp_path).rows
    assert [outcome.complete for outcome in row.outcomes] == [True, False, True]
    assert "the loss is nan" in row.outcomes[1].why


@pytest.mark.slow
def test_all_stop_after_the_same_step_and_go_on(tmp_path, monkeypatch):
    of = study()
    (cell, _) = cells_of(of)
    asked = iter([False, True, *[False] * 99])
    monkeypatch.setattr(runs.StopRequest, "asked", lambda self: next(asked))
    with pytest.raises(Preempted, match="stopped after step 2 of 4"):
        runs.run_here(work_in(tmp_path, of), [Job(cell, SEEDS, "always")])
    saved = [sorted(path.name for path in (tmp_path / "all" / f"seed{s}" / "checkpoints").iterdir()) for s in SEEDS]
    assert saved == [["00000002"]] * 3
    assert not any(outcome.why for outcome in gather(of, [cell], SEEDS, tmp_path).rows[0].outcomes)
    runs.run_here(work_in(tmp_path, of), [Job(cell, SEEDS, "always")])
    assert all(outcome.complete for outcome in gather(of, [cell], SEEDS, tmp_path).rows[0].outcomes)


@pytest.mark.slow
def test_where_one_program_is_not_faster_seeds_are_trained_one_after_the_other(tmp_path, monkeypatch):
    of = study()
    (cell, _) = cells_of(of)
    seconds = {"alone": 1.0, "beside": 3.5}
    monkeypatch.setattr(timing, "time_in_turns", lambda turns: seconds)
    assert timing.is_faster_beside(cell, 3) == (
        False,
        "3 steps take 3500 ms in one program, and 3000 ms one after the other",
    )
    assert timing.is_faster_beside(cell, 4)[0]
    runs.run_here(work_in(tmp_path, of), [Job(cell, SEEDS[:2], "measured")])
    (row,) = gather(of, [cell], SEEDS[:2], tmp_path).rows
    assert [outcome.beside for outcome in row.outcomes] == [1, 1]


@pytest.mark.slow
def test_a_step_is_timed_alone_and_beside():
    (cell, _) = cells_of(study())
    for turn, compiling in (timing.alone(cell), timing.beside(cell, 2)):
        assert turn(2) > 0
        assert compiling > 0


class Never:
    def asked(self):
        return False


def test_a_meeting_waits_for_its_members_and_not_for_those_who_left():
    """Steps of numbers: each member adds up its own, though they come at other times and leave at other times."""
    meeting = Meeting([0, 1, 2], Never())
    step = jax.jit(lambda state, batch: (state + batch, {"loss": state}))
    ends = {}

    def run(member, steps):
        with meeting.attended_by(member) as beside:
            take, state = beside.step(0, step), jnp.float32(member)
            for number in range(steps):
                state, metrics = take(state, jnp.float32(10 * number))
                assert metrics["loss"].shape == ()
            ends[member] = float(state)

    threads = [threading.Thread(target=run, args=(member, 2 + member), daemon=True) for member in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=1800)
    assert ends == {0: 10.0, 1: 31.0, 2: 62.0}


def test_all_are_told_to_stop_after_the_same_step():
    """Whoever asks, and whenever: the answer is that of the last common step."""
    answers = iter([False, False, True])

    class Stop:
        def asked(self):
            return next(answers)

    meeting = Meeting([0, 1, 2], Stop())
    step = jax.jit(lambda state, batch: (state + batch, {"loss": state}))
    ends = {}

    def run(member):
        with meeting.attended_by(member) as beside:
            take, state = beside.step(0, step), jnp.float32(0)
            while not beside.stop.asked():
                state, _ = take(state, jnp.float32(1))
            ends[member] = float(state)

    threads = [threading.Thread(target=run, args=(member,), daemon=True) for member in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=1800)
    assert ends == dict.fromkeys(range(3), 3.0)


def test_an_error_in_the_common_step_reaches_every_run():
    meeting = Meeting([0, 1], Never())
    errors = []

    def run(member):
        step = jax.jit(lambda state, batch: state @ batch)
        with meeting.attended_by(member) as beside:
            try:
                beside.step(0, step)(jnp.ones(2), jnp.ones(3))
            except TypeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=run, args=(member,), daemon=True) for member in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=1800)
    assert len(errors) == 2
