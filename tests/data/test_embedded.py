"""The sets that are composed of scikit-learn's digits: scenes, moving digits, and numbers."""

import dataclasses
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

import resnet_jax as rn
from resnet_jax import load_config
from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import eval_batches, fingerprint, leaves_of, load_source
from resnet_jax.data.sources import digit_scenes, moving_digits
from resnet_jax.data.sources.scans import Scans
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.tasks.classify.show import training_batch

ROOT = Path(__file__).parent.parent.parent
NAMES = ("digit_scenes", "moving_digits", "digit_numbers")
SHAPES = {
    "digit_scenes": {
        "image": (96, 96, 3),
        "mask": (96, 96),
        "boxes": (6, 4),
        "classes": (6,),
        "instances": (6, 56, 56),
    },
    "moving_digits": {"video": (8, 40, 40, 1), "label": ()},
    "digit_numbers": {"image": (32, 32, 1), "label": ()},
}


def open_source(name, split="train"):
    return load_source(DataConfig(name=name), split)


def arrays(example):
    """The example with the frames of its video."""
    return {name: value.frames if name == "video" else value for name, value in example.items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_depends_on_its_index_alone(name):
    source = open_source(name)
    wanted = [arrays(source[i]) for i in range(24)]
    assert {key: np.shape(value) for key, value in wanted[0].items()} == SHAPES[name]
    assert leaves_of(source) == tuple(SHAPES[name])
    assert all(np.asarray(wanted[0][key]).dtype == np.uint8 for key in ("image", "video", "mask") if key in wanted[0])
    again = pickle.loads(pickle.dumps(open_source(name)))  # as a worker process gets it
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(lambda i: arrays(again[i]), reversed(range(24))))
    assert all(same(a, b) for a, b in zip(wanted, reversed(backwards), strict=True))
    first = "video" if name == "moving_digits" else "image"
    assert len({example[first].tobytes() for example in wanted}) == 24
    assert not same(wanted[0], arrays(open_source(name, "test")[0]))
    marks = {fingerprint(open_source(name, split)) for split in ("train", "test")}
    assert len(marks) == 2
    assert fingerprint(again) in marks


def test_a_scene_that_was_drawn_is_its_readers_own():
    """Scenes are kept. What a reader writes into one is not seen by the next."""
    source = open_source("digit_scenes", "test")
    first = source[3]
    wanted = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[...] = 7
    assert same(source[3], wanted)


@pytest.mark.parametrize("name", ["moving_digits", "digit_numbers"])
def test_labels_are_those_of_the_examples(name):
    source = open_source(name, "test")
    labels = source.labels()
    assert len(labels) == len(source)
    assert [source[i]["label"] for i in range(0, len(source), 37)] == labels[::37].tolist()
    counts = np.bincount(labels)
    assert len(counts) == len(source.class_names)
    assert counts.min() == counts.max()


def test_the_splits_share_no_scan():
    train, test = Scans("train", "x"), Scans("test", "x")
    assert (len(train.images), len(test.images)) == (1437, 360)
    assert not {scan.tobytes() for scan in train.images} & {scan.tobytes() for scan in test.images}
    plain = open_source("digits", "test")
    assert all(np.array_equal(test.images[i], plain[i]["image"][..., 0]) for i in range(360))


