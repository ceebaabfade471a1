"""Non-maximum suppression against the plain greedy algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.tasks.detect.nms import best, nms

pytestmark = pytest.mark.usefixtures("compile_quickly")

COUNT = 24


def greedy(boxes, scores, threshold):
    """Box by box, the best first."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        suppressed = False
        for j in kept:
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            shared = np.prod(np.maximum(high - low, 0))
            union = sum(np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (i, j)) - shared
            suppressed |= bool(union) and shared / union > threshold
        if not suppressed:
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
            given = map(jnp.asarray, (boxes, scores))
            np.testing.assert_array_equal(nms(*given, threshold), greedy(boxes, scores, threshold))
            ours = nms(jnp.asarray(boxes), jnp.asarray(scores), threshold, groups=jnp.asarray(groups))
            np.testing.assert_array_equal(ours, by_group(boxes, scores, groups, threshold))


def test_a_long_chain_alternates():
    """Each box overlaps only the next: every second one stays, which takes as many rounds as there are boxes."""
    start = jnp.arange(60.0)
    boxes = jnp.stack([start, start * 0, start + 1.9, start * 0 + 1], axis=1)
    np.testing.assert_array_equal(nms(boxes, -start, 0.3), np.arange(60) % 2 == 0)


def test_padding_neither_stays_nor_suppresses():
    boxes = jnp.tile(jnp.array([[0.0, 0, 10, 10]]), (4, 1))
    real = jnp.array([False, True, True, False])
    np.testing.assert_array_equal(nms(boxes, jnp.array([9.0, 1, 2, 3]), 0.5, real=real), [False, False, True, False])


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 50, 50], [50, 50, 50, 50]])
    assert nms(boxes, jnp.arange(4.0), 0.5).all()  # 50 of 100; and two without area
    assert not nms(boxes, jnp.arange(4.0), 0.49).all()


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
        given = map(jnp.asarray, (boxes, scores, groups, real))
        places, there = jax.jit(lambda *of: best(*of, 0.4, count, block=block))(*given)
        np.testing.assert_array_equal(there, np.arange(count) < len(expected))
        np.testing.assert_array_equal(places[there], expected)


def test_nothing_real_is_nothing_found():
    _, there = best(jnp.ones((9, 4)), jnp.ones(9), jnp.zeros(9, int), jnp.zeros(9, bool), 0.5, 4)
    assert not there.any()


corner = st.integers(0, 8)
box = st.tuples(corner, corner, st.integers(0, 6), st.integers(0, 6), st.integers(0, 5), st.integers(0, 1))
program = jax.jit(lambda boxes, scores, groups, real: nms(boxes, scores, 0.5, real=real, groups=groups))


@settings(deadline=None, max_examples=200)
@given(st.lists(box, min_size=1, max_size=COUNT))
def test_any_boxes(found):
    """Whole numbers: so overlaps of exactly one half, equal boxes, equal scores and boxes without area come often."""
    real = np.arange(COUNT) < len(found)
    rows = np.zeros((COUNT, 6), np.float32)
    rows[: len(found)] = found
    boxes, scores, groups = np.c_[rows[:, :2], rows[:, :2] + rows[:, 2:4]], rows[:, 4], rows[:, 5].astype(np.int32)
    ours = np.asarray(program(boxes, scores, groups, real))
    own = slice(len(found))
    np.testing.assert_array_equal(ours[own], by_group(boxes[own], scores[own], groups[own], 0.5))
    assert not ours[len(found) :].any()
