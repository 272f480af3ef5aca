"""The search against all distances in float64, and its thresholds and copies."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from embedsvc import nearest as module
from embedsvc.nearest import nearest
from embedsvc.vectors import unit_rows


@pytest.mark.parametrize(("n", "k"), [(3000, 20), (60, 59), (60, 60), (1, 1)])
def test_the_nearest_are_what_all_distances_say(n, k):
    rng = np.random.default_rng(n)
    points, queries = (unit_rows(rng.standard_normal((count, 16)).astype(np.float32)) for count in (n, 30))
    indices, distances = nearest(points, queries, k)
    truth = cdist(queries.astype(float), points.astype(float), "cosine")
    order = np.argsort(truth, axis=1, kind="stable")[:, :k]
    assert np.array_equal(indices, order)
    assert np.allclose(distances, np.take_along_axis(truth, order, axis=1), atol=1e-6)
    assert (indices.dtype, distances.dtype) == (np.int32, np.float32)


def test_rows_that_pass_too_few_candidates_are_searched_whole(monkeypatch):
    """All the near points are in columns that the threshold is guessed from, so that the guess is far too high."""
    monkeypatch.setattr(module, "_TRIED", 100)
    rng = np.random.default_rng(0)
    points = rng.standard_normal((1000, 8)).astype(np.float32)
    points[::10] = points[:1] + 0.01 * rng.standard_normal((100, 8))
    points = unit_rows(points)
    indices, _ = nearest(points, points[:20], 150, own=np.arange(20))
    truth = cdist(points[:20].astype(float), points.astype(float), "cosine")
    truth[np.arange(20), np.arange(20)] = np.inf
    expected = np.argsort(truth, axis=1)[:, :150]
    assert [set(row) for row in indices.tolist()] == [set(row) for row in expected.tolist()]


def test_copies_are_nearer_than_near_copies_and_in_their_order():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((400, 384)).astype(np.float32)
    points[[7, 90, 300]] = points[5]
    points[200] = points[5] * (1 + 1e-6 * rng.standard_normal(384))
    points = unit_rows(points)
    indices, distances = nearest(points, points[[5]], 4, own=np.array([5]))
    assert indices[0].tolist() == [7, 90, 300, 200]
    assert distances[0, :3].tolist() == [0, 0, 0]
    assert 0 < distances[0, 3] < 1e-11
    assert nearest(points, points[[5]], 5)[0].tolist() == [[5, 7, 90, 300, 200]], "itself, without its number"


def test_the_number_of_rows_at_a_time_decides_nothing(monkeypatch):
    points = unit_rows(np.random.default_rng(2).standard_normal((500, 24)).astype(np.float32))
    whole = nearest(points, points, 9, own=np.arange(500))
    monkeypatch.setattr(module, "_CELLS", 16 * 500)
    for before, after in zip(whole, nearest(points, points, 9, own=np.arange(500)), strict=True):
        assert np.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("crowded", [20, 0])
def test_all_points_find_what_each_finds_alone(monkeypatch, crowded):
    """Cosines shared by two points, with rows of too few candidates, copies, and the way back if too many pass."""
    monkeypatch.setattr(module, "_TRIED", 100)
    monkeypatch.setattr(module, "_SHARED", (1000, 1000))
    monkeypatch.setattr(module, "_CROWDED", crowded)
    monkeypatch.setattr(module, "_CELLS", 70 * 1000)
    rng = np.random.default_rng(3)
    points = rng.standard_normal((1000, 12)).astype(np.float32)
    points[::10] = points[:1] + 0.01 * rng.standard_normal((100, 12))
    points[[7, 90, 304]] = points[5]
    points = unit_rows(points)
    indices, distances = nearest(points, points, 120, own=np.arange(1000))
    truth = cdist(points.astype(float), points.astype(float), "cosine")
    np.fill_diagonal(truth, np.inf)
    assert np.allclose(distances, np.sort(truth, axis=1)[:, :120], atol=1e-6)
    assert np.allclose(np.take_along_axis(truth, indices.astype(int), axis=1), distances, atol=1e-6)
    assert all(len(set(row)) == 120 for row in indices.tolist())
    assert indices[5, :3].tolist() == [7, 90, 304]
