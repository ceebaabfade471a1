"""Progressive resizing: which size a batch has, and that nothing else decides it."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest

from resnet_jax import AugmentConfig, Config, DataConfig, Resize, Segment, ramped_sizes
from resnet_jax.data import train_batches
from resnet_jax.data.fills import TrainImage, at_largest
from resnet_jax.errors import ConfigError

PLAIN = {"channels": 1, "mean": (0.5,), "std": (0.5,), "image_size": 8, "eval_resize": 8, "threads": 3}
AUGMENT = AugmentConfig(
    train_size=5, policy="trivial_augment_wide", resizes=(Resize(epoch=1.2, size=6), Resize(epoch=2.5, size=8))
)
GROWING = DataConfig(augment=AUGMENT, **PLAIN)
BATCHES = 12  # of 6 images; an epoch of 17 has 2.83, so the sizes begin at 3.4 and 7.08 batches


class Numbered:
    class_names = ("any",)
    images = np.random.default_rng(0).integers(0, 256, (17, 9, 11, 1), dtype=np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index}


def batches(config=GROWING, **options):
    return train_batches(Numbered(), config, batch_size=6, seed=1, **options)


def assert_same(found, expected):
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.fixture(scope="module")
def straight():
    return list(islice(batches(), BATCHES))


def test_a_size_begins_with_the_batch_nearest_to_its_epoch(straight):
    assert [batch["image"].shape[1:3] for batch in straight] == [(5, 5)] * 3 + [(6, 6)] * 4 + [(8, 8)] * 5


def test_a_batch_is_that_of_a_run_of_its_size_alone(straight):
    """The size changes no draw: crops and policies are those of the position."""
    for size in (5, 6, 8):
        alone = dataclasses.replace(GROWING, augment=dataclasses.replace(AUGMENT, train_size=size, resizes=()))
        for found, expected in zip(straight, islice(batches(alone), BATCHES), strict=True):
            if found["image"].shape[1] == size:
                assert_same(found, expected)


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_and_places_to_continue_do_not_matter(straight, hosts):
    for start in (0, 2, 3, 6, 7, 11):
        shares = [batches(process_index=host, process_count=hosts) for host in range(hosts)]
        for share in shares:
            next(share)
            share.set_state(json.loads(json.dumps({"position": 6 * start})))
        parts = [next(share) for share in shares]
        assert_same({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, straight[start])


@pytest.mark.slow
def test_worker_processes_do_not_matter(straight):
    stream = batches(DataConfig(augment=AUGMENT, workers=2, **PLAIN))
    for found, expected in zip(islice(stream, BATCHES), straight, strict=True):
        assert_same(found, expected)
    stream.close()


def get_resolution(epoch, min_res, max_res, start_ramp, end_ramp):
    """FFCV's, written out (libffcv/ffcv-imagenet, train_imagenet.py)."""
    if epoch <= start_ramp:
        return min_res
    if epoch >= end_ramp:
        return max_res
    between = np.interp([epoch], [start_ramp, end_ramp], [min_res, max_res])
    return int(np.round(between[0] / 32)) * 32


@pytest.mark.parametrize(
    ("low", "high", "begin", "end", "epochs"),
    [(160, 192, 11, 13, 16), (160, 192, 65, 76, 88), (160, 192, 41, 48, 56), (128, 288, 3, 17, 20), (64, 224, 5, 5, 8)],
)
def test_ramped_sizes_are_ffcvs(low, high, begin, end, epochs):
    resizes = ramped_sizes(low, high, begin, end)
    for epoch in range(epochs):
        found = [low, *(resize.size for resize in resizes if resize.epoch <= epoch)][-1]
        assert found == get_resolution(epoch, low, high, begin, end), epoch


def test_what_cannot_be_resized_is_refused():
    with pytest.raises(ConfigError, match=r"the sizes begin at the epochs 2, 1; each must begin after the one before"):
        AugmentConfig(resizes=(Resize(epoch=2.0, size=6), Resize(epoch=1.0, size=8)))
    with pytest.raises(ConfigError, match="a size begins at epoch 2.5, and the run ends at epoch 2; train longer"):
        Config(data=GROWING, epochs=2.0)
    with pytest.raises(
        ConfigError, match="data.augment.resizes is set, and the task Segment prepares its images in an"
    ):
        Config(data=GROWING, epochs=9.0, task=Segment())
    with pytest.raises(ConfigError, match=r"train_size = 30 without random_resized_crop must be at most"):
        DataConfig(augment=AugmentConfig(random_resized_crop=False, resizes=(Resize(epoch=1.0, size=30),)), **PLAIN)

    class OneSize:
        needs, leaves = ("label",), {"label": ((), np.int32)}

        def __call__(self, example, draws, row):
            row["label"][...] = example["label"]

    with pytest.raises(ConfigError, match="asks for images of 3 sizes, and OneSize writes one size; leave it out"):
        batches(fill=OneSize())


def test_the_largest_images_are_those_that_memory_is_counted_for():
    assert at_largest(TrainImage(GROWING), GROWING).leaves["image"][0] == (8, 8, 1)
    assert GROWING.train_sizes == (5, 6, 8)
