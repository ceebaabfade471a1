"""The search beside scikit-learn's brute force: the same neighbours, but for those that are equally far."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from resnet_jax.analysis import search, within
from resnet_jax.analysis.search import nearest, similarities
from resnet_jax.errors import DataError
from resnet_jax.runtime.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("compile_quickly")
K = 7


def features(count, seed=0):
    """Not negative and far from the origin, as those of a network; some rows are there twice or three times."""
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.normal(size=(count, 33)) * rng.uniform(0.1, 3, (count, 1)), 0) + 5
    rows[count // 2 : count // 2 + 9] = rows[:9]
    rows[-4:] = rows[:4]
    return rows


def check(found, known, queries, metric, equal=1e-6):
    """Where an index is another than scikit-learn's, both neighbours are equally far, in float64."""
    known = np.asarray(known, np.float64)
    peer = NearestNeighbors(n_neighbors=K, algorithm="brute", metric=metric).fit(known)
    distances, places = peer.kneighbors(None if queries is None else np.asarray(queries, np.float64))
    ours = 1 - found.values if metric == "cosine" else found.values
    np.testing.assert_allclose(ours, distances, atol=equal, rtol=1e-5)
    rows = known if queries is None else np.asarray(queries, np.float64)
    other = np.argwhere(found.places != places)
    assert len(other) < 0.2 * places.size
    for query, rank in other:
        x, y, z = rows[query], known[found.places[query, rank]], known[places[query, rank]]
        if metric == "cosine":
            far = [1 - x @ one / np.linalg.norm(x) / np.linalg.norm(one) for one in (y, z)]
        else:
            far = [np.linalg.norm(x - one) for one in (y, z)]
        assert abs(far[0] - far[1]) <= equal
    for row in found.places:
        assert len(set(row)) == K, "no neighbour is named twice"
    if queries is None:
        assert not (found.places == np.arange(len(known))[:, None]).any(), "nobody is its own neighbour"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("devices", "kind"), [(1, "float32"), (4, "float32"), (3, "float64")])
def test_neighbours_are_scikit_learns(monkeypatch, metric, devices, kind):
    monkeypatch.setattr(search, "BLOCK_BYTES", 4 * 211 * 13)  # few queries in a block, and fewer in the last
    known, queries = features(211).astype(kind), features(90, seed=1).astype(kind)
    queries[:20] = known[30:50]
    mesh = make_mesh(jax.devices()[:devices])
    with jax.enable_x64(kind == "float64"):
        for asked in (queries, None):
            found = nearest(known, asked, neighbours=K, metric=metric, mesh=mesh)
            assert found.values.dtype == kind
            check(found, known, asked, metric)


@pytest.mark.parametrize(("devices", "rows", "neighbours"), [(1, 211, 10), (4, 97, 10), (3, 12, 11), (1, 30, 29)])
def test_a_set_in_itself_in_tiles(monkeypatch, devices, rows, neighbours):
    """Tiles that the rows do not fill, tiles with fewer rows than neighbours, all the others as neighbours."""
    monkeypatch.setattr(within, "TILE", 13)
    known = np.random.default_rng(rows).normal(size=(rows, 33))
    mesh = make_mesh(jax.devices()[:devices])
    with jax.enable_x64(True):
        for metric in ("cosine", "euclidean"):
            found = nearest(known, neighbours=neighbours, metric=metric, mesh=mesh)
            peer = NearestNeighbors(n_neighbors=neighbours, algorithm="brute", metric=metric).fit(known)
            distances, places = peer.kneighbors()
            np.testing.assert_array_equal(found.places, places)
            np.testing.assert_allclose(1 - found.values if metric == "cosine" else found.values, distances, atol=1e-12)


def test_rows_that_lie_closer_than_inner_products_can_tell(monkeypatch):
    """Thirty rows at distances of 1e-3, around points at distances of 100. The first search cannot be certain there."""
    rng = np.random.default_rng(0)
    known = np.repeat(rng.normal(size=(7, 33)) * 20, 30, axis=0) + rng.normal(size=(210, 33)) * 2e-4
    known = known.astype(np.float32)
    compared, ranked = [], search._ranked
    monkeypatch.setattr(search, "_ranked", lambda *args: (compared.append(args[3].shape[1]), ranked(*args))[1])
    found = nearest(known, neighbours=K, metric="euclidean", mesh=make_mesh(jax.devices()[:2]))
    assert 210 in compared
    # Taking the mean away rounds coordinates, by up to 2e-6 each.
    check(found, known, None, "euclidean", equal=1e-5)


def test_of_equally_near_ones_the_first_comes_first():
    known = np.tile(features(20)[:5], (8, 1)).astype(np.float32)
    for metric in ("cosine", "euclidean"):
        found = nearest(known, neighbours=3, metric=metric, mesh=make_mesh(jax.devices()[:1]))
        assert found.places[11].tolist() == [1, 6, 16], metric
        np.testing.assert_allclose(found.values[11], 1 if metric == "cosine" else 0, atol=1e-6)


def test_blocks_of_similarities_are_all_of_them(monkeypatch):
    monkeypatch.setattr(search, "BLOCK_BYTES", 4 * 60 * 3)
    known = features(60).astype(np.float32)
    blocks = list(similarities(known, mesh=make_mesh(jax.devices()[:4])))
    assert [len(block) for block in blocks] == [12, 12, 12, 12, 12]
    found, unit = np.concatenate(blocks), known / np.linalg.norm(known, axis=1, keepdims=True)
    np.testing.assert_array_equal(np.isneginf(found), np.eye(60) == 1)
    right = unit @ unit.T
    for row in range(60):
        others = np.arange(60) != row
        np.testing.assert_allclose(
            found[row, others] - found[row, others].max(), right[row, others] - right[row, others].max(), atol=1e-6
        )


def test_rows_of_zeros():
    """scikit-learn gives them cosine 0 with all, also with each other."""
    known = features(40).astype(np.float32) - 5
    known[[3, 8]] = 0
    found = nearest(known, neighbours=39)
    assert found.places[3, 0] == 8
    np.testing.assert_allclose(found.values[3, 1:], 0, atol=1e-6)
    np.testing.assert_allclose(found.values[20][np.isin(found.places[20], [3, 8])], 0, atol=1e-6)


def test_too_few_images():
    known = features(20).astype(np.float32)
    with pytest.raises(DataError, match="20 neighbours cannot be found among 19 other images; ask for at most 19, or"):
        nearest(known, neighbours=20)
    assert nearest(known, known[:3], neighbours=20).places.shape == (3, 20)
