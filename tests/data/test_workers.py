"""Batches made in other processes. Each start of one imports JAX, so there are few tests here."""

import multiprocessing
import os
import signal
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import AugmentConfig, DataConfig
from resnet_jax.data import eval_batches, load_source, train_batches

OPTIONS = {"image_size": 16, "eval_resize": 16, "threads": 4, "max_broken_fraction": 0.1}


@pytest.fixture
def folder(tmp_path):
    """40 images, of which number 7 is cut short."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "train" / str(i % 2) / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    broken = tmp_path / "train" / "0" / "14.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    return f"folder:{tmp_path}"


def config(name, **options):
    return DataConfig(name=name, augment=AugmentConfig(policy="trivial_augment_wide"), **OPTIONS, **options)


def test_processes_give_the_same_bytes_and_count_what_is_broken(folder):
    source = load_source(config(folder), "train")
    alone = train_batches(source, config(folder), batch_size=12, seed=3)
    expected = [next(alone) for _ in range(9)]
    batches = train_batches(source, config(folder, workers=2), batch_size=12, seed=3)
    batches.set_state({"position": 24})
    for want in expected[2:]:
        found = next(batches)
        assert {name: rows.tobytes() for name, rows in found.items()} == {
            name: rows.tobytes() for name, rows in want.items()
        }
    assert batches.get_state() == alone.get_state()
    assert batches.broken.reasons == alone.broken.reasons
    (reason,) = alone.broken.reasons.values()
    assert "14.jpg" in reason
    batches.close()


def test_a_process_that_is_killed_is_reported(folder):
    batches = train_batches(load_source(config(folder), "train"), config(folder, workers=2), batch_size=12, seed=3)
    next(batches)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="exit code -9|terminated"):
        list(islice(batches, 100))
    batches.close()


@pytest.mark.slow
def test_evaluation_in_processes_sees_every_image_once():
    plain = DataConfig(name="digits", channels=1, mean=(0.5,), std=(0.5,), image_size=8, eval_resize=8, workers=2)
    source = load_source(plain, "all")
    for _ in range(2):
        batches = list(eval_batches(source, plain, batch_size=128))
        assert sum(batch["weight"].sum() for batch in batches) == len(source) == 1797
        labels = np.concatenate([batch["label"] for batch in batches])
        np.testing.assert_array_equal(labels[:1797], source.labels())
