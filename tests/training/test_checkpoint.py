"""Checkpoints come back bit for bit and are kept by age and accuracy; what cannot be saved or restored is said."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import CheckpointError, StorageError
from resnet_jax.files import open_folder
from resnet_jax.survival.checkpoint import Checkpoints

from .checkpoint_states import (
    assert_is_step,
    folders,
    make_state,
    open_checkpoints,
    position,
    save_steps,
)

# Where one reader finds damage, Orbax does not wait for the others; Python reports what they raise when collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collect_abandoned_readers"),
]


@pytest.fixture
def run(tmp_path):
    save_steps(tmp_path / "run", {4: 0.9, 5: 0.8})
    return tmp_path / "run"


def test_round_trip_is_bit_equal(run):
    assert_is_step(open_checkpoints(run).restore_newest(make_state(0)), 5)
    assert_is_step(open_checkpoints(str(run)).restore_best(jax.eval_shape(lambda: make_state(0))), 4)


def test_relative_folder(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert_is_step(open_checkpoints("run").restore_newest(make_state(0)), 5)


def test_newest_and_best_are_kept_also_by_a_resumed_run(tmp_path):
    save_steps(tmp_path)
    assert folders(tmp_path) == ["00000002", "00000004", "00000005"]
    save_steps(tmp_path, {6: 0.4, 7: 0.05})  # a new process: the accuracy of step 2 must have been written down
    assert folders(tmp_path) == ["00000002", "00000006", "00000007"]
    save_steps(tmp_path, {8: 0.95, 9: 0.1, 10: 0.1}, keep_last=1)
    assert folders(tmp_path) == ["00000008", "00000010"]
    assert_is_step(open_checkpoints(tmp_path).restore_best(make_state(0)), 8)


@pytest.mark.parametrize(("keep_last", "keep_best", "kept"), [(1, 0, [5]), (1, 1, [2, 5]), (1, 2, [1, 2, 5])])
def test_how_many_are_kept(tmp_path, keep_last, keep_best, kept):
    save_steps(tmp_path, keep_last=keep_last, keep_best=keep_best)
    assert folders(tmp_path) == [f"{step:08}" for step in kept]


def test_without_a_number_for_top1_a_step_ranks_last(tmp_path):
    with open_checkpoints(tmp_path) as checkpoints:
        for step, metrics in enumerate([{"top1": 0.2}, {}, {"top1": float("nan")}, {"loss": 1.0}], start=1):
            checkpoints.save(step, make_state(step), position(step), metrics)
        assert_is_step(checkpoints.restore_best(make_state(0)), 1)


def test_what_is_best_must_have_a_name(tmp_path):
    with pytest.raises(ValueError, match="keep_best = 1 needs the name of the metric that is best; give `best`"):
        Checkpoints(tmp_path, keep_last=1, keep_best=1)
    with pytest.raises(ValueError, match="restore_best needs the name of the metric that is best"):
        Checkpoints(tmp_path, keep_last=1, keep_best=0).restore_best({})


def test_what_is_best_is_the_tasks_to_say(tmp_path):
    with Checkpoints(tmp_path, keep_last=1, keep_best=1, best="map") as checkpoints:
        for step, (top1, value) in enumerate([(0.9, 0.1), (0.1, 0.8), (0.5, 0.2)], start=1):
            checkpoints.save(step, make_state(step), position(step), {"top1": top1, "map": value})
        assert_is_step(checkpoints.restore_best(make_state(0)), 2)


def test_of_equally_good_ones_the_newest_is_best(tmp_path):
    save_steps(tmp_path, dict.fromkeys(range(1, 7), 0.5) | {7: 0.4}, keep_best=6)
    assert_is_step(open_checkpoints(tmp_path).restore_best(make_state(0)), 6)


def test_training_may_go_on_while_a_save_is_written(tmp_path):
    """The next step donates the state's buffers; what is written must be the state as it was."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {f"w{i}": jnp.full((500, 500), float(i)) for i in range(8)}
    data_state = {"next_index": 0}
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, data_state, {})
        data_state["next_index"] = 99
        for _ in range(5):
            state = step(state)
        restored = checkpoints.restore_newest(state)
    assert restored.memory == {"next_index": 0}
    for i in range(8):
        np.testing.assert_array_equal(restored.state[f"w{i}"], np.full((500, 500), float(i)))


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8), (8, 4)])
def test_restore_onto_another_number_of_devices(tmp_path, saved_on, restored_on):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")

    def place(state, count):
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
        specs = jax.tree.map(lambda x: PartitionSpec("data") if x.shape == (8, 300) else PartitionSpec(), state)
        return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), state, specs)

    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, place(make_state(7), saved_on), position(7), {})
    like = place(make_state(0), restored_on)
    restored = open_checkpoints(tmp_path).restore_newest(like)
    assert_is_step(restored, 7)
    for got, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(like), strict=True):
        assert got.sharding == wanted.sharding


