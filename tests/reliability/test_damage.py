"""Whatever happens to the bytes of a checkpoint, what is restored is bit for bit something that was saved."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.survival.checkpoint import Checkpoints

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collect_abandoned_readers"),
]


def make_state(step):
    """Large arrays that get files of their own, and small ones that Orbax keeps within its tree."""
    keys = jax.random.split(jax.random.key(step), 3)
    return {
        "step": jnp.int32(step),
        "params": {
            "conv1": jax.random.normal(keys[0], (3, 3, 8, 8)),
            "fc": jax.random.normal(keys[1], (40, 10)),
            "bn": jnp.ones(3),
        },
        "key": jax.random.key_data(keys[2]),
    }


def memory(step):
    return {"data": {"position": 64 * step}, "text": "x" * 20}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "whole"
    with Checkpoints(folder, keep_last=2, keep_best=0) as checkpoints:
        for step in (4, 5):
            checkpoints.save(step, make_state(step), memory(step), {"top1": step / 10})
    return folder


def restored_step(folder):
    """The step that is restored; fails where its content is not what was saved at that step."""
    with Checkpoints(folder, keep_last=2, keep_best=0) as checkpoints:
        restored = checkpoints.restore_newest(jax.eval_shape(lambda: make_state(0)))
    assert restored.memory == memory(restored.step)
    jax.tree.map(np.testing.assert_array_equal, restored.state, make_state(restored.step))
    return restored.step


def files(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


def damaged_copies(whole, tmp_path, damages):
    """One copy of the run per damage, a `(file of the newest step, its new bytes)`."""
    copy = tmp_path / "run"
    for path, content in damages:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        (copy / path.relative_to(whole)).write_bytes(content)
        yield copy, path


def flips(whole, count, seed):
    """Random single bits of random files: small files are hit as often as large ones."""
    rng = np.random.default_rng(seed)
    candidates = [path for path in files(whole / "00000005") if path.stat().st_size]
    for _ in range(count):
        path = candidates[rng.integers(len(candidates))]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        yield path, bytes(content)


def count_restored(whole, tmp_path, damages):
    steps = [restored_step(copy) for copy, _ in damaged_copies(whole, tmp_path, damages)]
    return {step: steps.count(step) for step in (4, 5)}


@pytest.mark.slow
def test_300_flipped_bits_are_found_or_harmless(whole, tmp_path):
    counts = count_restored(whole, tmp_path, flips(whole, 300, seed=1))
    assert counts[4] >= 80, counts


def test_every_file_truncated_is_found_or_harmless(whole, tmp_path):
    damages = [
        (path, path.read_bytes()[: int(path.stat().st_size * part)])
        for path in files(whole / "00000005")
        for part in (0, 0.9)
    ]
    counts = count_restored(whole, tmp_path, damages)
    assert counts[4] >= 10, counts


def test_a_changed_number_is_found_though_every_file_is_in_order(whole, tmp_path, caplog):
    """The arrays of step 4 in the folder of step 5: Orbax restores them without complaint."""
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "00000005" / "state")
    shutil.copytree(copy / "00000004" / "state", copy / "00000005" / "state")
    assert restored_step(copy) == 4
    assert "is not what was saved" in caplog.text


@pytest.mark.parametrize("file", ["metrics/metrics", "record/metadata"])
def test_a_changed_figure_is_found_though_the_json_is_in_order(whole, tmp_path, caplog, file):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    path = copy / "00000005" / file
    text = path.read_text()
    path.write_text(text.replace("0.5", "0.7", 1))
    assert path.read_text() != text
    assert restored_step(copy) == 4
    assert f"{file}: the content is not what was saved" in caplog.text
    with Checkpoints(copy, keep_last=2, keep_best=0, best="top1") as checkpoints:
        assert checkpoints.restore_best(make_state(0)).step == 4
    assert "the next best is step 4" in caplog.text


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "{}", '{"digest": 1}', "9" * 10_000])
def test_a_record_made_to_hurt_is_damage(whole, tmp_path, text):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    (copy / "00000005" / "record" / "metadata").write_text(text)
    assert restored_step(copy) == 4
