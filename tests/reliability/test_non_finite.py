"""A step that is not finite, under each policy. The poison lies in the data: one image of step 7's batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import resnet_jax as rn
from resnet_jax import data
from resnet_jax.config_files import saved_config
from resnet_jax.errors import NonFiniteLossError, Preempted
from resnet_jax.run import train as run_module
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.non_finite import SkippingBatches, gradient_norms, keep_where
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks.classify import task as classify_task

from .conftest import assert_same_run, config, records, state_of

BAD = 7
# A rectifier may make 0 of nan, so that the loss stays finite and the gradient does not.
WHERE = rf"the norm of the gradient nan at step {BAD} \(learning rate 0\.\d+, largest gradient norm nan in [\w/]+\)"


@pytest.fixture
def poisoned(tiny, monkeypatch):
    batches = data.train_batches(data.load_source(config().data, "train"), config().data, batch_size=128, seed=0)
    for _ in range(BAD):
        batch = next(batches)
    poison, augment = batch["image"][5], data.augment

    def poisoned(key, images, *rest, **options):
        hit = jnp.any(jnp.all(images == poison[None], axis=(1, 2, 3)))
        moved, targets = augment(key, images, *rest, **options)
        return moved * jnp.where(hit, jnp.nan, 1), targets

    monkeypatch.setattr(classify_task, "augment", poisoned)


def test_stop(poisoned, tmp_path):
    with pytest.raises(NonFiniteLossError, match=rf"(?s){WHERE}.*--on-non-finite skip or rollback") as caught:
        rn.train(config(), tmp_path)
    assert caught.value.step == BAD
    assert int(rn.load_run(tmp_path).state.step) == 6
    rn.train(config("--on-non-finite", "skip"), tmp_path)  # what the message proposes is allowed
    assert saved_config(tmp_path).on_non_finite == "skip"
    assert (tmp_path / "result.json").exists()


def test_skip(poisoned, tmp_path, caplog):
    state = rn.train(config("--on-non-finite", "skip"), tmp_path)
    assert int(state.step) == 11
    assert re.search(WHERE, caplog.text)
    assert "skipped (on_non_finite = skip)" in caplog.text
    train = [record for record in records(tmp_path) if record["kind"] == "train"]
    skipped = {record["step"]: record["skipped"] for record in train}
    assert skipped == {3: 0, 4: 0, 6: 0, 8: 1, 9: 0, 11: 0}
    assert all(np.isfinite(record["loss"]) for record in train)


def test_a_skipped_update_changes_what_counts_and_nothing_else():
    old = {"w": jnp.arange(3.0), "count": jnp.int32(4)}
    new = {"w": jnp.full(3, jnp.nan), "count": jnp.int32(5)}
    kept = keep_where(jnp.array(False), new, old)
    np.testing.assert_array_equal(kept["w"], old["w"])
    assert kept["count"] == 5
    assert jnp.isnan(keep_where(jnp.array(True), new, old)["w"]).all()


def without_the_batch(monkeypatch):
    """The oracle: a run whose data never held that batch."""
    train_batches = data.train_batches

    def shortened(*args, **options):
        batches = train_batches(*args, **options)

        class Shortened:
            def __next__(self):
                if batches.get_state()["position"] == 128 * (BAD - 1):
                    next(batches)
                return next(batches)

            get_state, set_state, broken = batches.get_state, batches.set_state, batches.broken

        return Shortened()

    monkeypatch.setattr(data, "train_batches", shortened)


def assert_same_parameters_and_log(workdir, other):
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state_of(workdir), name), getattr(state_of(other), name))
    assert records(workdir) == records(other)


def test_rollback_is_the_run_that_never_saw_the_batch(poisoned, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        without_the_batch(patch)
        rn.train(config("--on-non-finite", "rollback"), tmp_path / "oracle")
    rn.train(config("--on-non-finite", "rollback"), tmp_path / "run")
    output = capsys.readouterr().out
    assert f"Rolling back past the batch of step {BAD}: the loss is" in output
    assert "after step 6 of 11" in output
    assert_same_parameters_and_log(tmp_path / "run", tmp_path / "oracle")
    with Checkpoints(tmp_path / "run" / "checkpoints", keep_last=2, keep_best=0) as checkpoints:
        memory = checkpoints.restore_newest(rn.load_run(tmp_path / "run").state).memory
    assert memory["data"]["skips"] == [[BAD, 1]]


@pytest.mark.slow
def test_a_rollback_that_is_interrupted_is_the_same_run(poisoned, tmp_path, monkeypatch):
    """Also where the checkpoint that it goes back to is another one."""
    rn.train(config("--on-non-finite", "rollback"), tmp_path / "straight")
    answers = iter([False] * 4 + [True] + [False] * 2 + [True] + [False] * 20)  # after steps 1 to 5, 6 to 7, and 7 anew
    monkeypatch.setattr(StopRequest, "asked", lambda self: next(answers))
    for _ in range(2):
        with pytest.raises(Preempted, match="stopped after step"):
            rn.train(config("--on-non-finite", "rollback"), tmp_path / "run")
    rn.train(config("--on-non-finite", "rollback"), tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
def test_rolling_back_ends(tiny, tmp_path, monkeypatch):
    augment = data.augment

    def poisoned(*args, **options):
        images, targets = augment(*args, **options)
        return images * jnp.nan, targets

    monkeypatch.setattr(classify_task, "augment", poisoned)
    monkeypatch.setattr(run_module, "ROLLBACKS_AT_MOST", 2)
    with pytest.raises(NonFiniteLossError, match="nan at step 1 "):
        rn.train(config("--on-non-finite", "rollback"), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("0*"))


class Counting:
    position = 0

    def __next__(self):
        self.position += 1
        return self.position

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def test_skipping_twice_at_the_same_step_skips_more():
    batches = SkippingBatches(Counting())
    begin = batches.get_state()
    for skipped, handed_out in ((0, [1, 2, 3, 4]), (1, [1, 2, 4, 5]), (3, [1, 2, 6, 7])):
        batches.set_state(begin)
        assert [next(batches) for _ in range(4)] == handed_out, skipped
        batches.skip_before(3)
    assert batches.rollbacks == 3
    batches.set_state(begin)
    next(batches)
    other = SkippingBatches(Counting())
    other.set_state(batches.get_state())
    assert [next(other) for _ in range(2)] == [2, 10]
    assert other.rollbacks == 3


def test_the_worst_layer_is_the_one_with_the_largest_norm_or_nan():
    grads = {"a": jnp.ones(3), "b": jnp.full((2, 2), 5.0), "c": jnp.ones(1)}
    norms = {k: float(v) for k, v in gradient_norms(grads).items()}
    assert (norms["worst_layer"], norms["worst_norm"]) == (1, 10)
    assert norms["grad_norm"] == pytest.approx(float(optax.tree.norm(grads)))
    grads["c"] = jnp.array([jnp.nan])
    worst = gradient_norms(grads)
    assert worst["worst_layer"] == 2
    assert jnp.isnan(worst["worst_norm"])
