import dataclasses
import json
import typing
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.config import AugmentConfig, DataConfig
from resnet_jax.data import eval_batches, train_batches
from resnet_jax.errors import DataError

PLAIN = {"channels": 1, "mean": (0.5,), "std": (0.5,), "image_size": 8, "eval_resize": 8, "threads": 3}
CONFIG = DataConfig(augment=AugmentConfig(random_resized_crop=False), **PLAIN)
CROPPED = DataConfig(**PLAIN)
RANDOM = DataConfig(augment=AugmentConfig(policy="trivial_augment_wide"), **PLAIN)  # everything the host draws


class Numbered:
    """`count` noise images; the label of each is its index."""

    class_names = ("any",)

    def __init__(self, count, broken=None):
        self.images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        self.broken = broken

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError(f"image {index} is broken")
        return {"image": self.images[index], "label": index}


def take(batches, count):
    batches = list(islice(batches, count))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_every_image_comes_once_per_epoch_across_batches():
    source = Numbered(23)
    batches = train_batches(source, CONFIG, batch_size=4, seed=0)
    first = next(batches)
    assert (first["image"].shape, first["image"].dtype) == ((4, 8, 8, 1), np.uint8)
    assert (first["label"].shape, first["label"].dtype) == ((4,), np.int32)
    seen = take(train_batches(source, CONFIG, batch_size=4, seed=0), 23)
    np.testing.assert_array_equal(seen["image"], source.images[seen["label"]])
    epochs = seen["label"].reshape(4, 23)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(23), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch must have an order of its own"


@pytest.mark.parametrize("repeats", [2, 4])
def test_copies_of_an_image_lie_apart_in_their_batch(repeats):
    """Groups of B / repeats rows, such as those that are mixed, hold different images."""
    config = DataConfig(repeats=repeats, **PLAIN)
    plain = take(train_batches(Numbered(64), DataConfig(**PLAIN), batch_size=16, seed=0), 4)["label"]
    for k, batch in enumerate(islice(train_batches(Numbered(64), config, batch_size=16, seed=0), 4)):
        groups = batch["label"].reshape(repeats, -1)
        images = plain[k * groups.shape[1] : (k + 1) * groups.shape[1]]
        np.testing.assert_array_equal(groups, np.tile(images, (repeats, 1)))
        crops = batch["image"].reshape(*groups.shape, -1)
        assert (crops[0] != crops[1]).any(-1).mean() > 0.5, "copies are cropped differently"


def test_the_order_is_uniform_and_differs_by_seed():
    source = Numbered(5)
    counts = np.zeros((5, 5))
    for seed in range(400):
        counts[np.arange(5), next(train_batches(source, CONFIG, batch_size=5, seed=seed))["label"]] += 1
    chi_square = ((counts - 80) ** 2 / 80).sum()
    assert chi_square < 39.3, "beyond the 0.1 % quantile for 16 degrees of freedom"


@pytest.mark.parametrize("hosts", [2, 3, 6])
def test_any_number_of_hosts_gives_the_same_global_batches(hosts):
    source = Numbered(17)
    alone = take(train_batches(source, RANDOM, batch_size=6, seed=1), 7)
    shares = [
        train_batches(source, RANDOM, batch_size=6, seed=1, process_index=p, process_count=hosts) for p in range(hosts)
    ]
    together = [[next(share) for share in shares] for _ in range(7)]
    joined = {name: np.concatenate([part[name] for batch in together for part in batch]) for name in alone}
    assert_same(joined, alone)


def test_threads_do_not_change_the_batches():
    source = Numbered(17)
    many = DataConfig(augment=RANDOM.augment, **(PLAIN | {"threads": 8}))
    one = DataConfig(augment=RANDOM.augment, **(PLAIN | {"threads": 1}))
    assert_same(
        take(train_batches(source, many, batch_size=5, seed=1), 9),
        take(train_batches(source, one, batch_size=5, seed=1), 9),
    )


