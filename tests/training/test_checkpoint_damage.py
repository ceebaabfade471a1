"""Damage of any file costs one checkpoint at most, is reported, and leads all processes to the same older one."""

import logging
import os
import shutil
import socket
import subprocess
import sys

import pytest

from resnet_jax.errors import CheckpointError

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


TWO_HOSTS = """
import pathlib, sys
import jax, numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import NamedSharding, PartitionSpec
from resnet_jax.survival.checkpoint import Checkpoints

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
        outputs = [host.communicate(timeout=3000)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(outputs)
    assert "step 2 is damaged: another process could not read it" in outputs[0]
    assert folders(tmp_path) == ["00000001", "00000002", "damaged-00000002"]
