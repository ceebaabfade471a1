"""Non-maximum suppression against the plain greedy algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.tasks.detect import nms as module
from resnet_jax.tasks.detect.nms import best

pytestmark = pytest.mark.usefixtures("compile_quickly")

COUNT = 24
nms = jax.jit(module.nms)


def greedy(boxes, scores, threshold):
    """Box by box, the best first."""
    kept, areas = [], np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i in np.argsort(-scores, kind="stable"):
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[i] + areas[kept] - shared
        if not np.any(shared[union > 0] / union[union > 0] > threshold):
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)


def by_group(boxes, scores, groups, threshold):
    keep = np.zeros(len(boxes), bool)
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        keep[own] = greedy(boxes[own], scores[own], threshold)
    return keep


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_it_keeps_the_greedy_set(threshold):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        for spread in (10, 100):
            corner = rng.uniform(0, spread, (400, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(0, 30, (400, 2))], 1)
            scores, groups = rng.integers(0, 50, 400) / 50, rng.integers(0, 3, 400)
            np.testing.assert_array_equal(nms(boxes, scores, threshold), greedy(boxes, scores, threshold))
            ours = nms(boxes, scores, threshold, groups=groups)
            np.testing.assert_array_equal(ours, by_group(boxes, scores, groups, threshold))


def test_a_long_chain_alternates():
    """Each box overlaps only the next: every second one stays, which takes as many rounds as there are boxes."""
    start = np.arange(60, dtype=np.float32)
    boxes = np.stack([start, start * 0, start + 1.9, start * 0 + 1], axis=1)
    np.testing.assert_array_equal(nms(boxes, -start, 0.3), np.arange(60) % 2 == 0)


def test_padding_neither_stays_nor_suppresses():
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (4, 1))
    real, scores = np.array([False, True, True, False]), np.array([9, 1, 2, 3], np.float32)
    np.testing.assert_array_equal(nms(boxes, scores, 0.5, real=real), [False, False, True, False])


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 50, 50], [50, 50, 50, 50]], np.float32)
    scores = np.arange(4, dtype=np.float32)
    assert nms(boxes, scores, 0.5).all()  # 50 of 100; and two without area
    assert not nms(boxes, scores, 0.49).all()


@pytest.mark.parametrize(("count", "block"), [(40, 512), (40, 7), (400, 64), (3, 1)])
def test_the_best_that_stay(count, block):
    """Blocks are smaller than what is suppressed, and more are asked for than stay."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        corner = rng.uniform(0, 40, (300, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0, 30, (300, 2))], 1)
        scores, groups, real = rng.integers(0, 50, 300) / 50, rng.integers(0, 3, 300), rng.uniform(size=300) < 0.8
        kept = np.flatnonzero(real)[by_group(boxes[real], scores[real], groups[real], 0.4)]
        expected = kept[np.argsort(-scores[kept], kind="stable")][:count]
        assert count == 400 or len(expected) == count
        places, there = jax.jit(lambda *of: best(*of, 0.4, count, block=block))(boxes, scores, groups, real)
        np.testing.assert_array_equal(there, np.arange(count) < len(expected))
        np.testing.assert_array_equal(places[there], expected)


def test_nothing_real_is_nothing_found():
    found = jax.jit(lambda real: best(jnp.ones((9, 4)), jnp.ones(9), jnp.zeros(9, int), real, 0.5, 4))
    _, there = found(np.zeros(9, bool))
    assert not there.any()


corner = st.integers(0, 8)
box = st.tuples(corner, corner, st.integers(0, 6), st.integers(0, 6), st.integers(0, 5), st.integers(0, 1))


@settings(deadline=None, max_examples=200)
@given(st.lists(box, min_size=1, max_size=COUNT))
def test_any_boxes(found):
    """Whole numbers: so overlaps of exactly one half, equal boxes, equal scores and boxes without area come often."""
    real = np.arange(COUNT) < len(found)
    rows = np.zeros((COUNT, 6), np.float32)
    rows[: len(found)] = found
    boxes, scores, groups = np.c_[rows[:, :2], rows[:, :2] + rows[:, 2:4]], rows[:, 4], rows[:, 5].astype(np.int32)
    ours = np.asarray(nms(boxes, scores, 0.5, real=real, groups=groups))
    own = slice(len(found))
    np.testing.assert_array_equal(ours[own], by_group(boxes[own], scores[own], groups[own], 0.5))
    assert not ours[len(found) :].any()
