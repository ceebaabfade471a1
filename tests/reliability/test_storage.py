"""A disk that is full, a workdir that cannot be written: said clearly, and never half a checkpoint as the newest."""

import contextlib
import gc
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import StorageError
from resnet_jax.files import write_atomically
from resnet_jax.logs.run_log import RunLog, read_metrics
from resnet_jax.survival.checkpoint import Checkpoints

from .conftest import assert_same_run, config, finish

MEGABYTE = 2**20


@contextlib.contextmanager
def mounted(folder, options):
    """A tmpfs of its own; needs the right to mount."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", f"size={4 * MEGABYTE}") as folder:
        yield folder
    # Writes that Orbax gave up log a traceback when they are collected, for which Python parses source. Within another
    # parse, such as that of a later test's command line, CPython 3.11 fails (SystemError).
    gc.collect()


def fill(folder):
    """Leaves not one page free."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def make_state(step, megabytes=1):
    """Random, so that it cannot be compressed."""
    return {"w": jax.random.bits(jax.random.key(step), (megabytes * MEGABYTE // 4,)), "step": jnp.int32(step)}


def newest(folder):
    with Checkpoints(folder, keep_last=2, keep_best=0) as checkpoints:
        restored = checkpoints.restore_newest(jax.eval_shape(lambda: make_state(0)))
    np.testing.assert_array_equal(restored.state["w"], make_state(restored.step)["w"])
    return restored.step


def test_a_checkpoint_that_does_not_fit_is_no_checkpoint_and_the_next_one_that_fits_is(small_disk):
    folder = small_disk / "checkpoints"
    with Checkpoints(folder, keep_last=2, keep_best=0) as checkpoints:
        checkpoints.save(1, make_state(1), {}, {})
        checkpoints.wait()
        fill(small_disk)
        checkpoints.save(2, make_state(2), {}, {})
        with pytest.raises(StorageError, match="a checkpoint could not be written under .* see that there is room"):
            checkpoints.wait()
        assert newest(folder) == 1
        (small_disk / "filler").unlink()
        checkpoints.save(3, make_state(3), {}, {})
    assert newest(folder) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["00000001", "00000003"]  # the half one was swept up


def on_a_full_disk(start, workdir, disk, *arguments):
    """Fills the disk while step 4 is trained, after the first checkpoint, and empties it again at step 8."""
    extra = f"""
import contextlib, pathlib, time
from resnet_jax.training import loop
put_batch, steps, filler = loop.put_batch, iter(range(1, 1000)), pathlib.Path({str(disk / "filler")!r})
def filling(*args):
    step = next(steps)
    while step == 5 and not (filler.parent / "run/checkpoints/00000003").exists():
        time.sleep(0.01)
    if step == 5:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    if step == 10 and {"continue" in arguments}:
        filler.unlink()
    return put_batch(*args)
loop.put_batch = filling
"""
    return start(workdir, *arguments, extra=extra)


@pytest.mark.slow
def test_training_stops_where_the_disk_is_full_and_goes_on_when_there_is_room(tiny, start, straight_process, tmp_path):
    with mounted(tmp_path / "disk", f"size={16 * MEGABYTE}") as disk:
        output = finish(on_a_full_disk(start, disk / "run", disk), 1)
        assert "could not be written" in output
        assert "No space left on device" in output
        assert output.splitlines()[-1].startswith("error: a checkpoint could not be written under")
        (disk / "filler").unlink()
        assert "after step 3 of 11" in finish(start(disk / "run"))
        assert_same_run(disk / "run", straight_process)


@pytest.mark.slow
def test_training_goes_on_over_a_full_disk_where_that_is_asked_for(tiny, start, straight_process, tmp_path):
    with mounted(tmp_path / "disk", f"size={16 * MEGABYTE}") as disk:
        output = finish(on_a_full_disk(start, disk / "run", disk, "--checkpoint.on-error", "continue"))
        assert "No space left on device" in output
        assert "Training goes on (checkpoint.on_error = continue)" in output
        assert_same_run(disk / "run", straight_process)


def test_a_read_only_workdir_is_said_before_training(tmp_path):
    with (
        mounted(tmp_path / "disk", "ro"),
        pytest.raises(StorageError, match="disk/run could not be written: Read-only"),
    ):
        rn.train(config(), tmp_path / "disk" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_without_permission_is_said_before_training(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="could not be written: Permission denied"):
        rn.train(config(), tmp_path / "run")


def test_an_atomic_write_that_fails_leaves_the_old_file(small_disk):
    path = small_disk / "config.json"
    write_atomically(path, "old")
    fill(small_disk)
    with pytest.raises(StorageError, match="config.json could not be written: No space left on device"):
        write_atomically(path, "x" * MEGABYTE)
    assert path.read_text() == "old"
    assert sorted(p.name for p in small_disk.iterdir()) == ["config.json", "filler"]


@pytest.mark.parametrize("forgive", [True, False])
def test_lines_that_did_not_fit_are_written_when_there_is_room(small_disk, forgive, caplog):
    def open_log():
        return RunLog(
            small_disk,
            total_steps=400,
            start_step=0,
            images_per_step=1,
            steps_per_epoch=1,
            learning_rate=float,
            forgive_failed_writes=forgive,
        )

    def write(log, steps):
        for step in steps:
            log.write_eval(step, {"top1": 0.5})

    with open_log() as log:
        write(log, [1])
        fill(small_disk)
        if not forgive:
            with pytest.raises(StorageError, match="could not be written: No space left on device"):
                write(log, range(2, 400))
            return
        write(log, range(2, 400))
        assert "Training goes on" in caplog.text
        written = len(read_metrics(small_disk))
        assert 1 <= written < 100
        assert (small_disk / "metrics.jsonl").read_bytes().count(b"\n") == written  # none is torn
        with pytest.raises(StorageError, match="metrics.jsonl could not be written"):
            log.get_state()  # so no checkpoint is saved of which the log lacks lines
        (small_disk / "filler").unlink()
        write(log, [400])
        log.get_state()
    assert [record["step"] for record in read_metrics(small_disk)] == list(range(1, 401))
