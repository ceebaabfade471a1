"""A workdir on `gs://`: Google's clients (gcsfs, google-cloud-storage, TensorStore) against a server of the test."""

import json
import signal

import pytest

from .bucket import Bucket, serve
from .conftest import ROOT, assert_same_run, finish
from .test_kill import KILLED
from .test_signals import SIGNALLED

pytest.importorskip("gcsfs")
WORKDIR = "gs://bucket/runs/one"
PREFIX = "bucket/runs/one/"


@pytest.fixture
def bucket():
    bucket = Bucket()
    with serve(bucket) as url:
        bucket.environment = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        yield bucket


def download(bucket, folder):
    for name, content in bucket.files(PREFIX).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def assert_valid(bucket):
    for line in bucket[f"{PREFIX}metrics.jsonl"].splitlines():
        json.loads(line)
    for name in ("config.json", "class_names.json", "environment.json"):
        json.loads(bucket[PREFIX + name])


@pytest.mark.slow
def test_a_run_in_a_bucket_killed_stopped_and_continued_is_the_same_run(
    tiny, start, straight_process, bucket, tmp_path
):
    local = {path.name for path in ROOT.iterdir()}
    killed_in_a_save = KILLED.format(event="save", count=2, delay=0.05)
    finish(start(WORKDIR, extra=killed_in_a_save, **bucket.environment), -signal.SIGKILL)
    assert_valid(bucket)
    stopped = SIGNALLED.format(step=6, times=1, name="SIGTERM")
    output = finish(start(WORKDIR, extra=stopped, **bucket.environment), 75)
    assert f"Resuming {WORKDIR} after step 3 of 11" in output
    assert_valid(bucket)
    output = finish(start(WORKDIR, **bucket.environment))
    assert f"Resuming {WORKDIR} after step 6 of 11" in output
    assert f"Curves, metrics and checkpoints are in {WORKDIR}/" in output
    assert "holds a complete run" in finish(start(WORKDIR, **bucket.environment))
    assert_same_run(download(bucket, tmp_path), straight_process)
    sizes = {name.split("/")[0]: len(content) for name, content in bucket.files(PREFIX).items()}
    assert sizes.keys() - {"checkpoints"} == {
        *("class_names.json", "config.json", "environment.json", "metrics.jsonl", "result.json"),
        *("curves.png", "tensorboard"),
    }
    assert all(sizes.values())
    assert {path.name for path in ROOT.iterdir()} - {"__pycache__"} <= local, "nothing of it is on the local disk"


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside_and_a_full_bucket_is_said(
    tiny, start, straight_process, bucket, tmp_path
):
    stopped = SIGNALLED.format(step=6, times=1, name="SIGTERM")
    finish(start(WORKDIR, extra=stopped, **bucket.environment), 75)
    name = max((name for name in bucket if "00000006/state/" in name), key=lambda name: len(bucket[name]))
    content = bytearray(bucket[name])
    content[len(content) // 2] ^= 1
    bucket.put(name, bytes(content))

    bucket.full = True
    output = finish(start(WORKDIR, **bucket.environment), 1)
    assert "error: gs://bucket/runs/one/" in output
    assert "could not be written: " in output
    assert "The quota of the bucket is used up" in output
    bucket.full = False

    output = finish(start(WORKDIR, **bucket.environment))
    assert "checkpoint of step 6 is damaged" in output
    assert f"Its folder is now {WORKDIR}/checkpoints/damaged-00000006" in output
    assert f"Resuming {WORKDIR} after step 3 of 11" in output
    assert any("/checkpoints/damaged-00000006/state/" in name for name in bucket)
    assert_same_run(download(bucket, tmp_path), straight_process)
