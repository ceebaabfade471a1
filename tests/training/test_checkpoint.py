"""Checkpoints come back bit for bit, are kept by age and accuracy, and damage never costs more than one of them."""

import gc
import logging
import os
import shutil
import socket
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import CheckpointError, StorageError
from resnet_jax.training.checkpoint import Checkpoints

ACCURACY = {1: 0.5, 2: 0.9, 3: 0.3, 4: 0.2, 5: 0.1}


# Where one reader finds damage, Orbax does not wait for the others; Python reports what they raise when collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_abandoned_readers():
    yield
    gc.collect()


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    rng: jax.Array


def make_state(step, rows=8):
    """A state whose every number depends on the step; the kernel is large enough to get a file of its own."""
    keys = jax.random.split(jax.random.key(step), 4)
    params = {
        "conv1": {"kernel": jax.random.normal(keys[0], (rows, 300))},
        "bn1": {"scale": jax.random.normal(keys[1], (3,))},
    }
    optimiser = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(lambda count: 0.1 / (1 + count), momentum=0.9))
    gradients = jax.tree.map(lambda p: jnp.sin(p), params)
    _, opt_state = optimiser.update(gradients, optimiser.init(params), params)
    stats = {"bn1": {"mean": jax.random.normal(keys[2], (3,)), "var": jnp.ones(3, jnp.bfloat16) * step}}
    return State(jnp.int32(step), params, stats, opt_state, jax.random.key_data(keys[3]))


def position(step):
    return {"next_index": 64 * step, "epochs": [0, step], "version": "x"}


def open_checkpoints(folder, keep_last=2, keep_best=1):
    return Checkpoints(folder, keep_last=keep_last, keep_best=keep_best)


def save_steps(folder, accuracies=ACCURACY, **keep):
    with open_checkpoints(folder, **keep) as checkpoints:
        for step, top1 in accuracies.items():
            checkpoints.save(step, make_state(step), position(step), {"top1": top1})