def test_mask_boxes_and_instances_agree():
    source = open_source("digit_scenes")
    counts, sides, overlapping = set(), [], 0
    for index in range(400):
        scene = source[index]
        here = np.flatnonzero(scene["classes"] >= 0)
        assert here.tolist() == list(range(len(here))), "empty places come last"
        assert (scene["boxes"][len(here) :] == -1).all()
        assert (scene["classes"][len(here) :] == -1).all()
        assert not scene["instances"][len(here) :].any()
        mask = np.zeros_like(scene["mask"])
        for box, label, bitmap in zip(scene["boxes"][here], scene["classes"][here], scene["instances"], strict=False):
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= 96
            assert 0 <= y1 < y2 <= 96
            inside = bitmap[: y2 - y1, : x2 - x1]
            assert bitmap.sum() == inside.sum(), "nothing beyond the box"
            assert inside.any(0)[[0, -1]].all(), "tight to the left and right"
            assert inside.any(1)[[0, -1]].all(), "tight above and below"
            window = mask[y1:y2, x1:x2]
            assert not window[inside > 0].any(), "a pixel belongs to one digit"
            window[inside > 0] = label
            sides.append(max(x2 - x1, y2 - y1))
        np.testing.assert_array_equal(mask, scene["mask"])
        counts.add(len(here))
        boxes = scene["boxes"][here]
        apart = (boxes[:, None, 2:] <= boxes[None, :, :2]).any(-1)
        overlapping += not (apart | apart.T | np.eye(len(here), dtype=bool)).all()
    assert counts == {3, 4, 5, 6}
    assert 6 <= min(sides) < 14
    assert 40 <= max(sides) < 54
    assert overlapping > 100


def test_what_a_mask_covers_is_lighter_than_its_ground():
    """Pictures and targets are of the same scene: digits are light, the ground is dark."""
    source = open_source("digit_scenes")
    for index in range(20):
        scene = source[index]
        brightest = scene["image"].max(-1)
        assert brightest[scene["mask"] > 0].mean() > 190
        assert brightest[scene["mask"] == 0].mean() < 140


def test_no_digit_is_nearly_hidden(monkeypatch):
    """Each digit is seen again without the later ones, and has at most twice the pixels then."""
    drawn = []
    targets = digit_scenes._targets
    monkeypatch.setattr(digit_scenes, "_targets", lambda owner, digits: drawn.append(owner) or targets(owner, digits))
    whole = []
    cut = Scans.cut
    monkeypatch.setattr(Scans, "cut", lambda *args: whole.append((cut(*args) >= 0.5).sum()) or cut(*args))
    source = open_source("digit_scenes")
    shares = []
    for index in range(100):
        source[index]
        count = drawn[-1].max() + 1
        shares += [(drawn[-1] == i).sum() / full for i, full in enumerate(whole[-count:])]
    assert 0.5 <= min(shares) < 0.7, "some are covered, none more than half"
    assert max(shares) == 1


def test_all_sizes_of_a_digit_fit_their_square():
    scans = Scans("train", "x")
    for scan in range(0, 1437, 3):
        for turn in (-20, 20):
            cover = scans.cut(scan, digit_scenes.MAX_SIZE, turn, digit_scenes.BITMAP)
            assert not np.concatenate([cover[0], cover[-1], cover[:, 0], cover[:, -1]]).any()


CLASSES = range(len(moving_digits.MOTIONS))


def single_frames_differ(values):
    """The smallest p that the values of two classes (K, N) have one distribution."""
    return min(ks_2samp(values[0], other).pvalue for other in values[1:])


def test_a_single_frame_does_not_tell_the_class():
    """Middle, angle and size in each frame, as drawn; and what can be counted in its pixels."""
    rng = np.random.default_rng(0)
    poses = np.array([[moving_digits.draw_poses(rng, label) for _ in range(500)] for label in CLASSES])
    for frame in range(moving_digits.FRAMES):
        for column in range(4):
            assert single_frames_differ(poses[:, :, frame, column]) > 1e-5, (frame, column)
    assert np.ptp(poses[..., 3]) > 17, "sizes are from 10 to 28"
    source = open_source("moving_digits")
    clips = np.array([[source[8 * i + label]["video"].frames for i in range(100)] for label in CLASSES])
    cells = clips[..., 0].reshape(8, 100, 8, 2, 20, 2, 20).mean((4, 6))  # the brightness of four quarters
    ink = (clips > clips.min((3, 4, 5), keepdims=True) + 60).mean((3, 4, 5))
    for frame in range(0, moving_digits.FRAMES, 7):
        assert single_frames_differ(ink[:, :, frame]) > 1e-5, frame
        for row, column in np.ndindex(2, 2):
            assert single_frames_differ(cells[:, :, frame, row, column]) > 1e-5, (frame, row, column)