def test_a_saved_position_carries_over_to_other_hosts():
    source = Numbered(17)
    straight = train_batches(source, RANDOM, batch_size=6, seed=1)
    states = [straight.get_state()]
    batches = []
    for _ in range(9):
        batches.append(next(straight))
        states.append(json.loads(json.dumps(straight.get_state())))
    for step, hosts in [(0, 1), (5, 1), (5, 2), (8, 3)]:
        for host in range(hosts):
            resumed = train_batches(source, RANDOM, batch_size=6, seed=1, process_index=host, process_count=hosts)
            next(resumed)
            resumed.set_state(states[step])
            assert resumed.get_state() == states[step]
            rows = slice(host * 6 // hosts, (host + 1) * 6 // hosts)
            assert_same(next(resumed), {name: values[rows] for name, values in batches[step].items()})


def test_a_far_position_is_reached_without_reading_what_lies_before():
    source = Numbered(17)
    batches = train_batches(source, CONFIG, batch_size=17, seed=1)
    batches.set_state({"position": 17 * 10**12})
    assert sorted(next(batches)["label"]) == list(range(17))


class Same(Numbered):
    def __getitem__(self, index):
        return {"image": self.images[0], "label": 0}


def test_crops_differ_between_epochs_and_images():
    images = take(train_batches(Same(6), CROPPED, batch_size=6, seed=0), 4)["image"]
    assert len({image.tobytes() for image in images}) > 20


def test_a_policy_changes_each_image_in_its_own_way():
    config = DataConfig(augment=AugmentConfig(random_resized_crop=False, policy="trivial_augment_wide"), **PLAIN)
    images = take(train_batches(Same(6), config, batch_size=6, seed=0), 10)["image"]
    assert len({image.tobytes() for image in images}) > 25
    other_seed = take(train_batches(Same(6), config, batch_size=6, seed=1), 10)["image"]
    assert not np.array_equal(images, other_seed)


@pytest.mark.parametrize("crop", [True, False])
def test_training_images_may_have_a_size_of_their_own(crop):
    config = DataConfig(augment=AugmentConfig(train_size=5, random_resized_crop=crop), **PLAIN)
    assert next(train_batches(Numbered(4), config, batch_size=2, seed=0))["image"].shape == (2, 5, 5, 1)
    assert next(iter(eval_batches(Numbered(4), config, batch_size=2)))["image"].shape == (2, 8, 8, 1)


def test_an_unreadable_image_stops_training_where_it_stands():
    source = Numbered(6, broken=3)
    batches = train_batches(source, CONFIG, batch_size=2, seed=0)
    expected = take(train_batches(Numbered(6), CONFIG, batch_size=2, seed=0), 3)["label"]
    at = int(np.flatnonzero(expected == 3)[0]) // 2
    for _ in range(at):
        next(batches)
    with pytest.raises(DataError, match="image 3 is broken"):
        next(batches)
    assert batches.get_state() == {"position": 2 * at}
    source.broken = None
    np.testing.assert_array_equal(next(batches)["label"], expected[2 * at : 2 * at + 2])


def test_a_closed_iterator_stays_closed():
    batches = train_batches(Numbered(6), CONFIG, batch_size=2, seed=0)
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize("count", [1, 11, 12, 13])
@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_evaluation_sees_every_image_once(count, hosts):
    source = Numbered(count)
    shares = [eval_batches(source, CROPPED, batch_size=6, process_index=p, process_count=hosts) for p in range(hosts)]
    passes = [list(share) for share in shares]
    assert {len(batches) for batches in passes} == {-(-count // 6)}
    assert {batch["image"].shape for batches in passes for batch in batches} == {(6 // hosts, 8, 8, 1)}
    rows = [part for batch in zip(*passes, strict=True) for part in batch]
    joined = {name: np.concatenate([part[name] for part in rows]) for name in ("image", "label", "weight")}
    assert joined["weight"].dtype == np.float32
    np.testing.assert_array_equal(joined["weight"], np.arange(len(joined["weight"])) < count)
    np.testing.assert_array_equal(joined["label"][:count], np.arange(count))
    np.testing.assert_array_equal(joined["image"][:count], source.images)
    assert not joined["image"][count:].any()


@pytest.mark.parametrize(("start", "hosts"), [(6, 1), (6, 2), (7, 3), (12, 1)])
def test_evaluation_may_begin_later(start, hosts):
    """As if the source had lost its first images, but for their numbers."""
    options = {"batch_size": 6, "process_count": hosts}
    late = [eval_batches(Numbered(13), CROPPED, start=start, process_index=p, **options) for p in range(hosts)]
    whole = next(iter(eval_batches(Numbered(13), CROPPED, batch_size=13)))
    batches = [batch for parts in zip(*late, strict=True) for batch in parts]
    assert len(batches) == hosts * -(-(13 - start) // 6)
    real = np.concatenate([batch["weight"] for batch in batches]) > 0
    assert real.sum() == 13 - start
    for name in ("image", "label"):
        rows = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(rows[real], whole[name][start:])


def test_evaluation_can_be_repeated():
    batches = eval_batches(Numbered(5), CONFIG, batch_size=2)
    assert_same(take(batches, 9), take(batches, 9))


@pytest.mark.parametrize("make", [lambda **k: train_batches(seed=0, **k), eval_batches])
def test_what_cannot_be_batched_is_refused(make):
    with pytest.raises(DataError, match="holds 0 images; .*Choose another"):
        make(source=Numbered(0), config=CONFIG, batch_size=4)
    with pytest.raises(DataError, match="batch_size = 10 is not divisible by the 4 processes .*: 8 or 12"):
        make(source=Numbered(5), config=CONFIG, batch_size=10, process_count=4)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31 - 1), count=st.integers(1, 30), repeats=st.sampled_from([1, 2, 4]))
def test_hosts_and_resuming_anywhere_give_the_same_bytes(data, seed, count, repeats):
    """For 1, 2 and 4 hosts, after any number of batches, for any seed and size of the data set."""
    source = Numbered(count)
    config = dataclasses.replace(CROPPED, repeats=repeats)
    batch_size = 4 * data.draw(st.integers(1, 4), label="batch size / 4")
    batches = data.draw(st.integers(1, 6), label="batches")
    straight = take(train_batches(source, config, batch_size=batch_size, seed=seed), batches)
    for hosts in (1, 2, 4):
        at = data.draw(st.integers(0, batches - 1), label=f"resume {hosts} hosts after")
        shares = []
        for host in range(hosts):
            share = train_batches(
                source, config, batch_size=batch_size, seed=seed, process_index=host, process_count=hosts
            )
            share.set_state({"position": at * batch_size})
            shares.append(share)
        parts = [next(share) for _ in range(at, batches) for share in shares]
        for share in shares:
            share.close()
        for name, rows in straight.items():
            assert np.concatenate([part[name] for part in parts]).tobytes() == rows[at * batch_size :].tobytes()


def test_repeated_augmentation_sees_what_torchvisions_sampler_sees():
    """Of an epoch, the first 1/repeats of the order, each image so often.

    torchvision's `RASampler` makes the list `[e for e in order for _ in range(repeats)]`, of which the ranks take turns
    to draw and of which an epoch uses as many as there are images.
    """
    length, repeats = 512, 4
    config = dataclasses.replace(CONFIG, repeats=repeats)
    batches = take(train_batches(Numbered(length), config, batch_size=64, seed=0), 8)["label"].reshape(8, 64)
    order = take(train_batches(Numbered(length), CONFIG, batch_size=64, seed=0), 8)["label"]
    expected = np.repeat(order, repeats)[:length].reshape(8, 64)
    np.testing.assert_array_equal(np.sort(batches), np.sort(expected))


@dataclasses.dataclass(frozen=True)
class Sums:
    """A fill of no images: what else a task may make of an example."""

    needs = ("image", "label")
    leaves: typing.ClassVar = {"total": ((), np.int64), "corner": ((2, 1), np.uint8), "drawn": ((3,), np.float64)}

    def __call__(self, example, draws, row):
        row["total"][...] = example["image"].sum() + 1000 * example["label"]
        row["corner"][...] = example["image"][:2, 0]
        row["drawn"][...] = [draws.stream(7).random(), draws.stream(8).random(), draws.position]


def sums_of(source, labels):
    return [int(source.images[i].sum()) + 1000 * i for i in labels]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fill_decides_what_is_in_a_batch(workers):
    source = Numbered(10)
    config = dataclasses.replace(CONFIG, workers=workers)
    order = take(train_batches(source, config, batch_size=4, seed=3), 5)["label"]
    found = take(train_batches(source, config, batch_size=4, seed=3, fill=Sums()), 5)
    assert {name: (rows.shape, rows.dtype.name) for name, rows in found.items()} == {
        "total": ((20,), "int64"), "corner": ((20, 2, 1), "uint8"), "drawn": ((20, 3), "float64")
    }  # fmt: skip
    np.testing.assert_array_equal(found["total"], sums_of(source, order))
    np.testing.assert_array_equal(found["corner"], source.images[order, :2, 0])
    np.testing.assert_array_equal(found["drawn"][:, 2], np.arange(20))
    assert len(np.unique(found["drawn"][:, :2])) == 40, "every row and every stream draws by itself"

    later = train_batches(source, config, batch_size=4, seed=3, fill=Sums())
    later.set_state({"position": 8})
    assert_same(take(later, 3), {name: rows[8:] for name, rows in found.items()})


def test_a_fill_of_evaluation_draws_the_same_every_time():
    source = Numbered(10)
    passes = [take(eval_batches(source, CONFIG, batch_size=size, fill=Sums()), 9) for size in (4, 5)]
    np.testing.assert_array_equal(passes[0]["weight"], [1] * 10 + [0] * 2)
    np.testing.assert_array_equal(passes[0]["total"], [*sums_of(source, range(10)), 0, 0])
    assert not passes[0]["drawn"][10:].any(), "padding is zeros"
    assert_same({name: rows[:10] for name, rows in passes[0].items()}, passes[1])


def test_examples_that_lack_what_a_fill_needs():
    class Masks(Sums):
        needs = ("image", "mask", "box")

    for batches in (eval_batches, lambda *given, **options: train_batches(*given, seed=0, **options)):
        message = "the examples hold image, label and lack mask, box, which Masks needs; choose a data set"
        with pytest.raises(DataError, match=message):
            batches(Numbered(3), CONFIG, batch_size=1, fill=Masks())