def assert_is_step(restored, step):
    assert restored is not None
    assert restored.step == step
    assert restored.memory == position(step)
    want = make_state(step)
    assert jax.tree.structure(restored.state) == jax.tree.structure(want)
    for got, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(want), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def folders(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_a_save_killed_in_the_middle_is_ignored_and_swept_up(run, caplog):
    unfinished = run / "00000007.orbax-checkpoint-tmp"
    shutil.copytree(run / "00000005", unfinished)
    assert_is_step(open_checkpoints(run).restore_newest(make_state(0)), 5)
    assert unfinished.exists()
    save_steps(run, {6: 0.1})
    assert folders(run) == ["00000004", "00000005", "00000006"]
    assert not [record for record in caplog.records if record.name == "resnet_jax"]


def every_file(step_folder):
    return sorted(path.relative_to(step_folder) for path in step_folder.rglob("*") if path.is_file())


def must_matter(file):
    """Orbax also writes files that no restore reads: commit marks, and the pieces it has merged."""
    return file.suffix != ".txt" and file.name != "_CHECKPOINT_METADATA" and "ocdbt.process_0" not in file.parts


DAMAGE = {
    "deleted": lambda file: file.unlink(),
    "emptied": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damaged_file_costs_one_checkpoint_at_most(run, damage, caplog):
    whole = run.parent / "whole"
    run.rename(whole)
    costly = []
    for file in every_file(whole / "00000005"):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        DAMAGE[damage](run / "00000005" / file)
        caplog.clear()
        restored = open_checkpoints(run).restore_newest(make_state(0), set_aside=True)
        assert_is_step(restored, restored.step)
        needless = {("deleted", "_sharding"), ("deleted", "process_0")}
        if must_matter(file) and (damage, file.name) not in needless:
            assert restored.step == 4, file
        if restored.step == 4:
            costly.append(file)
            assert folders(run) == ["00000004", "damaged-00000005"]
            assert "checkpoint of step 5 is damaged" in caplog.text
            assert "going on from step 4" in caplog.text
    assert any("ocdbt.process_0" in file.parts for file in costly), "the large array's own file"


def test_an_emptied_step_is_set_aside_and_can_be_saved_again_and_again(run):
    for aside in ("damaged-00000005", "damaged-00000005-again"):
        shutil.rmtree(run / "00000005")
        (run / "00000005").mkdir()
        with open_checkpoints(run) as checkpoints:
            assert_is_step(checkpoints.restore_newest(make_state(0), set_aside=True), 4)
            checkpoints.save(5, make_state(5), position(5), {"top1": 0.8})
        assert_is_step(open_checkpoints(run).restore_newest(make_state(0)), 5)
        assert aside in folders(run)


def test_an_older_damaged_step_does_not_stop_the_run(run, caplog):
    (run / "00000004" / "metrics" / "metrics").write_text('{"to')
    with open_checkpoints(run) as checkpoints:
        assert_is_step(checkpoints.restore_newest(make_state(0)), 5)
        checkpoints.save(6, make_state(6), position(6), {"top1": 0.1})
    assert folders(run) == ["00000005", "00000006", "damaged-00000004"]
    assert "checkpoint of step 4 is damaged" in caplog.text


def test_a_reader_goes_past_damage_without_touching_anything(run, caplog):
    (run / "00000005" / "state" / "manifest.ocdbt").unlink()
    with open_checkpoints(run) as checkpoints:
        assert_is_step(checkpoints.restore_newest(make_state(0)), 4)
    assert folders(run) == ["00000004", "00000005"]
    assert "checkpoint of step 5 is damaged" in caplog.text


def test_evaluation_goes_past_damage_without_touching_anything(run, caplog):
    (run / "00000004" / "state" / "manifest.ocdbt").unlink()
    with open_checkpoints(run) as checkpoints:
        assert_is_step(checkpoints.restore_best(make_state(0)), 5)
    assert folders(run) == ["00000004", "00000005"]
    assert caplog.record_tuples[0][:2] == ("resnet_jax", logging.WARNING)
    assert "the next best is step 5 (top1 0.8000)" in caplog.text


@pytest.mark.parametrize("restore", ["restore_newest", "restore_best"])
def test_none_is_whole(run, restore):
    for step in (4, 5):
        (run / f"{step:08}" / "state" / "manifest.ocdbt").write_bytes(b"")
    for _ in range(2):  # asking again must not find an empty folder and start anew
        with pytest.raises(
            CheckpointError, match=r"(?s)none of the 2 checkpoints .* step 5: .* step 4: |step 4: .*step 5"
        ):
            getattr(open_checkpoints(run), restore)(make_state(0))
    assert folders(run) == ["00000004", "00000005"]


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


TWO_HOSTS = """
import pathlib, sys
import jax, numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import NamedSharding, PartitionSpec
from resnet_jax.training.checkpoint import Checkpoints

process, folder, port = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
sharding = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data"))

def make_state(step):
    values = np.random.default_rng(step).normal(size=(2, 3000)).astype(np.float32)
    return {"w": jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])}

with Checkpoints(folder, keep_last=3, keep_best=0) as checkpoints:
    assert checkpoints.restore_newest(make_state(0)) is None
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {"next_index": step}, {})
sync_global_devices("saved")
if process == 0:  # what process 1 wrote, only process 1 will read
    for file in pathlib.Path(folder, "00000002/state/ocdbt.process_1/d").iterdir():
        file.write_bytes(file.read_bytes()[:20])
sync_global_devices("damaged")
with Checkpoints(folder, keep_last=3, keep_best=0) as checkpoints:
    restored = checkpoints.restore_newest(make_state(0), set_aside=True)
    assert (restored.step, restored.memory) == (1, {"next_index": 1})
    assert (restored.state["w"].addressable_data(0) == make_state(1)["w"].addressable_data(0)).all()
    checkpoints.save(2, make_state(2), {"next_index": 2}, {})
"""


def test_all_processes_go_back_to_the_same_step_where_one_of_them_finds_damage(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_HOSTS, str(process), str(tmp_path), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in (0, 1)
    ]
    try:
        outputs = [host.communicate(timeout=120)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(outputs)
    assert "step 2 is damaged: another process could not read it" in outputs[0]
    assert folders(tmp_path) == ["00000001", "00000002", "damaged-00000002"]
