"""Batches whose images lie on one canvas: beside a plain simulation, after a stop, on several hosts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source, train_batches
from resnet_jax.data.box_fills import TrainBoxes
from resnet_jax.data.canvas_order import CanvasOrder
from resnet_jax.data.canvases import Canvas
from resnet_jax.data.fills import SHUFFLE, same_shapes
from resnet_jax.errors import ConfigError, DataError, ImageError
from tests.data.box_files import write_image


def order_of(counts, batch_size, seed=0):
    numbers = np.random.default_rng(99).permutation(sum(counts))
    ends = np.cumsum(counts)
    canvases = [
        Canvas((32 * (i + 1), 32), sorted(numbers[end - count : end].tolist()))
        for i, (end, count) in enumerate(zip(ends, counts, strict=True))
    ]
    return canvases, CanvasOrder(canvases, batch_size=batch_size, seed=seed, max_broken_fraction=0.5)


def batches_of(order, batch_size, numbers):
    found = []
    for batch in numbers:
        taken = []
        for place in range(batch_size):
            assert order.take(batch * batch_size + place, taken.append) == []
        found.append((order.canvas_at(batch * batch_size), taken))
    return found


def simulated(canvases, batch_size, seed, count):
    """Examples wait at their canvas until it has a batch of them."""
    length = sum(len(canvas.indices) for canvas in canvases)
    canvas_of = {i: number for number, canvas in enumerate(canvases) for i in canvas.indices}
    waiting, found, epoch = [[] for _ in canvases], [], 0
    while len(found) < count:
        for index in np.random.default_rng([SHUFFLE, seed, epoch]).permutation(length).tolist():
            mine = waiting[canvas_of[index]]
            mine.append(index)
            if len(mine) == batch_size:
                found.append((canvas_of[index], list(mine)))
                mine.clear()
        epoch += 1
    return found[:count]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 3))
def test_properties_are_those_of_a_simulation(counts, batch_size, seed):
    canvases, order = order_of(counts, batch_size, seed)
    expected = simulated(canvases, batch_size, seed, 40)
    assert batches_of(order, batch_size, range(40)) == expected
    _, other = order_of(counts, batch_size, seed)
    backwards = batches_of(other, batch_size, reversed(range(40)))
    assert backwards[::-1] == expected, "any batch can be the first that is asked for"


def test_every_example_comes_once_an_epoch():
    _, order = order_of((40, 23, 9), 4)
    seen = [index for _, taken in batches_of(order, 4, range(18 * 30)) for index in taken]
    counts = np.bincount(seen, minlength=72)
    assert counts.sum() == 72 * 30
    assert counts.min() >= 29
    assert counts.max() <= 31, "one that came while others wait"


def test_what_cannot_be_read_is_replaced_by_its_canvas():
    canvases, order = order_of((6, 5), 3)
    broken = canvases[1].indices[2]

    def read(index):
        taken.append(index)
        if index == broken:
            raise ImageError("damaged")

    passed_over = []
    for position in range(66):
        taken = []
        passed_over += order.take(position, read)
        assert {taken[-1]} <= {*canvases[order.canvas_at(position)].indices} - {broken}
    assert set(passed_over) == {(broken, "damaged")}
    _, order = order_of((2, 1), 1)

    def refuse(index):
        raise ImageError("damaged")

    with pytest.raises(DataError, match="images cannot be read, more than max_broken_fraction = 0.5 allows"):
        order.take(0, refuse)


@pytest.fixture
def photos(tmp_path):
    lines = []
    for i in range(14):
        wide, high = [(80, 60), (50, 90), (64, 64)][i % 3]
        write_image(tmp_path / f"{i}.png", wide, high, seed=i)
        lines.append(f"{i}.png,5,5,{5 + i + 10},40,tree")
    (tmp_path / "train.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax,label", *lines, "gone.png,1,1,5,5,tree"]))
    return tmp_path


def test_batches_have_the_shape_of_their_canvas(photos):
    config = DataConfig(name=f"boxes:{photos}", max_broken_fraction=0.1)
    source = load_source(config, "train")
    fill = TrainBoxes((0.5,) * 3, 3, False, 2, (96, 96), (48, 64), 96, (), True, 3, canvases=2)
    assert len(fill.canvases_of(source)) == 2
    assert not same_shapes(fill, config)
    assert same_shapes(fill.on((96, 96)), config)
    batches = train_batches(source, config, batch_size=4, seed=3, fill=fill)
    made = [next(batches) for _ in range(8)]
    shapes = {batch["image"].shape[1:3] for batch in made}
    assert shapes == {canvas.size for canvas in fill.canvases_of(source)}
    for batch in made:
        assert (batch["size"] <= np.array(batch["image"].shape[1:3])).all()
        assert (batch["size"].min(axis=1) <= 64).all()
        assert (batch["classes"][:, 0] == 1).all()
    state = batches.get_state()
    assert [number for number, _ in state["broken"]] == [14]
    after = [next(batches) for _ in range(3)]
    again = train_batches(source, config, batch_size=4, seed=3, fill=fill)
    again.set_state(state)
    halves = [
        train_batches(source, config, batch_size=4, seed=3, fill=fill, process_index=i, process_count=2) for i in (0, 1)
    ]
    for half in halves:
        half.set_state(state)
    for batch in after:
        other, parts = next(again), [next(half) for half in halves]
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])
            np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in parts]))
    for one in (batches, again, *halves):
        one.close()


def test_other_rules_for_batches_are_refused(photos):
    source = load_source(DataConfig(name=f"boxes:{photos}"), "train")
    fill = TrainBoxes((0.5,) * 3, 3, False, 2, (96, 96), (64,), 96, (), True, 3, canvases=2)
    with pytest.raises(ConfigError, match="data.repeats = 2, per_identity = 0 and 0 augment.resizes say which images"):
        train_batches(source, DataConfig(repeats=2), batch_size=4, seed=0, fill=fill)
    one = next(train_batches(source, DataConfig(max_broken_fraction=0.1), batch_size=4, seed=0, fill=fill.on((96, 96))))
    assert one["image"].shape == (4, 96, 96, 3)