def test_no_checkpoint_at_all(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        checkpoints = open_checkpoints(folder)
        assert checkpoints.restore_newest(make_state(0)) is None
        with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
            checkpoints.restore_best(make_state(0))
    assert not (tmp_path / "missing").exists()


def test_another_model_is_no_damage(run):
    other = make_state(0, rows=5)
    other = other.replace(params=other.params | {"fc": jnp.ones(2)}, batch_stats={})
    for restore in (open_checkpoints(run).restore_newest, open_checkpoints(run).restore_best):
        with pytest.raises(CheckpointError, match="another model or optimiser; 5 arrays differ") as caught:
            restore(other)
        assert "params/conv1/kernel: float32 (8, 300) (saved) != float32 (5, 300) (asked)" in str(caught.value)
        assert "params/fc: not in the checkpoint" in str(caught.value)
        assert "batch_stats/bn1/mean: only in the checkpoint" in str(caught.value)
    assert folders(run) == ["00000004", "00000005"]


def test_another_dtype_is_another_model(run):
    like = make_state(0)
    like = like.replace(params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), like.params))
    with pytest.raises(CheckpointError, match=r"bn1/scale: float32 .* != bfloat16"):
        open_checkpoints(run).restore_newest(like)


def test_a_step_is_saved_once(run):
    with open_checkpoints(run) as checkpoints, pytest.raises(CheckpointError, match="step 5 is already saved"):
        checkpoints.save(5, make_state(5), position(5), {})


def test_a_position_that_is_no_json_is_refused_at_once(run):
    with open_checkpoints(run) as checkpoints, pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(6, make_state(6), {"next_index": jnp.ones(2)}, {})


@pytest.mark.parametrize("surfaces_in", ["save", "close"])
def test_a_failed_save_surfaces(run, surfaces_in, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    checkpoints = open_checkpoints(run)
    next_call = {"save": lambda: checkpoints.save(6, make_state(6), position(6), {}), "close": checkpoints.close}
    with monkeypatch.context() as broken:
        broken.setattr(ocp.StandardCheckpointHandler, "finalize", disk_full)
        checkpoints.save(6, make_state(6), position(6), {})
        with pytest.raises(StorageError, match=r"could not be written under .*No space left .*there is room"):
            next_call[surfaces_in]()
    checkpoints.close()
    assert_is_step(open_checkpoints(run).restore_newest(make_state(0)), 5)
    save_steps(run, {6: 0.1})
    assert_is_step(open_checkpoints(run).restore_newest(make_state(0)), 6)


def test_a_folder_deleted_under_a_run_is_made_again(run):
    with open_checkpoints(run) as checkpoints:
        checkpoints.save(6, make_state(6), position(6), {})
        checkpoints.wait()
        shutil.rmtree(run)
        assert checkpoints.restore_newest(make_state(0)) is None
        checkpoints.save(7, make_state(7), position(7), {})
        assert_is_step(checkpoints.restore_newest(make_state(0)), 7)


# Marks of shells, of patterns, of addresses, of Orbax's own temporary folders, of tables.
NAMES = [
    "lr[0.1]",
    "a*b",
    "a b",
    "é",
    "a#b%20",
    "$HOME",
    "a.orbax-checkpoint-tmp",
]
MORE_NAMES = ["[a-c]", "[", "a?b", "{x}", "~", "-x", "a:b", "..a", "a\n"]


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_NAMES)])
def test_a_folder_of_any_name_is_read_back(tmp_path, name):
    (tmp_path / "aXb").mkdir()  # what `a*b` and `a?b` would find as patterns
    save_steps(tmp_path / "aXb", {1: 0.5})
    save_steps(tmp_path / name, {4: 0.9, 5: 0.8})
    assert_is_step(open_checkpoints(tmp_path / name).restore_newest(make_state(0)), 5)
    assert_is_step(open_checkpoints(tmp_path / name).restore_best(make_state(0)), 4)
    save_steps(tmp_path / name, {6: 0.7})
    assert_is_step(open_checkpoints(tmp_path / name).restore_newest(make_state(0)), 6)


def test_an_older_checkpoint_is_deleted_only_when_the_new_one_can_be_read(tmp_path, monkeypatch):
    """Where Orbax finds none of its own pieces, it merges nothing and says nothing."""
    save_steps(tmp_path, {1: 0.5}, keep_last=1, keep_best=0)
    monkeypatch.setattr(type(open_folder(tmp_path)), "glob", lambda *_: iter(()))
    with pytest.raises(StorageError, match=r"could not be written under .*does not exist"):
        save_steps(tmp_path, {2: 0.6}, keep_last=1, keep_best=0)
    assert_is_step(open_checkpoints(tmp_path).restore_newest(make_state(0)), 1)