def test_the_change_tells_the_class():
    rng = np.random.default_rng(0)
    for label in CLASSES:
        angle = np.deg2rad(45 * label)
        for _ in range(50):
            poses = moving_digits.draw_poses(rng, label)
            assert not np.diff(poses[:, 2:], axis=0).any(), "angle and size stay"
            steps = (np.diff(poses[:, :2], axis=0) + 20) % 40 - 20  # across the border, the shorter way
            length = np.hypot(*steps.T)
            np.testing.assert_allclose(steps, length[:, None] * [np.cos(angle), -np.sin(angle)], atol=1e-9)
            np.testing.assert_allclose(length, length[0])
            assert 1.6 <= length[0] <= 3.2


def test_a_moving_digit_moves_in_its_pixels():
    """Rolling a frame by the digit's way gives the next one, also across the border."""
    source = open_source("moving_digits")
    for index in range(0, 160, 8):  # moves right
        clip = source[index]["video"].frames[..., 0].astype(int)
        for before, after in itertools.pairwise(clip):
            errors = [np.abs(np.roll(before, step, 1) - after).mean() for step in range(-6, 7)]
            assert np.argmin(errors) - 6 in (1, 2, 3, 4)
    for index in range(3, 160, 8):  # moves up left
        clip = source[index]["video"].frames[..., 0].astype(int)
        for before, after in itertools.pairwise(clip):
            errors = [np.abs(np.roll(before, (-up, -left), (0, 1)) - after).mean() for up, left in np.ndindex(5, 5)]
            assert np.argmin(errors) in [5 * up + left for up, left in np.ndindex(4, 4) if up and left]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there(name):
    with pytest.raises(DataError, match=f"split of {name} 'trian'"):
        open_source(name, "trian")
    source = open_source(name)
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=str(index)):
            source[index]


def test_commands(capsys, tmp_path):
    main(["data", "info", "moving_digits"])
    assert "moves up left" in capsys.readouterr().out
    main(["data", "info", "digit_numbers"])
    assert "10,000" in capsys.readouterr().out
    for words, text in (
        (
            ["prepare", "moving_digits", "--out", str(tmp_path / "out"), "--short-side", "32"],
            "split 'train' has videos, and records hold images; only the frames of a clip are decoded, so read the",
        ),
        (
            ["prepare", "digit_scenes", "--out", str(tmp_path / "out"), "--short-side", "32"],
            "split 'train' gives no label",
        ),
    ):
        with pytest.raises(SystemExit, match=text):
            main(["data", *words])
    assert not list(tmp_path.iterdir())


def classify(name, classes):
    words = ["--data.name", name, "--model.num-classes", str(classes), "--epochs", "0.5", "--data.image-size", "16"]
    config = load_config(
        "configs/digits.py",
        [*words, "--data.eval-resize", "16", "--eval-batch-size", "64", "--optim.warmup-epochs", "0"],
    )
    return dataclasses.replace(config, eval_every_epochs=1.0)


def test_classification_gets_batches_of_numbers():
    """The very batches that a run trains and is evaluated on."""
    config = classify("digit_numbers", 100)
    batch = training_batch(config, 1)
    assert batch.images.shape == (64, 16, 16, 1)
    assert batch.targets.shape == (64, 100)
    source = open_source("digit_numbers", "test")
    evaluated = next(iter(eval_batches(source, config.data, batch_size=64)))
    assert evaluated["label"].tolist() == source.labels()[:64].tolist()


@pytest.mark.parametrize(("name", "leaf"), [("digit_scenes", "label"), ("moving_digits", "image")])
def test_classification_refuses_what_has_no_single_label_or_image(name, leaf, tmp_path):
    text = f"data.name = {name} gives no {leaf}: its examples have .*, and classification needs image and label. Choose"
    with pytest.raises(ConfigError, match=text):
        rn.train(classify(name, 10), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
